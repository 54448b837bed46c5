/*
 * word_cache.h - the tokens of words seen before; one cache a thread.
 *
 * Word frequencies are Zipfian, so a small table answers most lookups. Memory is fixed: when the table or one of its
 * stores is full, everything is forgotten and it fills again.
 */
#pragma once

#include "data/bpe.h"

enum { WORD_CACHE_LONGEST = 255 };

typedef struct WordCache WordCache;
bool word_cache_create(WordCache **out, Err *err) MUST_USE;
void word_cache_destroy(WordCache *c);

/* False when the word is not there. The tokens are valid until the next put. */
bool word_cache_get(const WordCache *c, uint64_t hash, const char *word, size_t length, const BpeToken **tokens,
                    size_t *count);
void word_cache_put(WordCache *c, uint64_t hash, const char *word, size_t length, const BpeToken *tokens, size_t count);
