#include "data/tokenizer_internal.h"

#include "base/check.h"
#include "base/mem.h"

#include <string.h>

bool id_list_add(IdList *list, int32_t id, Err *err)
{
    if (!mem_grow(&list->ids, &list->capacity, list->count + 1, sizeof *list->ids, err)) return false;
    list->ids[list->count++] = id;
    return true;
}

static int32_t next_free_id(const Tokenizer *t)
{
    /* As the reference: behind the number of vocabulary entries and behind every added token above that. */
    const int32_t vocab_count = (int32_t)bpe_vocab(t->bpe)->count;
    int32_t most = -1;
    for (size_t i = 0; i < t->added.count; i++) {
        if (t->added.items[i].id > most) most = t->added.items[i].id;
    }
    return most >= vocab_count ? most + 1 : vocab_count;
}

static bool same_token(const AddedToken *a, const AddedToken *b)
{
    return a->single_word == b->single_word && a->lstrip == b->lstrip && a->rstrip == b->rstrip &&
           a->normalized == b->normalized && a->special == b->special;
}

bool tokenizer_add_token(Tokenizer *t, AddedToken *token, Err *err)
{
    const char *text = token->content.bytes;
    const size_t length = token->content.length;
    if (length == 0) return true;
    const AddedToken *known = added_tokens_by_text(&t->added, text, length);
    if (known && same_token(known, token)) return true;
    token->id = known ? known->id : vocab_find(bpe_vocab(t->bpe), text, length);
    if (token->id < 0) token->id = next_free_id(t);
    return added_tokens_add(&t->added, token, err);
}

static bool index_group(Tokenizer *t, NormalizeScratch *s, bool special, Err *err)
{
    for (size_t i = 0; i < t->added.count; i++) {
        AddedToken *token = &t->added.items[i];
        const Text *content = &token->content;
        Text *shown = &token->shown;
        if (token->special != special) continue;
        text_clear(shown);
        if (!(token->normalized ? normalizer_text(t->normalizer, s, shown, content->bytes, content->length, err)
                                : text_add(shown, content->bytes, content->length, err))) {
            return false;
        }
        if (!added_tokens_index(&t->added, i, shown->bytes, shown->length, token->normalized, err)) return false;
    }
    return true;
}

bool tokenizer_index_tokens(Tokenizer *t, Err *err)
{
    NormalizeScratch s = {0};
    added_tokens_forget_index(&t->added);
    if (!pattern_scratch_create(&s.pattern, err)) return false;
    /* special tokens first: they win where two have the same normalized text */
    const bool done = index_group(t, &s, true, err) && index_group(t, &s, false, err);
    normalize_scratch_free(&s);
    pattern_scratch_destroy(s.pattern);
    return done;
}

static bool add_stop(Tokenizer *t, int32_t id, Err *err)
{
    if (id < 0) return true;
    for (size_t i = 0; i < t->stops.count; i++) {
        if (t->stops.ids[i] == id) return true;
    }
    return id_list_add(&t->stops, id, err);
}

/* <|end_of_sentence|> with full-width bars and U+2581 for the underlines */
#define DEEPSEEK_END "<\xEF\xBD\x9C\x65nd\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>"

/* Texts of special tokens that end a turn or a text in published models. */
static bool add_known_stops(Tokenizer *t, Err *err)
{
    static const char *const names[] = {
        "<|im_end|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<end_of_turn>",
        "<turn|>",
        "<|return|>",
        "<|call|>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "<|end_of_turn|>",
        "<|END_OF_TURN_TOKEN|>",
        DEEPSEEK_END,
    };
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        const int32_t id = tokenizer_id(t, names[i]);
        if (id >= 0 && tokenizer_is_special(t, id) && !add_stop(t, id, err)) return false;
    }
    /* Phi's end of turn; where there is also <|return|> it only ends one message of a turn. */
    const int32_t end = tokenizer_id(t, "<|end|>");
    if (end < 0 || !tokenizer_is_special(t, end) || tokenizer_id(t, "<|return|>") >= 0) return true;
    return add_stop(t, end, err);
}

static void hash_ids(Hash *h, const IdList *list)
{
    hash_add(h, &list->count, sizeof list->count);
    hash_add(h, list->ids, list->count * sizeof *list->ids);
}

static void hash_added(Hash *h, const AddedTokens *a)
{
    for (size_t i = 0; i < a->count; i++) {
        const AddedToken *token = &a->items[i];
        const unsigned char flags[] = {token->single_word, token->lstrip, token->rstrip, token->normalized,
                                       token->special};
        hash_add(h, &token->id, sizeof token->id);
        hash_add(h, flags, sizeof flags);
        hash_add(h, &token->content.length, sizeof token->content.length);
        hash_add(h, token->content.bytes, token->content.length);
    }
}

bool tokenizer_finish(Tokenizer *t, Err *err)
{
    Hash *h;
    if (!add_stop(t, t->eos, err) || !add_known_stops(t, err)) return false;
    if (!hash_create(&h, err)) return false;
    const int32_t names[] = {t->bos, t->eos, t->pad, t->unk};
    hash_add(h, t->fingerprint, strlen(t->fingerprint));
    hash_add(h, names, sizeof names);
    hash_ids(h, &t->prefix);
    hash_ids(h, &t->suffix);
    hash_added(h, &t->added);
    hash_finish(h, t->fingerprint);
    return true;
}
