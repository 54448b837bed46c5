#include "backend/cuda_row_cache.cuh"
#include "model/ops.h"

/*
 * A block takes a row at a time and keeps it in shared memory between its two passes: forward reads and writes each
 * element once (a residual sum: two and two), backward reads two (three with `accumulate`) and writes one (two with y);
 * the gain stays in the caches. Bound by memory.
 * Narrow rows get a block of 64 threads, wider ones of 256; sums are f32, their order follows from the shape and the
 * alignment.
 */
static constexpr int NARROW = 64, WIDE = 256;

/* What a thread does in round `round`: the pack at `col`. */
template <int N, int BLOCK> static __device__ __forceinline__ int64_t round_col(int round)
{
    return (static_cast<int64_t>(round) * BLOCK + threadIdx.x) * N;
}

/* (mean of x^2 + eps)^-1/2 */
static __device__ __forceinline__ float inverse_rms(float sum_squares, int64_t cols, float eps)
{
    return 1.0f / sqrtf(sum_squares / static_cast<float>(cols) + eps);
}

/* In 16 bits x * r is rounded before the gain, as Hugging Face does. */
template <class T> static __device__ __forceinline__ float normalized(float x, float r, float gain)
{
    return element_load(element_round<T>(x * r)) * gain;
}

/* The tensors of forward. */
template <class T, class W> struct Forward {
    Rows<T> y, x;
    Rows<const T> add; /* without data: x is only read */
    const W *w;
    int64_t rows, cols;
    float eps;
};

/* x (+)= add, y = x * r * w. */
template <class T, class W, int N, int BLOCK> static __global__ void forward_kernel(Forward<T, W> f, RowRounds rounds)
{
    SHARED_DYN(unsigned char, shared);
    SHARED_ARRAY(float, scratch, BLOCK / WARP_SIZE);
    RowCache<T, N, BLOCK> cache(shared, rounds.kept);
    for (int64_t row = blockIdx.x; row < f.rows; row += gridDim.x) {
        float v[N], gain[N], sum = 0.0f;
        for (int round = 0; round < rounds.all; round++) {
            const int64_t col = round_col<N, BLOCK>(round), left = f.cols - col;
            if (left <= 0) break;
            if (f.add.data)
                cache.first_sum(v, round, f.x.at(row, col), f.add.at(row, col), left);
            else
                cache.first(v, round, f.x.at(row, col), left);
            for (int k = 0; k < N; k++)
                sum = fmaf(v[k], v[k], sum);
        }
        const float r = inverse_rms(block_sum<BLOCK>(sum, scratch), f.cols, f.eps);
        for (int round = 0; round < rounds.all; round++) {
            const int64_t col = round_col<N, BLOCK>(round), left = f.cols - col;
            if (left <= 0) break;
            cache.again(v, round, f.x.at(row, col), left);
            pack_load<N>(gain, f.w + col, left);
            for (int k = 0; k < N; k++)
                v[k] = normalized<T>(v[k], r, gain[k]);
            pack_store<N>(f.y.at(row, col), v, left);
        }
    }
}

/* The tensors of backward. */
template <class T, class W> struct Backward {
    Rows<T> dx, y; /* y without data: not asked for */
    Rows<const T> dy, x;
    const W *w;
    int64_t rows, cols;
    float eps;
};

/* g = dy * w; dx (+)= r * (g - x * r^2 * mean of g x). dx may be where dy or x are: a thread reads before it writes. */
template <class T, class W, int N, int BLOCK, bool ACCUMULATE>
static __global__ void backward_kernel(Backward<T, W> b, RowRounds rounds)
{
    SHARED_DYN(unsigned char, shared);
    SHARED_ARRAY(float, scratch, BLOCK / WARP_SIZE);
    RowCache<T, N, BLOCK> x_cache(shared, rounds.kept), dy_cache(shared + rounds.row_bytes, rounds.kept);
    for (int64_t row = blockIdx.x; row < b.rows; row += gridDim.x) {
        float x[N], g[N], gain[N], squares = 0.0f, dot = 0.0f;
        for (int round = 0; round < rounds.all; round++) {
            const int64_t col = round_col<N, BLOCK>(round), left = b.cols - col;
            if (left <= 0) break;
            x_cache.first(x, round, b.x.at(row, col), left);
            dy_cache.first(g, round, b.dy.at(row, col), left);
            pack_load<N>(gain, b.w + col, left);
            for (int k = 0; k < N; k++) {
                squares = fmaf(x[k], x[k], squares);
                dot = fmaf(g[k] * gain[k], x[k], dot);
            }
        }
        const float r = inverse_rms(block_sum<BLOCK>(squares, scratch), b.cols, b.eps);
        const float factor = -r * r * (block_sum<BLOCK>(dot, scratch) / static_cast<float>(b.cols));
        for (int round = 0; round < rounds.all; round++) {
            const int64_t col = round_col<N, BLOCK>(round), left = b.cols - col;
            if (left <= 0) break;
            float before[N] = {};
            x_cache.again(x, round, b.x.at(row, col), left);
            dy_cache.again(g, round, b.dy.at(row, col), left);
            pack_load<N>(gain, b.w + col, left);
            if (ACCUMULATE) pack_load<N>(before, b.dx.at(row, col), left);
            for (int k = 0; k < N; k++) {
                const float d = r * fmaf(x[k], factor, g[k] * gain[k]);
                g[k] = ACCUMULATE ? __fadd_rn(d, before[k]) : d;
                x[k] = normalized<T>(x[k], r, gain[k]);
            }
            pack_store<N>(b.dx.at(row, col), g, left);
            if (b.y.data) pack_store<N>(b.y.at(row, col), x, left);
        }
    }
}

/* --- launches --- */

template <class T, class W, int N, int BLOCK> static void forward_launch(Backend *be, const Forward<T, W> &f)
{
    const RowRounds rounds = row_rounds<T, N, BLOCK>(f.cols, 1, cuda_row_memory(be));
    if (rounds.row_bytes > SHARED_PLAIN) CUDA_SHARED_LIMIT(be, (forward_kernel<T, W, N, BLOCK>), rounds.row_bytes);
    CUDA_LAUNCH(be, (forward_kernel<T, W, N, BLOCK>), cuda_blocks(be, f.rows, 2048 / BLOCK), BLOCK, rounds.row_bytes, f,
                rounds);
}

static bool narrow(int64_t cols, int n)
{
    return cols <= static_cast<int64_t>(n) * NARROW * 4;
}

template <class T, class W, int N> static void forward_width(Backend *be, const Forward<T, W> &f)
{
    (narrow(f.cols, N) ? forward_launch<T, W, N, NARROW> : forward_launch<T, W, N, WIDE>)(be, f);
}

/* Calls f with values of the types of a row and of its gain, which is f32 or the same. */
template <class F> static void with_types(const Tensor *x, const Tensor *w, const F &f)
{
    cuda_typed(x->dtype, [&](auto type) {
        if (w->dtype == DTYPE_F32) {
            f(type, float());
        } else {
            f(type, type);
        }
    });
}

static void forward_cuda(Backend *be, const Tensor *y, const Tensor *x, const Tensor *add, const Tensor *w, float eps)
{
    with_types(x, w, [&](auto type, auto gain) {
        typedef decltype(type) T;
        typedef decltype(gain) W;
        constexpr int N = cuda_pack<T, W>;
        const bool packed =
            cuda_packed(y, N) && cuda_packed(x, N) && (!add || cuda_packed(add, N)) && cuda_packed(w, N);
        const Forward<T, W> f = {cuda_rows<T>(y),
                                 cuda_rows<T>(x),
                                 add ? cuda_rows<const T>(add) : Rows<const T>{},
                                 static_cast<const W *>(w->data),
                                 x->shape[0],
                                 x->shape[1],
                                 eps};
        (packed ? forward_width<T, W, N> : forward_width<T, W, 1>)(be, f);
    });
}

template <class T, class W, int N, int BLOCK>
static void backward_launch(Backend *be, const Backward<T, W> &b, bool accumulate)
{
    const RowRounds rounds = row_rounds<T, N, BLOCK>(b.cols, 2, cuda_row_memory(be));
    const size_t bytes = 2 * rounds.row_bytes;
    const unsigned blocks = cuda_blocks(be, b.rows, 2048 / BLOCK);
    if (accumulate) {
        if (bytes > SHARED_PLAIN) CUDA_SHARED_LIMIT(be, (backward_kernel<T, W, N, BLOCK, true>), bytes);
        CUDA_LAUNCH(be, (backward_kernel<T, W, N, BLOCK, true>), blocks, BLOCK, bytes, b, rounds);
    } else {
        if (bytes > SHARED_PLAIN) CUDA_SHARED_LIMIT(be, (backward_kernel<T, W, N, BLOCK, false>), bytes);
        CUDA_LAUNCH(be, (backward_kernel<T, W, N, BLOCK, false>), blocks, BLOCK, bytes, b, rounds);
    }
}

template <class T, class W, int N> static void backward_width(Backend *be, const Backward<T, W> &b, bool accumulate)
{
    (narrow(b.cols, N) ? backward_launch<T, W, N, NARROW> : backward_launch<T, W, N, WIDE>)(be, b, accumulate);
}

static void backward_cuda(Backend *be, const Tensor *dx, const Tensor *y, const Tensor *dy, const Tensor *x,
                          const Tensor *w, float eps, bool accumulate)
{
    with_types(x, w, [&](auto type, auto gain) {
        typedef decltype(type) T;
        typedef decltype(gain) W;
        constexpr int N = cuda_pack<T, W>;
        const bool packed = cuda_packed(dx, N) && (!y || cuda_packed(y, N)) && cuda_packed(dy, N) &&
                            cuda_packed(x, N) && cuda_packed(w, N);
        const Backward<T, W> b = {cuda_rows<T>(dx),
                                  y ? cuda_rows<T>(y) : Rows<T>{},
                                  cuda_rows<const T>(dy),
                                  cuda_rows<const T>(x),
                                  static_cast<const W *>(w->data),
                                  x->shape[0],
                                  x->shape[1],
                                  eps};
        (packed ? backward_width<T, W, N> : backward_width<T, W, 1>)(be, b, accumulate);
    });
}

extern "C" const RmsnormOps rmsnorm_ops_cuda = {forward_cuda, backward_cuda};
