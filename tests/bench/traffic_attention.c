/*
 * traffic_attention.c - attention over one long row: products against those of visible pairs, bank conflicts.
 */
#include "tests/bench/traffic.h"

#include "model/attention.h"

/* mma of 16 x 8 x 16 that one product over all visible pairs of n rows takes at least. */
static double causal_mma(int64_t n, int heads, int dim)
{
    return 0.5 * (double)n * (double)(n + 1) * heads * dim / (16.0 * 8.0 * 16.0);
}

typedef struct Kernels {
    const char *operation, *name;
    int products; /* over pairs; of heads over 128, dk and dv come one after the other */
} Kernels;

static void report(Traffic *t, const Kernels *k, double mma)
{
    t->row.operation = k->operation;
    t->row.least_mma = mma * k->products;
    traffic_end(t, k->name);
}

static void attention(Traffic *t, DType dtype, int64_t n, int heads, int kv_heads, int dim)
{
    if (!traffic_scene(t, "attention", dtype, n % 128 == 0, "%d rows, head %d", (int)n, dim)) return;
    t->row.attention = true;
    const int32_t starts[] = {0, (int32_t)n};
    const Attention at = {heads, kv_heads, dim, 0.1f, 0, 1, starts};
    const int64_t width = (int64_t)(heads + 2 * kv_heads) * dim;
    const Tensor qkv = traffic_matrix(t, dtype, n, width), dqkv = traffic_matrix(t, dtype, n, width);
    const Tensor out = traffic_matrix(t, dtype, n, heads * dim), dout = traffic_matrix(t, dtype, n, heads * dim);
    const Tensor lse = traffic_matrix(t, DTYPE_F32, n, heads);
    const Tensor scratch = arena_vector(&t->arena, DTYPE_F32, attention_scratch(t->be, n, heads, kv_heads, dim));
    const double mma = dtype == DTYPE_F32 ? 0.0 : causal_mma(n, heads, dim);
    traffic_start(t);
    attention_forward(t->be, &at, &out, &lse, &qkv, &scratch);
    report(t, &(Kernels){"attention forward", NULL, 2}, mma);
    traffic_start(t);
    attention_backward(t->be, &at, &dqkv, &dout, &out, &lse, &qkv, &scratch);
    report(t, &(Kernels){"attention dq", "dq_kernel", 3}, mma);
    report(t, &(Kernels){"attention dkv", "dkv_kernel", dim > 128 ? 5 : 4}, mma);
    report(t, &(Kernels){"attention statistics", "statistics_kernel", 0}, mma);
}

static void generation(Traffic *t, DType dtype, int32_t length)
{
    enum { HEADS = 4, KV_HEADS = 2, DIM = 64 };
    if (!traffic_scene(t, "attention of one query", dtype, length % 128 == 0, "%d keys, head %d", length, DIM)) return;
    t->row.attention = true;
    const Attention at = {.heads = HEADS, .kv_heads = KV_HEADS, .head_dim = DIM, .scale = 0.125f};
    const Tensor q = traffic_matrix(t, dtype, 1, HEADS * DIM), out = traffic_matrix(t, dtype, 1, HEADS * DIM);
    const Tensor keys = traffic_matrix(t, dtype, length, KV_HEADS * DIM);
    const Tensor values = traffic_matrix(t, dtype, length, KV_HEADS * DIM);
    const Tensor scratch = arena_vector(&t->arena, DTYPE_F32, attention_scratch(t->be, length, HEADS, KV_HEADS, DIM));
    traffic_start(t);
    attention_decode(t->be, &at, &out, &q, &keys, &values, length, &length, &scratch);
    traffic_end(t, NULL);
}

void traffic_of_attention(Traffic *t)
{
    static const int dims[] = {64, 80, 96, 128, 256};
    for (int i = 0; i < 5; i++)
        attention(t, DTYPE_BF16, 1024, 1, 1, dims[i]);
    for (int i = 0; i < 5; i++)
        attention(t, DTYPE_F16, 65, 1, 1, dims[i]);
    attention(t, DTYPE_BF16, 201, 2, 1, 64);
    attention(t, DTYPE_F32, 128, 1, 1, 64);
    generation(t, DTYPE_BF16, 512);
}
