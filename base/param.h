/*
 * param.h - the table of what is trained.
 *
 * All trainable tensors lie in one flat f32 buffer, their gradients in a second one of the same layout. A Param says
 * where its tensor lies. Offsets are multiples of PARAM_ALIGN elements (the optimizer's quantization block), so that
 * no block holds elements of two tensors; the gaps stay zero.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum { PARAM_ALIGN = 256 };

typedef struct Param {
    char *name;   /* PEFT key without the prefix "base_model.model.": "model.layers.0.self_attn.q_proj.lora_A.weight" */
    int64_t rows; /* A: (R, K); B: (O, R) */
    int64_t cols;
    int64_t offset; /* elements from the start of the flat buffer */
    float lr_scale; /* LoRA+: B learns this much faster; 1 otherwise */
} Param;

typedef struct ParamTable {
    Param *items; /* owned by whoever built the table (lora/) */
    int count;
    int64_t total;     /* elements of the flat buffer, gaps included */
    int64_t trainable; /* elements that are parameters */
} ParamTable;
