/*
 * child.h - a training run in a process of its own, with a fault in it, and what it left behind.
 *
 * The process is forked before the parent has used any threads, so the parent must not train itself.
 */
#pragma once

#include "trainer/run.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct ChildFault {
    const char *file_operation; /* as file_fail_at's `operation`; null: none */
    uint64_t file_nth;
    int file_error; /* errno; -1: SIGKILL there */
    bool sticky;
    uint64_t disk_bytes;     /* writes fail with ENOSPC after so many bytes; 0: none */
    uint64_t memory_nth;     /* the n-th allocation fails; 0: none */
    int64_t interrupt_after; /* as if SIGTERM came after so many micro-batches; 0: never */
    double first_loss_scale; /* of a run in fp16; 0: the usual one */
    bool guarded;            /* arenas are closed outside of operations */
    bool reference;          /* plain matrix products: other bits, and none of the library's start-up time */
} ChildFault;

typedef struct ChildResult {
    int status; /* exit status; -1: killed by SIGKILL; -2: by another signal, or by the alarm of a run that hangs */
    uint64_t file_operations; /* only when it was not killed */
    uint64_t allocations;
    RunReport report;
    char error[ERR_TEXT_MAX]; /* what it says at its end; empty: nothing */
} ChildResult;

/* Runs `config_path` with the overrides (null-terminated list of "key=value", may be null). Output goes to LOG. */
ChildResult child_train(const char *config_path, const char *const *overrides, const ChildFault *fault,
                        const char *log_path);
