/*
 * thin.h - a group of matrices with adapters times one to four rows, for generation: bound by reading the weights.
 *
 * y = x W^T + bias + scale (x A^T) B^T. Quantized matrices are multiplied as they lie (quant/product.h), nothing is
 * decoded into memory, and the whole group is one operation, because with one row starting threads costs as much as
 * the work. Everything between x and y is f32, from the f32 masters of A and B.
 */
#pragma once

#include "quant/nf4.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { THIN_ROWS = 4, THIN_PARTS = 3 };

typedef struct ThinPart {
    int64_t rows;
    const QuantMatrix *quant; /* null: `plain` */
    Tensor plain;             /* (rows, K) f32 or bf16, possibly strided */
    int64_t rank;             /* 0: no adapter */
    Tensor a, b;              /* (rank, K), (rows, rank) f32 */
    float scale;
} ThinPart;

typedef struct Thin {
    ThinPart parts[THIN_PARTS];
    int count;
    const Tensor *bias; /* (O) f32 or bf16, or null */
} Thin;

/* y (n, O) and x (n, K), n <= THIN_ROWS, each f32 or bf16; scratch holds thin_scratch() f32 elements. */
void thin_forward(Backend *be, const Thin *t, const Tensor *y, const Tensor *x, const Tensor *scratch);
int64_t thin_scratch(int64_t cols, int64_t ranks);

#ifdef __cplusplus
}
#endif
