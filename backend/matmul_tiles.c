/*
 * Products on the tile kernels: bf16 on AMX, where they run about twice as fast as the library's strided ones.
 *
 * Threads take (block of COLUMNS columns, chunk of rows) items; each packs its columns of op(b) once and runs down the
 * rows of a, which are used as they lie. A 32 x 32 block of sums runs over all of K in order, so the bits depend neither
 * on the threads nor on how many rows there are.
 */
#include "backend/cpu.h"
#include "backend/matmul_cpu.h"
#include "backend/tiles.h"

#include <omp.h>

enum { COLUMNS_MOST = 128, SHALLOW = 1024, ROWS_LEAST = 128, ROWS_CACHED = 512, DEPTH_MOST = 8192 };

/* Columns of an item: their packed form should fit the second-level cache beside the rows of a. */
static int64_t columns_of(const Product *p)
{
    return p->k <= SHALLOW ? COLUMNS_MOST : COLUMNS_MOST / 2;
}

typedef struct Space {
    char *columns; /* panels B (k, TILE) */
    char *rows;    /* A (TILE, k): the last rows when they do not fill a tile */
    float *sums;   /* (TILE, TILE) */
} Space;

static int64_t space_bytes(const Product *p)
{
    return p->k * (columns_of(p) + TILE) * (int64_t)sizeof(uint16_t) + TILE * TILE * (int64_t)sizeof(float);
}

static Space space_of(const MatmulSpace *all, const Product *p)
{
    const uintptr_t at = (uintptr_t)all->block;
    char *base = (char *)all->block + (64 - at % 64) % 64 + omp_get_thread_num() * space_bytes(p);
    Space s = {.columns = base, .rows = base + p->k * columns_of(p) * (int64_t)sizeof(uint16_t)};
    s.sums = (float *)(void *)(s.rows + p->k * TILE * (int64_t)sizeof(uint16_t));
    return s;
}

/* TILE columns from `first` on, as a panel of its own: walking down it touches neighbouring lines. */
static void pack_panel(const Product *p, char *to, int64_t first)
{
    const int64_t left = p->n - first, n = left < TILE ? left : TILE;
    if (p->transpose_b) {
        const TileSource rows = {.data = cpu_at_in(p->b, p->in, first * p->b_stride),
                                 .stride = p->b_stride,
                                 .rows = n,
                                 .cols = p->k,
                                 .full_rows = TILE,
                                 .full_cols = p->k};
        tile_pack_b_transposed(to, p->in, &rows);
    } else {
        const TileSource rows = {.data = cpu_at_in(p->b, p->in, first),
                                 .stride = p->b_stride,
                                 .rows = p->k,
                                 .cols = n,
                                 .full_rows = p->k,
                                 .full_cols = TILE};
        tile_pack_b(to, p->in, &rows);
    }
}

/* One block of sums to where it belongs, scaled, rounded or added. */
static void write_block(const Product *p, const float *sums, int64_t row, int64_t column)
{
    const int64_t rows = p->m - row < TILE ? p->m - row : TILE, cols = p->n - column < TILE ? p->n - column : TILE;
    const Lanes alpha = lanes_set(p->alpha);
    for (int64_t i = 0; i < rows; i++) {
        char *out = cpu_at(p->out, p->to, (row + i) * p->out_stride + column);
        if (cols == TILE && p->to == DTYPE_BF16) {
            lanes_store_wide_bf16(out, alpha * lanes_load_f32(sums + i * TILE),
                                  alpha * lanes_load_f32(sums + i * TILE + LANES));
            continue;
        }
        for (int64_t j = 0; j < cols; j += LANES) {
            Lanes x = alpha * lanes_load_f32(sums + i * TILE + j);
            if (p->accumulate) x = x + lanes_load(cpu_at(out, p->to, j), p->to, cols - j);
            lanes_store(cpu_at(out, p->to, j), p->to, cols - j, x);
        }
    }
}

static char *panel_of(const Product *p, const Space *s, int64_t j)
{
    return s->columns + j * p->k * (int64_t)sizeof(uint16_t);
}

static void item(const Product *p, TileKernel kernel, const Space *s, int64_t column, int64_t row, int64_t row_end)
{
    const int64_t left = p->n - column, columns = left < columns_of(p) ? left : columns_of(p);
    for (int64_t j = 0; j < columns; j += TILE)
        pack_panel(p, panel_of(p, s, j), column + j);
    for (; row < row_end; row += TILE) {
        TileProduct block = {.c = s->sums,
                             .a = cpu_at_in(p->a, p->in, row * p->a_stride),
                             .m = TILE,
                             .n = TILE,
                             .k = p->k,
                             .ldc = TILE,
                             .lda = p->a_stride,
                             .ldb = TILE};
        if (p->m - row < TILE) {
            const TileSource rest = {.data = block.a,
                                     .stride = p->a_stride,
                                     .rows = p->m - row,
                                     .cols = p->k,
                                     .full_rows = TILE,
                                     .full_cols = p->k};
            tile_pack_a(s->rows, p->in, &rest);
            block.a = s->rows;
            block.lda = p->k;
        }
        for (int64_t j = 0; j < columns; j += TILE) {
            block.b = panel_of(p, s, j);
            tile_product(kernel, &block);
            write_block(p, s->sums, row, column + j);
        }
    }
}

/*
 * Packing is done once a chunk, so chunks are long; but they should leave some work for every thread, and their rows of
 * a should stay in the second-level cache while block after block of columns reads them.
 */
static int64_t chunk_rows(const Product *p, int threads)
{
    const int64_t wanted = ceil_div(4 * threads, ceil_div(p->n, columns_of(p)));
    const int64_t even = round_up(ceil_div(p->m, wanted), TILE), cached = p->k <= SHALLOW ? ROWS_CACHED : p->m;
    const int64_t rows = even < cached ? even : cached;
    return rows < ROWS_LEAST ? ROWS_LEAST : rows;
}

bool matmul_tiles(MatmulSpace *space, const Product *p, int threads)
{
    if (p->in != DTYPE_BF16 || !tile_kernel_available(TILE_BF16_AMX)) return false;
    if (p->transpose_a || p->k % TILE != 0 || p->k > DEPTH_MOST || p->b_stride % 2 != 0) return false;
    if (!matmul_space_reserve(space, 64 + (size_t)(threads * space_bytes(p)))) return false;
    const int64_t rows = chunk_rows(p, threads), blocks = ceil_div(p->n, columns_of(p)), chunks = ceil_div(p->m, rows);
#pragma omp parallel if (p->m * p->n * p->k > 1 << 20)
    {
        const Space s = space_of(space, p);
        tile_begin(TILE_BF16_AMX);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < blocks * chunks; i++) {
            const int64_t row = i / blocks * rows, end = row + rows < p->m ? row + rows : p->m;
            item(p, TILE_BF16_AMX, &s, i % blocks * columns_of(p), row, end);
        }
        tile_end(TILE_BF16_AMX);
    }
    return true;
}
