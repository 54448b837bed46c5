/*
 * clip.h - by how much all gradients are scaled down: a limit on the global norm, and a percentile of recent norms.
 *
 * Norm limit: factor = max / (norm + 1e-6), as torch.nn.utils.clip_grad_norm_. Percentile: the norm of this update joins
 * the last 100 (the first one fills all places) and whatever exceeds the percentile-th smallest is scaled down to it,
 * as bitsandbytes did per tensor. Of two limits the tighter one counts.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum { CLIP_WINDOW = 100 };

typedef struct ClipHistory {
    double norms[CLIP_WINDOW]; /* slot of update u (from 1): u % 100 */
} ClipHistory;

typedef struct ClipResult {
    double factor; /* 1: nothing was clipped */
    bool norm_clipped, percentile_clipped;
} ClipResult;

/* Enters `norm` as that of update `update` (from 1). max_norm 0 and percentile 0 or 100 turn a limit off. */
ClipResult clip_factor(ClipHistory *history, int64_t update, double norm, double max_norm, int percentile);
