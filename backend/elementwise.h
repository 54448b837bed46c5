/*
 * elementwise.h - operations on every element of a tensor; matrices may be strided. f32 inside, rounded once at the end.
 */
#pragma once

#include "backend/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

void tensor_zero(Backend *be, const Tensor *out);
void tensor_copy(Backend *be, const Tensor *out, const Tensor *in);                /* converts the dtype */
void tensor_add(Backend *be, const Tensor *out, const Tensor *a, const Tensor *b); /* out may be a or b */
void tensor_scale(Backend *be, const Tensor *out, const Tensor *in, float factor); /* converts the dtype */

/* Sum of squares in f64 with a fixed order, and whether every element is finite (no early exit: data never decides
 * how long it takes). f32 input. */
typedef struct TensorNorm {
    double sum_squares;
    bool finite;
} TensorNorm;
TensorNorm tensor_norm(Backend *be, const Tensor *in);

#ifdef __cplusplus
}
#endif
