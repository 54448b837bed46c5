/*
 * sample.h - the next token of each row of logits: the likeliest, or one drawn with temperature and top-p.
 *
 * temperature 0: the first of the largest logits. Otherwise each token has the integer weight
 * floor(2^32 e^((logit - largest) / temperature)), so that sums depend on no order and every backend draws the same token
 * from the same logits. Kept are the likeliest tokens whose weights reach top_p of all, among equals the first ones; one
 * of them is drawn with a chance that is its weight. What weighs less than 2^-32 of the likeliest, or is not a number, is
 * never drawn. A row without any weight (a logit is infinite) yields its first largest logit.
 */
#pragma once

#include "backend/backend.h"
#include "base/rng.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Sampling {
    float temperature; /* 0: the likeliest */
    double top_p;      /* 0..1; 1: all */
    RngKey key;        /* of this draw */
} Sampling;

/* ids (n) i32, logits (n, V) f32, both on the device; `how` (n) on the host. */
void sample_rows(Backend *be, const Tensor *ids, const Tensor *logits, const Sampling *how);

#ifdef __cplusplus
}
#endif
