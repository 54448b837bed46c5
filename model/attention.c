#include "model/attention.h"

#include "backend/cpu.h"

#include <omp.h>

/* First version: one (query, head) at a time. */

static float element(const void *data, DType t, int64_t i)
{
    return t == DTYPE_F32 ? ((const float *)data)[i] : bf16_to_f32(((const uint16_t *)data)[i]);
}

static float dot(const void *a, const void *b, DType t, int n)
{
    Lanes sum = lanes_zero();
    for (int j = 0; j < n; j += LANES)
        sum = lanes_fma(lanes_load(cpu_at_in(a, t, j), t, n - j), lanes_load(cpu_at_in(b, t, j), t, n - j), sum);
    return lanes_sum(sum);
}

static void axpy(float *y, float a, const void *x, DType t, int n)
{
    for (int j = 0; j < n; j += LANES) {
        const Lanes v =
            lanes_fma(lanes_set(a), lanes_load(cpu_at_in(x, t, j), t, n - j), lanes_load(y + j, DTYPE_F32, n - j));
        lanes_store(y + j, DTYPE_F32, n - j, v);
    }
}

static void write(void *to, DType t, const float *x, float scale, int n)
{
    for (int j = 0; j < n; j += LANES)
        lanes_store(cpu_at(to, t, j), t, n - j, lanes_set(scale) * lanes_load(x + j, DTYPE_F32, n - j));
}

int64_t attention_scratch(const Backend *be, int64_t n, int heads, int kv_heads, int head_dim)
{
    (void)heads;
    return (int64_t)backend_threads(be) * (n + head_dim) + 2 * n * kv_heads * head_dim;
}

static void one_query(float *sum, float *lse, float *scores, const Attention *at, const void *q, const char *keys,
                      const char *values, DType t, int64_t stride, int64_t count)
{
    float max = -INFINITY, total = 0.0f;
    const int D = at->head_dim;
    for (int64_t k = 0; k < count; k++) {
        scores[k] = at->scale * dot(q, cpu_at_in(keys, t, k * stride), t, D);
        max = fmaxf(max, scores[k]);
    }
    memset(sum, 0, (size_t)D * sizeof(float));
    for (int64_t k = 0; k < count; k++) {
        const float p = expf(scores[k] - max);
        total += p;
        axpy(sum, p, cpu_at_in(values, t, k * stride), t, D);
    }
    for (int j = 0; j < D; j++)
        sum[j] /= total;
    *lse = max + logf(total);
}

static int64_t segment_start(const Attention *at, int64_t row)
{
    int s = 0;
    while (at->starts[s + 1] <= row)
        s++;
    return at->starts[s];
}

void attention_forward(Backend *be, const Attention *at, const Tensor *out, const Tensor *lse, const Tensor *qkv,
                       const Tensor *scratch)
{
    const int H = at->heads, G = at->kv_heads, D = at->head_dim;
    const int64_t N = qkv->shape[0];
    const DType t = qkv->dtype;
    CHECK(qkv->rank == 2 && qkv->shape[1] == (H + 2 * G) * D && H % G == 0 && at->starts[at->segments] == N);
    CHECK(out->shape[0] == N && out->shape[1] == H * D && out->dtype == t && lse->shape[0] == N && lse->shape[1] == H);
    CHECK(tensor_count(scratch) >= attention_scratch(be, N, H, G, D));
    backend_enter(be);
#pragma omp parallel for schedule(dynamic, 16)
    for (int64_t i = 0; i < N; i++) {
        float *scores = (float *)scratch->data + omp_get_thread_num() * (N + D), *sum = scores + N;
        const int64_t first = segment_start(at, i);
        for (int h = 0; h < H; h++) {
            const int g = h / (H / G);
            one_query(sum, cpu_f32(lse) + i * lse->stride + h, scores, at, cpu_at_in(cpu_row_in(qkv, i), t, h * D),
                      cpu_at_in(cpu_row_in(qkv, first), t, (H + g) * D),
                      cpu_at_in(cpu_row_in(qkv, first), t, (H + G + g) * D), t, qkv->stride, i - first + 1);
            write(cpu_at(cpu_row(out, i), t, h * D), t, sum, 1.0f, D);
        }
    }
    backend_leave(be);
}

void attention_backward(Backend *be, const Attention *at, const Tensor *dqkv, const Tensor *dout, const Tensor *out,
                        const Tensor *lse, const Tensor *qkv, const Tensor *scratch)
{
    const int H = at->heads, G = at->kv_heads, D = at->head_dim;
    const int64_t N = qkv->shape[0];
    const DType t = qkv->dtype;
    CHECK(cpu_same_shape(dqkv, qkv) && cpu_same_shape(dout, out) && dqkv->dtype == t && dout->dtype == t);
    CHECK(tensor_count(scratch) >= attention_scratch(be, N, H, G, D));
    backend_enter(be);
    float *dk = (float *)scratch->data + backend_threads(be) * (N + D), *dv = dk + N * G * D;
    memset(dk, 0, (size_t)(2 * N * G * D) * sizeof(float));
#pragma omp parallel for schedule(static)
    for (int g = 0; g < G; g++) {
        float *dq = (float *)scratch->data + omp_get_thread_num() * (N + D) + N;
        for (int h = g * (H / G); h < (g + 1) * (H / G); h++) {
            for (int64_t i = 0; i < N; i++) {
                const char *q = cpu_at_in(cpu_row_in(qkv, i), t, h * D);
                const char *go = cpu_at_in(cpu_row_in(dout, i), t, h * D);
                const float delta = dot(go, cpu_at_in(cpu_row_in(out, i), t, h * D), t, D);
                memset(dq, 0, (size_t)D * sizeof(float));
                for (int64_t k = segment_start(at, i); k <= i; k++) {
                    const char *key = cpu_at_in(cpu_row_in(qkv, k), t, (H + g) * D);
                    const char *value = cpu_at_in(cpu_row_in(qkv, k), t, (H + G + g) * D);
                    const float p =
                        expf(at->scale * dot(q, key, t, D) - ((const float *)lse->data)[i * lse->stride + h]);
                    const float ds = at->scale * p * (dot(go, value, t, D) - delta);
                    axpy(dq, ds, key, t, D);
                    axpy(dk + (k * G + g) * D, ds, q, t, D);
                    axpy(dv + (k * G + g) * D, p, go, t, D);
                }
                write(cpu_at(cpu_row(dqkv, i), t, h * D), t, dq, 1.0f, D);
            }
        }
        for (int64_t k = 0; k < N; k++) {
            write(cpu_at(cpu_row(dqkv, k), t, (H + g) * D), t, dk + (k * G + g) * D, 1.0f, D);
            write(cpu_at(cpu_row(dqkv, k), t, (H + G + g) * D), t, dv + (k * G + g) * D, 1.0f, D);
        }
    }
    (void)element;
    backend_leave(be);
}

void attention_decode(Backend *be, const Attention *at, const Tensor *out, const Tensor *q, const Tensor *keys,
                      const Tensor *values, int64_t capacity, const int32_t *lengths, const Tensor *scratch)
{
    const int H = at->heads, G = at->kv_heads, D = at->head_dim;
    const DType t = q->dtype;
    const int64_t B = q->shape[0];
    backend_enter(be);
    float *scores = scratch->data;
    for (int64_t b = 0; b < B; b++) {
        for (int h = 0; h < H; h++) {
            const int g = h / (H / G);
            float lse;
            CHECK(lengths[b] <= capacity && tensor_count(scratch) >= lengths[b] + D);
            one_query(scores + lengths[b], &lse, scores, at, cpu_at_in(cpu_row_in(q, b), t, h * D),
                      cpu_at_in(cpu_row_in(keys, b * capacity), t, g * D),
                      cpu_at_in(cpu_row_in(values, b * capacity), t, g * D), t, keys->stride, lengths[b]);
            write(cpu_at(cpu_row(out, b), t, h * D), t, scores + lengths[b], 1.0f, D);
        }
    }
    backend_leave(be);
}
