/*
 * product.h - one row of a 4-bit matrix times a few vectors, without writing decoded weights to memory.
 *
 * For CPU bodies of operations (they bring the bracket and the threads). Generation reads every weight once for a
 * handful of vectors, so the 4.1 bits a weight are all that moves: per 32 weights one load of 16 bytes, two table
 * lookups, two multiply-adds a vector; absmax is multiplied in once a block. Sums are f32.
 */
#pragma once

#include "quant/nf4.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { QUANT_PRODUCT_VECTORS = 4 };

/* x (cols) in the order in which quant_row_product wants it: of each 32 the even elements, then the odd ones; as it is
 * when cols is no multiple of 32. */
void quant_product_order(float *to, const float *x, int64_t cols);

/* out[i] = sum_k w[row][k] * x_i[k] for n <= QUANT_PRODUCT_VECTORS vectors, each `cols` ordered floats at x + i * cols. */
void quant_row_product(float *out, const QuantMatrix *m, int64_t row, const float *x, int n);

/* The same in plain C, whatever the processor. */
void quant_row_product_plain(float *out, const QuantMatrix *m, int64_t row, const float *x, int n);

#ifdef __cplusplus
}
#endif
