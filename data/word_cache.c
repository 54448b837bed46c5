#include "data/word_cache.h"

#include "base/mem.h"

#include <string.h>

enum {
    SLOTS = 1 << 15,
    ENTRIES_MOST = SLOTS / 2,
    TEXT_BYTES = 512 * 1024,
    TOKENS = 128 * 1024,
};

typedef struct CacheSlot {
    uint64_t hash;
    uint32_t text_at, tokens_at;
    uint16_t length; /* 0: empty; words are never empty */
    uint16_t count;
} CacheSlot;

struct WordCache {
    CacheSlot *slots;
    char *text;
    BpeToken *tokens;
    size_t entries, text_used, tokens_used;
};

bool word_cache_create(WordCache **out, Err *err)
{
    WordCache *c = mem_alloc(1, sizeof *c, err);
    if (!c) return false;
    c->slots = mem_alloc(SLOTS, sizeof *c->slots, err);
    c->text = c->slots ? mem_alloc(TEXT_BYTES, 1, err) : NULL;
    c->tokens = c->text ? mem_alloc(TOKENS, sizeof *c->tokens, err) : NULL;
    if (!c->tokens) {
        word_cache_destroy(c);
        return false;
    }
    *out = c;
    return true;
}

void word_cache_destroy(WordCache *c)
{
    if (!c) return;
    mem_free(c->slots);
    mem_free(c->text);
    mem_free(c->tokens);
    mem_free(c);
}

/* The slot of the word, or the empty one where it would go. */
static CacheSlot *find_slot(const WordCache *c, uint64_t hash, const char *word, size_t length)
{
    size_t at = hash & (SLOTS - 1);
    for (;; at = (at + 1) & (SLOTS - 1)) {
        CacheSlot *slot = &c->slots[at];
        if (slot->length == 0) return slot;
        if (slot->hash == hash && slot->length == length && memcmp(c->text + slot->text_at, word, length) == 0)
            return slot;
    }
}

bool word_cache_get(const WordCache *c, uint64_t hash, const char *word, size_t length, const BpeToken **tokens,
                    size_t *count)
{
    const CacheSlot *slot = find_slot(c, hash, word, length);
    if (slot->length == 0) return false;
    *tokens = c->tokens + slot->tokens_at;
    *count = slot->count;
    return true;
}

void word_cache_put(WordCache *c, uint64_t hash, const char *word, size_t length, const BpeToken *tokens, size_t count)
{
    if (length == 0 || length > WORD_CACHE_LONGEST || count > UINT16_MAX) return;
    if (c->entries >= ENTRIES_MOST || c->text_used + length > TEXT_BYTES || c->tokens_used + count > TOKENS) {
        memset(c->slots, 0, SLOTS * sizeof *c->slots);
        c->entries = c->text_used = c->tokens_used = 0;
    }
    *find_slot(c, hash, word, length) = (CacheSlot){
        .hash = hash,
        .text_at = (uint32_t)c->text_used,
        .tokens_at = (uint32_t)c->tokens_used,
        .length = (uint16_t)length,
        .count = (uint16_t)count,
    };
    memcpy(c->text + c->text_used, word, length);
    if (count) memcpy(c->tokens + c->tokens_used, tokens, count * sizeof *tokens);
    c->entries++;
    c->text_used += length;
    c->tokens_used += count;
}
