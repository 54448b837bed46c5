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

#if QLORA_CUDA
extern const QuantOps quant_ops_cuda;
#endif

#ifdef __cplusplus
}
#endif
