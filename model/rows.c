#include "model/rows.h"

#include "backend/cpu.h"
#include "model/ops.h"

#include <string.h>

static char *row(const Tensor *t, int64_t i)
{
    return (char *)t->data + (size_t)(i * t->stride) * dtype_bytes(t->dtype);
}

static void gather_cpu(Backend *be, const Tensor *out, const Tensor *in, const Tensor *index)
{
    (void)be;
    const int32_t *at = (const int32_t *)index->data;
    const size_t bytes = (size_t)tensor_cols(in) * dtype_bytes(in->dtype);
    for (int64_t i = 0; i < tensor_rows(out); i++) {
        DCHECK(at[i] >= 0 && at[i] < tensor_rows(in));
        memcpy(row(out, i), row(in, at[i]), bytes);
    }
}

static void scatter_cpu(Backend *be, const Tensor *out, const Tensor *in, const Tensor *index)
{
    (void)be;
    const int32_t *at = (const int32_t *)index->data;
    const size_t bytes = (size_t)tensor_cols(in) * dtype_bytes(in->dtype);
    for (int64_t i = 0; i < tensor_rows(in); i++) {
        DCHECK(at[i] >= 0 && at[i] < tensor_rows(out));
        memcpy(row(out, at[i]), row(in, i), bytes);
    }
}

static void add_vector_cpu(Backend *be, const Tensor *y, const Tensor *vector)
{
    (void)be;
    const int64_t cols = tensor_cols(y);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < tensor_rows(y); i++) {
        if (y->dtype == DTYPE_F32) {
            float *to = (float *)row(y, i);
            const float *from = (const float *)vector->data;
            for (int64_t j = 0; j < cols; j++)
                to[j] += from[j];
        } else {
            uint16_t *to = (uint16_t *)row(y, i);
            const uint16_t *from = (const uint16_t *)vector->data;
            for (int64_t j = 0; j < cols; j++)
                to[j] = bf16_from_f32(bf16_to_f32(to[j]) + bf16_to_f32(from[j]));
        }
    }
}

static const RowsOps rows_ops_cpu = {.gather = gather_cpu, .scatter = scatter_cpu, .add_vector = add_vector_cpu};

static const RowsOps *const rows_ops[BACKEND_COUNT] = {
    [BACKEND_CPU] = &rows_ops_cpu,
    [BACKEND_CUDA] = CUDA_OPS(rows_ops_cuda),
};

static void check_move(const Tensor *few, const Tensor *many, const Tensor *index)
{
    CHECK(few->dtype == many->dtype && tensor_cols(few) == tensor_cols(many));
    CHECK(index->dtype == DTYPE_I32 && tensor_count(index) == tensor_rows(few));
}

void rows_gather(Backend *be, const Tensor *out, const Tensor *in, const Tensor *index)
{
    check_move(out, in, index);
    backend_enter(be);
    rows_ops[backend_kind(be)]->gather(be, out, in, index);
    backend_leave(be);
}

void rows_scatter(Backend *be, const Tensor *out, const Tensor *in, const Tensor *index)
{
    check_move(in, out, index);
    backend_enter(be);
    rows_ops[backend_kind(be)]->scatter(be, out, in, index);
    backend_leave(be);
}

void rows_add_vector(Backend *be, const Tensor *y, const Tensor *vector)
{
    CHECK(y->dtype == vector->dtype && cpu_is_float(be, y));
    CHECK(tensor_cols(y) == tensor_count(vector));
    backend_enter(be);
    rows_ops[backend_kind(be)]->add_vector(be, y, vector);
    backend_leave(be);
}
