/*
 * ops.h - the tables of this folder's operations; each backend fills one (elementwise.h, matmul.h describe them).
 */
#pragma once

#include "backend/elementwise.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ElementwiseOps {
    void (*zero)(Backend *be, const Tensor *out);
    void (*copy)(Backend *be, const Tensor *out, const Tensor *in);
    void (*add)(Backend *be, const Tensor *out, const Tensor *a, const Tensor *b);
    void (*scale)(Backend *be, const Tensor *out, const Tensor *in, float factor);
    TensorNorm (*norm)(Backend *be, const Tensor *in);
} ElementwiseOps;

/* Plain sizes and strides of a checked product. */
typedef struct Product {
    const void *a, *b;
    void *out;
    DType in, to; /* of a and b; of out */
    int64_t m, n, k;
    int64_t a_stride, b_stride, out_stride; /* elements from row to row as stored */
    bool transpose_a, transpose_b, accumulate;
    float alpha;
} Product;

typedef struct MatmulOps {
    void (*product)(Backend *be, const Product *p);
    void (*gradient)(Backend *be, const Product *p, float *scratch);
} MatmulOps;

#if QLORA_CUDA
extern const ElementwiseOps elementwise_ops_cuda;
extern const MatmulOps matmul_ops_cuda;
#endif

#ifdef __cplusplus
}
#endif
