/*
 * simd.h - sixteen f32 lanes: loads and stores that convert, and the few functions kernels need.
 *
 * With AVX-512 each function is one to a dozen instructions; without it the same code in plain C on compiler vectors.
 * Define SIMD_PLAIN before the include to get the plain code everywhere (its test does). Partial loads fill with zero.
 * bf16 stores round to nearest even as base/tensor.h does.
 */
#pragma once

#include "base/tensor.h"

#include <math.h>
#include <string.h>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__) &&                 \
    !defined(SIMD_PLAIN)
#    define SIMD_AVX512 1
#    include <immintrin.h>
#    ifndef __OPTIMIZE__ /* intrinsics with an immediate are then macros, whose conversions are charged to us */
#        pragma GCC diagnostic ignored "-Wconversion"
#        pragma GCC diagnostic ignored "-Wsign-conversion"
#    endif
#else
#    define SIMD_AVX512 0
#    if !defined(__clang__)
#        pragma GCC diagnostic ignored "-Wpsabi" /* lanes never cross a call: everything here is inlined */
#    endif
#endif

enum { LANES = 16 };

#define SIMD_INLINE static inline __attribute__((always_inline))

/* 2^f - 1 over f on [-1/2, 1/2]: minimax in relative error (2^-26), coefficients rounded to f32. */
#define SIMD_EXP2_C1 0.6931472f
#define SIMD_EXP2_C2 0.24022648f
#define SIMD_EXP2_C3 0.055503324f
#define SIMD_EXP2_C4 0.009618437f
#define SIMD_EXP2_C5 0.0013398875f
#define SIMD_EXP2_C6 0.00015353362f

/* e^r over r within half of ln 2: minimax (2^-27) behind 1 + r. */
#define SIMD_EXP_C2 0.49999994f
#define SIMD_EXP_C3 0.16666521f
#define SIMD_EXP_C4 0.04166839f
#define SIMD_EXP_C5 0.00836871f
#define SIMD_EXP_C6 0.0013814613f

#define SIMD_LOG2E 1.44269502f
#define SIMD_LN2_HIGH 0.693359375f     /* 9 bits, so that n * high is exact */
#define SIMD_LN2_LOW (-2.12194442e-4f) /* ln 2 - high */

#if SIMD_AVX512

typedef __m512 Lanes;

SIMD_INLINE __mmask16 lanes_mask(int64_t count)
{
    return (__mmask16)(count >= LANES ? 0xffffu : (1u << count) - 1u);
}

SIMD_INLINE Lanes lanes_set(float x)
{
    return _mm512_set1_ps(x);
}

SIMD_INLINE Lanes lanes_load_f32(const float *p)
{
    return _mm512_loadu_ps(p);
}

SIMD_INLINE void lanes_store_f32(float *p, Lanes x)
{
    _mm512_storeu_ps(p, x);
}

/* The first `count` (at least 1) of 16 elements at p. */
SIMD_INLINE Lanes lanes_load(const void *p, DType dtype, int64_t count)
{
    if (dtype == DTYPE_F32) return _mm512_maskz_loadu_ps(lanes_mask(count), p);
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes_mask(count), p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

/* The same with `filler` beyond the first `count`. */
SIMD_INLINE Lanes lanes_load_or(const void *p, DType dtype, int64_t count, Lanes filler)
{
    return _mm512_mask_mov_ps(filler, lanes_mask(count), lanes_load(p, dtype, count));
}

/* Rounded to bf16 and back. */
SIMD_INLINE Lanes lanes_round_bf16(Lanes x)
{
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    rounded = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000)); /* stays a NaN, a quiet one */
    return _mm512_castsi512_ps(_mm512_and_si512(rounded, _mm512_set1_epi32((int)0xffff0000)));
}

SIMD_INLINE void lanes_store(void *p, DType dtype, int64_t count, Lanes x)
{
    if (dtype == DTYPE_F32) {
        _mm512_mask_storeu_ps(p, lanes_mask(count), x);
        return;
    }
    const __m512i rounded = _mm512_castps_si512(lanes_round_bf16(x));
    _mm256_mask_storeu_epi16(p, lanes_mask(count), _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
}

SIMD_INLINE Lanes lanes_fma(Lanes a, Lanes b, Lanes c)
{
    return _mm512_fmadd_ps(a, b, c);
}

/* Where either is NaN: b. */
SIMD_INLINE Lanes lanes_max(Lanes a, Lanes b)
{
    return _mm512_max_ps(a, b);
}

SIMD_INLINE Lanes lanes_min(Lanes a, Lanes b)
{
    return _mm512_min_ps(a, b);
}

SIMD_INLINE Lanes lanes_round(Lanes x)
{
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* x * 2^n for a whole number n; overflows to infinity and underflows through subnormals to zero. */
SIMD_INLINE Lanes lanes_scale2(Lanes x, Lanes n)
{
    return _mm512_scalef_ps(x, n);
}

/* a where x < y, otherwise b */
SIMD_INLINE Lanes lanes_where_less(Lanes x, Lanes y, Lanes a, Lanes b)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, y, _CMP_LT_OQ), b, a);
}

/*
 * Rows a and b of a block in bf16: as they are to row_a and row_b, and interleaved (a in the lower halves) to pairs.
 * A null place is left out. Rounds as AVX512-BF16 does where it is there: subnormal results become zero.
 */
SIMD_INLINE void lanes_store_two_bf16(void *row_a, void *row_b, void *pairs, Lanes a, Lanes b)
{
#    if defined(__AVX512BF16__)
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(b, a);
    const __m256i low = _mm512_castsi512_si256(both), high = _mm512_extracti64x4_epi64(both, 1);
#    else
    const __m512i wide_a = _mm512_castps_si512(lanes_round_bf16(a)), wide_b = _mm512_castps_si512(lanes_round_bf16(b));
    const __m256i low = _mm512_cvtepi32_epi16(_mm512_srli_epi32(wide_a, 16));
    const __m256i high = _mm512_cvtepi32_epi16(_mm512_srli_epi32(wide_b, 16));
    const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
#    endif
    if (row_a) _mm256_storeu_si256(row_a, low);
    if (row_b) _mm256_storeu_si256(row_b, high);
    if (!pairs) return;
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    _mm512_storeu_si512(pairs, _mm512_permutexvar_epi16(order, both));
}

/* 32 neighbours in bf16, rounded as above. */
SIMD_INLINE void lanes_store_wide_bf16(void *p, Lanes low, Lanes high)
{
#    if defined(__AVX512BF16__)
    _mm512_storeu_si512(p, (__m512i)_mm512_cvtne2ps_pbh(high, low));
#    else
    lanes_store(p, DTYPE_BF16, LANES, low);
    lanes_store((uint16_t *)p + LANES, DTYPE_BF16, LANES, high);
#    endif
}

#else

typedef float Lanes __attribute__((vector_size(64)));
typedef int32_t LanesInt __attribute__((vector_size(64)));

SIMD_INLINE Lanes lanes_set(float x)
{
    return (Lanes){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
}

SIMD_INLINE Lanes lanes_load_f32(const float *p)
{
    Lanes x;
    memcpy(&x, p, sizeof x);
    return x;
}

SIMD_INLINE void lanes_store_f32(float *p, Lanes x)
{
    memcpy(p, &x, sizeof x);
}

SIMD_INLINE Lanes lanes_load(const void *p, DType dtype, int64_t count)
{
    float x[LANES] = {0};
    const int n = count >= LANES ? LANES : (int)count;
    if (dtype == DTYPE_F32) {
        if (n == LANES) return lanes_load_f32(p);
        memcpy(x, p, (size_t)n * sizeof(float));
    } else {
        uint16_t narrow[LANES] = {0};
        memcpy(narrow, p, (size_t)n * sizeof(uint16_t));
        for (int i = 0; i < LANES; i++)
            x[i] = bf16_to_f32(narrow[i]);
    }
    return lanes_load_f32(x);
}

SIMD_INLINE Lanes lanes_load_or(const void *p, DType dtype, int64_t count, Lanes filler)
{
    float x[LANES], full[LANES];
    lanes_store_f32(x, filler);
    lanes_store_f32(full, lanes_load(p, dtype, count));
    for (int i = 0; i < LANES && i < count; i++)
        x[i] = full[i];
    return lanes_load_f32(x);
}

SIMD_INLINE Lanes lanes_round_bf16(Lanes v)
{
    float x[LANES];
    lanes_store_f32(x, v);
    for (int i = 0; i < LANES; i++)
        x[i] = bf16_to_f32(bf16_from_f32(x[i]));
    return lanes_load_f32(x);
}

SIMD_INLINE void lanes_narrow(uint16_t out[LANES], Lanes v)
{
    float x[LANES];
    lanes_store_f32(x, v);
    for (int i = 0; i < LANES; i++)
        out[i] = bf16_from_f32(x[i]);
}

SIMD_INLINE void lanes_store(void *p, DType dtype, int64_t count, Lanes v)
{
    float x[LANES];
    const int n = count >= LANES ? LANES : (int)count;
    lanes_store_f32(x, v);
    if (dtype == DTYPE_F32) {
        memcpy(p, x, (size_t)n * sizeof(float));
    } else {
        uint16_t narrow[LANES];
        lanes_narrow(narrow, v);
        memcpy(p, narrow, (size_t)n * sizeof(uint16_t));
    }
}

SIMD_INLINE Lanes lanes_fma(Lanes a, Lanes b, Lanes c)
{
    return a * b + c;
}

SIMD_INLINE Lanes lanes_choose(LanesInt mask, Lanes a, Lanes b)
{
    return (Lanes)(((LanesInt)a & mask) | ((LanesInt)b & ~mask));
}

SIMD_INLINE Lanes lanes_max(Lanes a, Lanes b)
{
    return lanes_choose((LanesInt)(a > b), a, b);
}

SIMD_INLINE Lanes lanes_min(Lanes a, Lanes b)
{
    return lanes_choose((LanesInt)(a < b), a, b);
}

/* Adding and subtracting 1.5 * 2^23 leaves a whole number; |x| is below 2^22 here. */
SIMD_INLINE Lanes lanes_round(Lanes x)
{
    const Lanes magic = lanes_set(12582912.0f);
    return (x + magic) - magic;
}

/* Two factors, each a normal number, reach every n of -252..254. */
SIMD_INLINE Lanes lanes_scale2(Lanes x, Lanes n)
{
    const LanesInt whole = __builtin_convertvector(n, LanesInt);
    const LanesInt half = whole >> 1;
    const Lanes first = (Lanes)((half + 127) << 23);
    const Lanes second = (Lanes)((whole - half + 127) << 23);
    return x * first * second;
}

SIMD_INLINE Lanes lanes_where_less(Lanes x, Lanes y, Lanes a, Lanes b)
{
    return lanes_choose((LanesInt)(x < y), a, b);
}

SIMD_INLINE void lanes_store_two_bf16(void *row_a, void *row_b, void *pairs, Lanes a, Lanes b)
{
    uint16_t low[LANES], high[LANES], both[2 * LANES];
    lanes_narrow(low, a);
    lanes_narrow(high, b);
    for (int i = 0; i < LANES; i++) {
        both[2 * i] = low[i];
        both[2 * i + 1] = high[i];
    }
    if (row_a) memcpy(row_a, low, sizeof low);
    if (row_b) memcpy(row_b, high, sizeof high);
    if (pairs) memcpy(pairs, both, sizeof both);
}

SIMD_INLINE void lanes_store_wide_bf16(void *p, Lanes low, Lanes high)
{
    lanes_narrow(p, low);
    lanes_narrow((uint16_t *)p + LANES, high);
}

#endif

SIMD_INLINE Lanes lanes_zero(void)
{
    return lanes_set(0.0f);
}

/* Fixed order: halves are added until one is left. */
SIMD_INLINE float lanes_sum(Lanes v)
{
    float x[LANES];
    lanes_store_f32(x, v);
    for (int width = LANES / 2; width > 0; width /= 2) {
        for (int i = 0; i < width; i++)
            x[i] += x[i + width];
    }
    return x[0];
}

SIMD_INLINE float lanes_largest(Lanes v)
{
    float x[LANES];
    lanes_store_f32(x, v);
    for (int width = LANES / 2; width > 0; width /= 2) {
        for (int i = 0; i < width; i++)
            x[i] = x[i] > x[i + width] ? x[i] : x[i + width];
    }
    return x[0];
}

/* 2^f for f in [-1/2, 1/2] */
SIMD_INLINE Lanes lanes_exp2_fraction(Lanes f)
{
    Lanes p = lanes_fma(lanes_set(SIMD_EXP2_C6), f, lanes_set(SIMD_EXP2_C5));
    p = lanes_fma(p, f, lanes_set(SIMD_EXP2_C4));
    p = lanes_fma(p, f, lanes_set(SIMD_EXP2_C3));
    p = lanes_fma(p, f, lanes_set(SIMD_EXP2_C2));
    p = lanes_fma(p, f, lanes_set(SIMD_EXP2_C1));
    return lanes_fma(p, f, lanes_set(1.0f));
}

/* 2^x, relative error below 2 ulp; exactly 0 below -150, infinity above 128, NaN stays NaN. */
SIMD_INLINE Lanes lanes_exp2(Lanes x)
{
    x = lanes_min(lanes_set(130.0f), lanes_max(lanes_set(-160.0f), x));
    const Lanes n = lanes_round(x);
    return lanes_scale2(lanes_exp2_fraction(x - n), n);
}

/* The same for x that is finite (however large) or NaN. */
SIMD_INLINE Lanes lanes_exp2_finite(Lanes x)
{
#if SIMD_AVX512
    const Lanes n = lanes_round(x);
    return lanes_scale2(lanes_exp2_fraction(x - n), n);
#else
    return lanes_exp2(x);
#endif
}

/* e^x, relative error below 2 ulp; the multiple of ln 2 is taken off in two parts. */
SIMD_INLINE Lanes lanes_exp(Lanes x)
{
    x = lanes_min(lanes_set(90.0f), lanes_max(lanes_set(-110.0f), x));
    const Lanes n = lanes_round(x * lanes_set(SIMD_LOG2E));
    Lanes r = lanes_fma(n, lanes_set(-SIMD_LN2_HIGH), x);
    r = lanes_fma(n, lanes_set(-SIMD_LN2_LOW), r);
    Lanes p = lanes_fma(lanes_set(SIMD_EXP_C6), r, lanes_set(SIMD_EXP_C5));
    p = lanes_fma(p, r, lanes_set(SIMD_EXP_C4));
    p = lanes_fma(p, r, lanes_set(SIMD_EXP_C3));
    p = lanes_fma(p, r, lanes_set(SIMD_EXP_C2));
    p = lanes_fma(p, r, lanes_set(1.0f));
    p = lanes_fma(p, r, lanes_set(1.0f));
    return lanes_scale2(p, n);
}

/* 1 / (1 + e^-x) */
SIMD_INLINE Lanes lanes_sigmoid(Lanes x)
{
    return lanes_set(1.0f) / (lanes_set(1.0f) + lanes_exp(lanes_zero() - x));
}
