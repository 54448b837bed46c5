/*
 * checkpoint.h - folders RUN/checkpoint-NNNNNNNN that are whole or absent.
 *
 * A save is written into the sibling .checkpoint-NNNNNNNN.tmp, every file synced; manifest.json, written last, holds
 * size and XXH3-128 of each; then the folder is synced and renamed and its parent synced (invariant I4). A reader
 * trusts nothing but a manifest that matches. "The newest" is computed from the folders, never stored.
 * Names that start with ".checkpoint-" in a run's folder are ours and are removed when a run starts.
 */
#pragma once

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

typedef struct Checkpoint {
    int64_t step;
    char *temporary; /* where the caller writes its files */
    char *folder;    /* where they stand after the commit */
    char *replaced;  /* an older folder of the same step moves here meanwhile */
} Checkpoint;

bool checkpoint_begin(Checkpoint *out, const char *output_dir, int64_t step, Err *err) MUST_USE;
/* One small file into the temporary folder, synced. */
bool checkpoint_write(const Checkpoint *c, const char *name, const char *bytes, size_t length, Err *err) MUST_USE;
/* Manifest, sync, rename, sync. The struct is freed in either case; on failure the temporary folder is removed. */
bool checkpoint_commit(Checkpoint *c, Err *err) MUST_USE;
void checkpoint_discard(Checkpoint *c); /* removes the temporary folder; accepts a zeroed struct */

/* ERR_CHECKPOINT says what is wrong with it. `step`: the step it must be of, -1: any. */
bool checkpoint_verify(const char *folder, int64_t step, Err *err) MUST_USE;

/* Steps of the checkpoint folders, ascending; whole or not. */
typedef struct CheckpointList {
    int64_t *steps;
    size_t count, capacity;
} CheckpointList;
bool checkpoint_list(CheckpointList *out, const char *output_dir, Err *err) MUST_USE;
void checkpoint_list_free(CheckpointList *list);

/*
 * The newest checkpoint of a step <= at_most that verifies; damaged ones are named in a warning and passed over.
 * *folder is null when there is none; the caller frees it with mem_free.
 */
bool checkpoint_newest(char **folder, int64_t *step, const char *output_dir, int64_t at_most, Err *err) MUST_USE;

/* "OUTPUT_DIR/checkpoint-00000100", mem_free. */
char *checkpoint_folder(const char *output_dir, int64_t step, Err *err) MUST_USE;

/* The folder of this step leaves its name at once and then the disk: whole or absent also while it goes. */
bool checkpoint_remove(const char *output_dir, int64_t step, Err *err) MUST_USE;

/* Removes all but the newest `keep` (at least one) and the one of step `best` (-1: none). */
bool checkpoint_rotate(const char *output_dir, int64_t keep, int64_t best, Err *err) MUST_USE;

/* Removes what an interrupted save left behind. */
bool checkpoint_clean(const char *output_dir, Err *err) MUST_USE;
