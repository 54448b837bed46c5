/*
 * host_speed.h - how fast this machine's processor is at the operations of a model, measured in a fraction of a second.
 *
 * The figures have the shape of a card's (device_card.h, `measured`), so that the same sum (step_time.h) gives an
 * estimate of a run: products in both directions, decode, SwiGLU for everything that is bound by memory, attention
 * forward and backward, each in a piece of the model's own shape and type and the best of a few repetitions. That is a
 * quiet machine's speed: on two cores with five other busy processes runs of a 135 M model took 1.3 to 2 times as long.
 */
#pragma once

#include "backend/backend.h"
#include "model/model.h"
#include "trainer/device_card.h"

/* For micro-batches of so many tokens in segments of `segment` tokens. Takes some 10 to 100 MB while it runs. */
bool host_speed_measure(DeviceCard *out, Backend *be, const ModelSpec *spec, const ModelOptions *options,
                        int64_t tokens, int64_t segment, Err *err) MUST_USE;
