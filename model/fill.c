#include "model/fill.h"

#include "backend/elementwise.h"
#include "model/ops.h"

/* --- CPU --- */

static void weights_cpu(Backend *be, const Fill *f)
{
    for (int i = 0; i < f->count; i++) {
        const FillPart *part = &f->parts[i];
        const Tensor rows = tensor_slice_rows(&f->buffer, part->first_row, part->rows);
        const Tensor to = tensor_slice_cols(&rows, 0, f->cols);
        if (part->quant)
            quant_decode(be, &to, part->quant);
        else
            tensor_copy(be, &to, &part->plain);
    }
}

/* s B beside the rows of this matrix and A below the group. */
static void adapter_cpu(Backend *be, const Fill *f, const FillPart *part)
{
    const Tensor rows = tensor_slice_rows(&f->buffer, f->rows + part->first_side, part->rank);
    const Tensor below = tensor_slice_cols(&rows, 0, f->cols);
    const Tensor own_rows = tensor_slice_rows(&f->buffer, part->first_row, part->rows);
    const Tensor beside = tensor_slice_cols(&own_rows, f->cols + part->first_side, part->rank);
    tensor_scale(be, &below, &part->a, 1.0f);
    tensor_scale(be, &beside, &part->b, part->scale);
}

static void group_cpu(Backend *be, const Fill *f, bool weights)
{
    if (weights) weights_cpu(be, f);
    if (f->side == 0) return;
    const Tensor below = tensor_slice_rows(&f->buffer, f->rows, f->side);
    const Tensor below_inner = tensor_slice_cols(&below, 0, f->cols);
    const Tensor rows = tensor_slice_rows(&f->buffer, 0, f->rows);
    const Tensor beside = tensor_slice_cols(&rows, f->cols, f->side);
    tensor_zero(be, &below_inner);
    tensor_zero(be, &beside);
    for (int i = 0; i < f->count; i++) {
        if (f->parts[i].rank > 0) adapter_cpu(be, f, &f->parts[i]);
    }
}

static void fill_cpu(Backend *be, const Fill *groups, int count, bool weights)
{
    for (int i = 0; i < count; i++)
        group_cpu(be, &groups[i], weights);
}

static const FillOps fill_ops_cpu = {.fill = fill_cpu};

/* --- all backends --- */

static const FillOps *const fill_ops[BACKEND_COUNT] = {
    [BACKEND_CPU] = &fill_ops_cpu,
    [BACKEND_CUDA] = CUDA_OPS(fill_ops_cuda),
};

void fill_buffers(Backend *be, const Fill *groups, int count, bool weights)
{
    CHECK(count > 0 && count <= FILL_GROUPS_MAX);
    for (int i = 0; i < count; i++) {
        const Fill *f = &groups[i];
        CHECK(f->count > 0 && f->count <= FILL_PARTS_MAX && f->buffer.rank == 2);
        CHECK(f->buffer.shape[0] == f->rows + f->side && f->buffer.shape[1] == f->cols + f->side);
        CHECK(f->buffer.dtype == groups[0].buffer.dtype);
    }
    backend_enter(be);
    fill_ops[backend_kind(be)]->fill(be, groups, count, weights);
    backend_leave(be);
}
