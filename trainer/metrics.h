/*
 * metrics.h - output_dir/metrics.jsonl: one object an update, one an evaluation; the source of truth for every curve.
 *
 * Update: step (from 1), epoch, loss (mean over the update's trained tokens), learning_rate, grad_norm (before
 * clipping), tokens (all that went through), trained_tokens, tokens_per_second, seconds, peak_memory_bytes (of the
 * device: on a card of all its processes), host_memory_bytes (of this process), time (UTC),
 * applied (false: withheld, weights unchanged), loss_scale (fp16: what gradients were multiplied with on the way, else 1;
 * grad_norm is without it), overflowed_updates (of the run so far: withheld because of it), and how often each clamp acted: norm_clipped, percentile_clipped (0 or
 * 1), value_clipped, variance_floored, variance_capped (elements), rms_clipped (tensors). Evaluation: step, eval_loss,
 * perplexity, tokens, seconds, time. Numbers have full precision; what is not finite is null. Lines are
 * appended and never rewritten; a resume cuts the file back to the checkpoint's step, so nothing stands twice. A line
 * that could not be written (a full disk) waits in memory and goes first the next time.
 */
#pragma once

#include "optim/adamw.h"

typedef struct UpdateMetrics {
    int64_t step;
    double epoch, loss, learning_rate;
    AdamwReport report; /* grad_norm, applied, clamps */
    double loss_scale;
    bool overflowed; /* withheld because of the loss scale, which is lower now */
    int64_t overflows;
    int64_t tokens, trained_tokens;
    double seconds;
    uint64_t peak_memory_bytes, host_memory_bytes;
} UpdateMetrics;

typedef struct EvalMetrics {
    int64_t step;
    double loss;    /* mean over the targets */
    int64_t tokens; /* targets */
    double seconds;
} EvalMetrics;

enum { METRICS_LINE_MAX = 1536, METRICS_PENDING_MAX = 256 << 10 };

typedef struct MetricsLog {
    char *path;    /* owned */
    char *pending; /* (METRICS_PENDING_MAX) lines not written yet; owned */
    size_t used;
} MetricsLog;

/* Cuts the file behind `step` (metrics_cut) and makes room for waiting lines. */
bool metrics_open(MetricsLog *out, const char *path, int64_t step, const char *redone, Err *err) MUST_USE;
void metrics_close(MetricsLog *log); /* accepts a zeroed struct */

/* Append one line each; nothing is allocated but the file's name. False: it waits, or there is no more room. */
bool metrics_update(MetricsLog *log, const UpdateMetrics *m, Err *err) MUST_USE;
bool metrics_eval(MetricsLog *log, const EvalMetrics *m, Err *err) MUST_USE;
bool metrics_flush(MetricsLog *log, Err *err) MUST_USE; /* what waits */

/* Cuts the file behind the last whole line of a step <= `step`; a file that is not there is fine. `redone`: lines of
 * `step` itself with this member go too, because they will be written again; null: none. */
bool metrics_cut(const char *path, int64_t step, const char *redone, Err *err) MUST_USE;
