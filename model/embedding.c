#include "model/embedding.h"

#include "backend/cpu.h"
#include "model/ops.h"

/* --- CPU --- */

static void forward_cpu(Backend *be, const Tensor *out, const Tensor *table, const int32_t *ids)
{
    (void)be;
    const int64_t rows = out->shape[0], cols = out->shape[1];
#pragma omp parallel for schedule(static) if (rows * cols > CPU_PARALLEL_MIN)
    for (int64_t i = 0; i < rows; i++) {
        CHECK(ids[i] >= 0 && ids[i] < table->shape[0]);
        char *to = cpu_row(out, i);
        const char *from = cpu_row_in(table, ids[i]);
        for (int64_t j = 0; j < cols; j += LANES) {
            lanes_store(cpu_at(to, out->dtype, j), out->dtype, cols - j,
                        lanes_load(cpu_at_in(from, table->dtype, j), table->dtype, cols - j));
        }
    }
}

/* Elements are numbered through the micro-batch: element (i, j) is word i * C + j of the key's sequence. */
static void noise_row(const Tensor *out, int64_t i, float magnitude, RngKey key)
{
    const int64_t cols = out->shape[1];
    for (int64_t j = 0; j < cols; j++) {
        void *at = cpu_at(cpu_row(out, i), out->dtype, j);
        const float unit = rng_uniform(key, (uint64_t)(i * cols + j));
        const float delta = (2.0f * unit - 1.0f) * magnitude;
        if (out->dtype == DTYPE_F32) {
            *(float *)at += delta;
        } else {
            *(uint16_t *)at = bf16_from_f32(bf16_to_f32(*(uint16_t *)at) + delta);
        }
    }
}

static void noise_cpu(Backend *be, const Tensor *out, const Neftune *noise)
{
    (void)be;
    const int64_t cols = out->shape[1];
    for (int s = 0; s < noise->segments; s++) {
        const int64_t first = noise->starts[s], end = noise->starts[s + 1];
        const float magnitude = noise->alpha / sqrtf((float)((end - first) * cols));
#pragma omp parallel for schedule(static) if ((end - first) * cols > CPU_PARALLEL_MIN)
        for (int64_t i = first; i < end; i++)
            noise_row(out, i, magnitude, noise->key);
    }
}

static const EmbeddingOps embedding_ops_cpu = {.forward = forward_cpu, .noise = noise_cpu};

/* --- all backends --- */

static const EmbeddingOps *const embedding_ops[BACKEND_COUNT] = {
    [BACKEND_CPU] = &embedding_ops_cpu,
    [BACKEND_CUDA] = CUDA_OPS(embedding_ops_cuda),
};

void embedding_forward(Backend *be, const Tensor *out, const Tensor *table, const Tensor *ids, const Neftune *noise)
{
    CHECK(out->rank == 2 && table->rank == 2 && out->shape[1] == table->shape[1]);
    CHECK(cpu_is_float(be, out) && cpu_is_float(be, table));
    CHECK(ids->rank == 1 && ids->shape[0] == out->shape[0]);
    const bool noisy = noise && noise->alpha > 0.0f;
    if (noisy) CHECK(noise->segments >= 0 && (noise->segments == 0 || noise->starts[noise->segments] <= out->shape[0]));
    backend_enter(be);
    embedding_ops[backend_kind(be)]->forward(be, out, table, cpu_i32_in(ids));
    if (noisy) embedding_ops[backend_kind(be)]->noise(be, out, noise);
    backend_leave(be);
}
