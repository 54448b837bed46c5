/*
 * attention_rows.cuh - attention one row at a time: a warp takes one row of one head, a lane one partner at a time for
 * scores and every 32nd column for sums. For f32, and for generation, where there is one row only.
 */
#pragma once

#include "model/attention_cuda.cuh"

static constexpr int COLUMNS = 256 / WARP_SIZE; /* of a lane: lane, lane + 32, ... */

/* The row and head that this warp takes. */
struct Item {
    int row, head;
    bool valid;
};

__device__ __forceinline__ Item item_of(int rows, int heads)
{
    const int64_t i = int64_t(blockIdx.x) * WARPS + threadIdx.x / WARP_SIZE;
    const int head = int(quotient(i, rows));
    return Item{int(i - int64_t(head) * rows), head, head < heads};
}

static inline unsigned blocks_of(int64_t items)
{
    return static_cast<unsigned>(ceil_div(items, WARPS));
}

template <class T> __device__ __forceinline__ T *head_at(const Heads<T> &t, int64_t row, int head, int dim)
{
    return t.data + row * t.stride + int64_t(head) * dim;
}

/* By one lane; `vector`: 16 bytes at a time. */
template <class T> __device__ __forceinline__ float dot(const T *a, const T *b, int n, bool vector)
{
    constexpr int N = cuda_pack<T>;
    float sum = 0.0f;
    if (vector) {
        for (int i = 0; i < n; i += N) {
            float x[N], y[N];
            pack_load<N>(x, a + i);
            pack_load<N>(y, b + i);
            for (int j = 0; j < N; j++)
                sum = fmaf(x[j], y[j], sum);
        }
    } else {
        for (int i = 0; i < n; i++)
            sum = fmaf(element_load(a[i]), element_load(b[i]), sum);
    }
    return sum;
}

/* sums += weights[i] * row i, over the columns of this lane */
template <class T>
__device__ __forceinline__ void add_rows(float (&sums)[COLUMNS], const float *weights, const T *rows, int64_t stride,
                                         int count, int dim)
{
    const int lane = threadIdx.x % WARP_SIZE;
    for (int i = 0; i < count; i++) {
        const float weight = weights[i];
#pragma unroll
        for (int j = 0; j < COLUMNS; j++) {
            const int d = lane + j * WARP_SIZE;
            if (d < dim) sums[j] = fmaf(weight, element_load(rows[i * stride + d]), sums[j]);
        }
    }
}

template <class T> __device__ __forceinline__ void store_row(T *to, const float (&sums)[COLUMNS], float factor, int dim)
{
    const int lane = threadIdx.x % WARP_SIZE;
#pragma unroll
    for (int j = 0; j < COLUMNS; j++) {
        const int d = lane + j * WARP_SIZE;
        if (d < dim) to[d] = element_round<T>(sums[j] * factor);
    }
}
