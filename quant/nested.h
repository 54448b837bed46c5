/*
 * nested.h - the second quantization: absmax of the weight blocks as 8-bit codes around their mean.
 *
 * Included by quant/nf4.c and by tests only.
 */
#pragma once

#include "quant/blockwise.h"

enum { NESTED_BLOCK = 256 };

/*
 * offset = mean of absmax; codes of (absmax - offset) / nested_absmax in `map`, a block of 256 at a time. A block that
 * equals the offset everywhere gets code 0 and nested_absmax 0, as in bitsandbytes.
 */
void nested_encode(uint8_t *codes, float *nested_absmax, float *offset, const float map[256], const float *absmax,
                   int64_t count);

/*
 * Mean in the order in which PyTorch sums a contiguous f32 vector on one CPU thread (eight lanes, four vectors side by
 * side, partial sums folded by levels), so that the offset equals bitsandbytes' there. Its GPU order is unspecified.
 */
float nested_mean(const float *x, int64_t count);

/* One absmax again: product and sum rounded one by one. */
static inline float nested_value(const float map[256], uint8_t code, float nested_absmax, float offset)
{
    const float deviation = map[code] * nested_absmax;
    return deviation + offset;
}
