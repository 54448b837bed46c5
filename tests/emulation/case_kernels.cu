/*
 * case_kernels.cu - kernels that are right, and the same ones with one synchronisation left out.
 */
#include "backend/cuda.cuh"
#include "cases.h"

namespace
{
constexpr int BLOCK = 256, WARPS = BLOCK / 32;

Backend *const none = nullptr;

enum LeftOut {
    NOTHING,
    BEFORE_PARTS,
    BEFORE_TOTAL,
    BEFORE_OVERWRITE,
    SYNCWARP,
    COPY_WAIT,
    COPY_BARRIER,
    FENCE,
    ATOMIC
};

/* Each row divided by its sum. Rows reuse the shared arrays. */
template <LeftOut OUT> __global__ void normalize(float *out, const float *in, int rows, int columns)
{
    SHARED_ARRAY(float, parts, WARPS);
    SHARED_ARRAY(float, total, 1);
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    for (int row = static_cast<int>(blockIdx.x); row < rows; row += static_cast<int>(gridDim.x)) {
        float sum = 0.0f;
        for (int c = static_cast<int>(threadIdx.x); c < columns; c += BLOCK)
            sum += in[row * columns + c];
        sum = warp_sum(sum);
        if (lane == 0) parts[warp] = sum;
        if constexpr (OUT != BEFORE_PARTS) __syncthreads();
        if (warp == 0) {
            const float all = warp_sum(lane < WARPS ? parts[lane] : 0.0f);
            if (lane == 0) total[0] = all;
        }
        if constexpr (OUT != BEFORE_TOTAL) __syncthreads();
        for (int c = static_cast<int>(threadIdx.x); c < columns; c += BLOCK)
            out[row * columns + c] = in[row * columns + c] / total[0];
        __syncthreads();
    }
}

template <LeftOut OUT> bool normalize_rows()
{
    const int rows = 6, columns = 300;
    float *in = managed<float>(rows * columns), *out = managed<float>(rows * columns);
    for (int i = 0; i < rows * columns; i++)
        in[i] = static_cast<float>(1 + i / columns);
    CUDA_LAUNCH(none, (normalize<OUT>), 2, BLOCK, 0, out, in, rows, columns);
    if (!finished()) return false;
    for (int i = 0; i < rows * columns; i++)
        if (!(out[i] > 0.99f / columns && out[i] < 1.01f / columns)) return false;
    return true;
}

/* Sums of rows; one thread writes, all read the parts, the next row overwrites them. */
template <LeftOut OUT> __global__ void row_sums(float *out, const float *in, int rows)
{
    SHARED_ARRAY(float, parts, WARPS);
    for (int row = 0; row < rows; row++) {
        const float sum = warp_sum(in[row * BLOCK + static_cast<int>(threadIdx.x)]);
        if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = sum;
        __syncthreads();
        float all = 0.0f;
        for (int i = 0; i < WARPS; i++)
            all += parts[i];
        if (static_cast<int>(threadIdx.x) == row * 37 % BLOCK) out[row] = all;
        if constexpr (OUT != BEFORE_OVERWRITE) __syncthreads();
    }
}

template <LeftOut OUT> bool sum_rows()
{
    const int rows = 20;
    float *in = managed<float>(rows * BLOCK), *out = managed<float>(rows);
    for (int i = 0; i < rows * BLOCK; i++)
        in[i] = static_cast<float>(i / BLOCK);
    CUDA_LAUNCH(none, (row_sums<OUT>), 1, BLOCK, 0, out, in, rows);
    if (!finished()) return false;
    for (int row = 0; row < rows; row++)
        if (out[row] != static_cast<float>(row * BLOCK)) return false;
    return true;
}

/* Each lane takes its neighbour's value through shared memory. */
template <LeftOut OUT> __global__ void rotate(int *out, const int *in)
{
    SHARED_ARRAY(int, values, BLOCK);
    const unsigned me = threadIdx.x, neighbour = (me & ~31u) | ((me + 1) & 31u);
    values[me] = in[blockIdx.x * BLOCK + me];
    if constexpr (OUT != SYNCWARP) __syncwarp(FULL_WARP);
    out[blockIdx.x * BLOCK + me] = values[neighbour];
}

template <LeftOut OUT> bool rotate_lanes()
{
    const int n = 3 * BLOCK;
    int *in = managed<int>(n), *out = managed<int>(n);
    for (int i = 0; i < n; i++)
        in[i] = i;
    CUDA_LAUNCH(none, (rotate<OUT>), 3, BLOCK, 0, out, in);
    if (!finished()) return false;
    for (int i = 0; i < n; i++)
        if (out[i] != (i & ~31) + ((i + 1) & 31)) return false;
    return true;
}

/* Sums of 16-byte packs, two stages in flight: a thread reads the pack that another one copied. */
template <LeftOut OUT> __global__ void pipeline(int *out, const int4 *in, int steps)
{
    SHARED_DYN(int4, stages); /* [2][BLOCK] */
    const int me = static_cast<int>(threadIdx.x), other = (me + 33) % BLOCK;
    cp_async16(stages + me, in + me);
    cp_async_commit();
    int sum = 0;
    for (int step = 0; step < steps; step++) {
        const bool more = step + 1 < steps;
        cp_async16_zfill(stages + (step + 1) % 2 * BLOCK + me, more ? in + (step + 1) * BLOCK + me : in, more ? 16 : 0);
        cp_async_commit();
        if constexpr (OUT != COPY_WAIT) cp_async_wait<1>();
        __syncthreads();
        const int4 pack = stages[step % 2 * BLOCK + other];
        sum += pack.x + pack.y + pack.z + pack.w;
        if constexpr (OUT != COPY_BARRIER) __syncthreads();
    }
    cp_async_wait<0>();
    out[me] = sum;
}

template <LeftOut OUT> bool run_pipeline()
{
    const int steps = 5;
    int4 *in = managed<int4>(steps * BLOCK);
    int *out = managed<int>(BLOCK);
    for (int i = 0; i < steps * BLOCK; i++)
        in[i] = int4{i, i + 1, i + 2, i + 3};
    CUDA_LAUNCH(none, (pipeline<OUT>), 1, BLOCK, 2 * BLOCK * sizeof(int4), out, in, steps);
    if (!finished()) return false;
    for (int me = 0; me < BLOCK; me++) {
        int sum = 0;
        for (int step = 0; step < steps; step++)
            sum += 4 * (step * BLOCK + (me + 33) % BLOCK) + 6;
        if (out[me] != sum) return false;
    }
    return true;
}

/* Partial sums of blocks; the block that comes last adds them up, in order. */
template <LeftOut OUT> __global__ void last_block(float *out, float *parts, unsigned *arrived, const float *in)
{
    SHARED_ARRAY(float, scratch, WARPS);
    SHARED_ARRAY(unsigned, ticket, 1);
    const float sum = block_sum<BLOCK>(in[blockIdx.x * BLOCK + threadIdx.x], scratch);
    if (threadIdx.x == 0) {
        parts[blockIdx.x] = sum;
        if constexpr (OUT != FENCE) __threadfence();
        ticket[0] = atomicAdd(arrived, 1u);
        if constexpr (OUT != FENCE) __threadfence();
    }
    __syncthreads();
    if (ticket[0] != gridDim.x - 1) return;
    if (threadIdx.x == 0) {
        float all = 0.0f;
        for (unsigned i = 0; i < gridDim.x; i++)
            all += parts[i];
        out[0] = all;
    }
}

template <LeftOut OUT> bool sum_with_last_block()
{
    const int blocks = 7;
    float *in = managed<float>(blocks * BLOCK), *parts = managed<float>(blocks), *out = managed<float>(1);
    unsigned *arrived = managed<unsigned>(1);
    arrived[0] = 0;
    for (int i = 0; i < blocks * BLOCK; i++)
        in[i] = static_cast<float>(i % 5);
    float expected = 0.0f;
    for (int i = 0; i < blocks * BLOCK; i++)
        expected += in[i];
    CUDA_LAUNCH(none, (last_block<OUT>), blocks, BLOCK, 0, out, parts, arrived, in);
    return finished() && out[0] == expected;
}

/* All blocks count in one word. */
template <LeftOut OUT> __global__ void count(int *total)
{
    if (threadIdx.x != 0) return;
    if constexpr (OUT == ATOMIC)
        total[0] = total[0] + 1;
    else
        atomicAdd(total, 1);
}

template <LeftOut OUT> bool count_blocks()
{
    int *total = managed<int>(1);
    total[0] = 0;
    CUDA_LAUNCH(none, (count<OUT>), 8, 64, 0, total);
    return finished() && total[0] == 8;
}

/* Reads its own element and writes its neighbour's: another block's at the edge. */
__global__ void shift_in_place(int *values, int n)
{
    const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    const int mine = i < n ? values[i] : 0;
    __syncthreads();
    if (i + 1 < n) values[i + 1] = mine;
}

bool shift_over_blocks()
{
    int *values = managed<int>(256);
    for (int i = 0; i < 256; i++)
        values[i] = i;
    CUDA_LAUNCH(none, shift_in_place, 4, 64, 0, values, 256);
    return finished();
}

/* Threads whose work ends early, halves of a warp that go different ways, votes. */
__global__ void ways(int *out, int n)
{
    const int me = static_cast<int>(threadIdx.x);
    if (me >= n) return;
    __syncthreads();
    const unsigned half = me % 32 < 16 ? 0x0000ffffu : 0xffff0000u;
    int value = me;
    if (me % 32 < 16)
        value = __shfl_xor_sync(half, value, 8);
    else
        value = __shfl_down_sync(half, value, 4, 16);
    __syncwarp(FULL_WARP);
    const int odd = __popc(__ballot_sync(FULL_WARP, value % 2));
    out[me] = value + 1000 * odd + 100000 * __syncthreads_count(value % 2 == 0);
}

bool go_ways()
{
    const int n = 96;
    int *out = managed<int>(n);
    CUDA_LAUNCH(none, ways, 1, 128, 0, out, n);
    if (!finished()) return false;
    for (int i = 0; i < n; i++) {
        const int lane = i % 32, moved = lane < 16 ? lane ^ 8 : (lane < 28 ? lane + 4 : lane);
        if (out[i] != i - lane + moved + 16000 + 4800000) return false;
    }
    return true;
}
} // namespace

const Case right_cases[] = {
    {"rows divided by their sums",           normalize_rows<NOTHING>,      nullptr},
    {"sums of rows",                         sum_rows<NOTHING>,            nullptr},
    {"neighbours in a warp",                 rotate_lanes<NOTHING>,        nullptr},
    {"a pipeline of asynchronous copies",    run_pipeline<NOTHING>,        nullptr},
    {"the last block adds up",               sum_with_last_block<NOTHING>, nullptr},
    {"blocks count with an atomic",          count_blocks<NOTHING>,        nullptr},
    {"early exits, halves of a warp, votes", go_ways,                      nullptr},
    {nullptr,                                nullptr,                      nullptr},
};

const Case order_cases[] = {
    {"no barrier before partial sums are read",        normalize_rows<BEFORE_PARTS>, nullptr},
    {"no barrier before the total is read",            normalize_rows<BEFORE_TOTAL>, nullptr},
    {"no barrier before partial sums are overwritten", sum_rows<BEFORE_OVERWRITE>,   nullptr},
    {"no __syncwarp between neighbours",               rotate_lanes<SYNCWARP>,       nullptr},
    {"no barrier before a stage is copied over",       run_pipeline<COPY_BARRIER>,   nullptr},
    {nullptr,                                          nullptr,                      nullptr},
};

const Case race_cases[] = {
    {"the last block adds up without fences",  sum_with_last_block<FENCE>, nullptr},
    {"blocks count without an atomic",         count_blocks<ATOMIC>,       nullptr},
    {"a block writes what the next one reads", shift_over_blocks,          nullptr},
    {nullptr,                                  nullptr,                    nullptr},
};

const Case async_cases[] = {
    {"no wait for asynchronous copies", run_pipeline<COPY_WAIT>, nullptr},
    {nullptr,                           nullptr,                 nullptr},
};
