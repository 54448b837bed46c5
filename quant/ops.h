/*
 * ops.h - the table of this folder's operations; each backend fills one (quant/nf4.h describes them).
 */
#pragma once

#include "quant/nf4.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct QuantOps {
    void (*decode)(Backend *be, const Tensor *w, const QuantMatrix *m);
    void (*encode)(Backend *be, const QuantEncode *e, const QuantOptions *options);
} QuantOps;

/*
 * Codes of `values` (f32, bf16 or f16, dense), which are elements first .. of the matrix, into m->codes, and the largest
 * |x| of each block into its place in absmax (nb) f32. A block with a value that is not finite gets the bits QUANT_BAD
 * | (QUANT_BLOCK_MAX - 1 - its place in the block) << 1 | (1: infinite, 0: NaN) of the first one.
 */
enum { QUANT_BAD = 0x7f800000, QUANT_BLOCK_MAX = 4096 };

typedef struct EncodeOps {
    void (*run)(Backend *be, const QuantMatrix *m, const Tensor *absmax, int64_t first, const Tensor *values);
} EncodeOps;

#if QLORA_CUDA
extern const QuantOps quant_ops_cuda;
extern const EncodeOps encode_ops_cuda;
#endif

#ifdef __cplusplus
}
#endif
