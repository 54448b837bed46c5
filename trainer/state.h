/*
 * state.h - trainer_state.json: where a run stands. Everything a resumed run needs besides weights and optimizer.
 *
 * Positions are numbers; random draws are keyed by (seed, step), so there is no generator state to store.
 */
#pragma once

#include "base/err.h"
#include "base/hash.h"
#include "trainer/loss_scale.h"
#include "trainer/watchdog.h"

typedef struct RunState {
    int64_t step;           /* updates done, withheld ones included */
    int64_t total_steps;    /* as planned when it was saved */
    int64_t rows;           /* consumed of the endless sequence */
    double epoch;           /* rows / rows of an epoch */
    int64_t tokens;         /* all tokens that went through */
    int64_t trained_tokens; /* of which targets */
    bool has_loss;
    double loss; /* of the last update, when finite */
    bool has_best;
    double best_loss; /* lowest eval_loss so far */
    int64_t best_step;
    int64_t evals_without_gain;
    bool stopped_early;
    bool eval_pending; /* a signal came before the evaluation of this step was over */
    bool resumable;    /* false: saved with save_only_model, so without optimizer state */
    WatchdogState watchdog;
    LossScale scale;
    char config_hash[HASH_TEXT];
    char data_fingerprint[HASH_TEXT];
    char base_fingerprint[HASH_TEXT];
} RunState;

/* Text of the file; the caller frees it with free (it is jansson's). */
char *state_to_json(const RunState *s, Err *err) MUST_USE;
/* ERR_CHECKPOINT when a member is missing, of another type or out of range. */
bool state_read(RunState *out, const char *path, Err *err) MUST_USE;
