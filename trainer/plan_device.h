/*
 * plan_device.h - what a run would take and how long it would be on a card that is not there.
 *
 * Memory comes from the code that places the arenas (session_measure), cut into purposes that add up to the peak.
 * Added to it are the context and the workspace of cuBLAS (device_card.h). Time comes from step_time.h. Without data a
 * micro-batch is taken as full rows of sequence_len with every token trained.
 */
#pragma once

#include "trainer/plan.h"

/* X(enumerator, name in JSON, words for people) */
#define DEVICE_MEMORY_TERMS(X)                                                                                         \
    X(DEVICE_WEIGHTS, "weights", "frozen linear modules, norms")                                                       \
    X(DEVICE_EMBEDDINGS, "embeddings", "embeddings")                                                                   \
    X(DEVICE_HEAD, "head", "output head")                                                                              \
    X(DEVICE_ADAPTERS, "adapters", "adapters")                                                                         \
    X(DEVICE_GRADIENTS, "gradients", "gradients")                                                                      \
    X(DEVICE_OPTIMIZER, "optimizer", "optimizer")                                                                      \
    X(DEVICE_PAGING, "paging", "pages on their way")                                                                   \
    X(DEVICE_CHECKPOINTS, "checkpoints", "layer inputs and attention")                                                 \
    X(DEVICE_ACTIVATIONS, "activations", "kept activations, one layer's")                                              \
    X(DEVICE_DECODE, "decode", "decoded weights of a layer")                                                           \
    X(DEVICE_LOGITS, "logits", "logits and their gradient")                                                            \
    X(DEVICE_SCRATCH, "scratch", "scratch")                                                                            \
    X(DEVICE_STAGING, "staging", "small arrays on their way")                                                          \
    X(DEVICE_WORKSPACE, "workspace", "workspace of cuBLAS")                                                            \
    X(DEVICE_CONTEXT, "context", "CUDA context and code")

#define HOST_MEMORY_TERMS(X)                                                                                           \
    X(HOST_PROCESS, "process", "program, tokenizer, tokens")                                                           \
    X(HOST_PAGES, "pages", "paged optimizer states, pinned")                                                           \
    X(HOST_EMBEDDINGS, "embeddings", "embeddings, pinned")                                                             \
    X(HOST_OFFLOADED, "offloaded", "layer inputs and attention, pinned")                                               \
    X(HOST_STAGING, "staging", "pinned staging")                                                                       \
    X(HOST_LOADING, "loading", "loading the weights")                                                                  \
    X(HOST_DRIVER, "driver", "driver and cuBLAS")

#define X(term, name, words) term,
typedef enum DeviceMemoryTerm { DEVICE_MEMORY_TERMS(X) DEVICE_MEMORY_COUNT } DeviceMemoryTerm;
typedef enum HostMemoryTerm { HOST_MEMORY_TERMS(X) HOST_MEMORY_COUNT } HostMemoryTerm;
#undef X

typedef struct DeviceMemory {
    uint64_t bytes[DEVICE_MEMORY_COUNT];
    uint64_t peak; /* their sum */
} DeviceMemory;

typedef struct DevicePlan {
    DeviceCard card;
    Plan counts;           /* updates, rows, longest micro-batch, model; no bytes */
    const char *page_path; /* of a paged optimizer; null; borrowed */
    int kept_layers, offloaded_layers;
    DeviceMemory memory;
    uint64_t host[HOST_MEMORY_COUNT];
    uint64_t host_peak;
    uint64_t budget;      /* max_gpu_memory, or the card's memory but for 2 % */
    uint64_t host_budget; /* of a run that offloads: memory_budget, or what this machine has; UINT64_MAX: unknown */
    bool fits;
    int64_t max_sequence_len;       /* of one row, micro_batch_size 1; 0: not even one token */
    int64_t sequence_len_by_memory; /* the same before the model's own limit */
    int64_t max_micro_batch_size;   /* at sequence_len; 0: none */
    uint64_t limits_offloaded;      /* pinned host memory that these sizes take, the larger of the two */
    StepTime time;                  /* of an average update */
} DevicePlan;

/* A session for planning: no weights, and the types of the card. */
bool plan_device_open(Session *out, const Config *c, const DeviceCard *card, Err *err) MUST_USE;

/* Data and tokenizer are open where there are any. ERR_MEMORY when max_gpu_memory is set and not met; a run that does
 * not fit the card is planned with `fits` false. */
bool plan_device_make(DevicePlan *out, Session *s, const DeviceCard *card, const Prompts *prompts, Err *err) MUST_USE;

/* The plan of a run on the CUDA device that the session has open: plan_make's other half. The card's free memory, or
 * max_gpu_memory, is what gradient_checkpointing: auto fills and what the run is held to (ERR_MEMORY). */
bool plan_on_device(Plan *out, Session *s, const Prompts *prompts, const char *page_path, Err *err) MUST_USE;

bool plan_device_text(const DevicePlan *p, const Session *s, Text *out, Err *err) MUST_USE;
/* The same in one line of a table, and its heading. */
bool plan_device_heading(Text *out, Err *err) MUST_USE;
bool plan_device_line(const DevicePlan *p, Text *out, Err *err) MUST_USE;
bool plan_device_json(const DevicePlan *p, const Session *s, Text *out, Err *err) MUST_USE;

const char *device_memory_name(DeviceMemoryTerm t);
const char *host_memory_name(HostMemoryTerm t);
