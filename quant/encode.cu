/*
 * encode.cu - 4-bit codes and absmax of a run of blocks, bit for bit as quant/encode.c finds them.
 *
 * A block of weights is taken by block / 4 threads side by side, a pack of 4 each; the largest blocks by all 256, up to
 * four packs each, 1,024 weights apart. Its largest |x| goes over shuffles, and over shared memory where it spans warps.
 * Each weight is read once (4 bytes) and stays in registers until its code, half a byte, is written; the absmax of all
 * blocks that the 256 threads took are written together.
 */
#include "backend/cuda_vector.cuh"
#include "quant/nf4_tables.h"
#include "quant/ops.h"

#include <float.h>

static constexpr int THREADS = 256, WARPS = THREADS / WARP_SIZE, PACK = 4, TABLE = 16;

/* Thresholds of the type (the last one infinite), and the code for each count of thresholds below a value. */
typedef struct EncodeTables {
    float thresholds[TABLE];
    uint32_t codes[TABLE];
} EncodeTables;

typedef struct EncodeView {
    const float *values;
    uint8_t *codes;
    float *absmax;
    unsigned long long *bad;
    const EncodeTables *tables;
    int64_t first, count;
    int block, group; /* weights of a block; threads that take one */
    bool nf4;
} EncodeView;

/* --- absmax --- */

/* |x| as an integer, which compares like the values do. One that is not finite is marked. */
static __device__ __forceinline__ int size_of(const EncodeView &e, float x, int64_t at)
{
    if (!isfinite(x)) atomicMin(e.bad, static_cast<unsigned long long>(e.first + at));
    return __float_as_int(x) & INT32_MAX;
}

/* The largest of `group` threads side by side, in all of them. Every thread of the block calls it. */
static __device__ __forceinline__ int group_max(int most, int group, int *warps)
{
    for (int distance = min(group, static_cast<int>(WARP_SIZE)) / 2; distance > 0; distance /= 2)
        most = max(most, __shfl_xor_sync(FULL_WARP, most, distance));
    if (group <= WARP_SIZE) return most;
    const int warp = static_cast<int>(threadIdx.x) / WARP_SIZE, many = group / WARP_SIZE;
    if (threadIdx.x % WARP_SIZE == 0) warps[warp] = most;
    __syncthreads();
    for (int i = 0; i < many; i++)
        most = max(most, warps[warp / many * many + i]);
    return most;
}

/* --- codes --- */

/* Subnormal numbers are zero, as in quant/encode.c. */
static __device__ __forceinline__ float flushed(float x)
{
    return fabsf(x) < FLT_MIN ? copysignf(0.0f, x) : x;
}

/* How many thresholds lie below y: four halvings; NaN lies above none. */
static __device__ __forceinline__ uint32_t code_of(float x, float reciprocal, bool nf4, const float *thresholds,
                                                   const uint32_t *codes)
{
    const float y = nf4 ? flushed(__fmul_rn(flushed(x), reciprocal)) : __fmul_rn(x, reciprocal);
    int below = 0;
#pragma unroll
    for (int step = TABLE / 2; step > 0; step /= 2)
        below += y > thresholds[below + step - 1] ? step : 0;
    return codes[below];
}

/* The even weight of a byte is in its high half; `left` weights are there, and zeros behind them. */
static __device__ __forceinline__ void store_codes(uint8_t *to, const uint32_t (&code)[PACK], int64_t left)
{
    const uint32_t low = code[0] << 4 | code[1], high = code[2] << 4 | code[3];
    if (left >= PACK) {
        *reinterpret_cast<uint16_t *>(to) = static_cast<uint16_t>(low | high << 8);
    } else {
        if (left > 0) to[0] = static_cast<uint8_t>(low);
        if (left > 2) to[1] = static_cast<uint8_t>(high);
    }
}

/* --- all blocks --- */

template <int PACKS> static __global__ void __launch_bounds__(THREADS) encode_kernel(EncodeView e)
{
    SHARED_ARRAY(float, thresholds, TABLE);
    SHARED_ARRAY(uint32_t, codes, TABLE);
    SHARED_ARRAY(int, warps, WARPS);
    SHARED_ARRAY(float, scales, THREADS);
    const int thread = static_cast<int>(threadIdx.x), member = thread % e.group, blocks = THREADS / e.group;
    if (thread < TABLE) {
        thresholds[thread] = e.tables->thresholds[thread];
        codes[thread] = e.tables->codes[thread];
    }
    for (int64_t first = static_cast<int64_t>(blockIdx.x) * blocks; first * e.block < e.count;
         first += static_cast<int64_t>(gridDim.x) * blocks) {
        const int64_t at = (first + thread / e.group) * e.block + member * PACK;
        float x[PACKS][PACK];
        int most = 0;
#pragma unroll
        for (int p = 0; p < PACKS; p++) {
            const int64_t place = at + p * THREADS * PACK;
            pack_load<PACK>(x[p], e.values + place, e.count - place);
            for (int i = 0; i < PACK; i++)
                most = max(most, size_of(e, x[p][i], place + i));
        }
        const float absmax = flushed(__int_as_float(group_max(most, e.group, warps)));
        const float reciprocal = !e.nf4 && absmax == 0.0f ? 0.0f : flushed(__fdiv_rn(1.0f, absmax));
        if (member == 0) scales[thread / e.group] = absmax;
        __syncthreads(); /* also the tables are there */
        if (thread < blocks && (first + thread) * e.block < e.count) e.absmax[first + thread] = scales[thread];
#pragma unroll
        for (int p = 0; p < PACKS; p++) {
            const int64_t place = at + p * THREADS * PACK;
            uint32_t code[PACK];
            for (int i = 0; i < PACK; i++)
                code[i] = code_of(x[p][i], reciprocal, e.nf4, thresholds, codes);
            store_codes(e.codes + place / 2, code, e.count - place);
        }
        __syncthreads(); /* before scales and warps are written again */
    }
}

static EncodeTables tables_of(QuantType type)
{
    const float *thresholds = type == QUANT_FP4 ? fp4_thresholds : nf4_thresholds;
    EncodeTables t = {};
    for (uint32_t i = 0; i < TABLE; i++) {
        t.thresholds[i] = thresholds[i];
        t.codes[i] = type == QUANT_FP4 ? fp4_codes[i] : i;
    }
    return t;
}

template <int PACKS> static void launch(Backend *be, const EncodeView &v)
{
    const int64_t rounds = ceil_div(v.count, THREADS * PACK * PACKS);
    CUDA_LAUNCH(be, (encode_kernel<PACKS>), cuda_blocks(be, rounds, 2048 / THREADS), THREADS, 0, v);
}

/* Runs lie on multiples of 32 weights in arenas, so packs and pairs of bytes are aligned. */
void quant_encode_cuda(Backend *be, const QuantEncode *e, const QuantOptions *options)
{
    CHECK(reinterpret_cast<uintptr_t>(e->values.data) % 16 == 0 && reinterpret_cast<uintptr_t>(e->codes.data) % 2 == 0);
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
    v.group = min(v.block / PACK, THREADS);
    v.nf4 = options->type == QUANT_NF4;
    switch (v.block / (PACK * v.group)) {
    case 1: launch<1>(be, v); return;
    case 2: launch<2>(be, v); return;
    case 4: launch<4>(be, v); return;
    default: CHECK(false);
    }
}
