#include "data/bpe.h"

#include "base/hash.h"
#include "base/mem.h"
#include "data/bpe_internal.h"
#include "data/pieces.h"
#include "data/word_cache.h"

#include <string.h>

typedef struct BpeSymbol {
    int32_t id; /* -1: merged into its left neighbour */
    uint32_t begin, end;
    int32_t prev, next; /* -1: none */
} BpeSymbol;

typedef struct BpeMerge {
    uint64_t order; /* rank << 32 | position: the lowest rank first, then the leftmost */
    int32_t id;
} BpeMerge;

bool bpe_scratch_init(BpeScratch *s, Err *err)
{
    *s = (BpeScratch){0};
    return word_cache_create(&s->cache, err);
}

void bpe_scratch_free(BpeScratch *s)
{
    mem_free(s->tokens);
    mem_free(s->symbols);
    mem_free(s->heap);
    word_cache_destroy(s->cache);
    *s = (BpeScratch){0};
}

static bool add_token(BpeScratch *s, int32_t id, size_t begin, size_t end, Err *err)
{
    if (!mem_grow(&s->tokens, &s->capacity, s->count + 1, sizeof *s->tokens, err)) return false;
    s->tokens[s->count++] = (BpeToken){.id = id, .begin = (uint32_t)begin, .end = (uint32_t)end};
    return true;
}

/* First symbols */

static bool add_symbol(BpeScratch *s, int32_t id, size_t begin, size_t end, Err *err)
{
    if (!mem_grow(&s->symbols, &s->symbol_capacity, s->symbol_count + 1, sizeof *s->symbols, err)) return false;
    const int32_t at = (int32_t)s->symbol_count++;
    s->symbols[at] =
        (BpeSymbol){.id = id, .begin = (uint32_t)begin, .end = (uint32_t)end, .prev = at - 1, .next = at + 1};
    return true;
}

/* Unknown characters that wait to become an unknown token. */
typedef struct Unknown {
    bool any;
    size_t begin, end;
} Unknown;

static bool flush_unknown(const Bpe *b, BpeScratch *s, Unknown *u, Err *err)
{
    if (!u->any) return true;
    u->any = false;
    return add_symbol(s, b->unk, u->begin, u->end, err);
}

static bool add_unknown(const Bpe *b, BpeScratch *s, Unknown *u, size_t begin, size_t end, Err *err)
{
    if (b->unk_missing)
        return FAIL(err, ERR_DATA, "a character needs the unknown token, which is not in the vocabulary");
    if (b->unk < 0) return true; /* without an unknown token such characters vanish */
    if (u->any && b->fuse_unk) {
        u->end = end;
        return true;
    }
    if (!flush_unknown(b, s, u, err)) return false;
    *u = (Unknown){.any = true, .begin = begin, .end = end};
    return true;
}

/* One token a byte; false in *all when one of them does not exist. Waiting unknowns stay behind, as in the reference. */
static bool add_bytes(const Bpe *b, BpeScratch *s, bool *all, const char *text, size_t length, size_t begin, size_t end,
                      Err *err)
{
    *all = true;
    for (size_t i = 0; i < length; i++) {
        if (b->byte_ids[(unsigned char)text[i]] < 0) *all = false;
    }
    for (size_t i = 0; *all && i < length; i++) {
        const size_t from = begin + i < end ? begin + i : end - 1; /* the text may be longer, by prefix and suffix */
        const size_t until = i + 1 < length ? from + 1 : end;
        if (!add_symbol(s, b->byte_ids[(unsigned char)text[i]], from, until, err)) return false;
    }
    return true;
}

static int32_t find_char(const Bpe *b, const char *text, size_t length, uint32_t c)
{
    if (c < BPE_DIRECT_CHARS) return b->char_ids[c];
    const int32_t id = vocab_find(&b->vocab, text, length);
    return id >= 0 || !b->missing.count ? id : vocab_find(&b->missing, text, length);
}

static bool add_char(const Bpe *b, BpeScratch *s, Unknown *u, int32_t id, const char *text, size_t length, size_t begin,
                     size_t end, Err *err)
{
    bool all = false;
    if (id >= 0) return flush_unknown(b, s, u, err) && add_symbol(s, id, begin, end, err);
    if (b->byte_fallback && !add_bytes(b, s, &all, text, length, begin, end, err)) return false;
    return all || add_unknown(b, s, u, begin, end, err);
}

static bool first_symbols(const Bpe *b, BpeScratch *s, const char *word, size_t length, Err *err)
{
    Unknown unknown = {0};
    for (size_t i = 0; i < length;) {
        uint32_t c;
        const size_t n = piece_char(word + i, &c);
        const int32_t id = find_char(b, word + i, n, c);
        if (!add_char(b, s, &unknown, id, word + i, n, i, i + n, err)) return false;
        i += n;
    }
    return flush_unknown(b, s, &unknown, err);
}

/* The same where characters inside of a word carry a prefix and the last one a suffix. */
static bool first_symbols_affixed(const Bpe *b, BpeScratch *s, const char *word, size_t length, Err *err)
{
    Unknown unknown = {0};
    Text text = {0};
    bool done = true;
    for (size_t i = 0; done && i < length;) {
        uint32_t c;
        const size_t n = piece_char(word + i, &c);
        text_clear(&text);
        if (i > 0 && b->prefix) done = text_add(&text, b->prefix, b->prefix_length, err);
        done = done && text_add(&text, word + i, n, err);
        if (i + n == length && b->suffix) done = done && text_add(&text, b->suffix, b->suffix_length, err);
        done = done && add_char(b, s, &unknown, vocab_find(&b->vocab, text.bytes, text.length), text.bytes, text.length,
                                i, i + n, err);
        i += n;
    }
    text_free(&text);
    return done && flush_unknown(b, s, &unknown, err);
}

/* Merging */

static void sift_down(BpeMerge *heap, size_t count, size_t at)
{
    const BpeMerge moved = heap[at];
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= count) break;
        if (child + 1 < count && heap[child + 1].order < heap[child].order) child++;
        if (moved.order <= heap[child].order) break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = moved;
}

static void sift_up(BpeMerge *heap, size_t at)
{
    const BpeMerge moved = heap[at];
    while (at > 0) {
        const size_t parent = (at - 1) / 2;
        if (heap[parent].order <= moved.order) break;
        heap[at] = heap[parent];
        at = parent;
    }
    heap[at] = moved;
}

/* The pair that starts at a symbol, if it merges; not yet in heap order. */
static bool append_pair(const Bpe *b, BpeScratch *s, int32_t left, bool *added, Err *err)
{
    *added = false;
    const int32_t right = s->symbols[left].next;
    if (right < 0) return true;
    const MergeSlot *m = bpe_find_merge(b, s->symbols[left].id, s->symbols[right].id);
    if (!m) return true;
    if (!mem_grow(&s->heap, &s->heap_capacity, s->heap_count + 1, sizeof *s->heap, err)) return false;
    s->heap[s->heap_count++] = (BpeMerge){.order = ((uint64_t)m->rank << 32) | (uint32_t)left, .id = m->id};
    *added = true;
    return true;
}

static bool push_pair(const Bpe *b, BpeScratch *s, int32_t left, Err *err)
{
    bool added;
    if (left < 0) return true;
    if (!append_pair(b, s, left, &added, err)) return false;
    if (added) sift_up(s->heap, s->heap_count - 1);
    return true;
}

static BpeMerge pop_merge(BpeScratch *s)
{
    const BpeMerge top = s->heap[0];
    s->heap[0] = s->heap[--s->heap_count];
    if (s->heap_count) sift_down(s->heap, s->heap_count, 0);
    return top;
}

/* Whether the candidate still describes what stands at its position. */
static bool is_current(const Bpe *b, const BpeScratch *s, const BpeMerge *candidate)
{
    const BpeSymbol *left = &s->symbols[(uint32_t)candidate->order];
    if (left->id < 0 || left->next < 0) return false;
    const MergeSlot *m = bpe_find_merge(b, left->id, s->symbols[left->next].id);
    return m && m->id == candidate->id;
}

static bool merge_all(const Bpe *b, BpeScratch *s, Err *err)
{
    bool added;
    s->heap_count = 0;
    for (size_t i = 0; i < s->symbol_count; i++) {
        if (!append_pair(b, s, (int32_t)i, &added, err)) return false;
    }
    for (size_t i = s->heap_count / 2; i-- > 0;)
        sift_down(s->heap, s->heap_count, i);
    while (s->heap_count) {
        const BpeMerge top = pop_merge(s);
        if (!is_current(b, s, &top)) continue;
        const int32_t at = (int32_t)(uint32_t)top.order;
        BpeSymbol *left = &s->symbols[at];
        BpeSymbol *right = &s->symbols[left->next];
        left->id = top.id;
        left->end = right->end;
        left->next = right->next;
        right->id = -1;
        if (left->next >= 0) s->symbols[left->next].prev = at;
        if (!push_pair(b, s, left->prev, err) || !push_pair(b, s, at, err)) return false;
    }
    return true;
}

/* A character that took part in merges without being a token ends as its bytes. */
static bool write_missing(const Bpe *b, BpeScratch *s, const char *word, const BpeSymbol *symbol, size_t base, Err *err)
{
    for (uint32_t i = symbol->begin; i < symbol->end; i++) {
        const int32_t byte = b->byte_ids[(unsigned char)word[i]];
        if (byte < 0 && b->unk < 0) continue;
        if (!add_token(s, byte >= 0 ? byte : b->unk, base + i, base + i + 1, err)) return false;
    }
    return true;
}

static bool encode_merging(const Bpe *b, BpeScratch *s, const char *word, size_t length, size_t base, Err *err)
{
    s->symbol_count = 0;
    const bool affixed = b->prefix || b->suffix;
    if (!(affixed ? first_symbols_affixed : first_symbols)(b, s, word, length, err)) return false;
    if (s->symbol_count) s->symbols[s->symbol_count - 1].next = -1;
    if (!merge_all(b, s, err)) return false;
    for (size_t i = 0; i < s->symbol_count; i++) {
        const BpeSymbol *symbol = &s->symbols[i];
        if (symbol->id < 0) continue;
        const bool missing = (size_t)symbol->id >= b->vocab.id_count;
        if (!(missing ? write_missing(b, s, word, symbol, base, err)
                      : add_token(s, symbol->id, base + symbol->begin, base + symbol->end, err))) {
            return false;
        }
    }
    return true;
}

/* A part of a word that no merge leaves; `base` is where it starts in the word. */
static bool encode_part(const Bpe *b, BpeScratch *s, const char *word, size_t length, size_t base, Err *err)
{
    if (length > WORD_CACHE_LONGEST) return encode_merging(b, s, word, length, base, err);
    const uint64_t hash = hash_u64(word, length);
    const BpeToken *tokens;
    size_t count;
    if (word_cache_get(s->cache, hash, word, length, &tokens, &count)) {
        for (size_t i = 0; i < count; i++) {
            if (!add_token(s, tokens[i].id, base + tokens[i].begin, base + tokens[i].end, err)) return false;
        }
        return true;
    }
    const size_t from = s->count;
    if (!encode_merging(b, s, word, length, 0, err)) return false;
    const bool any = s->count > from; /* characters without an unknown token vanish */
    word_cache_put(s->cache, hash, word, length, any ? s->tokens + from : NULL, s->count - from);
    for (size_t i = from; base && i < s->count; i++) {
        s->tokens[i].begin += (uint32_t)base;
        s->tokens[i].end += (uint32_t)base;
    }
    return true;
}

/* End of the part that starts at `at`: before the next space mark that does not follow another one. */
static size_t part_end(const char *word, size_t length, size_t at)
{
    size_t i = at;
    while (i + 3 <= length && memcmp(word + i, "\xE2\x96\x81", 3) == 0)
        i += 3;
    const char *next = memmem(word + i, length - i, "\xE2\x96\x81", 3);
    return next ? (size_t)(next - word) : length;
}

bool bpe_encode(const Bpe *b, BpeScratch *s, const char *word, size_t length, Err *err)
{
    s->count = 0;
    if (length == 0) return true;
    if (length > INT32_MAX) return FAIL(err, ERR_DATA, "a word of %zu bytes is too long for the tokenizer", length);
    if (b->ignore_merges) {
        const int32_t id = vocab_find(&b->vocab, word, length);
        if (id >= 0) return add_token(s, id, 0, length, err);
    }
    if (!b->cut_at_space) return encode_part(b, s, word, length, 0, err);
    for (size_t at = 0; at < length;) {
        const size_t end = part_end(word, length, at);
        if (!encode_part(b, s, word + at, end - at, at, err)) return false;
        at = end;
    }
    return true;
}
