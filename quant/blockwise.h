/*
 * blockwise.h - 8-bit codes of a block of values: the dynamic maps of bitsandbytes, and finding the nearest code.
 *
 * signed map: 256 sorted values, [127] = 0, [255] = 1, no -1. unsigned map: [0] = 0, [255] = 1. Exact ties go to the
 * even code. Checksums of the maps are tested (CRC-32 1B137AEB signed, E871278F unsigned).
 * Source: Dettmers et al. 2022, "8-bit optimizers via block-wise quantization", arXiv:2110.02861.
 */
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

void blockwise_map_signed(float map[256]);
void blockwise_map_unsigned(float map[256]);

/* The code nearest to y in a sorted map; NaN gives 0, values below the map 0. */
uint8_t blockwise_code(const float map[256], float y);

/* The same of `count` values, in vector code where there is some. */
void blockwise_codes(uint8_t *codes, const float map[256], const float *y, int count);

/* out = map[code] * scale */
void blockwise_values(float *out, const float map[256], const uint8_t *codes, float scale, int count);

#ifdef __cplusplus
}
#endif
