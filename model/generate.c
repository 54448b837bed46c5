#include "model/decoder.h"

#include "backend/elementwise.h"

void cache_place(Model *m, Arena *a)
{
    if (m->options.cache_tokens == 0) return;
    const int64_t rows = m->options.cache_tokens * m->options.sequences;
    const int64_t cols = (int64_t)m->spec.kv_heads * m->spec.head_dim;
    for (int i = 0; i < m->spec.layers; i++) {
        m->layers[i].keys = arena_matrix(a, m->options.compute, rows, cols);
        m->layers[i].values = arena_matrix(a, m->options.compute, rows, cols);
    }
}

/* Copies keys and values of rows [from, from + n) of qkv into the cache of a sequence at position `at`. */
static void append(Model *m, const Layer *l, const Tensor *qkv, int64_t from, int64_t n, int sequence, int64_t at)
{
    const int64_t q = (int64_t)m->spec.heads * m->spec.head_dim, kv = (int64_t)m->spec.kv_heads * m->spec.head_dim;
    const int64_t row = sequence * m->options.cache_tokens + at;
    CHECK(at + n <= m->options.cache_tokens);
    const Tensor rows = tensor_slice_rows(qkv, from, n);
    const Tensor k = tensor_slice_cols(&rows, q, kv), v = tensor_slice_cols(&rows, q + kv, kv);
    const Tensor to_k = tensor_slice_rows(&l->keys, row, n), to_v = tensor_slice_rows(&l->values, row, n);
    tensor_copy(m->be, &to_k, &k);
    tensor_copy(m->be, &to_v, &v);
}

void cache_prefill(Model *m, const Layer *l, const Pass *p, const Tensor *qkv)
{
    append(m, l, qkv, 0, p->n, p->sequence, 0);
}

void cache_decode(Model *m, const Layer *l, const Pass *p, const Tensor *out, const Tensor *qkv)
{
    const int64_t capacity = m->options.cache_tokens;
    for (int64_t i = 0; i < p->n; i++)
        append(m, l, qkv, i, 1, p->sequence + (int)i, p->lengths[i] - 1);
    const Tensor q = tensor_slice_cols(qkv, 0, (int64_t)m->spec.heads * m->spec.head_dim);
    const Tensor keys = tensor_slice_rows(&l->keys, p->sequence * capacity, p->n * capacity);
    const Tensor values = tensor_slice_rows(&l->values, p->sequence * capacity, p->n * capacity);
    attention_decode(m->be, &p->attention, out, &q, &keys, &values, capacity, p->lengths, &m->work.attend);
}

/* Up to here it is cheaper to multiply 4-bit weights as they lie, four rows at a time, than to decode them first. */
enum { THIN_SEQUENCES = 12 };

/* One token for each of `count` sequences from `sequence` on. */
static Tensor decode(Model *m, int sequence, const int32_t *ids, int count)
{
    int32_t *positions = m->host_rows, *lengths = m->host_ids; /* staging of the loss, free here */
    CHECK(m->options.cache_tokens > 0 && sequence + count <= m->options.sequences);
    for (int i = 0; i < count; i++) {
        positions[i] = m->cached[sequence + i]++;
        lengths[i] = positions[i] + 1;
        CHECK(lengths[i] <= m->options.cache_tokens);
    }
    Pass p;
    pass_make(m, &p, PASS_DECODE, count);
    p.sequence = sequence;
    p.lengths = lengths;
    p.linear.thin = count <= THIN_SEQUENCES;
    pass_embed(m, &p, ids, positions, 0, 0);
    return pass_layers(m, &p, m->spec.layers);
}

/* The hidden state (1, C) of the prompt's last token. */
static Tensor prefill(Model *m, int s, const int32_t *ids, int64_t count)
{
    CHECK(count > 0 && count <= m->options.cache_tokens && s >= 0 && s < m->options.sequences);
    const int64_t first = count < m->n_max ? count : m->n_max;
    const int32_t starts[2] = {0, (int32_t)first};
    for (int64_t i = 0; i < first; i++)
        m->host_rows[i] = (int32_t)i;
    Pass p;
    pass_make(m, &p, PASS_EVALUATE, first);
    p.attention.segments = 1;
    p.attention.starts = starts;
    p.sequence = s;
    pass_embed(m, &p, ids, m->host_rows, 0, 0);
    Tensor hidden = pass_layers(m, &p, m->spec.layers);
    m->cached[s] = (int32_t)first;
    /* A prompt longer than a micro-batch goes on token by token. */
    for (int64_t i = first; i < count; i++)
        hidden = decode(m, s, ids + i, 1);
    return tensor_slice_rows(&hidden, tensor_rows(&hidden) - 1, 1);
}

void model_prefill(Model *m, int s, const int32_t *ids, int64_t count, float *logits)
{
    const Tensor last = prefill(m, s, ids, count);
    head_logits(m, &last, logits);
}

int32_t model_prefill_sample(Model *m, int s, const int32_t *ids, int64_t count, const Sampling *how)
{
    int32_t next;
    const Tensor last = prefill(m, s, ids, count);
    head_sample(m, &last, how, &next);
    return next;
}

void model_decode(Model *m, const int32_t *ids, int count, float *logits)
{
    const Tensor hidden = decode(m, 0, ids, count);
    head_logits(m, &hidden, logits);
}

void model_decode_sample(Model *m, const int32_t *ids, int count, const Sampling *how, int32_t *next)
{
    const Tensor hidden = decode(m, 0, ids, count);
    head_sample(m, &hidden, how, next);
}

int64_t model_cached(const Model *m, int s)
{
    CHECK(s >= 0 && s < m->options.sequences);
    return m->cached[s];
}
