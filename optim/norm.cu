#include "optim/pieces.cuh"

/*
 * Sum of squares of a piece, and how many elements are larger than `limit`; those count as the limit. Reads 4 bytes an
 * element; a thread adds up to four packs of 4 in order, then the block its threads. Squares of f32 are far inside of
 * f64: the sum is finite exactly when every element is.
 */
static __global__ void norm_kernel(PieceResult *results, const Piece *pieces, int64_t count, const float *grads,
                                   float limit)
{
    SHARED_ARRAY(double, sums, PIECE_WARPS);
    SHARED_ARRAY(int, counts, PIECE_WARPS);
    for (int64_t i = blockIdx.x; i < count; i += gridDim.x) {
        const Piece piece = pieces[i];
        double sum = 0.0;
        int larger = 0;
        for (int at = 4 * static_cast<int>(threadIdx.x); at < piece.count; at += 4 * PIECE_THREADS) {
            float x[4];
            pack_load<4>(x, grads + piece.element + at, piece.count - at);
            for (int k = 0; k < 4; k++) {
                const float size = fabsf(x[k]);
                const double kept = static_cast<double>(size > limit ? limit : size);
                larger += size > limit;
                sum = fma(kept, kept, sum);
            }
        }
        sum = block_sum<PIECE_THREADS>(sum, sums);
        larger = block_sum<PIECE_THREADS>(larger, counts);
        if (threadIdx.x == 0) results[i] = PieceResult{sum, 0, larger};
    }
}

void adamw_clamped_norms_cuda(Adamw *opt, const Tensor *grads, float limit)
{
    if (opt->piece_count == 0) return;
    CUDA_LAUNCH(opt->be, norm_kernel, piece_grid(opt, opt->piece_count), PIECE_THREADS, 0, device_results(opt),
                device_pieces(opt), opt->piece_count, piece_base(grads), limit);
}

/* One launch and one small download for all parameters; their pieces are added in order. */
void adamw_norms_cuda(Adamw *opt, TensorNorm *out, const Tensor *grads)
{
    adamw_clamped_norms_cuda(opt, grads, INFINITY);
    adamw_collect_cuda(opt);
    for (int p = 0; p < opt->table->count; p++)
        out[p].sum_squares = 0.0;
    for (int64_t i = 0; i < opt->piece_count; i++)
        out[opt->pieces[i].param].sum_squares += opt->results[i].sum_squares;
    for (int p = 0; p < opt->table->count; p++)
        out[p].finite = isfinite(out[p].sum_squares);
}
