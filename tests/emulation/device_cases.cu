/*
 * device_cases.cu - kernels that return what the functions of cuda.cuh give, lane by lane.
 */
#include "backend/cuda.cuh"
#include "device_cases.h"

namespace
{
__global__ void multiply(float *d, const uint16_t *a, const uint16_t *b, const float *c, bool f16)
{
    SHARED_ARRAY(uint16_t, left, 16 * 24); /* rows of 48 bytes */
    SHARED_ARRAY(uint16_t, right, 16 * 24);
    const int lane = static_cast<int>(threadIdx.x), group = lane / 4, pair = lane % 4 * 2;
    for (int i = lane; i < 256; i += 32)
        left[i / 16 * 24 + i % 16] = a[i];
    for (int i = lane; i < 128; i += 32)
        right[i / 8 * 24 + i % 8] = b[i]; /* (16, 8) row-major: loaded transposed */
    __syncwarp(FULL_WARP);
    uint32_t of_a[4], of_b[2];
    ldmatrix_x4(of_a, left + (lane % 16) * 24 + lane / 16 * 8);
    ldmatrix_x2_trans(of_b, right + (lane % 16) * 24);
    float sums[4];
    for (int i = 0; i < 4; i++)
        sums[i] = c[(group + i / 2 * 8) * 8 + pair + i % 2];
    if (f16)
        mma_f16_16x8x16(sums, of_a, of_b, sums);
    else
        mma_bf16_16x8x16(sums, of_a, of_b, sums);
    for (int i = 0; i < 4; i++)
        d[(group + i / 2 * 8) * 8 + pair + i % 2] = sums[i];
}

__global__ void matrices(uint32_t *out, const uint16_t *in)
{
    SHARED_ARRAY(uint16_t, tiles, 256);
    const int lane = static_cast<int>(threadIdx.x);
    for (int i = lane; i < 256; i += 32)
        tiles[i] = in[i];
    __syncwarp(FULL_WARP);
    uint32_t words[12];
    ldmatrix_x4(words, tiles + lane * 8);
    ldmatrix_x4_trans(words + 4, tiles + lane * 8);
    ldmatrix_x2(words + 8, tiles + lane % 16 * 8);
    ldmatrix_x2_trans(words + 10, tiles + lane % 16 * 8);
    for (int i = 0; i < 12; i++)
        out[lane * 12 + i] = words[i];
}

__global__ void shuffles(int *out, int argument, int width)
{
    const int lane = static_cast<int>(threadIdx.x), value = 100 + lane;
    const unsigned distance = static_cast<unsigned>(argument);
    out[lane * 4 + 0] = __shfl_sync(FULL_WARP, value, argument, width);
    out[lane * 4 + 1] = __shfl_up_sync(FULL_WARP, value, distance, width);
    out[lane * 4 + 2] = __shfl_down_sync(FULL_WARP, value, distance, width);
    out[lane * 4 + 3] = __shfl_xor_sync(FULL_WARP, value, argument, width);
}

template <int BLOCK> __global__ void sums(float *out, const float *in)
{
    SHARED_ARRAY(float, scratch, BLOCK / 32);
    SHARED_ARRAY(double, wide, BLOCK / 32);
    const float value = in[threadIdx.x];
    out[threadIdx.x * 3 + 0] = block_sum<BLOCK>(value, scratch);
    out[threadIdx.x * 3 + 1] = block_max<BLOCK>(value, scratch);
    out[threadIdx.x * 3 + 2] = static_cast<float>(block_sum<BLOCK>(static_cast<double>(value), wide));
}

__global__ void indices(unsigned *out)
{
    const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    atomicAdd(out + block * blockDim.x * blockDim.y * blockDim.z + thread, 1u + block * 1000 + thread);
}

__global__ void zero_filled(int4 *out, const int4 *in, int valid)
{
    SHARED_ARRAY(int4, stage, 32);
    const int lane = static_cast<int>(threadIdx.x);
    cp_async16_zfill(stage + lane, in + lane, lane < valid ? 16 : 0);
    cp_async_commit();
    cp_async_wait<0>();
    out[lane] = load_once(stage + lane);
}

__global__ void atomics(int *values)
{
    const int me = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    atomicMax(values + 0, me);
    atomicMin(values + 1, me);
    atomicOr(values + 2, 1 << me % 31);
    if (atomicCAS(values + 3, -1, me) == -1) atomicAdd(values + 4, 1);
    if (me == 5) atomicExch(values + 5, 77);
}

Backend *const none = nullptr;
} // namespace

cudaStream_t cuda_stream(const Backend *)
{
    return nullptr;
}

void cuda_note(Backend *, cudaError_t e, const char *)
{
    if (e != cudaSuccess) __builtin_abort();
}

void run_multiply(float *d, const uint16_t *a, const uint16_t *b, const float *c, bool f16)
{
    CUDA_LAUNCH(none, multiply, 1, 32, 0, d, a, b, c, f16);
    cudaDeviceSynchronize();
}

void run_matrices(uint32_t *out, const uint16_t *in)
{
    CUDA_LAUNCH(none, matrices, 1, 32, 0, out, in);
    cudaDeviceSynchronize();
}

void run_shuffles(int *out, int argument, int width)
{
    CUDA_LAUNCH(none, shuffles, 1, 32, 0, out, argument, width);
    cudaDeviceSynchronize();
}

void run_sums(float *out, const float *in, int threads)
{
    switch (threads) {
    case 32: CUDA_LAUNCH(none, sums<32>, 1, 32, 0, out, in); break;
    case 96: CUDA_LAUNCH(none, sums<96>, 1, 96, 0, out, in); break;
    default: CUDA_LAUNCH(none, (sums<1024>), 1, 1024, 0, out, in); break;
    }
    cudaDeviceSynchronize();
}

void run_indices(unsigned *out, dim3 grid, dim3 block)
{
    CUDA_LAUNCH(none, indices, grid, block, 0, out);
    cudaDeviceSynchronize();
}

void run_zero_filled(int4 *out, const int4 *in, int valid)
{
    CUDA_LAUNCH(none, zero_filled, 1, 32, 0, out, in, valid);
    cudaDeviceSynchronize();
}

void run_atomics(int *values)
{
    CUDA_LAUNCH(none, atomics, 3, 50, 0, values);
    cudaDeviceSynchronize();
}
