/*
 * cuda.cuh - the one header of every kernel file: the CUDA C that nvcc compiles for a device and g++ for emulated threads.
 *
 * nvcc compiles a kernel file for the devices; the tests compile the same file as C++ against tests/support/cuda, where
 * each CUDA thread is a fiber and mistakes that hardware forgives are reported. What both sides understand:
 *   launches  CUDA_LAUNCH only, never <<<>>>; a templated kernel in parentheses: CUDA_LAUNCH(be, (k<T>), grid, ...)
 *   shared    SHARED_ARRAY and SHARED_DYN only, never __shared__; fresh shared memory holds anything (tests: NaN)
 *   PTX       the named functions below only, never asm: each has a twin on the host
 *   masks     every shuffle, vote and __syncwarp names its lanes; nothing relies on lock-step
 *   bits      values that must be equal on all backends use __fmul_rn, __fadd_rn, fmaf: never a bare a * b + c
 *   bf16      __float2bfloat16_rn, __bfloat162float and their pairs; arithmetic is f32 (no __hfma, no hexp: device only)
 * Pointers for 16-byte accesses are 16-byte aligned; shared arrays are too (dynamic shared memory: 128).
 */
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>

#include "backend/cuda.h"
#include "base/tensor.h"

/* Launches on the stream of a backend; a launch that fails is noted there and comes back from backend_sync. */
#define CUDA_LAUNCH(be, kernel, grid, block, shared_bytes, ...)                                                        \
    do {                                                                                                               \
        CUDA_LAUNCH_ON(cuda_stream(be), kernel, grid, block, shared_bytes, __VA_ARGS__);                               \
        cuda_note((be), cudaGetLastError(), #kernel);                                                                  \
    } while (0)

/* Before a launch with more than 48 KiB of dynamic shared memory. */
#define CUDA_SHARED_LIMIT(be, kernel, bytes)                                                                           \
    cuda_note((be),                                                                                                    \
              cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel),                                             \
                                   cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),              \
              #kernel)

#if defined(__CUDACC__)

#    define CUDA_LAUNCH_ON(stream, kernel, grid, block, shared_bytes, ...)                                             \
        kernel<<<(grid), (block), (shared_bytes), (stream)>>>(__VA_ARGS__)

/* `SHARED_ARRAY(float, sums, 8);` declares float sums[8] of the block; a tile of two dimensions is one flat array. */
#    define SHARED_ARRAY(T, name, n) __shared__ __align__(16) T name[n]

/* `SHARED_DYN(float, tile);` declares float *tile, the bytes that the launch asked for. */
#    define SHARED_DYN(T, name)                                                                                        \
        extern __shared__ __align__(128) unsigned char cuda_shared_bytes[];                                            \
        T *name = reinterpret_cast<T *>(cuda_shared_bytes)

__device__ __forceinline__ unsigned shared_address(const void *p)
{
    return static_cast<unsigned>(__cvta_generic_to_shared(p));
}

/*
 * d = a * b + c on tensor cores: a (16, 16) row-major, b (16, 8) column-major, c and d (16, 8) f32.
 * Lane 4 g + t holds, of a: rows {g, g + 8} x columns {2t, 2t + 1}, then the same rows with columns + 8;
 * of b: column g, rows {2t, 2t + 1} and + 8; of c and d: row g, columns {2t, 2t + 1}, then row g + 8.
 * bf16 needs sm_80; f16 also runs on sm_75, in two halves.
 */
__device__ __forceinline__ void mma_bf16_16x8x16(float d[4], const uint32_t a[4], const uint32_t b[2], const float c[4])
{
#    if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
                 : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]),
                   "f"(c[3]));
#    else
    (void)d, (void)a, (void)b, (void)c;
    __trap(); /* the host never picks bf16 here */
#    endif
}

__device__ __forceinline__ void mma_f16_16x8x8(float d[4], uint32_t a0, uint32_t a1, uint32_t b, const float c[4])
{
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%7,%8,%9,%10};"
                 : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
                 : "r"(a0), "r"(a1), "r"(b), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}

__device__ __forceinline__ void mma_f16_16x8x16(float d[4], const uint32_t a[4], const uint32_t b[2], const float c[4])
{
#    if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
                 : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]),
                   "f"(c[3]));
#    else
    mma_f16_16x8x8(d, a[0], a[1], b[0], c);
    mma_f16_16x8x8(d, a[2], a[3], b[1], d);
#    endif
}

/*
 * Loads 8x8 tiles of 16-bit elements from shared memory. Lane 8 i + r passes the address of row r of tile i (16 bytes,
 * aligned to 16; x2 looks at lanes 0..15 only). Lane 4 g + t then holds in r[i] elements (g, 2t) and (g, 2t + 1) of
 * tile i, low half first; _trans: elements (2t, g) and (2t + 1, g).
 */
__device__ __forceinline__ void ldmatrix_x4(uint32_t r[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row)));
}

__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t r[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row)));
}

__device__ __forceinline__ void ldmatrix_x2(uint32_t r[2], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row)));
}

__device__ __forceinline__ void ldmatrix_x2_trans(uint32_t r[2], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row)));
}

/*
 * Copies 16 bytes from global to shared memory without waiting. cp_async_commit closes a group; cp_async_wait<N> waits
 * until at most the N latest groups of this thread are in flight. Other threads see the bytes after a barrier as well.
 * zfill: valid_bytes is 16, or 0 to write zeros without reading src. Before sm_80 the copy is done on the spot.
 */
__device__ __forceinline__ void cp_async16_zfill(void *dst, const void *src, int valid_bytes)
{
#    if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(shared_address(dst)), "l"(__cvta_generic_to_global(src)), "r"(valid_bytes)
                 : "memory");
#    else
    *static_cast<uint4 *>(dst) = valid_bytes ? *static_cast<const uint4 *>(src) : make_uint4(0, 0, 0, 0);
#    endif
}

__device__ __forceinline__ void cp_async16(void *dst, const void *src)
{
#    if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;"
                 :
                 : "r"(shared_address(dst)), "l"(__cvta_generic_to_global(src))
                 : "memory");
#    else
    *static_cast<uint4 *>(dst) = *static_cast<const uint4 *>(src);
#    endif
}

__device__ __forceinline__ void cp_async_commit()
{
#    if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#    endif
}

template <int N> __device__ __forceinline__ void cp_async_wait()
{
#    if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#    endif
}

/* 2^x, within 2 ulp; subnormal results are flushed to zero. */
__device__ __forceinline__ float ex2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* Loads and stores of data that is touched once, so that it does not push other lines out of the caches. */
template <class T> __device__ __forceinline__ T load_once(const T *p)
{
    return __ldcs(p);
}

template <class T> __device__ __forceinline__ void store_once(T *p, T value)
{
    __stcs(p, value);
}

#else
#    include "cuda_emulation.h" /* tests/support/cuda: the same names on emulated threads */
#endif

enum { WARP_SIZE = 32 };
static constexpr unsigned FULL_WARP = 0xffffffffu;

/* Sum and maximum over the 32 lanes of a warp, the same bits in every lane; always the same order. */
template <class T> __device__ __forceinline__ T warp_sum(T value)
{
    for (int distance = WARP_SIZE / 2; distance > 0; distance /= 2)
        value += __shfl_xor_sync(FULL_WARP, value, distance);
    return value;
}

/* NaN does not win: a finite check is another kernel's business. */
__device__ __forceinline__ float warp_max(float value)
{
    for (int distance = WARP_SIZE / 2; distance > 0; distance /= 2)
        value = fmaxf(value, __shfl_xor_sync(FULL_WARP, value, distance));
    return value;
}

/*
 * Sum and maximum over a block of BLOCK threads (a multiple of 32, at most 1024; x-dimension only), in every thread.
 * `scratch` is BLOCK / 32 elements of shared memory and may be used again as soon as the call returns.
 */
template <int BLOCK, class T> __device__ __forceinline__ T block_sum(T value, T *scratch)
{
    static_assert(BLOCK % WARP_SIZE == 0 && BLOCK <= 1024, "whole warps");
    constexpr int warps = BLOCK / WARP_SIZE;
    const int lane = static_cast<int>(threadIdx.x) % WARP_SIZE;
    value = warp_sum(value);
    if (lane == 0) scratch[threadIdx.x / WARP_SIZE] = value;
    __syncthreads();
    const T total = warp_sum(lane < warps ? scratch[lane] : T(0));
    __syncthreads();
    return total;
}

template <int BLOCK> __device__ __forceinline__ float block_max(float value, float *scratch)
{
    static_assert(BLOCK % WARP_SIZE == 0 && BLOCK <= 1024, "whole warps");
    constexpr int warps = BLOCK / WARP_SIZE;
    const int lane = static_cast<int>(threadIdx.x) % WARP_SIZE;
    value = warp_max(value);
    if (lane == 0) scratch[threadIdx.x / WARP_SIZE] = value;
    __syncthreads();
    const float largest = warp_max(lane < warps ? scratch[lane] : -INFINITY);
    __syncthreads();
    return largest;
}
