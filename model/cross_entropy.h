/*
 * cross_entropy.h - token losses of one chunk of logits, and their gradient in place.
 *
 * logits (n, V) f32 (or the compute type), targets (n) i32 on the device, every one a real token. With smoothing e,
 * loss = (1 - e) * (lse - logit[target]) + e * (lse - mean_v logit[v])  (as torch's label_smoothing).
 * Writes losses (n) f32. With `gradient` set (same dtype and shape as the matrix product that follows wants; may be
 * the storage of logits when the dtype is the same): gradient = scale * (softmax - (1 - e) * onehot - e / V).
 * scale = 1 / trained tokens of the whole update. A row with a non-finite logit yields a non-finite loss.
 */
#pragma once

#include "backend/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

void cross_entropy(Backend *be, const Tensor *losses, const Tensor *gradient, const Tensor *logits,
                   const Tensor *targets, float smoothing, float scale);

#ifdef __cplusplus
}
#endif
