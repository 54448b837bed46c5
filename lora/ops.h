/*
 * ops.h - the table of this folder's operations; each backend fills one (lora_dropout in lora/lora.h).
 */
#pragma once

#include "lora/lora.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Eight elements share one Philox block: 16 bits each decide, so p is honoured to 2^-17. Blocks are counted in the
 * dense matrix, whatever the strides are, so that forward and backward draw the same mask.
 */
typedef struct Mask {
    RngKey key;
    uint32_t threshold; /* of 65536; below it: dropped */
    float keep;         /* 1 / (1 - p) */
} Mask;

typedef struct DropoutOps {
    void (*apply)(Backend *be, const Tensor *out, const Tensor *in, const Mask *m);
} DropoutOps;

#if QLORA_CUDA
extern const DropoutOps dropout_ops_cuda;
#endif

#ifdef __cplusplus
}
#endif
