/*
 * kernels.h - encoding one block of 4-bit codes and decoding a run of them, each in plain C and with AVX-512.
 *
 * Both forms yield the same bytes. Included by quant/nf4.c and by the tests of this folder only.
 */
#pragma once

#include "quant/nf4.h"

/*
 * Codes of one block of n values into (n + 1) / 2 bytes; *absmax is its largest |x|. False when a value is not finite.
 * Follows bitsandbytes' kernels, subnormal numbers taken as zero included: an all-zero block gets code 0 everywhere.
 */
bool kernel_encode_plain(uint8_t *codes, float *absmax, const float *x, int64_t n, QuantType type);
bool kernel_encode(uint8_t *codes, float *absmax, const float *x, int64_t n, QuantType type);

/* `count` elements from flat index `first` on, all of one block: out[i] = values[code of element first + i]. */
void kernel_decode_f32_plain(float *out, const uint8_t *codes, int64_t first, int64_t count, const float values[16]);
void kernel_decode_f32(float *out, const uint8_t *codes, int64_t first, int64_t count, const float values[16]);
void kernel_decode_u16_plain(uint16_t *out, const uint8_t *codes, int64_t first, int64_t count,
                             const uint16_t values[16]);
void kernel_decode_u16(uint16_t *out, const uint8_t *codes, int64_t first, int64_t count, const uint16_t values[16]);
