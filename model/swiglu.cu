#include "backend/cuda_vector.cuh"
#include "model/ops.h"

/*
 * A thread takes a pack of gate and the pack of up beside it, neighbouring threads neighbouring packs, in blocks of 256
 * that fill the device. Forward reads two elements and writes one, backward reads three and writes two, or three with y;
 * bound by memory.
 * Rows are whole packs: only then does up, which begins where gate ends, start on a multiple of N.
 */
static constexpr int THREADS = 256;

/* 1 / (1 + e^-x); e^-x may become infinite, then it is zero */
static __device__ __forceinline__ float sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

template <class T, int N>
static __global__ void forward_kernel(Rows<T> y, Rows<const T> gate, Rows<const T> up, PackGrid grid)
{
    for (int64_t i = thread_first(); i < grid.count; i += thread_step()) {
        const PackPlace at = pack_place<N>(grid, i);
        float g[N], u[N];
        pack_load<N>(g, gate.at(at.row, at.col));
        pack_load<N>(u, up.at(at.row, at.col));
        for (int k = 0; k < N; k++)
            g[k] = g[k] * sigmoid(g[k]) * u[k];
        pack_store<N>(y.at(at.row, at.col), g);
    }
}

/* gate and up may be where their gradients go: both are read before either is written. y without data: not asked for */
template <class T, int N>
static __global__ void backward_kernel(Rows<T> dgate, Rows<T> dup, Rows<T> y, Rows<const T> dy, Rows<const T> gate,
                                       Rows<const T> up, PackGrid grid)
{
    for (int64_t i = thread_first(); i < grid.count; i += thread_step()) {
        const PackPlace at = pack_place<N>(grid, i);
        float g[N], u[N], d[N], forward[N];
        pack_load<N>(g, gate.at(at.row, at.col));
        pack_load<N>(u, up.at(at.row, at.col));
        pack_load<N>(d, dy.at(at.row, at.col));
        for (int k = 0; k < N; k++) {
            const float s = sigmoid(g[k]), silu = g[k] * s;
            forward[k] = silu * u[k];
            g[k] = d[k] * u[k] * fmaf(silu, 1.0f - s, s);
            u[k] = d[k] * silu;
        }
        if (y.data) pack_store<N>(y.at(at.row, at.col), forward);
        pack_store<N>(dgate.at(at.row, at.col), g);
        pack_store<N>(dup.at(at.row, at.col), u);
    }
}

/* The two halves of a tensor. */
typedef struct Halves {
    Tensor gate, up;
} Halves;

static Halves halves_of(const Tensor *gu)
{
    const int64_t width = gu->shape[1] / 2;
    return Halves{tensor_slice_cols(gu, 0, width), tensor_slice_cols(gu, width, width)};
}

static bool packed(const Halves *h, int n)
{
    return cuda_packed(&h->gate, n) && cuda_packed(&h->up, n);
}

template <class T, int N> static void forward_launch(Backend *be, const Tensor *y, const Halves *in)
{
    const PackGrid grid = pack_grid(y->shape[0], y->shape[1], N);
    CUDA_LAUNCH(be, (forward_kernel<T, N>), cuda_thread_blocks(be, grid.count, THREADS), THREADS, 0, cuda_rows<T>(y),
                cuda_rows<const T>(&in->gate), cuda_rows<const T>(&in->up), grid);
}

static void forward_cuda(Backend *be, const Tensor *y, const Tensor *gu)
{
    const Halves in = halves_of(gu);
    cuda_typed(y->dtype, [&](auto type) {
        typedef decltype(type) T;
        constexpr int N = cuda_pack<T>;
        (cuda_packed(y, N) && packed(&in, N) ? forward_launch<T, N> : forward_launch<T, 1>)(be, y, &in);
    });
}

template <class T, int N>
static void backward_launch(Backend *be, const Halves *out, const Tensor *y, const Tensor *dy, const Halves *in)
{
    const PackGrid grid = pack_grid(dy->shape[0], dy->shape[1], N);
    CUDA_LAUNCH(be, (backward_kernel<T, N>), cuda_thread_blocks(be, grid.count, THREADS), THREADS, 0,
                cuda_rows<T>(&out->gate), cuda_rows<T>(&out->up), y ? cuda_rows<T>(y) : Rows<T>{},
                cuda_rows<const T>(dy), cuda_rows<const T>(&in->gate), cuda_rows<const T>(&in->up), grid);
}

static void backward_cuda(Backend *be, const Tensor *dgu, const Tensor *y, const Tensor *dy, const Tensor *gu)
{
    const Halves in = halves_of(gu), out = halves_of(dgu);
    cuda_typed(dy->dtype, [&](auto type) {
        typedef decltype(type) T;
        constexpr int N = cuda_pack<T>;
        const bool fits = (!y || cuda_packed(y, N)) && cuda_packed(dy, N) && packed(&in, N) && packed(&out, N);
        (fits ? backward_launch<T, N> : backward_launch<T, 1>)(be, &out, y, dy, &in);
    });
}

extern "C" const SwigluOps swiglu_ops_cuda = {forward_cuda, backward_cuda};
