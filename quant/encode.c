#include "backend/simd.h"
#include "quant/kernels.h"
#include "quant/nf4_tables.h"

#include <float.h>

/* bitsandbytes' CUDA kernels flush to zero: subnormal inputs and results of NF4 count as zero. */
static float flush(float x)
{
    return fabsf(x) < FLT_MIN ? copysignf(0.0f, x) : x;
}

/*
 * An all-zero NF4 block: 0 * inf is NaN, which lies above no threshold and so becomes code 0. In FP4 that would be the
 * lowest level, and zeros stay zeros.
 */
static float block_reciprocal(float absmax, QuantType type)
{
    return type == QUANT_FP4 && absmax == 0.0f ? 0.0f : flush(1.0f / absmax);
}

static unsigned thresholds_below(float y, const float *thresholds)
{
    unsigned count = 0;
    for (int i = 0; i < THRESHOLDS; i++)
        count += y > thresholds[i];
    return count;
}

/* FP4 has a threshold at zero, where flushing would show. */
static unsigned code_of(float x, float reciprocal, QuantType type)
{
    if (type == QUANT_FP4) return fp4_codes[thresholds_below(x * reciprocal, fp4_thresholds)];
    return thresholds_below(flush(flush(x) * reciprocal), nf4_thresholds);
}

/* An odd last element shares its byte with the code of a zero. */
static void encode_values(uint8_t *codes, const float *x, int64_t n, float reciprocal, QuantType type)
{
    for (int64_t i = 0; i < n; i += 2) {
        const unsigned high = code_of(x[i], reciprocal, type);
        const unsigned low = code_of(i + 1 < n ? x[i + 1] : 0.0f, reciprocal, type);
        codes[i / 2] = (uint8_t)(high << 4 | low);
    }
}

bool kernel_encode_plain(uint8_t *codes, float *absmax, const float *x, int64_t n, QuantType type)
{
    float largest = 0.0f;
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(x[i])) return false;
        if (fabsf(x[i]) > largest) largest = fabsf(x[i]);
    }
    *absmax = flush(largest);
    encode_values(codes, x, n, block_reciprocal(*absmax, type), type);
    return true;
}

#if SIMD_AVX512

/* Where absmax is in between, no subnormal input or product can reach an NF4 threshold: nothing needs flushing. */
#    define ABSMAX_LOW 0x1p-117f
#    define ABSMAX_HIGH 0x1p126f

/* 16 counts, one a dword. Four halvings over the 15 thresholds; the tables are shifted so that the count is the index. */
typedef struct Search {
    __m512 at0, at1, at3, middle;
} Search;

SIMD_INLINE Search search_over(const float *thresholds)
{
    return (Search){
        .at0 = _mm512_loadu_ps(thresholds),
        .at1 = _mm512_loadu_ps(thresholds + 1),
        .at3 = _mm512_loadu_ps(thresholds + 3),
        .middle = _mm512_set1_ps(thresholds[7]),
    };
}

SIMD_INLINE __m512i counts_below(__m512 y, const Search *s)
{
    const __m512i eight = _mm512_set1_epi32(8), four = _mm512_set1_epi32(4);
    const __m512i two = _mm512_set1_epi32(2), one = _mm512_set1_epi32(1);
    __m512i c = _mm512_maskz_mov_epi32(_mm512_cmp_ps_mask(y, s->middle, _CMP_GT_OQ), eight);
    c = _mm512_mask_add_epi32(c, _mm512_cmp_ps_mask(y, _mm512_permutexvar_ps(c, s->at3), _CMP_GT_OQ), c, four);
    c = _mm512_mask_add_epi32(c, _mm512_cmp_ps_mask(y, _mm512_permutexvar_ps(c, s->at1), _CMP_GT_OQ), c, two);
    return _mm512_mask_add_epi32(c, _mm512_cmp_ps_mask(y, _mm512_permutexvar_ps(c, s->at0), _CMP_GT_OQ), c, one);
}

/* Pairs of dwords (even element, odd element) to bytes. */
SIMD_INLINE void store_codes(uint8_t *to, __m512i c)
{
    const __m512i pair = _mm512_or_si512(_mm512_slli_epi64(c, 4), _mm512_srli_epi64(c, 32));
    _mm_storel_epi64((__m128i *)(void *)to, _mm512_cvtepi64_epi8(pair));
}

static void encode_nf4(uint8_t *codes, const float *x, int64_t n, float reciprocal)
{
    const __m512 r = _mm512_set1_ps(reciprocal);
    const Search search = search_over(nf4_thresholds);
    for (int64_t i = 0; i < n; i += LANES)
        store_codes(codes + i / 2, counts_below(_mm512_mul_ps(_mm512_loadu_ps(x + i), r), &search));
}

static void encode_fp4(uint8_t *codes, const float *x, int64_t n, float reciprocal)
{
    const __m512 r = _mm512_set1_ps(reciprocal);
    const Search search = search_over(fp4_thresholds);
    const __m512i by_size = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)fp4_codes));
    for (int64_t i = 0; i < n; i += LANES) {
        const __m512i counts = counts_below(_mm512_mul_ps(_mm512_loadu_ps(x + i), r), &search);
        store_codes(codes + i / 2, _mm512_permutexvar_epi32(counts, by_size));
    }
}

/* Bits of |x| compare as integers like the values do, with infinity and NaN on top: one maximum finds both. */
static bool block_absmax(float *absmax, const float *x, int64_t n)
{
    const __m512i positive = _mm512_set1_epi32(0x7fffffff);
    __m512i most = _mm512_setzero_si512();
    for (int64_t i = 0; i < n; i += LANES)
        most = _mm512_max_epi32(most, _mm512_and_si512(_mm512_loadu_si512(x + i), positive));
    const int bits = _mm512_reduce_max_epi32(most);
    memcpy(absmax, &bits, sizeof bits);
    return bits < 0x7f800000;
}

bool kernel_encode(uint8_t *codes, float *absmax, const float *x, int64_t n, QuantType type)
{
    if (n % LANES != 0) return kernel_encode_plain(codes, absmax, x, n, type);
    if (!block_absmax(absmax, x, n)) return false;
    *absmax = flush(*absmax);
    const float reciprocal = block_reciprocal(*absmax, type);
    if (*absmax < ABSMAX_LOW || *absmax > ABSMAX_HIGH) {
        encode_values(codes, x, n, reciprocal, type);
    } else if (type == QUANT_NF4) {
        encode_nf4(codes, x, n, reciprocal);
    } else {
        encode_fp4(codes, x, n, reciprocal);
    }
    return true;
}

#else

bool kernel_encode(uint8_t *codes, float *absmax, const float *x, int64_t n, QuantType type)
{
    return kernel_encode_plain(codes, absmax, x, n, type);
}

#endif
