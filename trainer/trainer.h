/*
 * trainer.h - what the parts of a run share: run.c (start and end), loop.c (order of events), update.c (one update), saving.c (checkpoints and
 * the final adapter), resume.c (where to go on), console.c (lines for people), sampling.c (generated samples).
 */
#pragma once

#include "base/file.h"
#include "trainer/evaluate.h"
#include "trainer/metrics.h"
#include "trainer/run.h"
#include "trainer/state.h"
#include "trainer/tensorboard.h"

typedef struct Trainer {
    const Config *config;
    const RunOptions *options;
    RunReport *report;
    Session session;
    Plan plan;
    Schedule schedule;
    RunState state;
    File lock; /* of output_dir */

    BatchCursor *cursor;      /* training rows */
    BatchCursor *eval_cursor; /* validation rows; null: none */
    Prompts prompts;
    Generator *generator; /* null: no samples */
    MetricsLog metrics;
    Tensorboard board;
    char *metrics_path, *samples_path, *page_path, *board_path;
    Text run_yaml; /* the resolved configuration, for every checkpoint */

    int64_t eval_interval, save_interval; /* updates; 0: by epoch */
    int64_t saved_step;                   /* of the newest checkpoint of this run; -1: none */
    bool save_failed;                     /* the last attempt */
    double saved_at, started_at;          /* process_seconds */
    int64_t started_step;
    const char *finished;   /* the checkpoint of a run that was over when it was started again; else null */
    int64_t micro_batches;  /* of this call */
    double trained_seconds; /* inside updates */
    int64_t trained_tokens_now;
    uint64_t device_peak; /* run_watch_memory */
    bool gave_up;         /* the watchdog stopped the run */
    char trouble[768];    /* what it saw last */
    bool log_failed, board_failed;
} Trainer;

/* run.c: notes what the device holds now. On a card that is what all processes hold together, as nvidia-smi shows it; on
 * the CPU it is this process's resident peak. */
void run_watch_memory(Trainer *t);

/* update.c: one update. *interrupted: a signal came between micro-batches and nothing was changed. */
bool update_run(Trainer *t, UpdateMetrics *out, bool *interrupted, Err *err) MUST_USE;
bool update_asked_to_stop(const Trainer *t);

/* loop.c: updates until the end, a signal, or the watchdog. *interrupted: a signal; what is done is saved. */
bool loop_run(Trainer *t, bool *interrupted, Err *err) MUST_USE;

/* saving.c */
bool saving_checkpoint(Trainer *t, Err *err) MUST_USE;                  /* of state.step */
bool saving_restore(Trainer *t, const char *folder, Err *err) MUST_USE; /* adapter and optimizer of a checkpoint */
bool saving_export(Trainer *t, Err *err) MUST_USE; /* adapter and tokenizer files into output_dir */
bool saving_exported(const Trainer *t);            /* whether they stand there */

/* resume.c: sets state from the checkpoint to go on from; *folder null: a new run. mem_free. */
bool resume_find(Trainer *t, char **folder, Err *err) MUST_USE;

/* sampling.c */
bool sampling_run(Trainer *t, Err *err) MUST_USE;

/* console.c */
bool console_plan(const Trainer *t, Err *err) MUST_USE;
void console_update(const Trainer *t, const UpdateMetrics *m);
void console_evaluation(const Trainer *t, const EvalMetrics *m);
void console_summary(const Trainer *t);
