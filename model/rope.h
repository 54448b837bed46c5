/*
 * rope.h - rotary position embedding, half-split ("rotate half") layout, in place.
 *
 * For heads 0..heads-1 of qk (N, >= heads*D): pair (i, i + D/2), angle p * frequency[i]; cos and sin are multiplied by
 * `attention_factor`. `table` (P, D) f32 holds cos (first D/2) and sin (second D/2) of positions 0..P-1, computed in
 * f32 as Hugging Face does (model/spec.h gives the frequencies). Backward is the rotation by minus the angle.
 */
#pragma once

#include "backend/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Fills the table from frequencies (D/2, host). */
void rope_table(Backend *be, const Tensor *table, const float *frequencies, float attention_factor);

/* positions (N) i32 */
void rope_apply(Backend *be, const Tensor *qk, const Tensor *table, const Tensor *positions, int heads, int head_dim,
                bool backward);

#ifdef __cplusplus
}
#endif
