#include "data/tokenizer_internal.h"

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"

#include <string.h>

enum { FILE_MOST = 256 * 1024 * 1024 };

/* Model */

static bool check_type(const json_t *model, Err *err)
{
    const json_t *type = json_object_get(model, "type");
    const char *name = json_string_value(type);
    if (name && strcmp(name, "BPE") == 0) return true;
    if (name) { return FAIL(err, ERR_MODEL, "the tokenizer model \"%.40s\" is not supported; only BPE is", name); }
    /* Old files do not say it: a list of tokens with scores is Unigram, merges are BPE. */
    if (json_is_array(json_object_get(model, "vocab"))) {
        return FAIL(err, ERR_MODEL, "the tokenizer model \"Unigram\" is not supported; only BPE is");
    }
    if (!json_object_get(model, "merges")) {
        return FAIL(err, ERR_MODEL, "the tokenizer model has no type and no merges; only BPE is supported");
    }
    return true;
}

static bool load_vocab(Vocab *vocab, const json_t *model, Err *err)
{
    json_t *object = json_object_get(model, "vocab");
    if (!json_is_object(object)) return FAIL(err, ERR_MODEL, "the tokenizer model has no \"vocab\" of tokens and ids");
    if (!vocab_reserve(vocab, json_object_size(object), err)) return false;
    for (void *it = json_object_iter(object); it; it = json_object_iter_next(object, it)) {
        const json_t *id = json_object_iter_value(it);
        const char *text = json_object_iter_key(it);
        if (!json_is_integer(id)) return FAIL(err, ERR_MODEL, "the token \"%.40s\" has an id that is no integer", text);
        if (!vocab_add(vocab, text, json_object_iter_key_len(it), json_integer_value(id), err)) return false;
    }
    return true;
}

/* "left right": exactly one space. */
static bool add_merge_text(Bpe *b, const json_t *merge, size_t at, Err *err)
{
    const char *text = json_string_value(merge);
    const size_t length = json_string_length(merge);
    const char *space = memchr(text, ' ', length);
    if (length >= 8 && memcmp(text, "#version", 8) == 0) return true;
    if (!space || memchr(space + 1, ' ', length - (size_t)(space - text) - 1)) {
        return FAIL(err, ERR_MODEL, "merge %zu is not two tokens with one space between them", at + 1);
    }
    const size_t left = (size_t)(space - text);
    return bpe_add_merge(b, text, left, space + 1, length - left - 1, err);
}

static bool add_merge_pair(Bpe *b, const json_t *merge, size_t at, Err *err)
{
    const json_t *left = json_array_get(merge, 0);
    const json_t *right = json_array_get(merge, 1);
    if (json_array_size(merge) != 2 || !json_is_string(left) || !json_is_string(right)) {
        return FAIL(err, ERR_MODEL, "merge %zu is not a pair of tokens", at + 1);
    }
    return bpe_add_merge(b, json_string_value(left), json_string_length(left), json_string_value(right),
                         json_string_length(right), err);
}

static bool load_merges(Bpe *b, const json_t *model, Err *err)
{
    const json_t *merges = json_object_get(model, "merges");
    const size_t count = json_array_size(merges);
    if (merges && !json_is_array(merges)) return FAIL(err, ERR_MODEL, "\"merges\" of the tokenizer is no list");
    if (!bpe_reserve_merges(b, count + 1, err)) return false;
    for (size_t i = 0; i < count; i++) {
        const json_t *merge = json_array_get(merges, i);
        if (!(json_is_string(merge) ? add_merge_text : add_merge_pair)(b, merge, i, err)) return false;
    }
    return true;
}

static bool check_dropout(const json_t *model, Err *err)
{
    double dropout = 0;
    if (!json_get_real(&dropout, model, "dropout", "the tokenizer model", err)) return false;
    if (dropout == 0) return true;
    return FAIL(err, ERR_MODEL, "the tokenizer has \"dropout\": %g, which makes ids random; set it to null", dropout);
}

static bool load_model(Tokenizer *t, const json_t *model, Err *err)
{
    static const char what[] = "the tokenizer model";
    BpeOptions o = {0};
    Vocab vocab = {0};
    if (!json_is_object(model)) return FAIL(err, ERR_MODEL, "it has no \"model\", so it is no tokenizer.json");
    if (!check_type(model, err) || !check_dropout(model, err)) return false;
    if (!json_get_text(&o.unk, model, "unk_token", what, err)) return false;
    if (!json_get_text(&o.prefix, model, "continuing_subword_prefix", what, err)) return false;
    if (!json_get_text(&o.suffix, model, "end_of_word_suffix", what, err)) return false;
    if (!json_get_bool(&o.byte_fallback, model, "byte_fallback", what, err)) return false;
    if (!json_get_bool(&o.fuse_unk, model, "fuse_unk", what, err)) return false;
    if (!json_get_bool(&o.ignore_merges, model, "ignore_merges", what, err)) return false;
    if (!load_vocab(&vocab, model, err)) {
        vocab_free(&vocab);
        return false;
    }
    if (!bpe_create(&t->bpe, &vocab, &o, err) || !load_merges(t->bpe, model, err)) return false;
    bpe_finish(t->bpe);
    t->unk = bpe_unk(t->bpe);
    return true;
}

/* Added tokens */

static bool read_added(AddedToken *out, const json_t *json, Err *err)
{
    static const char what[] = "an added token";
    const json_t *content = json_object_get(json, "content");
    if (!json_is_string(content)) return FAIL(err, ERR_MODEL, "an added token has no text \"content\"");
    return text_add(&out->content, json_string_value(content), json_string_length(content), err) &&
           json_get_bool(&out->single_word, json, "single_word", what, err) &&
           json_get_bool(&out->lstrip, json, "lstrip", what, err) &&
           json_get_bool(&out->rstrip, json, "rstrip", what, err) &&
           json_get_bool(&out->normalized, json, "normalized", what, err) &&
           json_get_bool(&out->special, json, "special", what, err);
}

static bool load_added(Tokenizer *t, const json_t *list, Err *err)
{
    if (!list || json_is_null(list)) return true;
    if (!json_is_array(list)) return FAIL(err, ERR_MODEL, "\"added_tokens\" is no list");
    for (size_t i = 0; i < json_array_size(list); i++) {
        AddedToken token = {0};
        const json_t *json = json_array_get(list, i);
        const bool done = read_added(&token, json, err) && tokenizer_add_token(t, &token, err);
        text_free(&token.content); /* empty when it was taken over */
        if (!done) return false;
    }
    return true;
}

/* Post-processor: what stands before and after one text */

static bool add_template_ids(IdList *list, const json_t *token, const json_t *special_tokens, Err *err)
{
    const char *name = json_string_value(json_object_get(token, "id"));
    const json_t *ids = name ? json_object_get(json_object_get(special_tokens, name), "ids") : NULL;
    if (!json_is_array(ids)) {
        return FAIL(err, ERR_MODEL, "the post-processor's token \"%.40s\" has no ids", name ? name : "");
    }
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *id = json_array_get(ids, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= VOCAB_ID_MOST) {
            return FAIL(err, ERR_MODEL, "the post-processor's token \"%.40s\" has an id out of range", name);
        }
        if (!id_list_add(list, (int32_t)json_integer_value(id), err)) return false;
    }
    return true;
}

static bool load_template(Tokenizer *t, const json_t *json, Err *err)
{
    const json_t *single = json_object_get(json, "single");
    const json_t *special_tokens = json_object_get(json, "special_tokens");
    bool behind = false;
    if (!json_is_array(single)) return FAIL(err, ERR_MODEL, "the post-processor has no template \"single\"");
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *part = json_array_get(single, i);
        const json_t *token = json_object_get(part, "SpecialToken");
        if (json_object_get(part, "Sequence")) {
            behind = true;
        } else if (token && !add_template_ids(behind ? &t->suffix : &t->prefix, token, special_tokens, err)) {
            return false;
        }
    }
    return true;
}

/* "cls": ["<s>", 0], "sep": ["</s>", 2] */
static bool load_cls_sep(Tokenizer *t, const json_t *json, Err *err)
{
    const json_t *cls = json_array_get(json_object_get(json, "cls"), 1);
    const json_t *sep = json_array_get(json_object_get(json, "sep"), 1);
    const json_int_t first = json_integer_value(cls);
    const json_int_t last = json_integer_value(sep);
    if (!json_is_integer(cls) || !json_is_integer(sep) || first < 0 || last < 0 || first >= VOCAB_ID_MOST ||
        last >= VOCAB_ID_MOST) {
        return FAIL(err, ERR_MODEL, "the post-processor has no usable \"cls\" and \"sep\"");
    }
    return id_list_add(&t->prefix, (int32_t)first, err) && id_list_add(&t->suffix, (int32_t)last, err);
}

static bool load_post_processor(Tokenizer *t, const json_t *json, Err *err)
{
    if (!json || json_is_null(json)) return true;
    const char *type = json_string_value(json_object_get(json, "type"));
    if (!type) return FAIL(err, ERR_MODEL, "the post-processor has no \"type\"");
    if (strcmp(type, "ByteLevel") == 0) return true; /* only trims offsets */
    if (strcmp(type, "TemplateProcessing") == 0) return load_template(t, json, err);
    if (strcmp(type, "RobertaProcessing") == 0 || strcmp(type, "BertProcessing") == 0)
        return load_cls_sep(t, json, err);
    if (strcmp(type, "Sequence") != 0) {
        return FAIL(err, ERR_MODEL, "the post-processor \"%.40s\" is not supported", type);
    }
    const json_t *list = json_object_get(json, "processors");
    if (!json_is_array(list)) return FAIL(err, ERR_MODEL, "a post-processor Sequence has no list \"processors\"");
    for (size_t i = 0; i < json_array_size(list); i++) {
        if (!load_post_processor(t, json_array_get(list, i), err)) return false;
    }
    return true;
}

static bool load_root(Tokenizer *t, const json_t *root, Err *err)
{
    return load_model(t, json_object_get(root, "model"), err) &&
           normalizer_create(&t->normalizer, json_object_get(root, "normalizer"), err) &&
           pretokenizer_create(&t->pretokenizer, json_object_get(root, "pre_tokenizer"), err) &&
           decoder_create(&t->decoder, json_object_get(root, "decoder"), err) &&
           load_added(t, json_object_get(root, "added_tokens"), err) && tokenizer_index_tokens(t, err) &&
           load_post_processor(t, json_object_get(root, "post_processor"), err);
}

bool tokenizer_load_json(Tokenizer *t, const char *path, Err *err)
{
    char *bytes;
    size_t length;
    json_t *root = NULL;
    if (!file_read_all(&bytes, &length, path, FILE_MOST, ERR_MODEL, err)) return false;
    hash_bytes(bytes, length, t->fingerprint);
    const bool parsed = json_parse(&root, bytes, length, path, ERR_MODEL, err);
    mem_free(bytes);
    if (!parsed) return false;
    const bool done = load_root(t, root, err) || err_note(err, "%s", path);
    json_decref(root);
    return done;
}
