#include "backend/cuda_words.cuh"
#include "backend/ops.h"

/*
 * Tensors without gaps are walked as one long row. A thread takes one pack at a time, neighbouring threads neighbouring
 * packs, in blocks of 256 that fill the device; all operations are bound by memory, and each element moves once.
 */
static constexpr int THREADS = 256;

static Tensor flat(const Tensor *t, bool dense)
{
    return dense ? tensor_vector(t->data, t->dtype, tensor_count(t)) : *t;
}

static PackGrid grid_of(const Tensor *t, int n)
{
    return pack_grid(tensor_rows(t), tensor_cols(t), n);
}

/* --- zero, copy --- */

/* writes each byte once */
template <class W> static __global__ void zero_kernel(Rows<W> out, PackGrid grid)
{
    for (int64_t i = thread_first(); i < grid.count; i += thread_step()) {
        const PackPlace at = pack_place<1>(grid, i);
        *out.at(at.row, at.col) = W();
    }
}

static void zero_cuda(Backend *be, const Tensor *out)
{
    const Tensor y = flat(out, tensor_dense(out));
    cuda_worded(cuda_word(&y), [&](auto unit) {
        typedef decltype(unit) W;
        const size_t bytes = static_cast<size_t>(tensor_cols(&y)) * dtype_bytes(y.dtype);
        const PackGrid grid = pack_grid(tensor_rows(&y), static_cast<int64_t>(bytes / sizeof(W)), 1);
        CUDA_LAUNCH(be, (zero_kernel<W>), cuda_thread_blocks(be, grid.count, THREADS), THREADS, 0,
                    cuda_word_rows<W>(&y), grid);
    });
}

/* out = in * factor; reads and writes each element once */
template <class To, class From, int N>
static __global__ void scale_kernel(Rows<To> out, Rows<const From> in, float factor, PackGrid grid)
{
    for (int64_t i = thread_first(); i < grid.count; i += thread_step()) {
        const PackPlace at = pack_place<N>(grid, i);
        float x[N];
        pack_load<N>(x, in.at(at.row, at.col), at.left);
        for (int k = 0; k < N; k++)
            x[k] *= factor;
        pack_store<N>(out.at(at.row, at.col), x, at.left);
    }
}

template <class To, class From, int N>
static void scale_launch(Backend *be, const Tensor *out, const Tensor *in, float factor)
{
    const PackGrid grid = grid_of(out, N);
    CUDA_LAUNCH(be, (scale_kernel<To, From, N>), cuda_thread_blocks(be, grid.count, THREADS), THREADS, 0,
                cuda_rows<To>(out), cuda_rows<const From>(in), factor, grid);
}

static void scale_cuda(Backend *be, const Tensor *out, const Tensor *in, float factor)
{
    const bool dense = tensor_dense(out) && tensor_dense(in);
    const Tensor y = flat(out, dense), x = flat(in, dense);
    cuda_typed(y.dtype, x.dtype, [&](auto to, auto from) {
        typedef decltype(to) To;
        typedef decltype(from) From;
        constexpr int N = cuda_pack<To, From>;
        const bool packed = cuda_packed(&y, N) && cuda_packed(&x, N);
        (packed ? scale_launch<To, From, N> : scale_launch<To, From, 1>)(be, &y, &x, factor);
    });
}

/* Same type: bytes, whatever they mean. Otherwise a product by one, which rounds as a conversion does. */
static void copy_cuda(Backend *be, const Tensor *out, const Tensor *in)
{
    if (out->dtype != in->dtype) {
        scale_cuda(be, out, in, 1.0f);
        return;
    }
    const bool dense = tensor_dense(out) && tensor_dense(in);
    const Tensor y = flat(out, dense), x = flat(in, dense);
    cuda_words_copy(be, &y, &x, nullptr, nullptr);
}

/* --- add --- */

/* out = a + b; reads two elements and writes one */
template <class To, class A, class B, int N>
static __global__ void add_kernel(Rows<To> out, Rows<const A> a, Rows<const B> b, PackGrid grid)
{
    for (int64_t i = thread_first(); i < grid.count; i += thread_step()) {
        const PackPlace at = pack_place<N>(grid, i);
        float x[N], y[N];
        pack_load<N>(x, a.at(at.row, at.col), at.left);
        pack_load<N>(y, b.at(at.row, at.col), at.left);
        for (int k = 0; k < N; k++)
            x[k] += y[k];
        pack_store<N>(out.at(at.row, at.col), x, at.left);
    }
}

template <class To, class A, class B, int N>
static void add_launch(Backend *be, const Tensor *out, const Tensor *a, const Tensor *b)
{
    const PackGrid grid = grid_of(out, N);
    CUDA_LAUNCH(be, (add_kernel<To, A, B, N>), cuda_thread_blocks(be, grid.count, THREADS), THREADS, 0,
                cuda_rows<To>(out), cuda_rows<const A>(a), cuda_rows<const B>(b), grid);
}

template <class To, class A, class B>
static void add_typed(Backend *be, const Tensor *out, const Tensor *a, const Tensor *b)
{
    constexpr int N = cuda_pack<To, A, B>;
    const bool packed = cuda_packed(out, N) && cuda_packed(a, N) && cuda_packed(b, N);
    (packed ? add_launch<To, A, B, N> : add_launch<To, A, B, 1>)(be, out, a, b);
}

static void add_cuda(Backend *be, const Tensor *out, const Tensor *a, const Tensor *b)
{
    const bool dense = tensor_dense(out) && tensor_dense(a) && tensor_dense(b);
    const Tensor y = flat(out, dense), u = flat(a, dense), v = flat(b, dense);
    cuda_typed(y.dtype, u.dtype, [&](auto to, auto left) {
        cuda_typed(v.dtype, [&](auto right) {
            if constexpr (cuda_mixable<decltype(to), decltype(left), decltype(right)>)
                add_typed<decltype(to), decltype(left), decltype(right)>(be, &y, &u, &v);
            else
                CHECK(false);
        });
    });
}

/* --- norm --- */

/*
 * The packs are dealt to parts, and to the threads of a part, by their number; how many parts there are follows from the
 * shape alone, so neither the grid nor the device decides the order of the sum. Squares of f32 are far inside of f64:
 * the sum is finite exactly when every element is.
 */
static constexpr int NORM_PARTS = 1024, NORM_PACKS = 8; /* packs of a thread, before there is another part */

/* parts[p] = sum of x^2 over the packs of part p; reads each element once */
template <int N> static __global__ void norm_parts_kernel(double *parts, int count, Rows<const float> in, PackGrid grid)
{
    SHARED_ARRAY(double, scratch, THREADS / WARP_SIZE);
    for (int part = static_cast<int>(blockIdx.x); part < count; part += static_cast<int>(gridDim.x)) {
        double sum = 0.0;
        for (int64_t i = static_cast<int64_t>(part) * THREADS + threadIdx.x; i < grid.count;
             i += static_cast<int64_t>(count) * THREADS) {
            const PackPlace at = pack_place<N>(grid, i);
            float x[N];
            pack_load<N>(x, in.at(at.row, at.col), at.left);
            for (int k = 0; k < N; k++)
                sum = fma(static_cast<double>(x[k]), static_cast<double>(x[k]), sum);
        }
        const double total = block_sum<THREADS>(sum, scratch);
        if (threadIdx.x == 0) parts[part] = total;
    }
}

/* one block */
static __global__ void norm_total_kernel(double *total, const double *parts, int count)
{
    SHARED_ARRAY(double, scratch, THREADS / WARP_SIZE);
    double sum = 0.0;
    for (int i = static_cast<int>(threadIdx.x); i < count; i += THREADS)
        sum += parts[i];
    const double all = block_sum<THREADS>(sum, scratch);
    if (threadIdx.x == 0) *total = all;
}

template <int N> static int norm_launch(Backend *be, double *parts, const Tensor *x)
{
    const PackGrid grid = grid_of(x, N);
    const int64_t wanted = ceil_div(grid.count, THREADS * NORM_PACKS);
    const int count = static_cast<int>(min(wanted, static_cast<int64_t>(NORM_PARTS)));
    CUDA_LAUNCH(be, norm_parts_kernel<N>, cuda_blocks(be, count, 2048 / THREADS), THREADS, 0, parts, count,
                cuda_rows<const float>(x), grid);
    return count;
}

static TensorNorm norm_cuda(Backend *be, const Tensor *in)
{
    static_assert((NORM_PARTS + 1) * sizeof(double) <= CUDA_SCRATCH_BYTES, "the parts and their sum");
    const Tensor x = flat(in, tensor_dense(in));
    constexpr int N = cuda_pack<float>;
    double *parts = static_cast<double *>(cuda_scratch(be)), *total = parts + NORM_PARTS, sum = 0.0;
    const int count = cuda_packed(&x, N) ? norm_launch<N>(be, parts, &x) : norm_launch<1>(be, parts, &x);
    CUDA_LAUNCH(be, norm_total_kernel, 1, THREADS, 0, total, parts, count);
    const Tensor result = tensor_vector(total, DTYPE_F64, 1);
    backend_download(be, &sum, &result);
    TensorNorm norm;
    norm.sum_squares = sum;
    norm.finite = isfinite(sum);
    return norm;
}

extern "C" const ElementwiseOps elementwise_ops_cuda = {
    zero_cuda, copy_cuda, add_cuda, scale_cuda, norm_cuda,
};
