#include "backend/matmul.h"

#include "backend/cpu.h"
#include "backend/elementwise.h"
#include "backend/matmul_cpu.h"
#include "base/mem.h"

#include <omp.h>

/* --- CPU --- */

bool matmul_space_reserve(MatmulSpace *space, size_t bytes)
{
    if (bytes <= space->bytes) return true;
    Err ignored = {0};
    void *block = mem_alloc(1, bytes, &ignored);
    if (!block) return false;
    mem_free(space->block);
    space->block = block;
    space->bytes = bytes;
    return true;
}

static void narrow_rows(const Product *p, const float *sums, int64_t first, int64_t rows)
{
#pragma omp parallel for schedule(static) if (rows * p->n > CPU_PARALLEL_MIN)
    for (int64_t i = 0; i < rows; i++) {
        char *out = cpu_at(p->out, p->to, (first + i) * p->out_stride);
        const float *from = sums + i * p->n;
        for (int64_t j = 0; j < p->n; j += LANES)
            lanes_store(cpu_at(out, p->to, j), p->to, p->n - j, lanes_load(from + j, DTYPE_F32, p->n - j));
    }
}

/*
 * With a free number of rows the library takes memory for the f32 sums of a bf16 result in each call. We give it f32
 * room for some rows at a time and round ourselves: nothing is allocated, and the sums stay in the cache.
 */
static bool library_product(Backend *be, const Product *p)
{
    enum { ROWS_MOST = 1024, SUMS_MOST = 2 << 20 };
    if (p->to == DTYPE_F32) return matmul_library(be->matmul, p, 0);
    const int64_t fit = SUMS_MOST / p->n, at_least = fit < 16 ? 16 : fit,
                  tile = at_least < ROWS_MOST ? at_least : ROWS_MOST;
    MatmulSpace *space = matmul_space(be->matmul);
    if (!matmul_space_reserve(space, (size_t)(tile * p->n) * sizeof(float))) return false;
    for (int64_t first = 0; first < p->m; first += tile) {
        Product part = *p;
        part.m = p->m - first < tile ? p->m - first : tile;
        part.a = cpu_at_in(p->a, p->in, p->transpose_a ? first : first * p->a_stride);
        part.out = space->block;
        part.out_stride = p->n;
        part.to = DTYPE_F32;
        if (!matmul_library(be->matmul, &part, 0)) return false;
        narrow_rows(p, space->block, first, part.m);
    }
    return true;
}

static void product_cpu(Backend *be, const Product *p)
{
    if (!be->reference) {
        if (matmul_rows(p)) return;
        if (matmul_tiles(matmul_space(be->matmul), p, be->threads)) return;
        if (library_product(be, p)) return;
    }
    matmul_plain(p, true);
}

/*
 * A gradient is cut into chunks of rows, whose number decides the order of additions, and into strips along its longer
 * side, so that a short micro-batch keeps the threads busy too. Both are fixed.
 */
enum { CHUNK = 512, STRIP = 320 };

static void chunk_product(Backend *be, const Product *p, int thread)
{
    if (!be->reference && matmul_library(be->matmul, p, 1 + thread)) return;
    matmul_plain(p, false);
}

static int64_t strip_count(const Product *p)
{
    return ceil_div(p->m > p->n ? p->m : p->n, STRIP);
}

/* Chunk c, strip s of p (whose k is the long side) into `part`, (m, n) dense. */
static Product piece_of(const Product *p, int64_t c, int64_t s, float *part)
{
    Product piece = *p;
    const int64_t first = c * CHUNK, at = s * STRIP;
    piece.k = p->k - first < CHUNK ? p->k - first : CHUNK;
    piece.a = cpu_at_in(p->a, p->in, first * p->a_stride);
    piece.b = cpu_at_in(p->b, p->in, first * p->b_stride);
    piece.out = part;
    piece.out_stride = p->n;
    piece.accumulate = false;
    if (p->m > p->n) {
        piece.m = p->m - at < STRIP ? p->m - at : STRIP;
        piece.a = cpu_at_in(piece.a, p->in, at);
        piece.out = part + at * p->n;
    } else {
        piece.n = p->n - at < STRIP ? p->n - at : STRIP;
        piece.b = cpu_at_in(piece.b, p->in, at);
        piece.out = part + at;
    }
    return piece;
}

static void add_parts(const Product *p, const float *parts, int64_t chunks, int64_t row)
{
    float *out = (float *)p->out + row * p->out_stride;
    for (int64_t c = 0; c < chunks; c++) {
        const float *part = parts + (c * p->m + row) * p->n;
        for (int64_t j = 0; j < p->n; j++)
            out[j] += part[j];
    }
}

static void gradient_cpu(Backend *be, const Product *p, float *scratch)
{
    const int64_t chunks = ceil_div(p->k, CHUNK), strips = strip_count(p);
/* static: a thread meets the same products in every step, so none compiles or allocates after the first */
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < chunks * strips; i++) {
        const int64_t c = i / strips;
        const Product piece = piece_of(p, c, i % strips, scratch + c * p->m * p->n);
        chunk_product(be, &piece, omp_get_thread_num());
    }
#pragma omp parallel for schedule(static) if (p->m * p->n > CPU_PARALLEL_MIN)
    for (int64_t row = 0; row < p->m; row++)
        add_parts(p, scratch, chunks, row);
}

static const MatmulOps matmul_ops_cpu = {.product = product_cpu, .gradient = gradient_cpu};

/* --- all backends --- */

static const MatmulOps *const matmul_ops[BACKEND_COUNT] = {
    [BACKEND_CPU] = &matmul_ops_cpu,
    [BACKEND_CUDA] = CUDA_OPS(matmul_ops_cuda),
};

static void zero_or_keep(Backend *be, const Matmul *op)
{
    if (!op->accumulate) tensor_zero(be, op->out);
}

void matmul(Backend *be, const Matmul *op)
{
    const Tensor *a = op->a, *b = op->b, *out = op->out;
    CHECK(a->rank == 2 && b->rank == 2 && out->rank == 2);
    const int64_t m = a->shape[op->transpose_a ? 1 : 0], k = a->shape[op->transpose_a ? 0 : 1];
    const int64_t n = b->shape[op->transpose_b ? 0 : 1];
    CHECK(b->shape[op->transpose_b ? 1 : 0] == k && out->shape[0] == m && out->shape[1] == n);
    CHECK(cpu_is_float(be, a) && a->dtype == b->dtype);
    CHECK(out->dtype == DTYPE_F32 || (out->dtype == a->dtype && !op->accumulate));
    if (m == 0 || n == 0) return;
    if (k == 0) {
        zero_or_keep(be, op);
        return;
    }
    const Product p = {
        .a = a->data,
        .b = b->data,
        .out = out->data,
        .in = a->dtype,
        .to = out->dtype,
        .m = m,
        .n = n,
        .k = k,
        .a_stride = a->stride,
        .b_stride = b->stride,
        .out_stride = out->stride,
        .transpose_a = op->transpose_a,
        .transpose_b = op->transpose_b,
        .accumulate = op->accumulate,
        .alpha = op->alpha == 0.0f ? 1.0f : op->alpha,
    };
    backend_enter(be);
    matmul_ops[backend_kind(be)]->product(be, &p);
    backend_leave(be);
}

int64_t matmul_gradient_scratch(int64_t n, int64_t p, int64_t q)
{
    return ceil_div(n, CHUNK) * p * q;
}

void matmul_gradient(Backend *be, const Tensor *dw, const Tensor *a, const Tensor *b, float alpha,
                     const Tensor *scratch)
{
    CHECK(dw->rank == 2 && a->rank == 2 && b->rank == 2);
    CHECK(a->shape[0] == b->shape[0] && dw->shape[0] == a->shape[1] && dw->shape[1] == b->shape[1]);
    CHECK(dw->dtype == DTYPE_F32 && cpu_is_float(be, a) && a->dtype == b->dtype);
    CHECK(scratch->dtype == DTYPE_F32 && tensor_dense(scratch));
    CHECK(tensor_count(scratch) >= matmul_gradient_scratch(a->shape[0], dw->shape[0], dw->shape[1]));
    if (tensor_count(dw) == 0 || a->shape[0] == 0) return;
    const Product p = {
        .a = a->data,
        .b = b->data,
        .out = dw->data,
        .in = a->dtype,
        .to = DTYPE_F32,
        .m = dw->shape[0],
        .n = dw->shape[1],
        .k = a->shape[0],
        .a_stride = a->stride,
        .b_stride = b->stride,
        .out_stride = dw->stride,
        .transpose_a = true,
        .alpha = alpha == 0.0f ? 1.0f : alpha,
    };
    backend_enter(be);
    matmul_ops[backend_kind(be)]->gradient(be, &p, scratch->data);
    backend_leave(be);
}
