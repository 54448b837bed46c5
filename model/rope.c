#include "model/rope.h"

#include "backend/cpu.h"
#include "model/ops.h"

/* --- host --- */

/* The angle is one f32 product, as in Hugging Face; its cosine and sine are taken in f64 and rounded once. */
void rope_table_rows(const Tensor *rows, int64_t first, const float *frequencies, float factor)
{
    const int64_t count = rows->shape[0], half = rows->shape[1] / 2;
#pragma omp parallel for schedule(static) if (count * half > CPU_PARALLEL_MIN)
    for (int64_t r = 0; r < count; r++) {
        float *row = cpu_f32(rows) + r * rows->stride;
        for (int64_t i = 0; i < half; i++) {
            const float angle = (float)(first + r) * frequencies[i];
            row[i] = (float)cos((double)angle) * factor;
            row[half + i] = (float)sin((double)angle) * factor;
        }
    }
}

/* --- CPU --- */

static void table_cpu(Backend *be, const Tensor *table, const float *frequencies, float factor)
{
    (void)be;
    rope_table_rows(table, 0, frequencies, factor);
}

/* sign is -1 for the rotation back */
static void rotate_head(void *head, DType t, const float *row, int64_t half, float sign)
{
    void *low_at = head, *high_at = cpu_at(head, t, half);
    for (int64_t i = 0; i < half; i += LANES) {
        const Lanes c = lanes_load(row + i, DTYPE_F32, half - i);
        const Lanes s = lanes_set(sign) * lanes_load(row + half + i, DTYPE_F32, half - i);
        const Lanes low = lanes_load(cpu_at(low_at, t, i), t, half - i);
        const Lanes high = lanes_load(cpu_at(high_at, t, i), t, half - i);
        lanes_store(cpu_at(low_at, t, i), t, half - i, low * c - high * s);
        lanes_store(cpu_at(high_at, t, i), t, half - i, high * c + low * s);
    }
}

static void apply_cpu(Backend *be, const Tensor *qk, const Tensor *table, const int32_t *positions, int heads,
                      int head_dim, bool backward)
{
    (void)be;
    const int64_t rows = qk->shape[0];
#pragma omp parallel for schedule(static) if (rows * heads * head_dim > CPU_PARALLEL_MIN)
    for (int64_t i = 0; i < rows; i++) {
        CHECK(positions[i] >= 0 && positions[i] < table->shape[0]);
        const float *row = (const float *)table->data + positions[i] * table->stride;
        for (int h = 0; h < heads; h++)
            rotate_head(cpu_at(cpu_row(qk, i), qk->dtype, h * head_dim), qk->dtype, row, head_dim / 2,
                        backward ? -1.0f : 1.0f);
    }
}

static const RopeOps rope_ops_cpu = {.table = table_cpu, .apply = apply_cpu};

/* --- all backends --- */

static const RopeOps *const rope_ops[BACKEND_COUNT] = {
    [BACKEND_CPU] = &rope_ops_cpu,
    [BACKEND_CUDA] = CUDA_OPS(rope_ops_cuda),
};

void rope_table(Backend *be, const Tensor *table, const float *frequencies, float attention_factor)
{
    CHECK(table->rank == 2 && table->dtype == DTYPE_F32 && table->shape[1] % 2 == 0);
    backend_enter(be);
    rope_ops[backend_kind(be)]->table(be, table, frequencies, attention_factor);
    backend_leave(be);
}

void rope_apply(Backend *be, const Tensor *qk, const Tensor *table, const Tensor *positions, int heads, int head_dim,
                bool backward)
{
    CHECK(qk->rank == 2 && cpu_is_float(be, qk) && heads >= 0 && qk->shape[1] >= (int64_t)heads * head_dim);
    CHECK(table->rank == 2 && table->dtype == DTYPE_F32 && table->shape[1] == head_dim && head_dim % 2 == 0);
    CHECK(positions->rank == 1 && positions->shape[0] == qk->shape[0]);
    backend_enter(be);
    rope_ops[backend_kind(be)]->apply(be, qk, table, cpu_i32_in(positions), heads, head_dim, backward);
    backend_leave(be);
}
