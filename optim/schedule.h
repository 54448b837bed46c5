/*
 * schedule.h - the learning rate of an update.
 *
 * Update `step` is counted from 1; with u = step - 1, W = warmup, T = total, D = decay, f = floor, rate = peak * factor:
 *   u < W       u / W; WSD: f + (1 - f) * u / W. The first update of a warmup therefore has rate 0 (f for WSD).
 *   afterwards  f + (1 - f) * shape, with progress p held to 0..1
 *     cosine    (1 + cos(pi * p)) / 2    p = (u - W) / (T - W)
 *     linear    1 - p                    p = (u - W) / (T - W)
 *     WSD       1 - p                    p = (u - (T - D)) / D
 *     constant  1
 * p reaches 1 after the last update (u = T), not at it. Equal to the lambdas of transformers 5.23: cosine,
 * cosine_with_min_lr, linear, constant_with_warmup, warmup_stable_decay with decay_type linear.
 */
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ScheduleKind { SCHEDULE_COSINE, SCHEDULE_LINEAR, SCHEDULE_CONSTANT, SCHEDULE_WSD } ScheduleKind;

typedef struct Schedule {
    ScheduleKind kind;
    double peak;
    double floor;   /* share of the peak at the end: min_lr_ratio */
    int64_t warmup; /* updates */
    int64_t total;  /* updates */
    int64_t decay;  /* updates of the final fall; WSD only */
} Schedule;

double schedule_rate(const Schedule *s, int64_t step);

#ifdef __cplusplus
}
#endif
