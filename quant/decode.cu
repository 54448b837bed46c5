/*
 * decode.cu - a 4-bit matrix to f32, bf16 or f16 in one pass: 0.516 bytes read and 2 or 4 written a weight.
 */
#include "quant/decode.cuh"
#include "quant/ops.h"

enum { THREADS = 256 };

/* A thread decodes a pack at a time; neighbours take neighbouring packs. */
template <class T, int N> static __global__ void decode_kernel(Rows<T> w, QuantView q, PackGrid grid)
{
    SHARED_ARRAY(float, tables, QUANT_TABLES);
    quant_load_tables(tables, q.tables);
    for (int64_t i = thread_first(); i < grid.count; i += thread_step()) {
        const PackPlace at = pack_place<N>(grid, i);
        float x[N];
        quant_pack<N>(x, q, tables, at.row * grid.cols + at.col);
        pack_store<N>(w.at(at.row, at.col), x);
    }
}

template <class T, int N> static void launch(Backend *be, const Tensor *w, const QuantMatrix *m)
{
    const PackGrid grid = pack_grid(m->rows, m->cols, N);
    CUDA_LAUNCH(be, (decode_kernel<T, N>), cuda_thread_blocks(be, grid.count, THREADS), THREADS, 0, cuda_rows<T>(w),
                quant_view(be, m), grid);
}

static void decode_cuda(Backend *be, const Tensor *w, const QuantMatrix *m)
{
    cuda_typed(w->dtype, [&](auto element) {
        typedef decltype(element) T;
        constexpr int N = cuda_pack<T>;
        if (cuda_packed(w, N) && quant_packed(m, N))
            launch<T, N>(be, w, m);
        else
            launch<T, 1>(be, w, m);
    });
}

void quant_encode_cuda(Backend *be, const QuantEncode *e, const QuantOptions *options); /* encode.cu */

extern "C" const QuantOps quant_ops_cuda = {decode_cuda, quant_encode_cuda};
