/*
 * swiglu.h - y = silu(gate) * up, with gate and up side by side.
 *
 * gu (N, 2F): gate in the first F columns, up in the last F. y (N, F), possibly strided. silu(x) = x / (1 + e^-x), f32
 * inside. Backward overwrites dgu (N, 2F), which may be gu itself, and gives y once more where it is asked for:
 * dgate = dy * up * (s + gate * s * (1 - s)), dup = dy * silu(gate), with s = 1 / (1 + e^-gate).
 */
#pragma once

#include "backend/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

void swiglu_forward(Backend *be, const Tensor *y, const Tensor *gu);
/* y: what forward gave, in the same pass; null: not needed. */
void swiglu_backward(Backend *be, const Tensor *dgu, const Tensor *y, const Tensor *dy, const Tensor *gu);

#ifdef __cplusplus
}
#endif
