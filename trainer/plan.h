/*
 * plan.h - what a run will do and take, measured before anything is loaded: updates, tokens, memory by purpose.
 *
 * The arenas are measured by the code that later places them. What lies outside of them is taken from this process
 * itself (program, libraries, tokenizer, tokens are in memory when the plan is made) and from figures measured once
 * (code and buffers of the matrix products, staging while weights stream in).
 */
#pragma once

#include "base/json.h"
#include "trainer/generate_text.h"
#include "trainer/session.h"
#include "trainer/step_time.h"

typedef struct Plan {
    /* updates; 0 where the data are not there to count */
    int64_t rows;        /* of one epoch */
    int64_t total_rows;  /* of the run; the last update may be partial */
    int64_t total_steps; /* 0: unknown */
    int64_t trained_tokens;
    int64_t evaluation_rows;
    /* shapes */
    int64_t max_tokens;   /* longest micro-batch, of training, evaluation and prompts */
    int64_t cache_tokens; /* KV cache for samples, 0: none */
    int kept_layers, offloaded_layers;
    int layers;
    ModelSummary model;
    /* bytes */
    uint64_t weights, state, activations, scratch;
    uint64_t paged;           /* optimizer states on disk; not part of the peak */
    uint64_t host_embeddings; /* the table in pinned host memory; part of the host's peak */
    uint64_t offloaded;       /* layer inputs in pinned host memory; part of the host's peak */
    uint64_t process;         /* resident when the plan was made; on a card its context */
    uint64_t products; /* code and packing buffers of the matrix products; on a card cuBLAS' workspace and staging */
    uint64_t loading;  /* staging while weights stream in */
    uint64_t peak_memory_bytes; /* of the device */
    uint64_t host_memory_bytes; /* on a card: of the host; 0 on the CPU, where it is the same memory */
    StepTime time;              /* predicted, of an average update; total 0: not asked for, or no figures */
    uint64_t checkpoint_bytes;  /* on disk, each */
} Plan;

/* Needs the data and tokenizer open, where there are any. `prompts` (may be null) are the samples' prompts. Leaves
 * model and optimizer of the session created, not placed. ERR_MEMORY when the budget cannot be met. */
bool plan_make(Plan *out, Session *s, const Prompts *prompts, const char *page_path, Err *err) MUST_USE;

/* Only what follows from data and settings: updates, tokens, the longest micro-batch. */
bool plan_count(Plan *out, const Session *s, const Prompts *prompts, Err *err) MUST_USE;
/* Bytes of one checkpoint on disk; ERR_CONFIG when a 4-bit base was asked for and nothing is quantized. */
uint64_t plan_checkpoint_bytes(const Plan *p, const Session *s);
bool plan_check_quantized(const Plan *p, const Session *s, Err *err) MUST_USE;
/* Needs the model and optimizer of the plan in the session. Without data a micro-batch is full rows of sequence_len,
 * every token trained. */
bool plan_time(StepTime *out, const Plan *p, const Session *s, const DeviceCard *card, Err *err) MUST_USE;
/* GB with two decimals, so that a need above a limit never reads like one that meets it. */
double plan_gb_up(uint64_t bytes);
double plan_gb_down(uint64_t bytes);

/* Host memory that streaming the weights takes beside the largest tensor's place. */
uint64_t plan_loading_bytes(const ModelSpec *spec);

/* Tables for people, and {"peak_memory_bytes": ...} for scripts (one line). */
bool plan_text(const Plan *p, const Session *s, Text *out, Err *err) MUST_USE;
bool plan_json(const Plan *p, const Session *s, Text *out, Err *err) MUST_USE;
void plan_time_json(json_t *object, const StepTime *t); /* adds tokens_per_second, seconds_per_update, time, ... */
/* Parts of them: base and trainable parameters; what layers keep; data sets; terms of an update; updates. */
bool plan_model_text(const Plan *p, Text *out, Err *err) MUST_USE;
bool plan_layers_text(const Plan *p, Text *out, Err *err) MUST_USE;
bool plan_data_text(const Session *s, Text *out, Err *err) MUST_USE;
bool plan_time_text(const StepTime *t, int64_t total_steps, Text *out, Err *err) MUST_USE;
bool plan_updates_text(const Plan *p, const Session *s, Text *out, Err *err) MUST_USE;
