#include "data/bpe_internal.h"

#include "base/check.h"
#include "base/mem.h"
#include "data/pieces.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MERGES_MOST = 1 << 22, SCORED_TOKEN_LONGEST = 1024 };

static const char space_mark[] = "\xE2\x96\x81"; /* U+2581 */

void bpe_destroy(Bpe *b)
{
    if (!b) return;
    vocab_free(&b->vocab);
    vocab_free(&b->missing);
    mem_free(b->merges);
    mem_free(b->prefix);
    mem_free(b->suffix);
    mem_free(b->joined);
    mem_free(b);
}

const Vocab *bpe_vocab(const Bpe *b)
{
    return &b->vocab;
}

int32_t bpe_unk(const Bpe *b)
{
    return b->unk;
}

static bool copy_affix(char **to, size_t *length, const char *from, Err *err)
{
    if (!from || !from[0]) return true;
    *length = strlen(from);
    *to = mem_copy_text(from, err);
    return *to != NULL;
}

static bool set_options(Bpe *b, const BpeOptions *options, Err *err)
{
    b->byte_fallback = options->byte_fallback;
    b->fuse_unk = options->fuse_unk;
    b->ignore_merges = options->ignore_merges;
    b->merge_missing_symbols = options->merge_missing_symbols;
    b->unk = options->unk ? vocab_find(&b->vocab, options->unk, strlen(options->unk)) : -1;
    b->unk_missing = options->unk && b->unk < 0;
    return copy_affix(&b->prefix, &b->prefix_length, options->prefix, err) &&
           copy_affix(&b->suffix, &b->suffix_length, options->suffix, err);
}

static bool resize_merges(Bpe *b, size_t slots, Err *err)
{
    MergeSlot *fresh = mem_alloc(slots, sizeof *fresh, err);
    if (!fresh) return false;
    for (size_t i = 0; i < slots; i++)
        fresh[i].pair = UINT64_MAX;
    for (size_t i = 0; i < b->merge_slots; i++) {
        if (b->merges[i].pair == UINT64_MAX) continue;
        size_t at = bpe_merge_home(b->merges[i].pair, slots);
        while (fresh[at].pair != UINT64_MAX)
            at = (at + 1) & (slots - 1);
        fresh[at] = b->merges[i];
    }
    mem_free(b->merges);
    b->merges = fresh;
    b->merge_slots = slots;
    return true;
}

bool bpe_reserve_merges(Bpe *b, size_t count, Err *err)
{
    if (count > MERGES_MOST) return FAIL(err, ERR_MODEL, "more than %d merges are not supported", MERGES_MOST);
    size_t slots = b->merge_slots ? b->merge_slots : 64;
    while (slots < 2 * count)
        slots *= 2;
    return slots == b->merge_slots || resize_merges(b, slots, err);
}

bool bpe_create(Bpe **out, Vocab *vocab, const BpeOptions *options, Err *err)
{
    Bpe *b = mem_alloc(1, sizeof *b, err);
    if (!b) {
        vocab_free(vocab);
        return false;
    }
    b->vocab = *vocab;
    *vocab = (Vocab){0};
    b->joined = mem_alloc(VOCAB_TOKEN_LONGEST, 1, err);
    if (!b->joined || !set_options(b, options, err) || !bpe_reserve_merges(b, 1, err)) {
        bpe_destroy(b);
        return false;
    }
    *out = b;
    return true;
}

static bool put_merge(Bpe *b, int32_t left, int32_t right, uint32_t rank, int32_t id, Err *err)
{
    if (!bpe_reserve_merges(b, b->merge_count + 1, err)) return false;
    const uint64_t pair = ((uint64_t)(uint32_t)left << 32) | (uint32_t)right;
    size_t at = bpe_merge_home(pair, b->merge_slots);
    while (b->merges[at].pair != UINT64_MAX && b->merges[at].pair != pair)
        at = (at + 1) & (b->merge_slots - 1);
    if (b->merges[at].pair == UINT64_MAX) b->merge_count++;
    b->merges[at] = (MergeSlot){.pair = pair, .rank = rank, .id = id};
    return true;
}

static bool merge_failed(const char *what, const char *text, size_t length, uint32_t rank, Err *err)
{
    char shown[80];
    text_printable(shown, sizeof shown, text, length);
    return FAIL(err, ERR_MODEL, "merge %u names \"%s\", %s", rank + 1, shown, what);
}

bool bpe_add_merge(Bpe *b, const char *left, size_t left_length, const char *right, size_t right_length, Err *err)
{
    const uint32_t rank = b->next_rank++;
    static const char not_there[] = "which is not in the vocabulary";
    const int32_t left_id = vocab_find(&b->vocab, left, left_length);
    const int32_t right_id = vocab_find(&b->vocab, right, right_length);
    if (left_id < 0) return merge_failed(not_there, left, left_length, rank, err);
    if (right_id < 0) return merge_failed(not_there, right, right_length, rank, err);
    if (right_length < b->prefix_length)
        return merge_failed("which is shorter than the prefix", right, right_length, rank, err);
    const int32_t id = vocab_find_joined(&b->vocab, b->joined, left, left_length, right + b->prefix_length,
                                         right_length - b->prefix_length);
    if (id < 0) return merge_failed("whose result is not in the vocabulary", left, left_length, rank, err);
    return put_merge(b, left_id, right_id, rank, id, err);
}

/* Merges from scores */

typedef struct ScoredToken {
    float score;
    uint32_t entry;
} ScoredToken;

static int by_falling_score(const void *a, const void *b)
{
    const ScoredToken *x = a;
    const ScoredToken *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    return x->entry < y->entry ? -1 : x->entry > y->entry;
}

/* Id of a part of a token; a single character that is no token gets an id of its own. */
static bool part_id(Bpe *b, int32_t *id, const char *text, size_t length, bool one_char, Err *err)
{
    *id = vocab_find(&b->vocab, text, length);
    if (*id >= 0 || !one_char || !b->merge_missing_symbols) return true;
    *id = vocab_find(&b->missing, text, length);
    if (*id >= 0) return true;
    *id = (int32_t)(b->vocab.id_count + b->missing.count);
    return vocab_add(&b->missing, text, length, *id, err);
}

static bool merge_parts(Bpe *b, const char *text, size_t length, uint32_t rank, int32_t id, Err *err)
{
    uint32_t c;
    const size_t first = piece_char(text, &c);
    for (size_t cut = first; cut < length;) {
        int32_t left;
        int32_t right;
        const size_t n = piece_char(text + cut, &c);
        if (!part_id(b, &left, text, cut, cut == first, err)) return false;
        if (!part_id(b, &right, text + cut, length - cut, cut + n == length, err)) return false;
        if (left >= 0 && right >= 0 && !put_merge(b, left, right, rank, id, err)) return false;
        cut += n;
    }
    return true;
}

static bool merges_of_sorted(Bpe *b, const ScoredToken *tokens, size_t count, Err *err)
{
    uint32_t rank = 0;
    for (size_t i = 0; i < count; i++) {
        const VocabEntry e = b->vocab.entries[tokens[i].entry];
        const char *text = vocab_text(&b->vocab, &e);
        if (i > 0 && tokens[i].score < tokens[i - 1].score) rank++; /* equal scores: the leftmost pair first */
        if (e.length > SCORED_TOKEN_LONGEST) {
            return FAIL(err, ERR_MODEL, "a token of %u bytes is longer than %d", e.length, SCORED_TOKEN_LONGEST);
        }
        if (!utf8_valid(text, e.length, NULL)) continue; /* never equal to a piece of text */
        if (!merge_parts(b, text, e.length, rank, e.id, err)) return false;
    }
    return true;
}

bool bpe_merges_from_scores(Bpe *b, const float *scores, size_t count, Err *err)
{
    ScoredToken *tokens = mem_alloc(b->vocab.count, sizeof *tokens, err);
    if (!tokens) return false;
    bool done = true;
    for (size_t i = 0; done && i < b->vocab.count; i++) {
        const size_t id = (size_t)b->vocab.entries[i].id;
        tokens[i] = (ScoredToken){.score = id < count ? scores[id] : 0, .entry = (uint32_t)i};
        if (isnan(tokens[i].score)) done = FAIL(err, ERR_MODEL, "the score of token %zu is not a number", id);
    }
    if (done) {
        qsort(tokens, b->vocab.count, sizeof *tokens, by_falling_score);
        done = merges_of_sorted(b, tokens, b->vocab.count, err);
    }
    mem_free(tokens);
    return done;
}

/* Finishing */

static void find_byte_tokens(Bpe *b)
{
    for (int i = 0; i < 256; i++) {
        char text[8];
        const int n = snprintf(text, sizeof text, "<0x%02X>", (unsigned)i);
        b->byte_ids[i] = vocab_find(&b->vocab, text, (size_t)n);
    }
}

static void find_characters(Bpe *b)
{
    for (uint32_t c = 0; c < BPE_DIRECT_CHARS; c++) {
        char utf8[4];
        const size_t n = piece_put_char(utf8, c);
        b->char_ids[c] = vocab_find(&b->vocab, utf8, n);
        if (b->char_ids[c] < 0) b->char_ids[c] = vocab_find(&b->missing, utf8, n);
    }
}

static const char *symbol_text(const Bpe *b, uint32_t id, size_t *length)
{
    const bool missing = id >= b->vocab.id_count;
    const Vocab *v = missing ? &b->missing : &b->vocab;
    const VocabEntry *e = vocab_entry(v, (int32_t)id);
    if (!e) return NULL;
    *length = e->length;
    return vocab_text(v, e);
}

static bool crosses_into_space(const Bpe *b, uint64_t pair)
{
    size_t left_length = 0;
    size_t right_length = 0;
    const char *left = symbol_text(b, (uint32_t)(pair >> 32), &left_length);
    const char *right = symbol_text(b, (uint32_t)pair, &right_length);
    if (!left || !right) return true;
    if (right_length < 3 || memcmp(right, space_mark, 3) != 0) return false;
    return left_length < 3 || memcmp(left + left_length - 3, space_mark, 3) != 0;
}

/* Whether words can be cut before each space mark that does not follow another one, without changing any id. */
static bool can_cut_at_space(const Bpe *b)
{
    if (b->prefix || b->suffix || b->ignore_merges) return false;
    if (vocab_find(&b->vocab, space_mark, 3) < 0) return false; /* an unknown one might fuse with its neighbours */
    for (size_t i = 0; i < b->merge_slots; i++) {
        if (b->merges[i].pair != UINT64_MAX && crosses_into_space(b, b->merges[i].pair)) return false;
    }
    return true;
}

void bpe_finish(Bpe *b)
{
    find_byte_tokens(b);
    find_characters(b);
    b->cut_at_space = can_cut_at_space(b);
    mem_free(b->joined);
    b->joined = NULL;
}
