/*
 * rmsnorm.h - root-mean-square normalisation with a gain.
 *
 * y = x * r * w, r = (mean_j x_j^2 + eps)^-1/2 per row, statistics in f32. x, y, dy, dx (N, C) in the compute type,
 * possibly strided; w (C) f32 or compute type, frozen.
 * Backward recomputes r: with g = dy * w,  dx = r * (g - x * r^2 * mean_j(g_j x_j)); y comes out once more where it is
 * asked for.
 * In f32 this is Hugging Face's LlamaRMSNorm; in bf16 theirs rounds x*r to bf16 before the gain and ours does too.
 */
#pragma once

#include "backend/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

void rmsnorm_forward(Backend *be, const Tensor *y, const Tensor *x, const Tensor *w, float eps);

/* x += add, rounded to the compute type, before it is normed: a residual sum and the norm after it in one pass. */
void rmsnorm_add_forward(Backend *be, const Tensor *y, const Tensor *x, const Tensor *add, const Tensor *w, float eps);

/* dx (+)= ...; with `accumulate` it is added to dx (the residual branch). y: what forward gave; null: not needed. */
void rmsnorm_backward(Backend *be, const Tensor *dx, const Tensor *y, const Tensor *dy, const Tensor *x,
                      const Tensor *w, float eps, bool accumulate);

#ifdef __cplusplus
}
#endif
