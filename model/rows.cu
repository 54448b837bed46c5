#include "backend/cuda_words.cuh"
#include "model/ops.h"

static void gather_cuda(Backend *be, const Tensor *out, const Tensor *in, const Tensor *index)
{
    cuda_words_copy(be, out, in, nullptr, static_cast<const int32_t *>(index->data));
}

static void scatter_cuda(Backend *be, const Tensor *out, const Tensor *in, const Tensor *index)
{
    cuda_words_copy(be, out, in, static_cast<const int32_t *>(index->data), nullptr);
}

/*
 * y += vector in every row. A thread takes a pack at a time, in blocks of 256 that fill the device; each element is read
 * and written once, the vector stays in the caches.
 */
static constexpr int THREADS = 256;

template <class T, int N> static __global__ void add_vector_kernel(Rows<T> y, const T *vector, PackGrid grid)
{
    for (int64_t i = thread_first(); i < grid.count; i += thread_step()) {
        const PackPlace at = pack_place<N>(grid, i);
        float x[N], v[N];
        pack_load<N>(x, y.at(at.row, at.col), at.left);
        pack_load<N>(v, vector + at.col, at.left);
        for (int k = 0; k < N; k++)
            x[k] += v[k];
        pack_store<N>(y.at(at.row, at.col), x, at.left);
    }
}

template <class T, int N> static void add_vector_launch(Backend *be, const Tensor *y, const Tensor *vector)
{
    const PackGrid grid = pack_grid(tensor_rows(y), tensor_cols(y), N);
    CUDA_LAUNCH(be, (add_vector_kernel<T, N>), cuda_thread_blocks(be, grid.count, THREADS), THREADS, 0, cuda_rows<T>(y),
                static_cast<const T *>(vector->data), grid);
}

static void add_vector_cuda(Backend *be, const Tensor *y, const Tensor *vector)
{
    cuda_typed(y->dtype, [&](auto type) {
        typedef decltype(type) T;
        constexpr int N = cuda_pack<T>;
        const bool packed = cuda_packed(y, N) && cuda_packed(vector, N);
        (packed ? add_vector_launch<T, N> : add_vector_launch<T, 1>)(be, y, vector);
    });
}

extern "C" const RowsOps rows_ops_cuda = {gather_cuda, scatter_cuda, add_vector_cuda};
