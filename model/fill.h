/*
 * fill.h - the buffers of groups of matrices with their adapters (linear.h) from what is stored.
 *
 * buffer (O + R, K + R) in the compute type: decoded W, beside it s B, below it A; the rest of both strips is zero and
 * the corner is left as it is. On CUDA all groups, as those of a layer, are one launch, which reads the codes once and
 * writes the buffers once. Matrices that are not quantized are copied.
 */
#pragma once

#include "quant/nf4.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { FILL_PARTS_MAX = 3, FILL_GROUPS_MAX = 4 };

typedef struct FillPart {
    int64_t rows, first_row;
    const QuantMatrix *quant; /* null: `plain` */
    Tensor plain;             /* (rows, K) in the compute type */
    int64_t rank, first_side; /* rank 0: no adapter */
    Tensor a, b;              /* (rank, K), (rows, rank) f32 */
    float scale;
} FillPart;

typedef struct Fill {
    Tensor buffer;
    int64_t rows, cols, side; /* O, K, R */
    FillPart parts[FILL_PARTS_MAX];
    int count;
} Fill;

/* `groups` (count of one compute type); `weights` false: only the strips of the adapters. */
void fill_buffers(Backend *be, const Fill *groups, int count, bool weights);

#ifdef __cplusplus
}
#endif
