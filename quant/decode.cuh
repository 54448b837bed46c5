/*
 * decode.cuh - 4-bit weights to values on the device: the arithmetic of quant/nf4.h, for kernels that fill buffers.
 *
 * A pack of N consecutive weights of one row is N / 2 bytes of codes (N = 1: half a byte) under one absmax, so a warp
 * reads 128 bytes of codes in one go and writes 512 of bf16. The levels and the map of nested absmax lie in shared
 * memory: 16 levels in 16 banks never collide, and the map is looked up once a pack.
 */
#pragma once

#include "backend/cuda_vector.cuh"
#include "quant/nf4.h"

static constexpr int QUANT_LEVELS = 16, QUANT_MAP = 256, QUANT_TABLES = QUANT_LEVELS + QUANT_MAP;
static constexpr int QUANT_NESTED_BLOCK = 256;

/* A QuantMatrix as kernels see it. */
typedef struct QuantView {
    const uint8_t *codes;
    const void *absmax; /* u8 with nested_absmax, f32 otherwise */
    const float *nested_absmax;
    const float *tables; /* QUANT_TABLES on the device: levels, then the map */
    float offset;
    int block_shift; /* log2 of the block */
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
    return view;
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

/* Weights flat .. flat + N - 1; `tables` is the copy in shared memory. The even weight is in the high half of a byte. */
template <int N>
__device__ __forceinline__ void quant_pack(float (&x)[N], const QuantView &q, const float *tables, int64_t flat)
{
    const float absmax = quant_absmax(q, tables, flat >> q.block_shift);
    const uint8_t *at = q.codes + flat / 2;
    if constexpr (N == 1) {
        const int code = flat % 2 == 0 ? *at >> 4 : *at & 15;
        x[0] = __fmul_rn(tables[code], absmax);
    } else {
        const auto word = *reinterpret_cast<const typename WordOf<N / 2>::Type *>(at);
#pragma unroll
        for (int k = 0; k < N; k++) {
            const int code = static_cast<int>(word >> (k / 2 * 8 + (k % 2 == 0 ? 4 : 0))) & 15;
            x[k] = __fmul_rn(tables[code], absmax);
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
