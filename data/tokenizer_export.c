#include "data/tokenizer_export.h"

#include "base/file.h"
#include "base/mem.h"
#include "data/bpe_internal.h"
#include "data/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

/* --- vocabulary and merges --- */

static json_t *token_text(const Vocab *v, int32_t id)
{
    const VocabEntry *e = id >= 0 && (size_t)id < v->id_count ? vocab_entry(v, id) : NULL;
    return e ? json_stringn(vocab_text(v, e), e->length) : NULL;
}

static json_t *vocabulary(const Vocab *v)
{
    json_t *out = json_object();
    for (size_t id = 0; out && id < v->id_count; id++) {
        const VocabEntry *e = vocab_entry(v, (int32_t)id);
        if (!e) continue;
        if (json_object_setn_new(out, vocab_text(v, e), e->length, json_integer((json_int_t)id)) == 0) continue;
        json_decref(out);
        return NULL;
    }
    return out;
}

static int by_rank(const void *a, const void *b)
{
    const MergeSlot *x = a, *y = b;
    return (x->rank > y->rank) - (x->rank < y->rank);
}

/* The merges in their order, as pairs of texts. */
static json_t *merges(const Bpe *b, Err *err)
{
    size_t count = 0;
    json_t *out = json_array();
    MergeSlot *sorted = mem_alloc(b->merge_count + 1, sizeof *sorted, err);
    for (size_t i = 0; sorted && i < b->merge_slots && count < b->merge_count; i++) {
        if (b->merges[i].pair != UINT64_MAX) sorted[count++] = b->merges[i];
    }
    if (sorted) qsort(sorted, count, sizeof *sorted, by_rank);
    for (size_t i = 0; sorted && i < count; i++) {
        json_t *left = token_text(&b->vocab, (int32_t)(uint32_t)(sorted[i].pair >> 32));
        json_t *right = token_text(&b->vocab, (int32_t)(uint32_t)sorted[i].pair);
        if (left && right) {
            json_array_append_new(out, json_pack("[o, o]", left, right));
        } else { /* of a character that is no token */
            json_decref(left);
            json_decref(right);
        }
    }
    mem_free(sorted);
    if (sorted) return out;
    json_decref(out);
    return NULL;
}

static json_t *model(const Bpe *b, bool sentencepiece, Err *err)
{
    json_t *unk = sentencepiece && b->unk >= 0 ? token_text(&b->vocab, b->unk) : json_null();
    return json_pack("{s:s, s:n, s:o, s:n, s:n, s:b, s:b, s:b, s:o, s:o}", "type", "BPE", "dropout", "unk_token", unk,
                     "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", b->fuse_unk, "byte_fallback",
                     b->byte_fallback, "ignore_merges", b->ignore_merges, "vocab", vocabulary(&b->vocab), "merges",
                     merges(b, err));
}

/* --- tokens beside the model --- */

static json_t *added_tokens(const Tokenizer *t)
{
    json_t *out = json_array();
    for (size_t i = 0; i < t->added.count; i++) {
        const AddedToken *a = &t->added.items[i];
        json_t *content = json_stringn(a->content.bytes, a->content.length);
        json_array_append_new(out, json_pack("{s:i, s:o, s:b, s:b, s:b, s:b, s:b}", "id", (int)a->id, "content",
                                             content, "single_word", a->single_word, "lstrip", a->lstrip, "rstrip",
                                             a->rstrip, "normalized", a->normalized, "special", a->special));
    }
    return out;
}

static void add_special(json_t *single, json_t *pair, json_t *specials, const Vocab *v, const IdList *list)
{
    for (size_t i = 0; i < list->count; i++) {
        json_t *text = token_text(v, list->ids[i]);
        json_t *use = json_pack("{s:{s:O, s:i}}", "SpecialToken", "id", text, "type_id", 0);
        json_array_append(single, use);
        json_array_append_new(pair, use);
        json_object_set_new(specials, json_string_value(text) ? json_string_value(text) : "",
                            json_pack("{s:O, s:[i], s:[O]}", "id", text, "ids", (int)list->ids[i], "tokens", text));
        json_decref(text);
    }
}

/* What a call with add_special_tokens=True puts around a text; JSON null: nothing. */
static json_t *post_processor(const Tokenizer *t)
{
    if (t->prefix.count + t->suffix.count == 0) return json_null();
    const Vocab *v = bpe_vocab(t->bpe);
    json_t *single = json_array(), *pair = json_array(), *specials = json_object();
    add_special(single, pair, specials, v, &t->prefix);
    json_array_append_new(single, json_pack("{s:{s:s, s:i}}", "Sequence", "id", "A", "type_id", 0));
    json_array_append_new(pair, json_pack("{s:{s:s, s:i}}", "Sequence", "id", "A", "type_id", 0));
    json_array_append_new(pair, json_pack("{s:{s:s, s:i}}", "Sequence", "id", "B", "type_id", 1));
    add_special(single, pair, specials, v, &t->suffix);
    return json_pack("{s:s, s:o, s:o, s:o}", "type", "TemplateProcessing", "single", single, "pair", pair,
                     "special_tokens", specials);
}

/* --- the two files --- */

/* Takes `value` over. Null: something of it was not well-formed text. */
static bool write_json(const char *folder, const char *name, json_t *value, Err *err)
{
    char *text = json_print(value, JSON_INDENT(1), name, err);
    char *path = path_join(folder, name, err);
    const bool ok = path && text && file_replace(path, text, strlen(text), err);
    mem_free(path);
    mem_free(text);
    json_decref(value);
    return ok;
}

static bool write_tokenizer(const Tokenizer *t, TokenizerParts *parts, const char *folder, Err *err)
{
    json_begin();
    json_t *root = json_pack("{s:s, s:n, s:n, s:o, s:O, s:O, s:o, s:O, s:o}", "version", "1.0", "truncation", "padding",
                             "added_tokens", added_tokens(t), "normalizer", parts->normalizer, "pre_tokenizer",
                             parts->pretokenizer, "post_processor", post_processor(t), "decoder", parts->decoder,
                             "model", model(t->bpe, parts->sentencepiece, err));
    return write_json(folder, "tokenizer.json", root, err);
}

static void name_token(json_t *config, const char *key, const Vocab *v, int32_t id)
{
    if (id >= 0) json_object_set_new(config, key, token_text(v, id));
}

static bool write_config(const Tokenizer *t, const Gguf *g, const char *folder, Err *err)
{
    const Vocab *v = bpe_vocab(t->bpe);
    int64_t length = 0;
    json_begin();
    json_t *config =
        json_pack("{s:s, s:b}", "tokenizer_class", "PreTrainedTokenizerFast", "clean_up_tokenization_spaces", 0);
    name_token(config, "bos_token", v, t->bos);
    name_token(config, "eos_token", v, t->eos);
    name_token(config, "unk_token", v, t->unk);
    name_token(config, "pad_token", v, t->pad);
    if (gguf_int(g, "llama.context_length", &length) && length > 0)
        json_object_set_new(config, "model_max_length", json_integer(length));
    if (t->chat_template) json_object_set_new(config, "chat_template", json_string(t->chat_template));
    return write_json(folder, "tokenizer_config.json", config, err);
}

bool tokenizer_export_gguf(const char *folder, const char *path, Err *err)
{
    Tokenizer *t = NULL;
    Gguf *g = NULL;
    TokenizerParts parts = {0};
    bool ok = tokenizer_open(&t, path, err) && gguf_open(&g, path, err) && tokenizer_gguf_parts(&parts, g, err) &&
              write_tokenizer(t, &parts, folder, err) && write_config(t, g, folder, err);
    if (!ok) (void)err_note(err, "tokenizer of %s", path);
    json_decref(parts.normalizer);
    json_decref(parts.pretokenizer);
    json_decref(parts.decoder);
    gguf_close(g);
    tokenizer_close(t);
    return ok;
}
