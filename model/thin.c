#include "model/thin.h"

#include "backend/cpu.h"
#include "model/ops.h"
#include "quant/product.h"

int64_t thin_scratch(int64_t cols, int64_t ranks)
{
    return THIN_ROWS * (2 * cols + ranks);
}

/* --- CPU --- */

/* The inputs as the row products want them. */
typedef struct Inputs {
    int n;
    int64_t cols, ranks;
    float *x;       /* (n, K) */
    float *ordered; /* (n, K) as quant_product_order leaves them */
    float *h;       /* (n, ranks): x A^T of all parts */
} Inputs;

static Inputs inputs_make(const Thin *t, const Tensor *x, float *scratch)
{
    Inputs in = {.n = (int)tensor_rows(x), .cols = tensor_cols(x), .x = scratch};
    in.ordered = in.x + in.n * in.cols;
    in.h = in.ordered + in.n * in.cols;
    for (int i = 0; i < t->count; i++)
        in.ranks += t->parts[i].rank;
    for (int i = 0; i < in.n; i++) {
        float *to = in.x + i * in.cols;
        for (int64_t j = 0; j < in.cols; j += LANES) {
            const int64_t left = in.cols - j;
            lanes_store(to + j, DTYPE_F32, left, lanes_load(cpu_at_in(cpu_row_in(x, i), x->dtype, j), x->dtype, left));
        }
        quant_product_order(in.ordered + i * in.cols, to, in.cols);
    }
    return in;
}

enum { AHEAD = 2048 }; /* bytes of a matrix asked for in advance: rows follow one another in memory */

/* out[i] = w . x_i for a row of f32 or bf16; four sums hide the latency of an addition. */
static void dense_row(float *out, const void *w, DType dtype, const float *x, int64_t stride, int64_t cols, int n)
{
    for (int i = 0; i < n; i++) {
        const float *from = x + i * stride;
        Lanes sum[4] = {lanes_zero(), lanes_zero(), lanes_zero(), lanes_zero()};
        int64_t j = 0;
        for (; j + 4 * LANES <= cols; j += 4 * LANES) {
            for (int k = 0; k < 4; k++) {
                const char *at = cpu_at_in(w, dtype, j + k * LANES);
                __builtin_prefetch(at + AHEAD);
                const Lanes weights = lanes_load(at, dtype, LANES);
                sum[k] = lanes_fma(weights, lanes_load_f32(from + j + k * LANES), sum[k]);
            }
        }
        for (; j < cols; j += LANES) {
            const int64_t left = cols - j;
            sum[0] = lanes_fma(lanes_load(cpu_at_in(w, dtype, j), dtype, left), lanes_load(from + j, DTYPE_F32, left),
                               sum[0]);
        }
        out[i] = lanes_sum((sum[0] + sum[1]) + (sum[2] + sum[3]));
    }
}

/* Side column q of the group: which part's A, and which row of it. */
static void side_row(const Thin *t, const Inputs *in, int64_t q)
{
    int64_t row = q;
    const ThinPart *part = t->parts;
    for (; row >= part->rank; part++)
        row -= part->rank;
    float sums[THIN_ROWS];
    dense_row(sums, cpu_row_in(&part->a, row), DTYPE_F32, in->x, in->cols, in->cols, in->n);
    for (int i = 0; i < in->n; i++)
        in->h[i * in->ranks + q] = sums[i];
}

static void output_row(const Thin *t, const Inputs *in, const Tensor *y, int64_t o)
{
    int64_t row = o, side = 0;
    const ThinPart *part = t->parts;
    for (; row >= part->rows; part++) {
        row -= part->rows;
        side += part->rank;
    }
    float sums[THIN_ROWS], more[THIN_ROWS] = {0};
    if (part->quant)
        quant_row_product(sums, part->quant, row, in->ordered, in->n);
    else
        dense_row(sums, cpu_row_in(&part->plain, row), part->plain.dtype, in->x, in->cols, in->cols, in->n);
    if (part->rank > 0)
        dense_row(more, cpu_row_in(&part->b, row), DTYPE_F32, in->h + side, in->ranks, part->rank, in->n);
    for (int i = 0; i < in->n; i++) {
        float value = fmaf(part->scale, more[i], sums[i]);
        if (t->bias)
            value += t->bias->dtype == DTYPE_F32 ? ((const float *)t->bias->data)[o]
                                                 : bf16_to_f32(((const uint16_t *)t->bias->data)[o]);
        if (y->dtype == DTYPE_F32)
            ((float *)y->data)[i * y->stride + o] = value;
        else
            ((uint16_t *)y->data)[i * y->stride + o] = bf16_from_f32(value);
    }
}

static void forward_cpu(Backend *be, const Thin *t, const Tensor *y, const Tensor *x, float *scratch)
{
    (void)be;
    const Inputs in = inputs_make(t, x, scratch);
    const int64_t rows = tensor_cols(y);
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (int64_t q = 0; q < in.ranks; q++)
            side_row(t, &in, q);
#pragma omp for schedule(static)
        for (int64_t o = 0; o < rows; o++)
            output_row(t, &in, y, o);
    }
}

static const ThinOps thin_ops_cpu = {.forward = forward_cpu};

/* --- all backends --- */

static const ThinOps *const thin_ops[BACKEND_COUNT] = {
    [BACKEND_CPU] = &thin_ops_cpu,
    [BACKEND_CUDA] = CUDA_OPS(thin_ops_cuda),
};

static void check_part(const Backend *be, const ThinPart *p, int64_t cols)
{
    if (p->quant)
        CHECK(p->quant->rows == p->rows && p->quant->cols == cols);
    else
        CHECK(p->plain.shape[0] == p->rows && p->plain.shape[1] == cols && cpu_is_float(be, &p->plain));
    if (p->rank == 0) return;
    CHECK(p->a.dtype == DTYPE_F32 && p->a.shape[0] == p->rank && p->a.shape[1] == cols);
    CHECK(p->b.dtype == DTYPE_F32 && p->b.shape[0] == p->rows && p->b.shape[1] == p->rank);
}

void thin_forward(Backend *be, const Thin *t, const Tensor *y, const Tensor *x, const Tensor *scratch)
{
    const int64_t n = tensor_rows(x), cols = tensor_cols(x);
    int64_t rows = 0, ranks = 0;
    CHECK(t->count >= 1 && t->count <= THIN_PARTS);
    for (int i = 0; i < t->count; i++) {
        check_part(be, &t->parts[i], cols);
        rows += t->parts[i].rows;
        ranks += t->parts[i].rank;
    }
    CHECK(n >= 1 && n <= THIN_ROWS && tensor_rows(y) == n && tensor_cols(y) == rows);
    CHECK(cpu_is_float(be, x) && cpu_is_float(be, y) && (!t->bias || tensor_count(t->bias) == rows));
    CHECK(scratch->dtype == DTYPE_F32 && tensor_count(scratch) >= thin_scratch(cols, ranks));
    backend_enter(be);
    thin_ops[backend_kind(be)]->forward(be, t, y, x, scratch->data);
    backend_leave(be);
}
