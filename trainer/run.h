/*
 * run.h - a training run from a Config to an adapter: plan, data, weights, updates, checkpoints, export.
 *
 * Update u (from 0) consumes rows [u * G, (u + 1) * G) of the endless row sequence, G = micro_batch_size *
 * gradient_accumulation_steps; epochs follow one another without a break, and the last update may be partial. Nothing
 * depends on wall time but save_minutes and the log: 20 updates are 10, kill, resume, 10 more, to the bit.
 */
#pragma once

#include "trainer/plan.h"
#include "trainer/session.h"

/* All zero in production. */
typedef struct RunOptions {
    BackendHooks hooks;      /* storage and brackets of a test backend */
    bool reference;          /* plain matrix products */
    int64_t interrupt_after; /* as if SIGTERM came after so many micro-batches of this run; 0: never */
    double first_loss_scale; /* of a new run in fp16; 0: LOSS_SCALE_FIRST */
    bool no_signals;         /* leave the process's signals alone */
} RunOptions;

typedef struct RunReport {
    int64_t first_step, last_step; /* updates done before and after this call */
    int64_t total_steps;
    bool finished_before; /* the run was over already: nothing was trained */
    bool stopped_early;
    double loss;                   /* of the last update */
    uint64_t planned_peak_bytes;   /* of the plan */
    uint64_t peak_memory_bytes;    /* of the device: run_watch_memory */
    uint64_t allocations_in_steps; /* by updates after the first one of this call; 0 is the promise */
    int64_t saves, failed_saves;
    int64_t withheld; /* updates of this call that changed nothing */
} RunReport;

/* ERR_INTERRUPTED when a signal stopped it and the work is saved; ERR_DIVERGED when the watchdog did. */
bool run_train(const Config *config, const RunOptions *options, RunReport *report, Err *err) MUST_USE;

/* Prompts of generate_samples, rendered; none when the key is not set. */
bool run_sample_prompts(Prompts *out, const Session *s, Err *err) MUST_USE;
