/*
 * generate_text.h - prompts to text: greedy, or sampled with temperature and top-p, with a KV cache.
 *
 * Draws are keyed by (seed, prompt, position), so the same prompt gives the same text whatever ran before it.
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
    double seconds; /* of decoding */
    int64_t prompt_tokens;
    double prompt_seconds;
} Generated;
void generated_free(Generated *g);

typedef struct Generator Generator;
/* Buffers for one model; `longest`: most tokens of a prompt plus its answer. */
bool generator_create(Generator **out, Model *m, const Tokenizer *t, int64_t max_tokens, int64_t longest,
                      Err *err) MUST_USE;
void generator_free(Generator *g);

/* `piece` (may be null) gets the text as it grows; false from it stops. `index` of the prompt keys the draws. */
typedef bool GeneratePiece(void *user, const char *bytes, size_t length);
bool generator_run(Generator *g, const Prompt *prompt, uint32_t index, const GenerateOptions *options,
                   GeneratePiece *piece, void *user, Generated *out, Err *err) MUST_USE;
