/*
 * workspace.h - a folder with a tiny model and data, training runs in it, and looks at what they leave.
 */
#pragma once

#include "trainer/run.h"

typedef struct Workspace {
    char *folder;
    char *previous; /* current directory before; the workspace is the current one until it is freed */
} Workspace;

/* model/ (tiny, tied, F32), train.jsonl (`rows` chats), test.jsonl. Also makes it the current directory. */
void workspace_make(Workspace *w, int rows);
void workspace_free(Workspace *w);

/*
 * Trains with a small default configuration (rows of 96 tokens, no packing, 2 micro-batches of 1 row, rank 4, fp32)
 * into `output`; `more` are further YAML lines, which replace defaults of the same key. `options` may be null.
 */
bool workspace_train(const char *output, const char *more, const RunOptions *options, RunReport *report, Err *err);
/* The configuration alone; config_free. */
Config *workspace_config(const char *output, const char *more);
/* Writes it to `path`, for a program. */
void workspace_write_config(const char *path, const char *output, const char *more);

/* Whether two files have the same bytes. */
bool workspace_same(const char *a, const char *b);
/* OUTPUT_A/NAME equals OUTPUT_B/NAME. */
bool workspace_same_in(const char *output_a, const char *output_b, const char *name);

/* Values of `key` in the update lines of output/metrics.jsonl (those with "loss"), in order; null is NaN. */
int workspace_curve(const char *output, const char *key, double *values, int max);
