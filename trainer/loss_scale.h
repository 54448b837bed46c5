/*
 * loss_scale.h - the factor that keeps the gradients of fp16 inside its range, as torch.amp.GradScaler moves it.
 *
 * Small gradients vanish below 6e-8 in fp16, large ones become infinite above 65504. So the loss of every micro-batch is
 * multiplied by a power of 2 and the f32 gradients of the update are divided by it again, which is exact. A gradient that
 * is not finite although the loss is means that the factor was too large: the update is withheld and the factor halved.
 * After LOSS_SCALE_PATIENCE updates in a row without that it is doubled. At 1 the gradients themselves are too large, and
 * the update is as bad as any other whose gradients are not finite (watchdog.h).
 * Types with the range of f32 do without: factor 1, and nothing here changes it.
 * A pure function of its state, which every checkpoint carries, so a resumed run decides as the uninterrupted one.
 */
#pragma once

#include "base/tensor.h"

enum { LOSS_SCALE_PATIENCE = 2000 };
#define LOSS_SCALE_FIRST 65536.0
#define LOSS_SCALE_MOST                                                                                                \
    16777216.0 /* beyond it nothing is won, and updates without a gradient would raise it for ever */

typedef struct LossScale {
    double factor; /* 0: this run needs none */
    int64_t good;  /* updates in a row without overflow */
    int64_t overflows;
} LossScale;

/* For a run in this type from the state of its checkpoint (zeroed: a new run); `first` 0: LOSS_SCALE_FIRST. */
LossScale loss_scale_begin(const LossScale *saved, DType compute, double first);

/* What the loss is multiplied with: 1 where none is needed. */
double loss_scale_factor(const LossScale *s);

/* Whether an update with such a loss and gradient overflowed for the factor's sake. */
bool loss_scale_overflowed(const LossScale *s, double loss, bool finite_gradient);

/* After an update that overflowed, or one that was applied. */
void loss_scale_move(LossScale *s, bool overflowed);
