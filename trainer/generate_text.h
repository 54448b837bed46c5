/*
 * generate_text.h - prompts to text: greedy, or sampled with temperature and top-p, with a KV cache.
 *
 * Draws are keyed by (seed, index of the prompt, position): prompt i of a list gives the same text whatever the other
 * prompts are and however many run side by side.
 */
#pragma once

#include "data/chat.h"
#include "data/tokenizer.h"
#include "model/model.h"

typedef struct Prompt {
    char *text;   /* as given */
    int32_t *ids; /* rendered and tokenized */
    size_t count;
} Prompt;

typedef struct Prompts {
    Prompt *items;
    size_t count, capacity;
} Prompts;

typedef struct PromptStyle {
    const Tokenizer *tokenizer;
    const ChatTemplate *chat; /* null: the prompt is raw text, with the tokenizer's own prefix */
    const char *system;       /* null: the template's default */
} PromptStyle;

bool prompts_add(Prompts *p, const PromptStyle *style, const char *text, size_t length, Err *err) MUST_USE;
/* One a line (empty lines are skipped), or a JSON string or {"prompt": ...} / {"messages": [...]} a line for .jsonl. */
bool prompts_add_file(Prompts *p, const PromptStyle *style, const char *path, Err *err) MUST_USE;
void prompts_free(Prompts *p);
int64_t prompts_longest(const Prompts *p); /* tokens */

typedef struct GenerateOptions {
    int64_t max_new_tokens;
    double temperature; /* 0: greedy */
    double top_p;       /* 1: off */
    uint64_t seed;
} GenerateOptions;

typedef struct Generated {
    Text text;      /* without special tokens */
    int64_t tokens; /* generated, the stop token not counted */
    bool stopped;   /* by a stop token, not by the limit */
} Generated;
void generated_free(Generated *g);

/* What the caller hears; all but `user` may be null. */
typedef struct GenerateEvents {
    bool (*piece)(void *user, const char *bytes, size_t length); /* text of a single prompt as it grows; false stops */
    /* A prompt is answered; the callee owns *g. With several sequences the order is that of finishing. */
    bool (*done)(void *user, size_t index, Generated *g, Err *err);
    void *user;
} GenerateEvents;

typedef struct Generator Generator;
/* Buffers for a placed model; `longest`: most tokens of a prompt plus its answer (the model's cache_tokens);
 * `sequences` as in the model's options. */
bool generator_create(Generator **out, Model *m, const Tokenizer *t, int64_t longest, int sequences, Err *err) MUST_USE;
void generator_free(Generator *g);

/* Answers all prompts, `sequences` of them side by side; side by side or alone gives the same text. Prompt i is keyed
 * by i. */
bool generator_run(Generator *g, const Prompt *prompts, size_t count, const GenerateOptions *options,
                   const GenerateEvents *events, Err *err) MUST_USE;

/* So far: tokens of prompts and seconds spent on them, tokens generated and seconds of that. */
typedef struct GeneratorTotals {
    int64_t prompt_tokens, tokens;
    double prompt_seconds, seconds;
} GeneratorTotals;
GeneratorTotals generator_totals(const Generator *g);
