/*
 * case_reports.cu - kernels that break a rule of CUDA: the emulation says which, in every order.
 */
#include "backend/cuda.cuh"
#include "cases.h"

#include <string.h>

namespace
{
Backend *const none = nullptr;

bool run(void (*kernel)(int *), unsigned threads)
{
    int *out = managed<int>(1024);
    CUDA_LAUNCH(none, kernel, 1, threads, 0, out);
    return finished();
}

__global__ void two_barriers(int *out)
{
    if (threadIdx.x < 32)
        __syncthreads();
    else
        __syncthreads();
    out[threadIdx.x] = 1;
}

__global__ void barrier_against_shuffle(int *out)
{
    int value = static_cast<int>(threadIdx.x);
    if (threadIdx.x < 16)
        value = __shfl_sync(FULL_WARP, value, 0);
    else
        __syncthreads();
    out[threadIdx.x] = value;
}

__global__ void overlapping_masks(int *out)
{
    if (threadIdx.x < 16)
        __syncwarp(0x00ffffffu);
    else
        __syncwarp(0xffffff00u);
    out[threadIdx.x] = 1;
}

__global__ void lane_outside_own_mask(int *out)
{
    __syncwarp(0x0000ffffu);
    out[threadIdx.x] = 1;
}

__global__ void mask_of_lanes_that_left(int *out)
{
    if (threadIdx.x >= 16) return;
    out[threadIdx.x] = __shfl_sync(FULL_WARP, 1, 0);
}

__global__ void shuffle_from_outside_the_mask(int *out)
{
    if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0x0000ffffu, 1, 20);
}

__global__ void two_operations(int *out)
{
    unsigned value = 0;
    if (threadIdx.x < 16)
        value = __ballot_sync(FULL_WARP, 1);
    else
        value = __shfl_xor_sync(FULL_WARP, 1u, 1);
    out[threadIdx.x] = static_cast<int>(value);
}

__global__ void shuffle_of_twelve(int *out)
{
    out[threadIdx.x] = __shfl_sync(FULL_WARP, 1, 0, 12);
}

__global__ void copies_left_behind(int *out)
{
    SHARED_ARRAY(int4, stage, 32);
    cp_async16(stage + threadIdx.x, out + 4 * threadIdx.x);
    cp_async_commit();
}

__global__ void copies_without_commit(int *out)
{
    SHARED_ARRAY(int4, stage, 32);
    cp_async16(stage + threadIdx.x, out + 4 * threadIdx.x);
    cp_async_wait<0>();
}

__global__ void misaligned_copy(int *out)
{
    SHARED_ARRAY(int4, stage, 32);
    cp_async16(stage + threadIdx.x, out + 4 * threadIdx.x + 1);
}

__global__ void copy_from_outside(int *out)
{
    SHARED_ARRAY(int4, stage, 32);
    cp_async16(stage + threadIdx.x, out + 1024 + 4 * threadIdx.x);
}

__global__ void copy_past_the_stage(int *out)
{
    SHARED_ARRAY(int4, stage, 31);
    cp_async16(stage + threadIdx.x, out + 4 * threadIdx.x);
    cp_async_commit();
    cp_async_wait<0>();
}

__global__ void matrix_past_its_tile(int *out)
{
    SHARED_ARRAY(int4, tile, 31);
    uint32_t words[4];
    ldmatrix_x4(words, tile + threadIdx.x);
    out[threadIdx.x] = static_cast<int>(words[0]);
}

__global__ void matrix_misaligned(int *out)
{
    SHARED_ARRAY(int, tile, 512);
    uint32_t words[4];
    ldmatrix_x4(words, tile + 4 * threadIdx.x + 1);
    out[threadIdx.x] = static_cast<int>(words[0]);
}

__global__ void half_a_warp_multiplies(int *out)
{
    const uint32_t a[4] = {0, 0, 0, 0}, b[2] = {0, 0};
    float d[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    mma_bf16_16x8x16(d, a, b, d);
    out[threadIdx.x] = static_cast<int>(d[0]);
}

__global__ void too_much_shared(int *out)
{
    SHARED_ARRAY(int, tile, 12289); /* 48 KiB and 4 bytes */
    tile[threadIdx.x] = 0;
    out[threadIdx.x] = tile[threadIdx.x];
}

__global__ void dynamic_without_bytes(int *out)
{
    SHARED_DYN(int, tile);
    tile[threadIdx.x] = 0;
    out[threadIdx.x] = tile[threadIdx.x];
}

__global__ void trapped(int *out)
{
    out[threadIdx.x] = 0;
    if (threadIdx.x == 3) __trap();
}

/* --- accesses of more bytes than their address is a multiple of --- */

template <class T> __global__ void load_at(int *out, int bytes)
{
    const char *from = reinterpret_cast<const char *>(out) + bytes;
    const T value = reinterpret_cast<const T *>(from)[threadIdx.x];
    __syncthreads();
    memcpy(out + 512 + 4 * threadIdx.x, &value, sizeof value);
}

template <class T> __global__ void store_at(int *out, int bytes)
{
    SHARED_ARRAY(int, tile, 256);
    char *to = reinterpret_cast<char *>(tile) + bytes;
    reinterpret_cast<T *>(to)[threadIdx.x] = T();
    __syncthreads();
    out[threadIdx.x] = tile[threadIdx.x];
}

template <class T, int BYTES> bool loads()
{
    CUDA_LAUNCH(none, load_at<T>, 1, 32, 0, managed<int>(1024), BYTES);
    return finished();
}

template <class T, int BYTES> bool stores()
{
    CUDA_LAUNCH(none, store_at<T>, 1, 32, 0, managed<int>(1024), BYTES);
    return finished();
}

/* --- touches outside arrays --- */

__global__ void copy_elements(float *out, const float *in, int first, int n)
{
    for (int i = first + static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x))
        out[i] = in[i];
}

template <class T> T *device(size_t n)
{
    void *p = nullptr;
    if (cudaMalloc(&p, n * sizeof(T)) != cudaSuccess) __builtin_abort();
    return static_cast<T *>(p);
}

bool copy(float *out, const float *in, int n, int first = 0)
{
    CUDA_LAUNCH(none, copy_elements, 1, 32, 0, out, in, first, n);
    return finished();
}

bool reads_one_past_device_memory()
{
    return copy(device<float>(68), device<float>(64), 65);
}

bool writes_one_past_device_memory()
{
    return copy(device<float>(64), device<float>(68), 65);
}

bool writes_one_past_an_odd_end()
{
    return copy(device<float>(61), device<float>(64), 62);
}

bool writes_one_before_device_memory()
{
    return copy(device<float>(61), device<float>(64) + 1, 61, -1);
}

bool gets_a_pointer_of_the_host()
{
    float values[64] = {};
    return copy(device<float>(64), values, 64);
}

struct HostRows {
    const float *data;
    int64_t stride;
};

__global__ void copy_row(float *out, HostRows in)
{
    out[threadIdx.x] = in.data[in.stride + threadIdx.x];
}

bool gets_rows_of_the_host()
{
    float values[64] = {};
    CUDA_LAUNCH(none, copy_row, 1, 32, 0, device<float>(64), HostRows{values, 32});
    return finished();
}

bool reads_one_past_managed_memory()
{
    return copy(managed<float>(68), managed<float>(64), 65);
}

bool reads_freed_memory()
{
    float *in = device<float>(64), *out = device<float>(64);
    cudaFree(in);
    return copy(out, in, 64);
}

__global__ void write_shared(int *out, int index)
{
    SHARED_ARRAY(int, values, 32);
    values[threadIdx.x] = 1;
    int *volatile at = values; /* hides from the compiler that the index lies outside */
    if (threadIdx.x == 0) at[index] = 2;
    __syncthreads();
    out[threadIdx.x] = values[threadIdx.x];
}

__global__ void write_dynamic(int *out, int index)
{
    SHARED_DYN(int, values);
    values[index] = 1;
    __syncthreads();
    out[threadIdx.x] = values[threadIdx.x];
}

__global__ void deep(int *out, int depth)
{
    volatile char frame[280 << 10];
    frame[depth] = 1;
    out[threadIdx.x] = frame[depth];
}

bool writes_past_a_shared_array()
{
    CUDA_LAUNCH(none, write_shared, 1, 32, 0, managed<int>(32), 32);
    return finished();
}

bool writes_before_a_shared_array()
{
    CUDA_LAUNCH(none, write_shared, 1, 32, 0, managed<int>(32), -1);
    return finished();
}

bool writes_past_dynamic_memory()
{
    CUDA_LAUNCH(none, write_dynamic, 1, 32, 128, managed<int>(32), 32);
    return finished();
}

bool writes_past_odd_dynamic_memory()
{
    CUDA_LAUNCH(none, write_dynamic, 1, 32, 132, managed<int>(32), 33);
    return finished();
}

bool overflows_its_stack()
{
    CUDA_LAUNCH(none, deep, 1, 32, 0, managed<int>(32), 5);
    return finished();
}

template <void (*KERNEL)(int *), unsigned THREADS> bool run_kernel()
{
    return run(KERNEL, THREADS);
}
} // namespace

const Case reported_cases[] = {
    {"two barriers in two branches",      run_kernel<two_barriers,                                 64>,"two different barriers"},
    {"half at a barrier, half in a shuffle",                                   run_kernel<barrier_against_shuffle,                                                     32>,"deadlock"},
    {"overlapping masks",                         run_kernel<overlapping_masks,                                                                                32>,                                                                              "overlaps"},
    {"a lane outside its own mask",                                run_kernel<lane_outside_own_mask,32>,"does not name it"},
    {"a mask that names lanes that left",run_kernel<mask_of_lanes_that_left,                           32>,                                                                                         "left the kernel"},
    {"a shuffle from outside the mask", run_kernel<shuffle_from_outside_the_mask,                                                   32>,"not in its mask"},
    {"lanes of one mask in two operations",                                   run_kernel<two_operations,                                                          32>,"meet in two operations"},
    {"a shuffle of width 12",                  run_kernel<shuffle_of_twelve,                                                                         32>,                "width 12"},
    {"copies that nobody waits for",                                run_kernel<copies_left_behind,      32>,"never waited for"},
    {"copies that nobody commits",run_kernel<copies_without_commit,32>,"never waited for"},
    {"a misaligned copy",      run_kernel<misaligned_copy, 32>,"not aligned"},
    {"a copy from outside an allocation",                                   run_kernel<copy_from_outside,                                                               32>,"do not lie in device memory"},
    {"a copy past the end of a stage",                 run_kernel<copy_past_the_stage,                                                                        32>,                                                                                                              "do not lie in shared memory"},
    {"ldmatrix past its tile",                                run_kernel<matrix_past_its_tile,                                                                          32>,                                                                                  "does not lie in shared memory"},
    {"ldmatrix misaligned",run_kernel<matrix_misaligned,32>,"not aligned"},
    {"mma in half a warp",    run_kernel<half_a_warp_multiplies,             16>,"whole warp"},
    {"more than 48 KiB of shared arrays",                                   run_kernel<too_much_shared,                                                                   32>,"at most 49152"},
    {"dynamic shared memory of 0 bytes",    run_kernel<dynamic_without_bytes,                                                           32>,"asks for 0 bytes"},
    {"a trap",                                run_kernel<trapped,                                                                                                                32>,                                                                                                             "__trap"},
    {nullptr,nullptr,                                       nullptr                                                                                        },
};

const Case alignment_cases[] = {
    {"uint4 4 bytes off",        loads<uint4, 4>,                       "not aligned to 16 bytes"},
    {"float4 8 bytes off",                          loads<float4,                  8>,     "not aligned to 16 bytes"},
    {"uint2 4 bytes off", loads<uint2,            4>,              "not aligned to 8 bytes"},
    {"float 2 bytes off",                        loads<float,2>,           "not aligned to 4 bytes"},
    {"uint16_t 1 byte off",loads<uint16_t,  1>,"not aligned to 2 bytes"},
    {"a store of uint4 in shared memory",      stores<uint4,            4>,                                 "not aligned to 16 bytes"},
    {"a store of double in shared memory",                          stores<double,   4>,          "not aligned to 8 bytes"},
    {nullptr, nullptr,            nullptr},
};

const Case memory_cases[] = {
    {"a read one past device memory",      reads_one_past_device_memory,    "touches byte 256 of cudaMalloc"       },
    {"a write one past device memory",     writes_one_past_device_memory,   "touches byte 256 of cudaMalloc"       },
    {"a write one past an odd end",        writes_one_past_an_odd_end,      "wrote byte 244 of cudaMalloc"         },
    {"a write one before device memory",   writes_one_before_device_memory, "wrote 4 bytes before cudaMalloc"      },
    {"a pointer of the host",              gets_a_pointer_of_the_host,      "does not point to device memory"      },
    {"rows of the host",                   gets_rows_of_the_host,           "does not point to device memory"      },
    {"a read one past managed memory",     reads_one_past_managed_memory,   "touches byte 256 of cudaMallocManaged"},
    {"a read of freed memory",             reads_freed_memory,              "freed cudaMalloc"                     },
    {"a write past a shared array",        writes_past_a_shared_array,      "byte 128 of shared array values"      },
    {"a write before a shared array",      writes_before_a_shared_array,    "4 bytes before shared array values"   },
    {"a write past dynamic shared memory", writes_past_dynamic_memory,      "byte 128 of shared array"             },
    {"a write past odd dynamic memory",    writes_past_odd_dynamic_memory,  "past the end of shared array"         },
    {"a stack that overflows",             overflows_its_stack,             "stack"                                },
    {nullptr,                              nullptr,                         nullptr                                },
};
