#include "model/rmsnorm.h"

#include "backend/cpu.h"
#include "model/ops.h"

/* --- CPU: one row after another, each read twice while it lies in the first-level cache --- */

SIMD_INLINE Lanes load(const void *row, DType dtype, int64_t j, int64_t cols)
{
    return lanes_load(cpu_at_in(row, dtype, j), dtype, cols - j);
}

/* (mean of x^2 + eps)^-1/2 */
static float inverse_rms(const void *x, DType dtype, int64_t cols, float eps)
{
    Lanes sum = lanes_zero();
    for (int64_t j = 0; j < cols; j += LANES) {
        const Lanes v = load(x, dtype, j, cols);
        sum = lanes_fma(v, v, sum);
    }
    return 1.0f / sqrtf(lanes_sum(sum) / (float)cols + eps);
}

/* In bf16 x * r is rounded before the gain, as Hugging Face does. */
SIMD_INLINE Lanes normalized(Lanes x, Lanes r, DType dtype)
{
    const Lanes unit = x * r;
    if (dtype == DTYPE_F32) return unit;
    return lanes_round_bf16(unit);
}

static void add_row(void *x, const void *add, DType dtype, int64_t cols)
{
    for (int64_t j = 0; j < cols; j += LANES)
        lanes_store(cpu_at(x, dtype, j), dtype, cols - j, load(x, dtype, j, cols) + load(add, dtype, j, cols));
}

static void forward_row(void *y, const void *x, const Tensor *w, DType dtype, int64_t cols, float eps)
{
    const Lanes r = lanes_set(inverse_rms(x, dtype, cols, eps));
    for (int64_t j = 0; j < cols; j += LANES) {
        const Lanes unit = normalized(load(x, dtype, j, cols), r, dtype);
        lanes_store(cpu_at(y, dtype, j), dtype, cols - j, unit * load(w->data, w->dtype, j, cols));
    }
}

static void forward_cpu(Backend *be, const Tensor *y, const Tensor *x, const Tensor *add, const Tensor *w, float eps)
{
    (void)be;
    const int64_t rows = x->shape[0], cols = x->shape[1];
#pragma omp parallel for schedule(static) if (rows * cols > CPU_PARALLEL_MIN)
    for (int64_t i = 0; i < rows; i++) {
        if (add) add_row(cpu_row(x, i), cpu_row_in(add, i), x->dtype, cols);
        forward_row(cpu_row(y, i), cpu_row_in(x, i), w, x->dtype, cols, eps);
    }
}

typedef struct BackwardRow {
    void *dx, *y; /* y null: not asked for */
    const void *dy, *x;
    DType dtype;
    int64_t cols;
} BackwardRow;

static void backward_row(const BackwardRow *row, const Tensor *w, float eps, bool accumulate)
{
    const DType t = row->dtype;
    const int64_t cols = row->cols;
    const float r = inverse_rms(row->x, t, cols, eps);
    Lanes dot = lanes_zero(); /* sum of g x, g = dy w */
    for (int64_t j = 0; j < cols; j += LANES) {
        const Lanes g = load(row->dy, t, j, cols) * load(w->data, w->dtype, j, cols);
        dot = lanes_fma(g, load(row->x, t, j, cols), dot);
    }
    const Lanes factor = lanes_set(-r * r * (lanes_sum(dot) / (float)cols));
    const Lanes scale = lanes_set(r);
    for (int64_t j = 0; j < cols; j += LANES) {
        const Lanes gain = load(w->data, w->dtype, j, cols), x = load(row->x, t, j, cols);
        const Lanes g = load(row->dy, t, j, cols) * gain;
        Lanes dx = scale * lanes_fma(x, factor, g);
        if (row->y) lanes_store(cpu_at(row->y, t, j), t, cols - j, normalized(x, scale, t) * gain);
        if (accumulate) dx = dx + load(row->dx, t, j, cols);
        lanes_store(cpu_at(row->dx, t, j), t, cols - j, dx);
    }
}

static void backward_cpu(Backend *be, const Tensor *dx, const Tensor *y, const Tensor *dy, const Tensor *x,
                         const Tensor *w, float eps, bool accumulate)
{
    (void)be;
    const int64_t rows = x->shape[0], cols = x->shape[1];
#pragma omp parallel for schedule(static) if (rows * cols > CPU_PARALLEL_MIN)
    for (int64_t i = 0; i < rows; i++) {
        const BackwardRow row = {
            .dx = cpu_row(dx, i),
            .y = y ? cpu_row(y, i) : NULL,
            .dy = cpu_row_in(dy, i),
            .x = cpu_row_in(x, i),
            .dtype = x->dtype,
            .cols = cols,
        };
        backward_row(&row, w, eps, accumulate);
    }
}

static const RmsnormOps rmsnorm_ops_cpu = {.forward = forward_cpu, .backward = backward_cpu};

/* --- all backends --- */

static const RmsnormOps *const rmsnorm_ops[BACKEND_COUNT] = {
    [BACKEND_CPU] = &rmsnorm_ops_cpu,
    [BACKEND_CUDA] = CUDA_OPS(rmsnorm_ops_cuda),
};

static void check(const Backend *be, const Tensor *y, const Tensor *x, const Tensor *w)
{
    CHECK(x->rank == 2 && cpu_same_shape(y, x) && cpu_is_float(be, x) && y->dtype == x->dtype);
    CHECK(w->rank == 1 && w->shape[0] == x->shape[1] && (w->dtype == DTYPE_F32 || w->dtype == x->dtype));
}

void rmsnorm_forward(Backend *be, const Tensor *y, const Tensor *x, const Tensor *w, float eps)
{
    check(be, y, x, w);
    backend_enter(be);
    rmsnorm_ops[backend_kind(be)]->forward(be, y, x, NULL, w, eps);
    backend_leave(be);
}

void rmsnorm_add_forward(Backend *be, const Tensor *y, const Tensor *x, const Tensor *add, const Tensor *w, float eps)
{
    check(be, y, x, w);
    check(be, add, x, w);
    backend_enter(be);
    rmsnorm_ops[backend_kind(be)]->forward(be, y, x, add, w, eps);
    backend_leave(be);
}

void rmsnorm_backward(Backend *be, const Tensor *dx, const Tensor *y, const Tensor *dy, const Tensor *x,
                      const Tensor *w, float eps, bool accumulate)
{
    check(be, dx, x, w);
    check(be, dy, x, w);
    if (y) check(be, y, x, w);
    backend_enter(be);
    rmsnorm_ops[backend_kind(be)]->backward(be, dx, y, dy, x, w, eps, accumulate);
    backend_leave(be);
}
