/*
 * encode.cu - 4-bit codes and absmax of a run of blocks, bit for bit as quant/encode.c finds them.
 *
 * A warp takes a block of weights at a time, a lane two neighbouring ones in each round, so a round reads 256 bytes and
 * writes 32. Blocks of up to 64 weights stay in registers between the search for absmax and the codes; larger ones are
 * read a second time, from the first-level cache.
 */
#include "backend/cuda_vector.cuh"
#include "quant/nf4_tables.h"
#include "quant/ops.h"

static constexpr int THREADS = 256, WARPS = THREADS / 32, ROUND = 64;

/* Thresholds of the type, and the code for each count of thresholds below a value. */
typedef struct EncodeTables {
    float thresholds[16];
    uint32_t codes[16];
} EncodeTables;

typedef struct EncodeView {
    const float *values;
    uint8_t *codes;
    float *absmax;
    unsigned long long *bad;
    const EncodeTables *tables;
    int64_t first, count, blocks;
    int block;
    bool nf4;
} EncodeView;

/* Subnormal numbers are zero, as in quant/encode.c. */
__device__ __forceinline__ float flushed(float x)
{
    return fabsf(x) < 1.17549435e-38f ? copysignf(0.0f, x) : x;
}

/* How many thresholds lie below y: four halvings; NaN lies above none. */
__device__ __forceinline__ uint32_t code_of(float x, float reciprocal, bool nf4, const float *thresholds,
                                            const uint32_t *codes)
{
    const float y = nf4 ? flushed(__fmul_rn(flushed(x), reciprocal)) : __fmul_rn(x, reciprocal);
    int below = 0;
#pragma unroll
    for (int step = 8; step > 0; step /= 2)
        below += y > thresholds[below + step - 1] ? step : 0;
    return codes[below];
}

/* Values at + 2 lane and the next one; zero beyond the end. Not finite ones are marked. */
__device__ __forceinline__ float2 pair_at(const EncodeView &e, int64_t at, int64_t end)
{
    const int64_t i = at + 2 * static_cast<int>(threadIdx.x % 32);
    float2 pair = make_float2(i < end ? e.values[i] : 0.0f, i + 1 < end ? e.values[i + 1] : 0.0f);
    return pair;
}

__device__ __forceinline__ void mark_bad(const EncodeView &e, float2 pair, int64_t at)
{
    const int64_t i = e.first + at + 2 * static_cast<int>(threadIdx.x % 32);
    if (!isfinite(pair.x)) atomicMin(e.bad, static_cast<unsigned long long>(i));
    if (!isfinite(pair.y)) atomicMin(e.bad, static_cast<unsigned long long>(i + 1));
}

__device__ __forceinline__ void put_codes(const EncodeView &e, float2 pair, float reciprocal, int64_t at, int64_t end,
                                          const float *thresholds, const uint32_t *codes)
{
    const int64_t i = at + 2 * static_cast<int>(threadIdx.x % 32);
    if (i >= end) return;
    const uint32_t high = code_of(pair.x, reciprocal, e.nf4, thresholds, codes);
    const uint32_t low = code_of(pair.y, reciprocal, e.nf4, thresholds, codes);
    e.codes[i / 2] = static_cast<uint8_t>(high << 4 | low);
}

/* ROUNDS 1: blocks of up to 64 weights. 0: any. */
template <int ROUNDS> static __global__ void encode_kernel(EncodeView e)
{
    SHARED_ARRAY(float, thresholds, 16);
    SHARED_ARRAY(uint32_t, codes, 16);
    if (threadIdx.x < 16) {
        thresholds[threadIdx.x] = e.tables->thresholds[threadIdx.x];
        codes[threadIdx.x] = e.tables->codes[threadIdx.x];
    }
    __syncthreads();
    const int64_t step = static_cast<int64_t>(gridDim.x) * WARPS;
    for (int64_t b = static_cast<int64_t>(blockIdx.x) * WARPS + threadIdx.x / 32; b < e.blocks; b += step) {
        const int64_t first = b * e.block, last = first + e.block, end = last < e.count ? last : e.count;
        float2 pair = make_float2(0.0f, 0.0f);
        float largest = 0.0f;
        for (int64_t at = first; at < end; at += ROUND) {
            pair = pair_at(e, at, end);
            mark_bad(e, pair, at);
            largest = fmaxf(largest, fmaxf(fabsf(pair.x), fabsf(pair.y)));
        }
        const float absmax = flushed(warp_max(largest));
        const float reciprocal = !e.nf4 && absmax == 0.0f ? 0.0f : flushed(__fdiv_rn(1.0f, absmax));
        if (threadIdx.x % 32 == 0) e.absmax[b] = absmax;
        for (int64_t at = first; at < end; at += ROUND) {
            if (ROUNDS != 1) pair = pair_at(e, at, end);
            put_codes(e, pair, reciprocal, at, end, thresholds, codes);
        }
    }
}

static EncodeTables tables_of(QuantType type)
{
    const float *thresholds = type == QUANT_FP4 ? fp4_thresholds : nf4_thresholds;
    EncodeTables t = {};
    for (uint32_t i = 0; i < 16; i++) {
        t.thresholds[i] = thresholds[i];
        t.codes[i] = type == QUANT_FP4 ? fp4_codes[i] : i;
    }
    return t;
}

void quant_encode_cuda(Backend *be, const QuantEncode *e, const QuantOptions *options)
{
    const EncodeTables tables = tables_of(options->type);
    EncodeView v = {};
    v.values = static_cast<const float *>(e->values.data);
    v.codes = static_cast<uint8_t *>(e->codes.data);
    v.absmax = static_cast<float *>(e->absmax.data);
    v.bad = static_cast<unsigned long long *>(e->bad.data);
    v.tables = static_cast<const EncodeTables *>(cuda_stage(be, &tables, sizeof tables));
    v.first = e->first;
    v.count = tensor_count(&e->values);
    v.block = options->block;
    v.blocks = ceil_div(v.count, v.block);
    v.nf4 = options->type == QUANT_NF4;
    const unsigned grid = cuda_blocks(be, ceil_div(v.blocks, WARPS), 8);
    if (v.block <= ROUND)
        CUDA_LAUNCH(be, (encode_kernel<1>), grid, THREADS, 0, v);
    else
        CUDA_LAUNCH(be, (encode_kernel<0>), grid, THREADS, 0, v);
}
