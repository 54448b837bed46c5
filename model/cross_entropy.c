#include "model/cross_entropy.h"

#include "backend/cpu.h"
#include "model/ops.h"

/* --- CPU: a row is read twice, and written in the second pass --- */

SIMD_INLINE Lanes load(const void *row, DType dtype, int64_t j, int64_t cols)
{
    return lanes_load(cpu_at_in(row, dtype, j), dtype, cols - j);
}

typedef struct RowStats {
    float max;
    float sum;   /* of e^(x - max) */
    float total; /* of x: for smoothing, and to notice what is not finite (0 * NaN stays NaN in the loss) */
} RowStats;

/*
 * One pass: each lane keeps its own maximum and the sum of exponentials relative to it, and rescales the sum when the
 * maximum moves. Blocks of BLOCK vectors share one rescale.
 */
enum { BLOCK = 8 };

static RowStats row_stats(const void *x, DType t, int64_t cols)
{
    const Lanes lowest = lanes_set(-3.0e38f);
    Lanes max = lowest, sum = lanes_zero(), total = lanes_zero();
    for (int64_t first = 0; first < cols; first += BLOCK * LANES) {
        const int64_t end = cols - first < BLOCK * LANES ? cols : first + BLOCK * LANES;
        Lanes new_max = max;
        for (int64_t j = first; j < end; j += LANES)
            new_max = lanes_max(lanes_load_or(cpu_at_in(x, t, j), t, end - j, lowest), new_max);
        sum = sum * lanes_exp(max - new_max);
        max = new_max;
        for (int64_t j = first; j < end; j += LANES) {
            const Lanes v = lanes_load_or(cpu_at_in(x, t, j), t, end - j, lowest);
            sum = sum + lanes_exp(v - max);
            total = total + load(x, t, j, end);
        }
    }
    RowStats s = {.max = lanes_largest(max), .total = lanes_sum(total)};
    s.sum = lanes_sum(sum * lanes_exp(max - lanes_set(s.max)));
    return s;
}

static float element(const void *row, DType t, int64_t j)
{
    return t == DTYPE_F32 ? ((const float *)row)[j] : bf16_to_f32(((const uint16_t *)row)[j]);
}

typedef struct Row {
    const void *logits;
    void *gradient; /* null: only the loss; may be logits */
    DType in, to;
    int64_t cols;
    int32_t target;
    float smoothing, scale;
} Row;

static void write_gradient(const Row *row, const RowStats *s, float target_logit)
{
    const float uniform = row->scale * row->smoothing / (float)row->cols;
    const Lanes max = lanes_set(s->max), factor = lanes_set(row->scale / s->sum), shift = lanes_set(-uniform);
    for (int64_t j = 0; j < row->cols; j += LANES) {
        const Lanes p = lanes_exp(load(row->logits, row->in, j, row->cols) - max);
        lanes_store(cpu_at(row->gradient, row->to, j), row->to, row->cols - j, lanes_fma(p, factor, shift));
    }
    const float p = expf(target_logit - s->max) / s->sum;
    const float g = row->scale * (p - (1.0f - row->smoothing)) - uniform;
    lanes_store(cpu_at(row->gradient, row->to, row->target), row->to, 1, lanes_set(g));
}

static float run_row(const Row *row)
{
    const RowStats s = row_stats(row->logits, row->in, row->cols);
    const float target = element(row->logits, row->in, row->target); /* before it may be overwritten */
    const float lse = s.max + logf(s.sum);
    const float mean = s.total / (float)row->cols;
    if (row->gradient) write_gradient(row, &s, target);
    return (1.0f - row->smoothing) * (lse - target) + row->smoothing * (lse - mean);
}

static void run_cpu(Backend *be, const Tensor *losses, const Tensor *gradient, const Tensor *logits,
                    const int32_t *targets, float smoothing, float scale)
{
    (void)be;
    const int64_t rows = logits->shape[0], cols = logits->shape[1];
#pragma omp parallel for schedule(static) if (rows * cols > CPU_PARALLEL_MIN)
    for (int64_t i = 0; i < rows; i++) {
        CHECK(targets[i] >= 0 && targets[i] < cols);
        const Row row = {.logits = cpu_row_in(logits, i),
                         .gradient = gradient ? cpu_row(gradient, i) : NULL,
                         .in = logits->dtype,
                         .to = gradient ? gradient->dtype : logits->dtype,
                         .cols = cols,
                         .target = targets[i],
                         .smoothing = smoothing,
                         .scale = scale};
        cpu_f32(losses)[i] = run_row(&row);
    }
}

static const CrossEntropyOps cross_entropy_ops_cpu = {.run = run_cpu};

/* --- all backends --- */

static const CrossEntropyOps *const cross_entropy_ops[BACKEND_COUNT] = {
    [BACKEND_CPU] = &cross_entropy_ops_cpu,
    [BACKEND_CUDA] = CUDA_OPS(cross_entropy_ops_cuda),
};

void cross_entropy(Backend *be, const Tensor *losses, const Tensor *gradient, const Tensor *logits,
                   const Tensor *targets, float smoothing, float scale)
{
    CHECK(logits->rank == 2 && cpu_is_float(be, logits) && logits->shape[1] > 0);
    CHECK(losses->rank == 1 && losses->shape[0] == logits->shape[0] && losses->dtype == DTYPE_F32);
    CHECK(targets->rank == 1 && targets->shape[0] == logits->shape[0]);
    CHECK(!gradient || (cpu_same_shape(gradient, logits) && cpu_is_float(be, gradient)));
    CHECK(!gradient || gradient->data != logits->data ||
          (gradient->dtype == logits->dtype && gradient->stride == logits->stride));
    backend_enter(be);
    cross_entropy_ops[backend_kind(be)]->run(be, losses, gradient, logits, cpu_i32_in(targets), smoothing, scale);
    backend_leave(be);
}
