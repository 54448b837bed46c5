/*
 * tiny.h - a whole base model of about a hundred thousand weights, written to a folder: config.json,
 * model.safetensors with seeded random values, and a byte-level tokenizer with a ChatML template.
 */
#pragma once

#include "base/err.h"

#include <stdint.h>

typedef struct TinyOptions {
    bool tied;
    bool bias;   /* attention_bias and mlp_bias */
    bool llama3; /* llama3 rope scaling */
    bool bf16;   /* stored as BF16; F32 otherwise */
    int ffn;     /* intermediate size; 0: 128 */
    int layers;  /* at most TINY_LAYERS_MAX; 0: TINY_LAYERS */
    uint64_t seed;
} TinyOptions;

enum { TINY_VOCAB = 320, TINY_LAYERS = 2, TINY_LAYERS_MAX = 8 };

/* Creates `folder` (and its parents) and writes the files; ERR_DISK. */
bool tiny_model_write(const char *folder, const TinyOptions *options, Err *err) MUST_USE;

/* `rows` chats whose answer is a function of the question, one JSON object a line. */
bool tiny_chats_write(const char *path, int rows, uint64_t seed, Err *err) MUST_USE;

/* A fresh folder under $TMPDIR or /tmp; the caller frees the path with mem_free and removes it with file_remove_tree. */
char *tiny_temp_folder(void);
