/*
 * batch.h - one micro-batch as data/ hands it to model/: tokens and segments, no batch dimension, no padding.
 *
 * A segment is one sample. Attention is causal inside a segment and positions restart in each. All arrays are host
 * memory, borrowed from the cursor that made the batch and valid until it makes the next one.
 */
#pragma once

#include <stdint.h>

enum { TARGET_NONE = -100 }; /* as in Hugging Face labels: this position is not trained */

typedef struct Batch {
    int64_t tokens;           /* N */
    int64_t trained_tokens;   /* targets that are not TARGET_NONE */
    int segments;             /* S */
    const int32_t *ids;       /* (N) */
    const int32_t *targets;   /* (N): the *next* token of the same segment, already shifted, or TARGET_NONE */
    const int32_t *positions; /* (N): 0, 1, ... within each segment */
    const int32_t *starts;    /* (S + 1): first token of each segment, then N */
} Batch;
