#include "backend/cuda_vector.cuh"
#include "model/ops.h"

/* --- the table: computed by the host, so that it is the CPU's to the bit --- */

static void table_cuda(Backend *be, const Tensor *table, const float *frequencies, float factor)
{
    float host[1 << 16];
    const int64_t width = table->shape[1];
    CHECK(width > 0 && width <= static_cast<int64_t>(ARRAY_COUNT(host)));
    const int64_t step = static_cast<int64_t>(ARRAY_COUNT(host)) / width;
    for (int64_t first = 0; first < table->shape[0]; first += step) {
        const int64_t count = min(step, table->shape[0] - first);
        const Tensor rows = tensor_matrix(host, DTYPE_F32, count, width);
        const Tensor to = tensor_slice_rows(table, first, count);
        rope_table_rows(&rows, first, frequencies, factor);
        backend_upload(be, &to, host);
    }
}

/* --- the rotation --- */

/*
 * A thread takes one pack of angles and rotates the pairs of up to HEADS heads of a row by it: elements are read and
 * written once, in place, cosines and sines (f32, from the caches) once for HEADS heads. Blocks of 256 that fill the
 * device; bound by memory. Halves of heads that are no whole sectors of 32 bytes (heads of 80 in 16 bits) would be read
 * and written in parts; there a thread takes one pack and another one of its warp the other pack of the pairs.
 */
static constexpr int THREADS = 256, HEADS = 4;

/* What is rotated: the first `heads` heads of each row. */
template <class T> struct Rotation {
    Rows<T> qk;
    Rows<const float> table;
    const int32_t *positions;
    int64_t rows, table_rows;
    int heads, half; /* half of a head's elements */
    float sign;      /* -1: back */
};

/* Cosines and sines of elements `at` .. of a half at the position of a row. */
template <class T, int N>
static __device__ __forceinline__ void angles_load(float (&c)[N], float (&s)[N], const Rotation<T> &r, int64_t row,
                                                   int at)
{
    const int32_t position = r.positions[row];
    if (position < 0 || position >= r.table_rows) __trap();
    pack_load<N>(c, r.table.at(position, at));
    pack_load<N>(s, r.table.at(position, r.half + at));
    for (int k = 0; k < N; k++)
        s[k] *= r.sign;
}

template <class T, int N>
static __device__ __forceinline__ void rotate_pack(T *low_at, T *high_at, const float (&c)[N], const float (&s)[N])
{
    float low[N], high[N];
    pack_load<N>(low, low_at);
    pack_load<N>(high, high_at);
    for (int k = 0; k < N; k++) {
        const float x = low[k], y = high[k];
        low[k] = fmaf(x, c[k], -__fmul_rn(y, s[k]));
        high[k] = fmaf(y, c[k], __fmul_rn(x, s[k]));
    }
    pack_store<N>(low_at, low);
    pack_store<N>(high_at, high);
}

/* Item: pack of angles, then group of heads, then row. Half a head is whole packs. */
template <class T, int N> static __global__ void apply_kernel(Rotation<T> r)
{
    const int packs = r.half / N, groups = (r.heads + HEADS - 1) / HEADS;
    for (int64_t i = thread_first(); i < r.rows * groups * packs; i += thread_step()) {
        const int64_t group_of_row = quotient(i, packs), row = quotient(group_of_row, groups);
        const int at = static_cast<int>(i - group_of_row * packs) * N;
        const int first = static_cast<int>(group_of_row - row * groups) * HEADS;
        float c[N], s[N];
        angles_load<T, N>(c, s, r, row, at);
        for (int h = first; h < min(first + HEADS, r.heads); h++) {
            T *head = r.qk.at(row, static_cast<int64_t>(h) * 2 * r.half + at);
            rotate_pack<T, N>(head, head + r.half, c, s);
        }
    }
}

template <class T, int N> static void apply_launch(Backend *be, const Rotation<T> &r)
{
    const int64_t items = r.rows * ceil_div(r.heads, HEADS) * (r.half / N);
    CUDA_LAUNCH(be, (apply_kernel<T, N>), cuda_thread_blocks(be, items, THREADS), THREADS, 0, r);
}

/* A warp takes as many whole heads side by side as it has lanes for, HEADS times. Item: such heads, then row. */
template <class T, int N> static __global__ void exchange_kernel(Rotation<T> r)
{
    const int half_packs = r.half / N, packs = 2 * half_packs, together = WARP_SIZE / packs, each = together * HEADS;
    const int lane = static_cast<int>(threadIdx.x) % WARP_SIZE, slot = lane / packs, pack = lane % packs;
    const bool low = pack < half_packs, busy = slot < together;
    const int partner = busy ? low ? lane + half_packs : lane - half_packs : lane, groups = (r.heads + each - 1) / each;
    for (int64_t i = warp_first(); i < r.rows * groups; i += warp_step()) {
        const int64_t row = quotient(i, groups);
        const int first = static_cast<int>(i - row * groups) * each;
        float c[N], s[N], x[N] = {};
        angles_load<T, N>(c, s, r, row, (low ? pack : pack - half_packs) * N);
        for (int h = first; h < min(first + each, r.heads); h += together) {
            const bool mine = busy && h + slot < r.heads;
            T *const at = r.qk.at(row, static_cast<int64_t>(h + slot) * 2 * r.half + pack * N);
            if (mine) pack_load<N>(x, at);
            for (int k = 0; k < N; k++) {
                const float across = __fmul_rn(__shfl_sync(FULL_WARP, x[k], partner), s[k]);
                x[k] = fmaf(x[k], c[k], low ? -across : across);
            }
            if (mine) pack_store<N>(at, x);
        }
    }
}

template <class T, int N> static void exchange_launch(Backend *be, const Rotation<T> &r)
{
    const int64_t items = r.rows * ceil_div(r.heads, WARP_SIZE / (2 * r.half / N) * HEADS);
    CUDA_LAUNCH(be, (exchange_kernel<T, N>), cuda_thread_blocks(be, items * WARP_SIZE, THREADS), THREADS, 0, r);
}

/* Whole heads are whole sectors and fit a warp, their halves are not. */
template <class T, int N> static bool exchanges(const Rotation<T> &r)
{
    constexpr size_t sector = 32;
    const size_t half_bytes = static_cast<size_t>(r.half) * sizeof(T);
    return half_bytes % sector != 0 && 2 * half_bytes % sector == 0 && 2 * r.half / N <= WARP_SIZE;
}

static void apply_cuda(Backend *be, const Tensor *qk, const Tensor *table, const int32_t *positions, int heads,
                       int head_dim, bool backward)
{
    cuda_typed(qk->dtype, [&](auto type) {
        typedef decltype(type) T;
        constexpr int N = cuda_pack<T, float>;
        const Rotation<T> r = {
            cuda_rows<T>(qk), cuda_rows<const float>(table), positions, qk->shape[0], table->shape[0], heads,
            head_dim / 2,     backward ? -1.0f : 1.0f};
        const bool packed = cuda_packed(qk, N) && cuda_packed(table, N) && head_dim / 2 % N == 0;
        if (!packed)
            apply_launch<T, 1>(be, r);
        else if (exchanges<T, N>(r))
            exchange_launch<T, N>(be, r);
        else
            apply_launch<T, N>(be, r);
    });
}

extern "C" const RopeOps rope_ops_cuda = {table_cuda, apply_cuda};
