/*
 * sample_weight.h - the arithmetic of sample.h, the same operations on every backend.
 *
 * No product meets a sum but in fmaf, so no compiler has anything to contract, and every step is one rounding of IEEE.
 */
#pragma once

#include "model/sample.h"

#include <math.h>
#include <string.h>

#ifdef __CUDACC__
#    define SAMPLE_INLINE static __host__ __device__ __forceinline__
#else
#    define SAMPLE_INLINE static inline
#endif

/* What a row's kernels know: the logits' factor log2(e) / temperature (0: greedy), and a number in [0, 1). */
typedef struct SampleRow {
    float factor;
    double top_p, draw;
} SampleRow;

/* 53 bits of the row's sequence. */
static inline SampleRow sample_row(const Sampling *s)
{
    const Rng4 words = rng_block(s->key, 0);
    const uint64_t bits = (uint64_t)words.word[0] << 21 | words.word[1] >> 11;
    const float factor = s->temperature > 0 ? 1.44269504088896340736f / s->temperature : 0.0f;
    const SampleRow row = {factor, s->top_p, (double)bits * 0x1p-53};
    return row;
}

/* floor(2^32 2^((logit - largest) factor)); the exponent's fraction lies in [-1/2, 1/2], where the series to the sixth
 * power is within 2e-7. */
SAMPLE_INLINE uint64_t sample_weight(float logit, float largest, float factor)
{
    const float x = (logit - largest) * factor;
    if (!(x > -33.0f)) return 0; /* also what is not a number */
    const float whole = rintf(x), f = x - whole;
    float p = fmaf(f, 1.5403530e-4f, 1.3333558e-3f);
    p = fmaf(f, p, 9.6181291e-3f);
    p = fmaf(f, p, 5.5504109e-2f);
    p = fmaf(f, p, 2.4022651e-1f);
    p = fmaf(f, p, 6.9314718e-1f);
    p = fmaf(f, p, 1.0f);
    const uint32_t bits = (uint32_t)((int)whole + 32 + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return (uint64_t)(p * power);
}

/* The sum that the kept tokens must reach: at least 1, at most all. */
SAMPLE_INLINE uint64_t sample_needed(uint64_t all, double top_p)
{
    const double share = ceil(top_p * (double)all);
    if (!(share < (double)all)) return all;
    return share < 1.0 ? 1 : (uint64_t)share;
}

/* What is kept: every token over the threshold, and the first `ties` of those on it. */
typedef struct SampleKept {
    uint64_t threshold, ties, sum;
} SampleKept;

/* From the sum of all weights above the threshold; those at it bring the sum to `needed` or more. */
SAMPLE_INLINE SampleKept sample_kept(uint64_t threshold, uint64_t above, uint64_t needed)
{
    SampleKept k;
    k.threshold = threshold;
    k.ties = (needed - above + threshold - 1) / threshold;
    k.sum = above + k.ties * threshold;
    return k;
}

/* A number in [0, sum). */
SAMPLE_INLINE uint64_t sample_place(double draw, uint64_t sum)
{
    const uint64_t place = (uint64_t)(draw * (double)sum);
    return place < sum ? place : sum - 1;
}
