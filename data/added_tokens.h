/*
 * added_tokens.h - tokens that are cut out of the text before anything else looks at it (special tokens and others).
 *
 * Leftmost match first, the longest at that place. `lstrip` and `rstrip` swallow the blanks beside a match; with
 * `single_word` a match that touches a word character does not count. Tokens marked `normalized` are looked for after
 * normalization, in their own normalized form.
 */
#pragma once

#include "data/pieces.h"
#include "data/vocab.h"

typedef struct AddedToken {
    Text content;
    Text shown; /* what decoding yields: the content, normalized when `normalized` */
    int32_t id;
    bool single_word, lstrip, rstrip, normalized, special;
} AddedToken;

/* Finds the texts of one group (normalized or not). */
typedef struct TokenTrie {
    struct TrieNode *nodes;
    size_t count, capacity;
    uint32_t roots[256]; /* node for the first byte; 0: none */
} TokenTrie;

typedef struct AddedTokens {
    AddedToken *items;
    size_t count, capacity;
    Vocab index;           /* content to the token's position in `items` */
    uint32_t *flags_of;    /* id to position + 1 of the last token with that id, whose flags count */
    size_t flags_capacity; /* ids below have an entry */
    TokenTrie raw, normalized;
} AddedTokens;

void added_tokens_free(AddedTokens *a);

/* Takes `token` over on success. A content that is already there is replaced. */
bool added_tokens_add(AddedTokens *a, AddedToken *token, Err *err) MUST_USE;
const AddedToken *added_tokens_by_text(const AddedTokens *a, const char *text, size_t length); /* null: none */
const AddedToken *added_tokens_by_id(const AddedTokens *a, int32_t id);

/* Nothing is found from now on. */
void added_tokens_forget_index(AddedTokens *a);
/* Makes item `at` findable as `text` in one of the two searches. */
bool added_tokens_index(AddedTokens *a, size_t at, const char *text, size_t length, bool normalized, Err *err) MUST_USE;

/* Cuts matches out of all text pieces. */
bool added_tokens_split(const AddedTokens *a, bool normalized, Pieces *p, Err *err) MUST_USE;
