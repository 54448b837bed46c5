#include "backend/elementwise.h"

#include "backend/cpu.h"
#include "backend/ops.h"

/* --- CPU --- */

/*
 * Work is cut into pieces of PIECE elements. Dense tensors are one long row, so that many short rows do not cost a
 * loop start each; strided ones are cut row by row.
 */
enum { PIECE = 1 << 13 };

typedef struct Pieces {
    int64_t rows, cols; /* as walked: one row when everything is dense */
    int64_t per_row, count;
} Pieces;

static Pieces pieces_of(const Tensor *t, bool dense)
{
    Pieces p = {.rows = dense ? 1 : tensor_rows(t), .cols = dense ? tensor_count(t) : tensor_cols(t)};
    p.per_row = ceil_div(p.cols, PIECE);
    p.count = p.rows * p.per_row;
    return p;
}

static int64_t piece_row(const Pieces *p, int64_t i)
{
    return i / p->per_row;
}

static int64_t piece_first(const Pieces *p, int64_t i)
{
    return i % p->per_row * PIECE;
}

static int64_t piece_length(const Pieces *p, int64_t i)
{
    const int64_t left = p->cols - piece_first(p, i);
    return left < PIECE ? left : PIECE;
}

static void zero_cpu(Backend *be, const Tensor *out)
{
    (void)be;
    const Pieces p = pieces_of(out, tensor_dense(out));
    const size_t size = dtype_bytes(out->dtype);
#pragma omp parallel for schedule(static) if (p.rows * p.cols > CPU_PARALLEL_MIN)
    for (int64_t i = 0; i < p.count; i++) {
        char *at = (char *)out->data + (size_t)(piece_row(&p, i) * out->stride + piece_first(&p, i)) * size;
        memset(at, 0, (size_t)piece_length(&p, i) * size);
    }
}

static void scale_cpu(Backend *be, const Tensor *out, const Tensor *in, float factor)
{
    (void)be;
    const Pieces p = pieces_of(out, tensor_dense(out) && tensor_dense(in));
    const DType to = out->dtype, from = in->dtype;
    const Lanes f = lanes_set(factor);
#pragma omp parallel for schedule(static) if (p.rows * p.cols > CPU_PARALLEL_MIN)
    for (int64_t i = 0; i < p.count; i++) {
        const int64_t first = piece_first(&p, i), n = piece_length(&p, i);
        char *y = cpu_at(cpu_row(out, piece_row(&p, i)), to, first);
        const char *x = cpu_at_in(cpu_row_in(in, piece_row(&p, i)), from, first);
        for (int64_t j = 0; j < n; j += LANES)
            lanes_store(cpu_at(y, to, j), to, n - j, f * lanes_load(cpu_at_in(x, from, j), from, n - j));
    }
}

/* Same type: bytes, whatever they mean. Otherwise a product by one, which rounds as a conversion does. */
static void copy_cpu(Backend *be, const Tensor *out, const Tensor *in)
{
    if (out->dtype != in->dtype) {
        scale_cpu(be, out, in, 1.0f);
        return;
    }
    const Pieces p = pieces_of(out, tensor_dense(out) && tensor_dense(in));
    const size_t size = dtype_bytes(out->dtype);
#pragma omp parallel for schedule(static) if (p.rows * p.cols > CPU_PARALLEL_MIN)
    for (int64_t i = 0; i < p.count; i++) {
        const int64_t row = piece_row(&p, i), first = piece_first(&p, i);
        memmove((char *)out->data + (size_t)(row * out->stride + first) * size,
                (const char *)in->data + (size_t)(row * in->stride + first) * size, (size_t)piece_length(&p, i) * size);
    }
}

static void add_cpu(Backend *be, const Tensor *out, const Tensor *a, const Tensor *b)
{
    (void)be;
    const Pieces p = pieces_of(out, tensor_dense(out) && tensor_dense(a) && tensor_dense(b));
#pragma omp parallel for schedule(static) if (p.rows * p.cols > CPU_PARALLEL_MIN)
    for (int64_t i = 0; i < p.count; i++) {
        const int64_t row = piece_row(&p, i), first = piece_first(&p, i), n = piece_length(&p, i);
        char *y = cpu_at(cpu_row(out, row), out->dtype, first);
        const char *u = cpu_at_in(cpu_row_in(a, row), a->dtype, first);
        const char *v = cpu_at_in(cpu_row_in(b, row), b->dtype, first);
        for (int64_t j = 0; j < n; j += LANES) {
            const Lanes sum = lanes_load(cpu_at_in(u, a->dtype, j), a->dtype, n - j) +
                              lanes_load(cpu_at_in(v, b->dtype, j), b->dtype, n - j);
            lanes_store(cpu_at(y, out->dtype, j), out->dtype, n - j, sum);
        }
    }
}

/* Eight f64 sums side by side, added in order; x - x is zero for finite x only. */
static TensorNorm norm_piece(const float *x, int64_t n)
{
    double sums[8] = {0};
    float faults[8] = {0};
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        for (int k = 0; k < 8; k++) {
            const double wide = (double)x[i + k];
            sums[k] += wide * wide;
            faults[k] += x[i + k] - x[i + k];
        }
    }
    for (int k = 0; i < n; i++, k++) {
        sums[k] += (double)x[i] * (double)x[i];
        faults[k] += x[i] - x[i];
    }
    TensorNorm norm = {.finite = true};
    for (int k = 0; k < 8; k++) {
        norm.sum_squares += sums[k];
        norm.finite = norm.finite && faults[k] == 0.0f;
    }
    return norm;
}

/* Sums of groups of BATCH pieces are kept and added in order, so the threads only decide who computes what. */
static TensorNorm norm_cpu(Backend *be, const Tensor *in)
{
    (void)be;
    enum { BATCH = 64 };
    const Pieces p = pieces_of(in, tensor_dense(in));
    TensorNorm total = {.finite = true};
    for (int64_t start = 0; start < p.count; start += BATCH) {
        const int64_t n = p.count - start < BATCH ? p.count - start : BATCH;
        TensorNorm parts[BATCH];
#pragma omp parallel for schedule(static) if (n * PIECE > CPU_PARALLEL_MIN)
        for (int64_t k = 0; k < n; k++) {
            const float *row = (const float *)in->data + piece_row(&p, start + k) * in->stride;
            parts[k] = norm_piece(row + piece_first(&p, start + k), piece_length(&p, start + k));
        }
        for (int64_t k = 0; k < n; k++) {
            total.sum_squares += parts[k].sum_squares;
            total.finite = total.finite && parts[k].finite;
        }
    }
    return total;
}

static const ElementwiseOps elementwise_ops_cpu = {
    .zero = zero_cpu,
    .copy = copy_cpu,
    .add = add_cpu,
    .scale = scale_cpu,
    .norm = norm_cpu,
};

/* --- all backends --- */

static const ElementwiseOps *const elementwise_ops[BACKEND_COUNT] = {
    [BACKEND_CPU] = &elementwise_ops_cpu,
    [BACKEND_CUDA] = CUDA_OPS(elementwise_ops_cuda),
};

void tensor_zero(Backend *be, const Tensor *out)
{
    if (tensor_count(out) == 0) return;
    backend_enter(be);
    elementwise_ops[backend_kind(be)]->zero(be, out);
    backend_leave(be);
}

void tensor_copy(Backend *be, const Tensor *out, const Tensor *in)
{
    CHECK(cpu_same_shape(out, in));
    CHECK(out->dtype == in->dtype || (cpu_is_float(be, out) && cpu_is_float(be, in)));
    if (tensor_count(out) == 0) return;
    backend_enter(be);
    elementwise_ops[backend_kind(be)]->copy(be, out, in);
    backend_leave(be);
}

void tensor_add(Backend *be, const Tensor *out, const Tensor *a, const Tensor *b)
{
    CHECK(cpu_same_shape(out, a) && cpu_same_shape(out, b));
    CHECK(cpu_is_float(be, out) && cpu_is_float(be, a) && cpu_is_float(be, b));
    if (tensor_count(out) == 0) return;
    backend_enter(be);
    elementwise_ops[backend_kind(be)]->add(be, out, a, b);
    backend_leave(be);
}

void tensor_scale(Backend *be, const Tensor *out, const Tensor *in, float factor)
{
    CHECK(cpu_same_shape(out, in) && cpu_is_float(be, out) && cpu_is_float(be, in));
    if (tensor_count(out) == 0) return;
    backend_enter(be);
    elementwise_ops[backend_kind(be)]->scale(be, out, in, factor);
    backend_leave(be);
}

TensorNorm tensor_norm(Backend *be, const Tensor *in)
{
    CHECK(in->dtype == DTYPE_F32);
    TensorNorm norm = {.finite = true};
    if (tensor_count(in) == 0) return norm;
    backend_enter(be);
    norm = elementwise_ops[backend_kind(be)]->norm(be, in);
    backend_leave(be);
    return norm;
}
