#include "model/attention.h"

#include "model/attention_cpu.h"
#include "model/ops.h"

/* --- CPU: what both passes share --- */

/*
 * The gradient of a key adds up over the queries after it. Queries are cut into chunks, each sums dk and dv of the
 * keys it sees on its own, and the sums are added in the order of the chunks. Their number depends on the shapes
 * only: enough that head x chunk keeps many cores busy.
 */
static int64_t chunk_rows_of(int64_t n, int kv_heads)
{
    const int64_t wanted = ceil_div(ATTENTION_CHUNKS_MAX, kv_heads);
    return round_up(ceil_div(n > 0 ? n : 1, wanted), QUERIES);
}

static int64_t partial_rows(int64_t n, int64_t chunk_rows)
{
    int64_t rows = 0;
    for (int64_t end = chunk_rows; end < n + chunk_rows; end += chunk_rows)
        rows += end; /* keys 0 .. end may be seen by the chunk that ends there */
    return rows;
}

int64_t attention_thread_floats(int64_t width)
{
    return 6 * width * QUERIES + 4 * KEYS * QUERIES;
}

static int64_t scratch_cpu(const Backend *be, int64_t n, int heads, int kv_heads, int head_dim)
{
    const int64_t width = round_up(head_dim, TILE), blocks = ceil_div(n, KEYS);
    const int64_t packed = 3 * kv_heads * blocks * KEYS * width;
    const int64_t partial = 2 * kv_heads * width * partial_rows(n, chunk_rows_of(n, kv_heads));
    const int64_t training = packed + partial + backend_threads(be) * attention_thread_floats(width);
    const int64_t decoding = attention_decode_floats(n, heads, head_dim);
    return 16 + (training > decoding ? training : decoding);
}

AttentionPlan attention_plan(const Backend *be, const Attention *at, const Tensor *qkv, const Tensor *scratch)
{
    AttentionPlan p = {.at = at, .dtype = qkv->dtype, .n = qkv->shape[0]};
    p.kernel = tile_kernel(be, p.dtype);
    p.width = round_up(at->head_dim, TILE);
    p.tiles = ceil_div(p.n, QUERIES);
    p.blocks = ceil_div(p.n, KEYS);
    p.chunk_rows = chunk_rows_of(p.n, at->kv_heads);
    p.chunks = ceil_div(p.n, p.chunk_rows);
    const uintptr_t at_byte = (uintptr_t)scratch->data;
    float *next = (float *)scratch->data + (64 - at_byte % 64) % 64 / sizeof(float);
    for (int i = 0; i < 3; i++) {
        p.packed[i] = (char *)next;
        next += at->kv_heads * p.blocks * KEYS * p.width;
    }
    p.thread_base = next;
    p.partial = next + backend_threads(be) * attention_thread_floats(p.width);
    return p;
}

TileSource attention_source(const AttentionPlan *p, const Tensor *t, int64_t first, int64_t full, int index)
{
    const int64_t left = p->n - first;
    return (TileSource){.data = attention_head_in(p, t, first, index),
                        .stride = t->stride,
                        .rows = left < full ? left : full,
                        .cols = p->at->head_dim,
                        .full_rows = full,
                        .full_cols = p->width};
}

/* The segment that holds a row; empty ones are passed over. */
static int segment_of(const Attention *at, int64_t row)
{
    int first = 0, last = at->segments - 1; /* starts[first] <= row < starts[last + 1] */
    while (first < last) {
        const int middle = first + (last - first) / 2;
        if (at->starts[middle + 1] <= row) {
            first = middle + 1;
        } else {
            last = middle;
        }
    }
    return first;
}

/* First key that a row of a segment sees. */
static int64_t first_key(const Attention *at, int segment, int64_t row)
{
    const int64_t start = at->starts[segment], oldest = row - at->window + 1;
    return at->window && oldest > start ? oldest : start;
}

QueryTile attention_query_tile(const AttentionPlan *p, int64_t tile)
{
    QueryTile q = {.first = tile * QUERIES};
    q.count = p->n - q.first < QUERIES ? p->n - q.first : QUERIES;
    int segment = segment_of(p->at, q.first);
    q.low_least = first_key(p->at, segment, q.first);
    for (int64_t i = 0; i < QUERIES; i++) {
        const int64_t row = q.first + i;
        q.low[i] = 0.0f;
        q.high[i] = -1.0f;
        if (i >= q.count) continue;
        while (p->at->starts[segment + 1] <= row)
            segment++;
        q.low_most = first_key(p->at, segment, row);
        q.low[i] = (float)q.low_most;
        q.high[i] = (float)row;
    }
    return q;
}

KeyRange attention_key_range(const QueryTile *q, int64_t b)
{
    const int64_t first = b * KEYS, seen = q->first + q->count - first; /* keys of the block up to the last query */
    KeyRange r = {.start = 0, .end = KEYS};
    if (q->low_least > first) r.start = (q->low_least - first) / TILE * TILE;
    if (seen < KEYS) r.end = round_up(seen, TILE);
    r.masked = first + r.end > q->first + 1 || q->low_most > first + r.start || q->count < QUERIES;
    return r;
}

void attention_write_rows(const AttentionPlan *p, const Tensor *to, int index, const QueryTile *q,
                          const float *transposed, const float *factors, float *work)
{
    tile_transpose((uint32_t *)work, (const uint32_t *)transposed, QUERIES, p->width, QUERIES);
    for (int64_t i = 0; i < q->count; i++) {
        char *row = cpu_at(cpu_row(to, q->first + i), to->dtype, (int64_t)index * p->at->head_dim);
        const float *from = work + i * p->width;
        const Lanes factor = lanes_set(factors[i]);
        for (int64_t j = 0; j < p->at->head_dim; j += LANES) {
            lanes_store(cpu_at(row, to->dtype, j), to->dtype, p->at->head_dim - j, factor * lanes_load_f32(from + j));
        }
    }
}

static const AttentionOps attention_ops_cpu = {
    .forward = attention_forward_cpu,
    .backward = attention_backward_cpu,
    .decode = attention_decode_cpu,
    .scratch = scratch_cpu,
};

/* --- all backends --- */

static const AttentionOps *const attention_ops[BACKEND_COUNT] = {
    [BACKEND_CPU] = &attention_ops_cpu,
    [BACKEND_CUDA] = CUDA_OPS(attention_ops_cuda),
};

int64_t attention_scratch(const Backend *be, int64_t n, int heads, int kv_heads, int head_dim)
{
    return attention_ops[backend_kind(be)]->scratch(be, n, heads, kv_heads, head_dim);
}

static void check_heads(const Attention *at)
{
    CHECK(at->heads > 0 && at->kv_heads > 0 && at->heads % at->kv_heads == 0);
    CHECK(at->head_dim > 0 && at->head_dim % 2 == 0 && at->head_dim <= HEAD_DIM_MAX);
    CHECK(at->window >= 0);
}

static void check_shapes(const Backend *be, const Attention *at, const Tensor *out, const Tensor *lse,
                         const Tensor *qkv, const Tensor *scratch)
{
    check_heads(at);
    const int64_t n = qkv->shape[0], width = (int64_t)at->heads * at->head_dim;
    CHECK(qkv->rank == 2 && cpu_is_float(be, qkv) && qkv->stride % 2 == 0 && n < 1 << 24);
    CHECK(qkv->shape[1] == width + 2 * (int64_t)at->kv_heads * at->head_dim);
    CHECK(out->rank == 2 && out->dtype == qkv->dtype && out->shape[0] == n && out->shape[1] == width);
    CHECK(lse->rank == 2 && lse->dtype == DTYPE_F32 && lse->shape[0] == n && lse->shape[1] == at->heads);
    CHECK(scratch->dtype == DTYPE_F32 && tensor_dense(scratch));
    CHECK(tensor_count(scratch) >= attention_scratch(be, n, at->heads, at->kv_heads, at->head_dim));
    CHECK(at->segments > 0 && at->starts[0] == 0 && at->starts[at->segments] == n);
    for (int i = 0; i < at->segments; i++)
        CHECK(at->starts[i] <= at->starts[i + 1]);
}

void attention_forward(Backend *be, const Attention *at, const Tensor *out, const Tensor *lse, const Tensor *qkv,
                       const Tensor *scratch)
{
    if (qkv->shape[0] == 0) return;
    check_shapes(be, at, out, lse, qkv, scratch);
    backend_enter(be);
    attention_ops[backend_kind(be)]->forward(be, at, out, lse, qkv, scratch);
    backend_leave(be);
}

void attention_backward(Backend *be, const Attention *at, const Tensor *dqkv, const Tensor *dout, const Tensor *out,
                        const Tensor *lse, const Tensor *qkv, const Tensor *scratch)
{
    if (qkv->shape[0] == 0) return;
    check_shapes(be, at, out, lse, qkv, scratch);
    CHECK(cpu_same_shape(dqkv, qkv) && dqkv->dtype == qkv->dtype && dqkv->data != qkv->data);
    CHECK(cpu_same_shape(dout, out) && dout->dtype == out->dtype && dout->stride % 2 == 0);
    backend_enter(be);
    attention_ops[backend_kind(be)]->backward(be, at, dqkv, dout, out, lse, qkv, scratch);
    backend_leave(be);
}

void attention_decode(Backend *be, const Attention *at, const Tensor *out, const Tensor *q, const Tensor *keys,
                      const Tensor *values, int64_t capacity, const int32_t *lengths, const Tensor *scratch)
{
    check_heads(at);
    const int64_t sequences = q->shape[0];
    CHECK(q->rank == 2 && cpu_is_float(be, q) && q->shape[1] == (int64_t)at->heads * at->head_dim);
    CHECK(cpu_same_shape(out, q) && out->dtype == q->dtype);
    CHECK(keys->rank == 2 && keys->dtype == q->dtype && keys->shape[1] == (int64_t)at->kv_heads * at->head_dim);
    CHECK(cpu_same_shape(values, keys) && values->dtype == q->dtype && keys->shape[0] >= sequences * capacity);
    CHECK(scratch->dtype == DTYPE_F32 && tensor_dense(scratch));
    for (int64_t b = 0; b < sequences; b++)
        CHECK(lengths[b] > 0 && lengths[b] <= capacity);
    if (sequences == 0) return;
    backend_enter(be);
    attention_ops[backend_kind(be)]->decode(be, at, out, q, keys, values, capacity, lengths, scratch);
    backend_leave(be);
}
