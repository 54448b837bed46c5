/*
 * o^T = v^T p^T / l with p = exp(s - m), block of keys by block of keys; m and l follow as the blocks come.
 * Threads take (head, tile of queries) items, the longest first; each writes its own rows, so order does not matter.
 */
#include "model/attention_cpu.h"

#include <omp.h>

enum { KEY_ROWS, VALUES_TRANSPOSED }; /* packed forms */

typedef struct Buffers {
    void *queries; /* B (width, QUERIES) */
    float *scores; /* (KEYS, QUERIES); in f32 the weights too */
    void *weights; /* B (KEYS, QUERIES) */
    float *sums;   /* (width, QUERIES), o^T before the division */
    float *work;   /* (QUERIES, width) */
} Buffers;

static Buffers buffers_of(const AttentionPlan *p)
{
    float *base = p->thread_base + omp_get_thread_num() * attention_thread_floats(p->width);
    Buffers b = {.queries = base, .sums = base + p->width * QUERIES, .work = base + 2 * p->width * QUERIES};
    b.scores = base + 3 * p->width * QUERIES;
    b.weights = p->dtype == DTYPE_F32 ? b.scores : b.scores + KEYS * QUERIES;
    return b;
}

static void pack(const AttentionPlan *p, const Tensor *qkv)
{
    const int heads = p->at->heads, groups = p->at->kv_heads;
#pragma omp parallel for schedule(static) collapse(2)
    for (int g = 0; g < groups; g++) {
        for (int64_t b = 0; b < p->blocks; b++) {
            void *work = buffers_of(p).queries; /* all buffers together hold a block of any width */
            const TileSource keys = attention_source(p, qkv, b * KEYS, KEYS, heads + g);
            const TileSource values = attention_source(p, qkv, b * KEYS, KEYS, heads + groups + g);
            tile_pack_a(attention_block(p, KEY_ROWS, g, b), p->dtype, &keys);
            tile_pack_a_transposed(attention_block(p, VALUES_TRANSPOSED, g, b), p->dtype, &values, work);
        }
    }
}

typedef struct Softmax {
    Lanes max[COLUMNS]; /* of scores so far, per query */
    Lanes sum[COLUMNS];
} Softmax;

static void mask_scores(float *scores, const QueryTile *q, int64_t first_key, int64_t rows)
{
    for (int64_t r = 0; r < rows; r++) {
        const Lanes key = lanes_set((float)(first_key + r));
        for (int c = 0; c < COLUMNS; c++) {
            float *at = scores + r * QUERIES + c * LANES;
            lanes_store_f32(at, attention_mask(lanes_load_f32(at), key, q, c));
        }
    }
}

static void column_max(Lanes max[COLUMNS], const float *scores, int64_t rows)
{
    for (int64_t r = 0; r < rows; r++) {
#pragma GCC unroll 4
        for (int c = 0; c < COLUMNS; c++)
            max[c] = lanes_max(lanes_load_f32(scores + r * QUERIES + c * LANES), max[c]);
    }
}

static void rescale(float *sums, int64_t width, const Lanes factor[COLUMNS])
{
    for (int64_t d = 0; d < width; d++) {
#pragma GCC unroll 4
        for (int c = 0; c < COLUMNS; c++) {
            float *at = sums + d * QUERIES + c * LANES;
            lanes_store_f32(at, factor[c] * lanes_load_f32(at));
        }
    }
}

/* p = 2^(s * factor - max * factor), two keys at a time, summed per query */
static void exponentials(const AttentionPlan *p, const Buffers *b, Softmax *s, int64_t rows, Lanes factor)
{
    for (int c = 0; c < COLUMNS; c++) {
        const Lanes shift = lanes_zero() - s->max[c] * factor;
        Lanes sum_a = lanes_zero(), sum_b = lanes_zero();
        for (int64_t r = 0; r < rows; r += 2) {
            float *at = b->scores + r * QUERIES + c * LANES;
            const Lanes x = lanes_exp2_finite(lanes_fma(lanes_load_f32(at), factor, shift));
            const Lanes y = lanes_exp2_finite(lanes_fma(lanes_load_f32(at + QUERIES), factor, shift));
            sum_a = sum_a + x;
            sum_b = sum_b + y;
            if (p->dtype == DTYPE_F32) {
                lanes_store_f32(at, x);
                lanes_store_f32(at + QUERIES, y);
            } else {
                lanes_store_two_bf16(NULL, NULL, (uint32_t *)b->weights + r / 2 * QUERIES + c * LANES, x, y);
            }
        }
        s->sum[c] = s->sum[c] + (sum_a + sum_b);
    }
}

/* One block of keys into the running sums. */
static void block_forward(const AttentionPlan *p, const Buffers *b, const QueryTile *q, Softmax *s, int g,
                          int64_t block, bool first)
{
    const KeyRange range = attention_key_range(q, block);
    const int64_t rows = range.end - range.start;
    const char *keys = cpu_at_in(attention_block(p, KEY_ROWS, g, block), p->dtype, range.start * p->width);
    const char *values = cpu_at_in(attention_block(p, VALUES_TRANSPOSED, g, block), p->dtype, range.start);
    const TileProduct scores = {.c = b->scores,
                                .a = keys,
                                .b = b->queries,
                                .m = rows,
                                .n = QUERIES,
                                .k = p->width,
                                .ldc = QUERIES,
                                .lda = p->width,
                                .ldb = QUERIES};
    tile_product(p->kernel, &scores);
    if (range.masked) mask_scores(b->scores, q, block * KEYS + range.start, rows);
    const Lanes factor = lanes_set((float)((double)p->at->scale * ATTENTION_LOG2E));
    Lanes max[COLUMNS], shrink[COLUMNS];
    memcpy(max, s->max, sizeof max);
    column_max(max, b->scores, rows);
    for (int c = 0; c < COLUMNS; c++) {
        shrink[c] = lanes_exp2_finite((s->max[c] - max[c]) * factor);
        s->sum[c] = s->sum[c] * shrink[c];
        s->max[c] = max[c];
    }
    if (!first) rescale(b->sums, p->width, shrink);
    exponentials(p, b, s, rows, factor);
    const TileProduct sums = {.c = b->sums,
                              .a = values,
                              .b = b->weights,
                              .m = p->width,
                              .n = QUERIES,
                              .k = rows,
                              .ldc = QUERIES,
                              .lda = KEYS,
                              .ldb = QUERIES,
                              .accumulate = !first};
    tile_product(p->kernel, &sums);
}

/* lse = ln 2 * (max * factor + log2 sum), with the product rounded as `exponentials` rounds it */
static void finish(const AttentionPlan *p, const Buffers *b, const QueryTile *q, const Softmax *s, const Tensor *out,
                   const Tensor *lse, int h)
{
    const Lanes factor = lanes_set((float)((double)p->at->scale * ATTENTION_LOG2E));
    float sum[QUERIES], shift[QUERIES], inverse[QUERIES];
    for (int c = 0; c < COLUMNS; c++) {
        lanes_store_f32(sum + c * LANES, s->sum[c]);
        lanes_store_f32(shift + c * LANES, s->max[c] * factor);
        lanes_store_f32(inverse + c * LANES, lanes_set(1.0f) / s->sum[c]);
    }
    for (int64_t i = 0; i < q->count; i++) {
        const double log = (double)shift[i] * ATTENTION_LN2 + (double)logf(sum[i]);
        ((float *)lse->data)[(q->first + i) * lse->stride + h] = (float)log;
    }
    attention_write_rows(p, out, h, q, b->sums, inverse, b->work);
}

static void tile_forward(const AttentionPlan *p, const Tensor *out, const Tensor *lse, const Tensor *qkv, int h,
                         int64_t tile)
{
    const Buffers b = buffers_of(p);
    const QueryTile q = attention_query_tile(p, tile);
    const TileSource rows = attention_source(p, qkv, q.first, QUERIES, h);
    tile_pack_b_transposed(b.queries, p->dtype, &rows);
    Softmax s;
    for (int c = 0; c < COLUMNS; c++) {
        s.max[c] = lanes_set(LOWEST);
        s.sum[c] = lanes_zero();
    }
    const int g = h / (p->at->heads / p->at->kv_heads);
    const int64_t first = q.low_least / KEYS, last = (q.first + q.count - 1) / KEYS;
    for (int64_t block = first; block <= last; block++)
        block_forward(p, &b, &q, &s, g, block, block == first);
    finish(p, &b, &q, &s, out, lse, h);
}

void attention_forward_cpu(Backend *be, const Attention *at, const Tensor *out, const Tensor *lse, const Tensor *qkv,
                           const Tensor *scratch)
{
    const AttentionPlan p = attention_plan(be, at, qkv, scratch);
    pack(&p, qkv);
    const int64_t items = p.tiles * at->heads;
#pragma omp parallel
    {
        tile_begin(p.kernel);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < items; i++)
            tile_forward(&p, out, lse, qkv, (int)(i % at->heads), p.tiles - 1 - i / at->heads);
        tile_end(p.kernel);
    }
}
