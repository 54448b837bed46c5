/*
 * tokenizer_internal.h - what the files tokenizer*.c share: the parts of a tokenizer and how they are filled.
 */
#pragma once

#include "base/gguf.h"
#include "base/hash.h"
#include "base/json.h"
#include "data/added_tokens.h"
#include "data/bpe.h"
#include "data/decode.h"
#include "data/normalize.h"
#include "data/pretokenize.h"
#include "data/tokenizer.h"

typedef struct IdList {
    int32_t *ids;
    size_t count, capacity;
} IdList;

struct Tokenizer {
    AddedTokens added;
    Normalizer *normalizer;
    Pretokenizer *pretokenizer;
    Bpe *bpe;
    Decoder *decoder;
    IdList prefix, suffix, stops;
    int32_t bos, eos, pad, unk; /* -1: none */
    char *chat_template;        /* null: none */
    char fingerprint[HASH_TEXT];
};

bool id_list_add(IdList *list, int32_t id, Err *err) MUST_USE;

/* The three sources. They fill a zeroed tokenizer; the caller frees it when they fail. */
bool tokenizer_load_json(Tokenizer *t, const char *path, Err *err) MUST_USE;
bool tokenizer_load_gguf(Tokenizer *t, const char *path, Err *err) MUST_USE;
/* What the other files of a model folder add: names of special tokens, chat template, stop tokens. */
bool tokenizer_load_folder(Tokenizer *t, const char *folder, Err *err) MUST_USE;

/* What a tokenizer.json for the tokenizer of a GGUF file says about these parts; the caller decrefs them, also when it
 * failed. */
typedef struct TokenizerParts {
    bool sentencepiece;                          /* unknown characters become bytes */
    json_t *normalizer, *pretokenizer, *decoder; /* JSON null: none */
} TokenizerParts;
bool tokenizer_gguf_parts(TokenizerParts *out, const Gguf *g, Err *err) MUST_USE;

/* Adds a token with the id that Hugging Face would give it: that of its text, or the next free one. Takes the token
 * over on success. Empty contents and exact repeats are ignored. */
bool tokenizer_add_token(Tokenizer *t, AddedToken *token, Err *err) MUST_USE;
/* After the last one (again after more of them): prepares the searches, with the normalizer in place. */
bool tokenizer_index_tokens(Tokenizer *t, Err *err) MUST_USE;

/* Last step: stop tokens known by name, and the fingerprint, of which t->fingerprint so far covers the source. */
bool tokenizer_finish(Tokenizer *t, Err *err) MUST_USE;
