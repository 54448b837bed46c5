/*
 * nf4_tables.h - thresholds of the 4-bit codes and the pieces that encoding shares between its plain and vector form.
 *
 * A value y = x / absmax gets the number of thresholds strictly below it (a value equal to one stays below it): that is
 * the NF4 code, and the index into fp4_codes, the FP4 codes by the size of their level. The NF4 thresholds are what
 * bitsandbytes' CUDA kernels hold; averaging neighbouring levels in f32 gives some of them one ulp away. The FP4
 * thresholds are these averages, as in its CPU code: code 8 (minus zero) stands above code 0, for small positive values.
 */
#pragma once

#include <math.h>
#include <stdint.h>

/* Padded with infinity, so that vector code can load 16 of them from any of the first four. */
enum { THRESHOLDS = 15, THRESHOLD_ROOM = 19 };

static const float nf4_thresholds[THRESHOLD_ROOM] = {
    -0x1.b239b2p-1f, -0x1.38a4ep-1f, -0x1.d709p-2f, -0x1.5bd4ecp-2f, -0x1.e079d8p-3f, -0x1.1a7178p-3f, -0x1.74f0e2p-5f,
    0x1.45f5fep-5f,  0x1.ec90c6p-4f, 0x1.a0cfcp-3f, 0x1.2b05a8p-2f,  0x1.8ea7f2p-2f,  0x1.00da06p-1f,  0x1.491b5ep-1f,
    0x1.b913b2p-1f,  INFINITY,       INFINITY,      INFINITY,        INFINITY,
};
static const float fp4_thresholds[THRESHOLD_ROOM] = {
    -0x1.aaaaacp-1f, -0x1.2aaaacp-1f, -0x1.aaaaacp-2f, -0x1.2aaaacp-2f,
    -0x1.aaaaacp-3f, -0x1.6p-4f,      -0x1.555556p-9f, 0.0f,
    0x1.555556p-9f,  0x1.6p-4f,       0x1.aaaaacp-3f,  0x1.2aaaacp-2f,
    0x1.aaaaacp-2f,  0x1.2aaaacp-1f,  0x1.aaaaacp-1f,  INFINITY,
    INFINITY,        INFINITY,        INFINITY,
};
static const uint8_t fp4_codes[16] = {11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3};
