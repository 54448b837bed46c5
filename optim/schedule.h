/*
 * schedule.h - the learning rate of an update.
 *
 * Linear rise over `warmup` updates (update u of 0.. gets (u + 1) / (warmup + 1)... see schedule_rate), then cosine,
 * linear, constant or warmup-stable-decay down to floor * peak at `total`. Equal to transformers' lambdas: before
 * update u (0-based) the factor is u / max(1, warmup) while u < warmup.
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

/* Rate of update `step`, counted from 1 (the first update gets the factor of u = 0). */
double schedule_rate(const Schedule *s, int64_t step);

#ifdef __cplusplus
}
#endif
