/*
 * vocab.h - the texts of a tokenizer's vocabulary: text to id by an open hash table, id to text by an array.
 *
 * Ids may have gaps; two texts with one id are allowed and the later one is what the id means (as in Hugging Face).
 */
#pragma once

#include "base/text.h"

#include <stddef.h>
#include <stdint.h>

enum {
    VOCAB_TOKENS_MOST = 1 << 20,
    VOCAB_ID_MOST = 1 << 22,
    VOCAB_TOKEN_LONGEST = 64 * 1024,
};

typedef struct VocabEntry {
    size_t offset; /* in `blob`; NUL-terminated there */
    uint32_t length;
    int32_t id;
    uint32_t hash; /* upper half, to reject most others without looking at their text */
} VocabEntry;

typedef struct Vocab {
    Text blob;
    VocabEntry *entries;
    size_t count, capacity;
    uint32_t *slots; /* entry + 1; 0: empty */
    size_t slot_count;
    uint32_t *by_id; /* entry + 1; 0: no token has this id */
    size_t id_count, id_capacity;
} Vocab;

void vocab_free(Vocab *v);

/* Makes room for `count` texts. */
bool vocab_reserve(Vocab *v, size_t count, Err *err) MUST_USE;

/* ERR_MODEL when the text is too long, the id outside 0..VOCAB_ID_MOST, or there are too many. A text that is already
 * there gets the new id. */
bool vocab_add(Vocab *v, const char *text, size_t length, int64_t id, Err *err) MUST_USE;

int32_t vocab_find(const Vocab *v, const char *text, size_t length); /* -1: unknown */
/* The same for the concatenation of two texts, which is built in `joined` (VOCAB_TOKEN_LONGEST bytes). */
int32_t vocab_find_joined(const Vocab *v, char *joined, const char *a, size_t a_length, const char *b, size_t b_length);

/* Null when no token has this id. */
const VocabEntry *vocab_entry(const Vocab *v, int32_t id);

static inline const char *vocab_text(const Vocab *v, const VocabEntry *e)
{
    return v->blob.bytes + e->offset;
}
