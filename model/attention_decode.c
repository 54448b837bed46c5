/*
 * One query per sequence against its cache. Bound by reading the cache, so keys are cut into pieces of PIECE rows that
 * threads take one by one; each piece leaves (max, sum, sum of p v) per head, and pieces are joined in order.
 */
#include "model/attention_cpu.h"

enum { PIECE = 256 };

/* Floats of one (head, piece): maximum, sum, and the weighted values. */
static int64_t part_floats(int head_dim)
{
    return 2 + round_up(head_dim, LANES);
}

int64_t attention_decode_floats(int64_t longest, int heads, int head_dim)
{
    return ceil_div(longest, PIECE) * heads * part_floats(head_dim);
}

typedef struct Decode {
    const Attention *at;
    const Tensor *out, *q, *keys, *values;
    int64_t capacity;
    const int32_t *lengths;
    float *parts;
    int64_t pieces; /* of the longest sequence */
} Decode;

static float *part_of(const Decode *d, int64_t b, int h, int64_t piece)
{
    return d->parts + ((b * d->at->heads + h) * d->pieces + piece) * part_floats(d->at->head_dim);
}

/* First key that the query of a sequence sees. */
static int64_t first_key(const Decode *d, int64_t b)
{
    const int64_t oldest = d->lengths[b] - d->at->window;
    return d->at->window && oldest > 0 ? oldest : 0;
}

static float dot(const char *a, const char *b, DType t, int64_t n)
{
    Lanes sum = lanes_zero();
    for (int64_t j = 0; j < n; j += LANES)
        sum = lanes_fma(lanes_load(cpu_at_in(a, t, j), t, n - j), lanes_load(cpu_at_in(b, t, j), t, n - j), sum);
    return lanes_sum(sum);
}

/* exp(score - largest) in place; the sum. PIECE is a multiple of LANES and the rest is filled with nothing. */
static float exponentials(float *scores, int64_t n, float max)
{
    Lanes sum = lanes_zero();
    for (int64_t j = 0; j < n; j += LANES) {
        const Lanes e = lanes_exp(lanes_load_or(scores + j, DTYPE_F32, n - j, lanes_set(MASKED)) - lanes_set(max));
        lanes_store(scores + j, DTYPE_F32, n - j, e);
        sum = sum + e;
    }
    return lanes_sum(sum);
}

static void piece_head(const Decode *d, int64_t b, int h, int64_t piece)
{
    const DType t = d->q->dtype;
    const int64_t dim = d->at->head_dim, first = piece * PIECE;
    const int64_t left = d->lengths[b] - first, n = left < PIECE ? left : PIECE;
    const int64_t column = h / (d->at->heads / d->at->kv_heads) * dim, row = b * d->capacity + first;
    const char *query = cpu_at_in(cpu_row_in(d->q, b), t, h * dim);
    const int64_t hidden = first_key(d, b) - first;
    float scores[PIECE], max = LOWEST;
    for (int64_t k = 0; k < n; k++) {
        scores[k] = MASKED;
        if (k < hidden) continue;
        scores[k] = d->at->scale * dot(query, cpu_at_in(cpu_row_in(d->keys, row + k), t, column), t, dim);
        if (!(scores[k] <= max)) max = scores[k];
    }
    float *part = part_of(d, b, h, piece), *sums = part + 2;
    part[0] = max;
    part[1] = exponentials(scores, n, max);
    for (int64_t j = 0; j < dim; j += LANES) {
        Lanes sum = lanes_zero();
        for (int64_t k = 0; k < n; k++) {
            const char *value = cpu_at_in(cpu_row_in(d->values, row + k), t, column + j);
            sum = lanes_fma(lanes_set(scores[k]), lanes_load(value, t, dim - j), sum);
        }
        lanes_store_f32(sums + j, sum);
    }
}

static void join(const Decode *d, int64_t b, int h)
{
    const DType t = d->q->dtype;
    const int64_t dim = d->at->head_dim, pieces = ceil_div(d->lengths[b], PIECE), first = first_key(d, b) / PIECE;
    float max = LOWEST, total = 0.0f;
    for (int64_t i = first; i < pieces; i++) {
        if (!(part_of(d, b, h, i)[0] <= max)) max = part_of(d, b, h, i)[0];
    }
    for (int64_t i = first; i < pieces; i++)
        total += part_of(d, b, h, i)[1] * expf(part_of(d, b, h, i)[0] - max);
    char *row = cpu_at(cpu_row(d->out, b), t, h * dim);
    for (int64_t j = 0; j < dim; j += LANES) {
        Lanes sum = lanes_zero();
        for (int64_t i = first; i < pieces; i++) {
            const float *part = part_of(d, b, h, i);
            sum = lanes_fma(lanes_set(expf(part[0] - max)), lanes_load_f32(part + 2 + j), sum);
        }
        lanes_store(cpu_at(row, t, j), t, dim - j, lanes_set(1.0f / total) * sum);
    }
}

/* Sequences from `first` on, as many as the scratch memory holds parts for. */
static void decode_some(const Decode *d, int64_t first, int64_t count)
{
    const int heads = d->at->heads;
#pragma omp parallel for schedule(static) collapse(3)
    for (int64_t b = 0; b < count; b++) {
        for (int64_t piece = 0; piece < d->pieces; piece++) {
            for (int h = 0; h < heads; h++) {
                if (piece * PIECE >= d->lengths[first + b]) continue;
                if (piece >= first_key(d, first + b) / PIECE) piece_head(d, first + b, h, piece);
            }
        }
    }
    for (int64_t b = 0; b < count; b++) {
        for (int h = 0; h < heads; h++)
            join(d, first + b, h);
    }
}

void attention_decode_cpu(Backend *be, const Attention *at, const Tensor *out, const Tensor *q, const Tensor *keys,
                          const Tensor *values, int64_t capacity, const int32_t *lengths, const Tensor *scratch)
{
    (void)be;
    const int64_t sequences = q->shape[0];
    int64_t longest = 0;
    for (int64_t b = 0; b < sequences; b++)
        longest = lengths[b] > longest ? lengths[b] : longest;
    const int64_t each = attention_decode_floats(longest, at->heads, at->head_dim);
    const int64_t room = tensor_count(scratch) / each;
    CHECK(room > 0);
    for (int64_t first = 0; first < sequences; first += room) {
        const int64_t count = sequences - first < room ? sequences - first : room;
        const Decode d = {.at = at,
                          .out = out,
                          .q = q,
                          .keys = keys,
                          .values = values,
                          .capacity = capacity,
                          .lengths = lengths,
                          .parts = (float *)scratch->data - first * each,
                          .pieces = ceil_div(longest, PIECE)};
        decode_some(&d, first, count);
    }
}
