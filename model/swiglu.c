#include "model/swiglu.h"

#include "backend/cpu.h"
#include "model/ops.h"

/* --- CPU --- */

SIMD_INLINE Lanes load(const void *row, DType dtype, int64_t j, int64_t cols)
{
    return lanes_load(cpu_at_in(row, dtype, j), dtype, cols - j);
}

static void forward_row(void *y, const void *gu, DType t, int64_t width)
{
    const void *up = cpu_at_in(gu, t, width);
    for (int64_t j = 0; j < width; j += LANES) {
        const Lanes gate = load(gu, t, j, width);
        lanes_store(cpu_at(y, t, j), t, width - j, gate * lanes_sigmoid(gate) * load(up, t, j, width));
    }
}

static void forward_cpu(Backend *be, const Tensor *y, const Tensor *gu)
{
    (void)be;
    const int64_t rows = y->shape[0], width = y->shape[1];
#pragma omp parallel for schedule(static) if (rows * width > CPU_PARALLEL_MIN)
    for (int64_t i = 0; i < rows; i++)
        forward_row(cpu_row(y, i), cpu_row_in(gu, i), y->dtype, width);
}

/* gu may be where dgu goes: both halves of a place are read before either is written. */
static void backward_row(void *dgu, void *y, const void *dy, const void *gu, DType t, int64_t width)
{
    const Lanes one = lanes_set(1.0f);
    for (int64_t j = 0; j < width; j += LANES) {
        const Lanes gate = load(gu, t, j, width), up = load(gu, t, width + j, 2 * width), g = load(dy, t, j, width);
        const Lanes s = lanes_sigmoid(gate);
        const Lanes slope = lanes_fma(gate * s, one - s, s);
        if (y) lanes_store(cpu_at(y, t, j), t, width - j, gate * s * up);
        lanes_store(cpu_at(dgu, t, j), t, width - j, g * up * slope);
        lanes_store(cpu_at(dgu, t, width + j), t, width - j, g * gate * s);
    }
}

static void backward_cpu(Backend *be, const Tensor *dgu, const Tensor *y, const Tensor *dy, const Tensor *gu)
{
    (void)be;
    const int64_t rows = dy->shape[0], width = dy->shape[1];
#pragma omp parallel for schedule(static) if (rows * width > CPU_PARALLEL_MIN)
    for (int64_t i = 0; i < rows; i++)
        backward_row(cpu_row(dgu, i), y ? cpu_row(y, i) : NULL, cpu_row_in(dy, i), cpu_row_in(gu, i), dy->dtype, width);
}

static const SwigluOps swiglu_ops_cpu = {.forward = forward_cpu, .backward = backward_cpu};

/* --- all backends --- */

static const SwigluOps *const swiglu_ops[BACKEND_COUNT] = {
    [BACKEND_CPU] = &swiglu_ops_cpu,
    [BACKEND_CUDA] = CUDA_OPS(swiglu_ops_cuda),
};

static void check(const Backend *be, const Tensor *y, const Tensor *gu)
{
    CHECK(y->rank == 2 && gu->rank == 2 && gu->shape[0] == y->shape[0] && gu->shape[1] == 2 * y->shape[1]);
    CHECK(cpu_is_float(be, y) && gu->dtype == y->dtype);
}

void swiglu_forward(Backend *be, const Tensor *y, const Tensor *gu)
{
    check(be, y, gu);
    backend_enter(be);
    swiglu_ops[backend_kind(be)]->forward(be, y, gu);
    backend_leave(be);
}

void swiglu_backward(Backend *be, const Tensor *dgu, const Tensor *y, const Tensor *dy, const Tensor *gu)
{
    check(be, dy, gu);
    check(be, dy, dgu);
    if (y) check(be, y, gu);
    backend_enter(be);
    swiglu_ops[backend_kind(be)]->backward(be, dgu, y, dy, gu);
    backend_leave(be);
}
