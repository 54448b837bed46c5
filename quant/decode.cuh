/*
 * decode.cuh - 4-bit weights to values on the device: the arithmetic of quant/nf4.h, for kernels that fill buffers.
 *
 * A warp takes a span of up to 32 blocks, each lane one absmax; shuffles pass them round. So absmax come in whole sectors
 * and each is decoded once. Weights go in packs of N consecutive ones of one row, N / 2 bytes of codes (N = 1: half a
 * byte) under one absmax: a warp reads 128 bytes of codes in one go and writes 512 of bf16. The levels and the map of
 * nested absmax lie in shared memory, where 16 levels in 16 banks never collide.
 */
#pragma once

#include "backend/cuda_vector.cuh"
#include "quant/nf4.h"

static constexpr int QUANT_LEVELS = 16, QUANT_MAP = 256, QUANT_TABLES = QUANT_LEVELS + QUANT_MAP;
static constexpr int QUANT_NESTED_BLOCK = 256;
static constexpr int QUANT_SPAN = 2048; /* weights of a span at most: rows of a small model give work to every warp */

/* A QuantMatrix as kernels see it. */
typedef struct QuantView {
    const uint8_t *codes;
    const void *absmax; /* u8 with nested_absmax, f32 otherwise */
    const float *nested_absmax;
    const float *tables; /* QUANT_TABLES on the device: levels, then the map */
    float offset;
    int block_shift; /* log2 of the block */
    int span;        /* weights of a span: 32 blocks, or QUANT_SPAN */
    int64_t count;   /* weights */
} QuantView;

static inline QuantView quant_view(Backend *be, const QuantMatrix *m)
{
    float tables[QUANT_TABLES];
    memcpy(tables, quant_levels[m->options.type], QUANT_LEVELS * sizeof(float));
    memcpy(tables + QUANT_LEVELS, m->map, QUANT_MAP * sizeof(float));
    QuantView view = {};
    view.codes = static_cast<const uint8_t *>(m->codes.data);
    view.absmax = m->absmax.data;
    view.nested_absmax = m->options.double_quant ? static_cast<const float *>(m->nested_absmax.data) : nullptr;
    view.tables = static_cast<const float *>(cuda_stage(be, tables, sizeof tables));
    view.offset = m->offset;
    view.block_shift = __builtin_ctz(static_cast<unsigned>(m->options.block));
    view.span = min(WARP_SIZE * m->options.block, QUANT_SPAN);
    view.count = m->rows * m->cols;
    return view;
}

static inline int64_t quant_spans(const QuantView &q)
{
    return ceil_div(q.count, q.span);
}

/* Whether every row of m starts on a pack of n weights that lies under one absmax. */
static inline bool quant_packed(const QuantMatrix *m, int n)
{
    return m->cols % n == 0 && reinterpret_cast<uintptr_t>(m->codes.data) % 4 == 0;
}

__device__ __forceinline__ float quant_absmax(const QuantView &q, const float *tables, int64_t block)
{
    if (!q.nested_absmax) return static_cast<const float *>(q.absmax)[block];
    const float deviation = __fmul_rn(tables[QUANT_LEVELS + static_cast<const uint8_t *>(q.absmax)[block]],
                                      q.nested_absmax[block / QUANT_NESTED_BLOCK]);
    return __fadd_rn(deviation, q.offset);
}

/* The codes of weights flat .. flat + N - 1; one weight: of the two that share its byte, in the low bits. */
template <int N> struct QuantCodes {
    typename WordOf<(N + 1) / 2>::Type word;

    __device__ __forceinline__ void load(const QuantView &q, int64_t flat)
    {
        word = *reinterpret_cast<const decltype(word) *>(q.codes + flat / 2);
        if (N == 1 && flat % 2 == 0) word >>= 4;
    }

    /* The even weight is in the high half of a byte. */
    __device__ __forceinline__ void decode(float (&x)[N], const float *levels, float absmax) const
    {
#pragma unroll
        for (int k = 0; k < N; k++) {
            const int shift = N == 1 ? 0 : k / 2 * 8 + (k % 2 == 0 ? 4 : 0);
            x[k] = __fmul_rn(levels[static_cast<int>(word >> shift) & 15], absmax);
        }
    }
};

/* Where weights of a span lie in a matrix of up to 2^31 columns. */
typedef struct SpanRows {
    int64_t row;
    uint32_t col, cols;

    __device__ __forceinline__ SpanRows(int64_t first, int64_t columns)
        : row(quotient(first, columns)), col(static_cast<uint32_t>(first - row * columns)),
          cols(static_cast<uint32_t>(columns))
    {
    }

    template <class T> __device__ __forceinline__ T *at(const Rows<T> &rows, int64_t first_row, int weight) const
    {
        const uint32_t flat = col + static_cast<uint32_t>(weight), down = flat / cols;
        return rows.at(first_row + row + down, flat - down * cols);
    }
} SpanRows;

/*
 * All weights of a span: calls put(i, x) for packs x of N, i counted from the start of the span. Whole warps come here;
 * `tables` is the copy in shared memory. Codes of several packs are on their way at a time.
 */
template <int N, class Put>
__device__ __forceinline__ void quant_span(const QuantView &q, const float *tables, int64_t span, const Put &put)
{
    constexpr int BATCH = 4, STEP = WARP_SIZE * N;
    const int lane = static_cast<int>(threadIdx.x) % WARP_SIZE;
    const int64_t first = span * q.span, block = first >> q.block_shift;
    const int count = static_cast<int>(min(q.count - first, static_cast<int64_t>(q.span)));
    const float mine = lane << q.block_shift < count ? quant_absmax(q, tables, block + lane) : 0.0f;
    for (int begin = 0; begin < count; begin += BATCH * STEP) {
        QuantCodes<N> codes[BATCH];
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            const int at = begin + i * STEP + lane * N;
            if (at < count) codes[i].load(q, first + at);
        }
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            const int at = begin + i * STEP + lane * N;
            const float absmax = __shfl_sync(FULL_WARP, mine, at >> q.block_shift);
            float x[N];
            codes[i].decode(x, tables, absmax);
            if (at < count) put(at, x);
        }
    }
}

/* Brings the tables into shared memory; all threads of the block, which may use them afterwards. */
__device__ __forceinline__ void quant_load_tables(float *shared, const float *tables)
{
    for (int i = static_cast<int>(threadIdx.x); i < QUANT_TABLES; i += static_cast<int>(blockDim.x))
        shared[i] = tables[i];
    __syncthreads();
}
