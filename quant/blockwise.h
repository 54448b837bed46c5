/*
 * blockwise.h - 8-bit codes of a block of values: the dynamic maps of bitsandbytes, and finding the nearest code.
 *
 * signed map: 256 sorted values, [127] = 0, [255] = 1, no -1. unsigned map: [0] = 0, [255] = 1. Exact ties go to the
 * even code. Checksums of the maps are tested (CRC-32 1B137AEB signed, E871278F unsigned).
 * Source: Dettmers et al. 2022, "8-bit optimizers via block-wise quantization", arXiv:2110.02861.
 */
#pragma once

#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

void blockwise_map_signed(float map[256]);
void blockwise_map_unsigned(float map[256]);

/* The code nearest to y in a sorted map; NaN gives 0, values below the map 0. */
uint8_t blockwise_code(const float map[256], float y);

/*
 * The codes that bitsandbytes (0.50 and later) finds on the CPU: y in [-1, 1] is first rounded to one of 65,536 steps,
 * (y + 1) * 32767.5 to nearest, and the step gets the nearest code. So codes 124..130 of the signed and 1..6 of the
 * unsigned map never occur: 0 becomes 2.1e-5 (signed) or 1.6e-5 (unsigned), which also keeps a small second moment from
 * falling to zero beside large neighbours. Its CUDA kernels take the nearest code of y itself; 0.2 % of the codes of a
 * real model's absmax differ by one. We follow the CPU, where every byte can be compared. `y` is overwritten.
 */
void blockwise_codes(uint8_t *codes, const float map[256], float *y, int count);

/* The largest |x|; 0 of none. Where a NaN is among them the result is one. Bits without the sign order like integers,
 * which the compiler reduces in vector code; fmaxf it does not. */
static inline float blockwise_largest(const float *x, int count)
{
    int32_t most = 0;
    float value;
    for (int i = 0; i < count; i++) {
        int32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        bits &= INT32_MAX;
        most = bits > most ? bits : most;
    }
    memcpy(&value, &most, sizeof value);
    return value;
}

/* out = map[code] * scale */
void blockwise_values(float *out, const float map[256], const uint8_t *codes, float scale, int count);

#ifdef __cplusplus
}
#endif
