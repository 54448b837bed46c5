/*
 * count_cases.cu - kernels whose traffic is known, for the test of the counters.
 */
#include "backend/cuda.cuh"
#include "count_cases.h"

namespace
{
Backend *const none = nullptr;

__global__ void copy_words(float *out, const float *in, int stride, int shift)
{
    const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    out[i] = in[i * stride + shift];
}

__global__ void copy_vectors(uint4 *out, const uint4 *in)
{
    const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    uint4 v = in[i];
    v.x ^= 1u, v.y ^= 2u, v.z ^= 3u, v.w ^= 4u; /* by words, so that g++ takes it apart */
    store_once(out + i, v);
}

__global__ void copy_halves(__nv_bfloat16 *out, const __nv_bfloat16 *in)
{
    const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    out[i] = in[i];
}

__global__ void read_twice(float *out, const float *in, int n)
{
    float sum = 0.0f;
    for (int i = static_cast<int>(threadIdx.x); i < n; i += 32)
        sum += in[i];
    for (int i = static_cast<int>(threadIdx.x); i < n; i += 32)
        sum += in[i] * sum;
    out[threadIdx.x] = sum;
}

__global__ void shared_words(float *out, int stride)
{
    SHARED_DYN(float, values);
    values[static_cast<int>(threadIdx.x) * stride] = 1.0f;
    __syncwarp(FULL_WARP);
    out[threadIdx.x] = values[static_cast<int>(threadIdx.x) * stride];
}

__global__ void shared_vectors(float4 *out)
{
    SHARED_DYN(float4, values);
    values[threadIdx.x] = float4{1.0f, 2.0f, 3.0f, 4.0f};
    __syncwarp(FULL_WARP);
    if (threadIdx.x % 8 != 3) out[threadIdx.x] = values[threadIdx.x]; /* gaps do not move lanes to other quarters */
}

__global__ void tiles(float *out, int row_bytes)
{
    SHARED_DYN(char, tile);
    uint32_t a[4], b[2] = {0, 0};
    float d[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    ldmatrix_x4(a, tile + static_cast<int>(threadIdx.x) * row_bytes);
    mma_bf16_16x8x16(d, a, b, d);
    mma_bf16_16x8x16(d, a, b, d);
    out[threadIdx.x] = d[0];
}

__global__ void async(int *out, const int4 *in)
{
    SHARED_DYN(int4, stage);
    cp_async16(stage + threadIdx.x, in + threadIdx.x);
    cp_async_commit();
    cp_async_wait<0>();
    out[threadIdx.x] = stage[threadIdx.x].x;
}

template <class T> T *managed(size_t n)
{
    void *p = nullptr;
    if (cudaMallocManaged(&p, n * sizeof(T), cudaMemAttachGlobal) != cudaSuccess) __builtin_abort();
    return static_cast<T *>(p);
}
} // namespace

cudaStream_t cuda_stream(const Backend *)
{
    return nullptr;
}

void cuda_note(Backend *, cudaError_t e, const char *)
{
    if (e != cudaSuccess) __builtin_abort();
}

void run_copy_words(int stride, int shift)
{
    float *in = managed<float>(2048), *out = managed<float>(256);
    CUDA_LAUNCH(none, copy_words, 2, 128, 0, out, in + 0, stride, shift);
}

void run_copy_vectors()
{
    CUDA_LAUNCH(none, copy_vectors, 2, 128, 0, managed<uint4>(256), managed<uint4>(256));
}

void run_copy_halves()
{
    CUDA_LAUNCH(none, copy_halves, 2, 128, 0, managed<__nv_bfloat16>(256), managed<__nv_bfloat16>(256));
}

const float *run_read_twice(const float *in)
{
    if (in == nullptr) in = managed<float>(320);
    CUDA_LAUNCH(none, read_twice, 1, 32, 0, managed<float>(32), in, 320);
    return in;
}

void run_shared_words(int stride)
{
    CUDA_LAUNCH(none, shared_words, 1, 32, 4096 + 128, managed<float>(32), stride);
}

void run_shared_vectors()
{
    CUDA_LAUNCH(none, shared_vectors, 1, 32, 512, managed<float4>(32));
}

void run_tiles(int row_bytes)
{
    CUDA_LAUNCH(none, tiles, 1, 32, 8192, managed<float>(32), row_bytes);
}

void run_async()
{
    CUDA_LAUNCH(none, async, 1, 32, 512, managed<int>(32), managed<int4>(32));
}
