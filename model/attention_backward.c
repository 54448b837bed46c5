/*
 * With p = exp(s - lse) and ds = p * (dp - delta), all transposed (keys, queries):
 *   dv += p^T do,   dk += ds^T q,   dq^T += k^T ds^T;   dq and dk times the scale at the end.
 *
 * Threads take (key/value head, chunk of queries) items, the longest first. An item finishes dq of its rows and leaves
 * dk and dv of the keys it saw in a place of its own; a second loop adds these in the order of the chunks. So no two
 * threads write one place and no bit depends on their number, also when the micro-batch is one long segment.
 */
#include "model/attention_cpu.h"

#include <omp.h>

enum { KEY_ROWS, VALUE_ROWS, KEYS_TRANSPOSED }; /* packed forms */

typedef struct Operands {
    void *columns; /* B (width, QUERIES): for products with key or value rows */
    void *rows;    /* B (QUERIES, width): for sums over queries */
} Operands;

typedef struct Buffers {
    Operands queries, douts;
    float *scores, *dscores; /* (KEYS, QUERIES); in f32 they become p and ds */
    void *p_a, *ds_a;        /* A (KEYS, QUERIES) */
    void *ds_b;              /* B (KEYS, QUERIES) */
    float *dq;               /* (width, QUERIES), transposed */
    float *work;             /* (QUERIES, width) */
} Buffers;

static Buffers buffers_of(const AttentionPlan *p)
{
    const int64_t wide = p->width * QUERIES, block = KEYS * QUERIES;
    float *base = p->thread_base + omp_get_thread_num() * attention_thread_floats(p->width);
    Buffers b = {
        .queries = {base,            base + wide    },
          .douts = {base + 2 * wide, base + 3 * wide}
    };
    b.dq = base + 4 * wide;
    b.work = base + 5 * wide;
    b.scores = base + 6 * wide;
    b.dscores = b.scores + block;
    if (p->dtype == DTYPE_F32) {
        b.p_a = b.scores;
        b.ds_a = b.ds_b = b.dscores;
    } else {
        uint16_t *narrow = (uint16_t *)(b.dscores + block);
        b.p_a = narrow;
        b.ds_a = narrow + block;
        b.ds_b = narrow + 2 * block;
    }
    return b;
}

static void pack(const AttentionPlan *p, const Tensor *qkv)
{
    const int heads = p->at->heads, groups = p->at->kv_heads;
#pragma omp parallel for schedule(static) collapse(2)
    for (int g = 0; g < groups; g++) {
        for (int64_t b = 0; b < p->blocks; b++) {
            const TileSource keys = attention_source(p, qkv, b * KEYS, KEYS, heads + g);
            const TileSource values = attention_source(p, qkv, b * KEYS, KEYS, heads + groups + g);
            tile_pack_a(attention_block(p, KEY_ROWS, g, b), p->dtype, &keys);
            tile_pack_a(attention_block(p, VALUE_ROWS, g, b), p->dtype, &values);
            tile_pack_a_transposed(attention_block(p, KEYS_TRANSPOSED, g, b), p->dtype, &keys, buffers_of(p).work);
        }
    }
}

/* Where chunk c of head g sums up: keys 0 .. its end, dk and then dv. */
static float *partial_of(const AttentionPlan *p, int g, int64_t c)
{
    const int64_t before = c * (c + 1) / 2 * p->chunk_rows; /* keys of the chunks before it */
    const int64_t all = p->chunks * (p->chunks + 1) / 2 * p->chunk_rows;
    return p->partial + 2 * p->width * (g * all + before);
}

static int64_t chunk_keys(const AttentionPlan *p, int64_t c)
{
    return (c + 1) * p->chunk_rows;
}

/* First key that a chunk sees, down to where its first block range starts. */
static int64_t chunk_low(const AttentionPlan *p, int64_t c)
{
    const QueryTile q = attention_query_tile(p, c * (p->chunk_rows / QUERIES));
    return q.low_least / TILE * TILE;
}

/* What belongs to one head and tile of queries. */
typedef struct Tile {
    QueryTile q;
    int head, group;
    float shift[QUERIES]; /* -lse in base 2 */
    float delta[QUERIES]; /* rowsum(dout * out) */
} Tile;

static float row_dot(const char *a, const char *b, DType t, int64_t n)
{
    Lanes sum = lanes_zero();
    for (int64_t j = 0; j < n; j += LANES)
        sum = lanes_fma(lanes_load(cpu_at_in(a, t, j), t, n - j), lanes_load(cpu_at_in(b, t, j), t, n - j), sum);
    return lanes_sum(sum);
}

static void tile_statistics(const AttentionPlan *p, Tile *t, const Tensor *dout, const Tensor *out, const Tensor *lse)
{
    for (int64_t i = 0; i < QUERIES; i++) {
        t->shift[i] = 0.0f;
        t->delta[i] = 0.0f;
        if (i >= t->q.count) continue;
        const int64_t row = t->q.first + i;
        const double log = (double)((const float *)lse->data)[row * lse->stride + t->head];
        t->shift[i] = (float)(-log * ATTENTION_LOG2E);
        t->delta[i] = row_dot(attention_head_in(p, dout, row, t->head), attention_head_in(p, out, row, t->head),
                              p->dtype, p->at->head_dim);
    }
}

static void pack_operands(const AttentionPlan *p, const Operands *o, const Tensor *from, const Tile *t)
{
    const TileSource rows = attention_source(p, from, t->q.first, QUERIES, t->head);
    tile_pack_b_transposed(o->columns, p->dtype, &rows);
    tile_pack_b(o->rows, p->dtype, &rows);
}

/* s and dp become p and ds, two keys at a time, in the forms that the products want. */
static void weights(const AttentionPlan *p, const Buffers *b, const Tile *t, int64_t first_key, const KeyRange *range)
{
    const Lanes factor = lanes_set((float)((double)p->at->scale * ATTENTION_LOG2E));
    const bool narrow = p->dtype != DTYPE_F32, masked = range->masked;
    for (int c = 0; c < COLUMNS; c++) {
        const Lanes shift = lanes_load_f32(t->shift + c * LANES), delta = lanes_load_f32(t->delta + c * LANES);
        for (int64_t r = 0; r < range->end - range->start; r += 2) {
            const int64_t at = r * QUERIES + c * LANES;
            Lanes s0 = lanes_load_f32(b->scores + at), s1 = lanes_load_f32(b->scores + at + QUERIES);
            if (masked) {
                s0 = attention_mask(s0, lanes_set((float)(first_key + r)), &t->q, c);
                s1 = attention_mask(s1, lanes_set((float)(first_key + r + 1)), &t->q, c);
            }
            const Lanes p0 = lanes_exp2_finite(lanes_fma(s0, factor, shift));
            const Lanes p1 = lanes_exp2_finite(lanes_fma(s1, factor, shift));
            const Lanes ds0 = p0 * (lanes_load_f32(b->dscores + at) - delta);
            const Lanes ds1 = p1 * (lanes_load_f32(b->dscores + at + QUERIES) - delta);
            if (narrow) {
                uint16_t *p_at = (uint16_t *)b->p_a + at, *ds_at = (uint16_t *)b->ds_a + at;
                lanes_store_two_bf16(p_at, p_at + QUERIES, NULL, p0, p1);
                lanes_store_two_bf16(ds_at, ds_at + QUERIES, (uint32_t *)b->ds_b + r / 2 * QUERIES + c * LANES, ds0,
                                     ds1);
            } else {
                lanes_store_f32(b->scores + at, p0);
                lanes_store_f32(b->scores + at + QUERIES, p1);
                lanes_store_f32(b->dscores + at, ds0);
                lanes_store_f32(b->dscores + at + QUERIES, ds1);
            }
        }
    }
}

static void block_backward(const AttentionPlan *p, const Buffers *b, const Tile *t, float *dk, float *dv, int64_t block,
                           bool first)
{
    const KeyRange range = attention_key_range(&t->q, block);
    const int64_t rows = range.end - range.start, key = block * KEYS + range.start;
    const DType type = p->dtype;
    const void *keys = cpu_at_in(attention_block(p, KEY_ROWS, t->group, block), type, range.start * p->width);
    const void *values = cpu_at_in(attention_block(p, VALUE_ROWS, t->group, block), type, range.start * p->width);
    const void *keys_t = cpu_at_in(attention_block(p, KEYS_TRANSPOSED, t->group, block), type, range.start);
    TileProduct score = {.c = b->scores,
                         .a = keys,
                         .b = b->queries.columns,
                         .m = rows,
                         .n = QUERIES,
                         .k = p->width,
                         .ldc = QUERIES,
                         .lda = p->width,
                         .ldb = QUERIES};
    tile_product(p->kernel, &score);
    score.c = b->dscores;
    score.a = values;
    score.b = b->douts.columns;
    tile_product(p->kernel, &score);
    weights(p, b, t, key, &range);
    TileProduct sum = {.c = dv + key * p->width,
                       .a = b->p_a,
                       .b = b->douts.rows,
                       .m = rows,
                       .n = p->width,
                       .k = QUERIES,
                       .ldc = p->width,
                       .lda = QUERIES,
                       .ldb = p->width,
                       .accumulate = true};
    tile_product(p->kernel, &sum);
    sum.c = dk + key * p->width;
    sum.a = b->ds_a;
    sum.b = b->queries.rows;
    tile_product(p->kernel, &sum);
    const TileProduct dq = {.c = b->dq,
                            .a = keys_t,
                            .b = b->ds_b,
                            .m = p->width,
                            .n = QUERIES,
                            .k = rows,
                            .ldc = QUERIES,
                            .lda = KEYS,
                            .ldb = QUERIES,
                            .accumulate = !first};
    tile_product(p->kernel, &dq);
}

typedef struct Gradients {
    const Tensor *dqkv, *dout, *out, *lse, *qkv;
} Gradients;

static void tile_backward(const AttentionPlan *p, const Buffers *b, const Gradients *x, Tile *t, float *dk, float *dv)
{
    tile_statistics(p, t, x->dout, x->out, x->lse);
    pack_operands(p, &b->queries, x->qkv, t);
    pack_operands(p, &b->douts, x->dout, t);
    const int64_t first = t->q.low_least / KEYS, last = (t->q.first + t->q.count - 1) / KEYS;
    for (int64_t block = first; block <= last; block++)
        block_backward(p, b, t, dk, dv, block, block == first);
    float factors[QUERIES];
    for (int i = 0; i < QUERIES; i++)
        factors[i] = p->at->scale;
    attention_write_rows(p, x->dqkv, t->head, &t->q, b->dq, factors, b->work);
}

static void chunk_backward(const AttentionPlan *p, const Gradients *x, int g, int64_t c)
{
    const Buffers b = buffers_of(p);
    const int64_t keys = chunk_keys(p, c), low = chunk_low(p, c), per_chunk = p->chunk_rows / QUERIES;
    const int group = p->at->heads / p->at->kv_heads;
    float *dk = partial_of(p, g, c), *dv = dk + keys * p->width;
    memset(dk + low * p->width, 0, (size_t)((keys - low) * p->width) * sizeof *dk);
    memset(dv + low * p->width, 0, (size_t)((keys - low) * p->width) * sizeof *dv);
    for (int64_t tile = c * per_chunk; tile < (c + 1) * per_chunk && tile < p->tiles; tile++) {
        Tile t = {.q = attention_query_tile(p, tile), .group = g};
        for (t.head = g * group; t.head < (g + 1) * group; t.head++)
            tile_backward(p, &b, x, &t, dk, dv);
    }
}

static void add_row(float *sum, const float *part, int64_t width)
{
    for (int64_t j = 0; j < width; j++)
        sum[j] += part[j];
}

/* dk and dv of one key: chunks in order, from the one that holds it to the last that sees it. */
static void sum_key(const AttentionPlan *p, const Tensor *dqkv, const int64_t *lows, int g, int64_t key)
{
    const int64_t width = p->width, dim = p->at->head_dim;
    float dk[HEAD_DIM_MAX] = {0}, dv[HEAD_DIM_MAX] = {0};
    for (int64_t c = key / p->chunk_rows; c < p->chunks && lows[c] <= key; c++) {
        const float *part = partial_of(p, g, c) + key * width;
        add_row(dk, part, width);
        add_row(dv, part + chunk_keys(p, c) * width, width);
    }
    char *row = cpu_row(dqkv, key);
    char *dk_row = cpu_at(row, p->dtype, (p->at->heads + g) * dim);
    char *dv_row = cpu_at(row, p->dtype, (p->at->heads + p->at->kv_heads + g) * dim);
    for (int64_t j = 0; j < dim; j += LANES) {
        lanes_store(cpu_at(dk_row, p->dtype, j), p->dtype, dim - j, lanes_set(p->at->scale) * lanes_load_f32(dk + j));
        lanes_store(cpu_at(dv_row, p->dtype, j), p->dtype, dim - j, lanes_load_f32(dv + j));
    }
}

void attention_backward_cpu(Backend *be, const Attention *at, const Tensor *dqkv, const Tensor *dout, const Tensor *out,
                            const Tensor *lse, const Tensor *qkv, const Tensor *scratch)
{
    const AttentionPlan p = attention_plan(be, at, qkv, scratch);
    const Gradients x = {.dqkv = dqkv, .dout = dout, .out = out, .lse = lse, .qkv = qkv};
    int64_t lows[ATTENTION_CHUNKS_MAX];
    pack(&p, qkv);
    for (int64_t c = 0; c < p.chunks; c++)
        lows[c] = chunk_low(&p, c);
    const int64_t items = p.chunks * at->kv_heads;
#pragma omp parallel
    {
        tile_begin(p.kernel);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < items; i++)
            chunk_backward(&p, &x, (int)(i % at->kv_heads), p.chunks - 1 - i / at->kv_heads);
        tile_end(p.kernel);
    }
#pragma omp parallel for schedule(static) collapse(2)
    for (int64_t key = 0; key < p.n; key++) {
        for (int g = 0; g < at->kv_heads; g++)
            sum_key(&p, dqkv, lows, g, key);
    }
}
