/*
 * bpe.h - byte pair encoding of one pre-token (a "word"), exactly as Hugging Face tokenizers do it.
 *
 * A word starts as its characters; the adjacent pair with the lowest rank is merged, the leftmost first among equals,
 * until no pair is in the merge table. A heap of candidate pairs makes that n log n, so a whole document may be one
 * word (SentencePiece-style tokenizers). Where no merge crosses from another character into U+2581 (the space mark),
 * words are cut there first, which gives the same ids and lets the cache help.
 */
#pragma once

#include "data/vocab.h"

typedef struct BpeOptions {
    const char *unk;            /* text of the unknown token, or null */
    const char *prefix;         /* continuing_subword_prefix; null or "": none */
    const char *suffix;         /* end_of_word_suffix */
    bool byte_fallback;         /* characters outside the vocabulary become <0xHH> tokens, when all of them exist */
    bool fuse_unk;              /* neighbouring unknown characters become one unknown token */
    bool ignore_merges;         /* a word that is a token is that token, whatever the merges say */
    bool merge_missing_symbols; /* characters that are no tokens still take part in merges (llama.cpp) */
} BpeOptions;

typedef struct Bpe Bpe;

/* Takes the vocabulary over (also when it fails) and leaves *vocab empty. */
bool bpe_create(Bpe **out, Vocab *vocab, const BpeOptions *options, Err *err) MUST_USE;
void bpe_destroy(Bpe *b);

/* Merges in order of rank; ERR_MODEL when one of the three texts is no token. A repeated pair takes the later rank. */
bool bpe_reserve_merges(Bpe *b, size_t count, Err *err) MUST_USE;
bool bpe_add_merge(Bpe *b, const char *left, size_t left_length, const char *right, size_t right_length,
                   Err *err) MUST_USE;
/* Instead: every pair of tokens whose concatenation is a token merges, the highest score first (scores by id). */
bool bpe_merges_from_scores(Bpe *b, const float *scores, size_t count, Err *err) MUST_USE;

/* Last step of the set-up. */
void bpe_finish(Bpe *b);

const Vocab *bpe_vocab(const Bpe *b);
int32_t bpe_unk(const Bpe *b); /* -1: none */

typedef struct BpeToken {
    int32_t id;
    uint32_t begin, end; /* bytes of the word */
} BpeToken;

/* Work memory and word cache of one thread. `tokens` is the result of the last word. */
typedef struct BpeScratch {
    BpeToken *tokens;
    size_t count, capacity;
    struct BpeSymbol *symbols;
    size_t symbol_count, symbol_capacity;
    struct BpeMerge *heap;
    size_t heap_count, heap_capacity;
    struct WordCache *cache;
} BpeScratch;
bool bpe_scratch_init(BpeScratch *s, Err *err) MUST_USE;
void bpe_scratch_free(BpeScratch *s);

/* `word` is well-formed UTF-8 of less than 2 GiB. ERR_DATA when it needs an unknown token that the vocabulary lacks. */
bool bpe_encode(const Bpe *b, BpeScratch *s, const char *word, size_t length, Err *err) MUST_USE;
