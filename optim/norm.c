#include "optim/ops.h"

#include <math.h>

void adamw_norms_cpu(Adamw *opt, TensorNorm *out, const Tensor *grads)
{
    for (int i = 0; i < opt->table->count; i++) {
        const Param *p = &opt->table->items[i];
        const Tensor part = tensor_slice_flat(grads, p->offset, p->rows * p->cols);
        out[i] = tensor_norm(opt->be, &part);
    }
}

/* Squares as the value clamp leaves them, and how many elements it changes. */
static PieceResult clamped_piece(const float *g, int64_t count, float limit)
{
    PieceResult n = {0};
    for (int64_t i = 0; i < count; i++) {
        const float size = fabsf(g[i]);
        n.capped += size > limit;
        const double kept = (double)fminf(size, limit);
        n.sum_squares += kept * kept;
    }
    return n;
}

void adamw_clamped_norms_cpu(Adamw *opt, const Tensor *grads, float limit)
{
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < opt->piece_count; i++) {
        const Piece *piece = &opt->pieces[i];
        opt->results[i] = clamped_piece((const float *)grads->data + piece->element, piece->count, limit);
    }
}
