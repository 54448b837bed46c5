#include "data/tokenizer_internal.h"

#include "base/file.h"
#include "base/mem.h"
#include "data/json_scan.h"

#include <string.h>

enum { FILE_MOST = 256 * 1024 * 1024 };

/* Members of "model" that are read straight from the file. */
typedef struct HugeMembers {
    JsonScan scan;
    JsonSpan vocab, merges;
} HugeMembers;

/* Model */

static bool check_type(const json_t *model, Err *err)
{
    const json_t *type = json_object_get(model, "type");
    const char *name = json_string_value(type);
    if (name && strcmp(name, "BPE") == 0) return true;
    if (name) return refuse_named("the tokenizer model", name, "is not supported; only BPE is", err);
    /* Old files do not say it: a list of tokens with scores is Unigram, merges are BPE. */
    if (json_is_array(json_object_get(model, "vocab"))) {
        return FAIL(err, ERR_MODEL, "the tokenizer model \"Unigram\" is not supported; only BPE is");
    }
    if (!json_object_get(model, "merges")) {
        return FAIL(err, ERR_MODEL, "the tokenizer model has no type and no merges; only BPE is supported");
    }
    return true;
}

static bool load_vocab(Vocab *vocab, JsonScan *s, Err *err)
{
    bool more = true;
    if (!json_scan_expect(s, '{', err)) return false;
    if (json_scan_peek(s) == '}') return json_scan_expect(s, '}', err);
    while (more) {
        JsonText text;
        int64_t id;
        const size_t before = vocab->count;
        if (!json_scan_text(s, &text, err) || !json_scan_expect(s, ':', err)) return false;
        const JsonText key = text; /* stays valid: a number needs no work memory */
        if (!json_scan_int(s, &id, err) || !vocab_add(vocab, key.bytes, key.length, id, err)) return false;
        if (vocab->count == before) return json_scan_fail(s, "a token that was there before", err);
        if (!json_scan_more(s, '}', &more, err)) return false;
    }
    return true;
}

/* "left right": exactly one space. */
static bool add_merge_text(Bpe *b, JsonScan *s, Err *err)
{
    JsonText text;
    if (!json_scan_text(s, &text, err)) return false;
    if (text.length >= 8 && memcmp(text.bytes, "#version", 8) == 0) return true;
    const char *space = text.length ? memchr(text.bytes, ' ', text.length) : NULL;
    const size_t left = space ? (size_t)(space - text.bytes) : 0;
    if (!space || memchr(space + 1, ' ', text.length - left - 1)) {
        return json_scan_fail(s, "a merge that is not two tokens with one space between them", err);
    }
    return bpe_add_merge(b, text.bytes, left, space + 1, text.length - left - 1, err);
}

/* ["left", "right"] */
static bool add_merge_pair(Bpe *b, JsonScan *s, Text *left, Err *err)
{
    JsonText text;
    text_clear(left);
    return json_scan_expect(s, '[', err) && json_scan_text(s, &text, err) &&
           text_add(left, text.bytes, text.length, err) && json_scan_expect(s, ',', err) &&
           json_scan_text(s, &text, err) && json_scan_expect(s, ']', err) &&
           bpe_add_merge(b, left->bytes, left->length, text.bytes, text.length, err);
}

static bool load_merges(Bpe *b, JsonScan *s, Err *err)
{
    Text left = {0};
    bool more = true;
    if (!json_scan_expect(s, '[', err)) return false;
    if (json_scan_peek(s) == ']') return json_scan_expect(s, ']', err);
    while (more) {
        const bool pair = json_scan_peek(s) == '[';
        if (!(pair ? add_merge_pair(b, s, &left, err) : add_merge_text(b, s, err))) break;
        if (!json_scan_more(s, ']', &more, err)) break;
        if (!more) {
            text_free(&left);
            return true;
        }
    }
    text_free(&left);
    return false;
}

static bool check_dropout(const json_t *model, Err *err)
{
    double dropout = 0;
    if (!json_get_real(&dropout, model, "dropout", "the tokenizer model", err)) return false;
    if (dropout == 0) return true;
    return FAIL(err, ERR_MODEL, "the tokenizer has \"dropout\": %g, which makes ids random; set it to null", dropout);
}

static bool load_model(Tokenizer *t, const json_t *model, const HugeMembers *huge, Err *err)
{
    static const char what[] = "the tokenizer model";
    BpeOptions o = {0};
    Vocab vocab = {0};
    JsonScan s = huge->scan;
    if (!json_is_object(model)) return FAIL(err, ERR_MODEL, "it has no \"model\", so it is no tokenizer.json");
    if (!check_type(model, err) || !check_dropout(model, err)) return false;
    if (!json_get_text(&o.unk, model, "unk_token", what, err)) return false;
    if (!json_get_text(&o.prefix, model, "continuing_subword_prefix", what, err)) return false;
    if (!json_get_text(&o.suffix, model, "end_of_word_suffix", what, err)) return false;
    if (!json_get_bool(&o.byte_fallback, model, "byte_fallback", what, err)) return false;
    if (!json_get_bool(&o.fuse_unk, model, "fuse_unk", what, err)) return false;
    if (!json_get_bool(&o.ignore_merges, model, "ignore_merges", what, err)) return false;
    if (!json_is_object(json_object_get(model, "vocab"))) {
        return FAIL(err, ERR_MODEL, "the tokenizer model has no \"vocab\" of tokens and ids");
    }
    s.at = huge->vocab.begin;
    bool done = load_vocab(&vocab, &s, err);
    if (!done) vocab_free(&vocab);
    done = done && bpe_create(&t->bpe, &vocab, &o, err);
    s.at = huge->merges.begin;
    if (done && huge->merges.length) done = load_merges(t->bpe, &s, err);
    text_free(&s.unescaped);
    if (!done) return false;
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
    if (!json_is_array(ids)) { return refuse_named("the post-processor's token", name, "has no ids", err); }
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *id = json_array_get(ids, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= VOCAB_ID_MOST) {
            return refuse_named("the post-processor's token", name, "has an id out of range", err);
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
    if (strcmp(type, "Sequence") != 0) { return refuse_named("the post-processor", type, "is not supported", err); }
    const json_t *list = json_object_get(json, "processors");
    if (!json_is_array(list)) return FAIL(err, ERR_MODEL, "a post-processor Sequence has no list \"processors\"");
    for (size_t i = 0; i < json_array_size(list); i++) {
        if (!load_post_processor(t, json_array_get(list, i), err)) return false;
    }
    return true;
}

static bool load_root(Tokenizer *t, const json_t *root, const HugeMembers *huge, Err *err)
{
    return load_model(t, json_object_get(root, "model"), huge, err) &&
           normalizer_create(&t->normalizer, json_object_get(root, "normalizer"), err) &&
           pretokenizer_create(&t->pretokenizer, json_object_get(root, "pre_tokenizer"), err) &&
           decoder_create(&t->decoder, json_object_get(root, "decoder"), err) &&
           load_added(t, json_object_get(root, "added_tokens"), err) && tokenizer_index_tokens(t, err) &&
           load_post_processor(t, json_object_get(root, "post_processor"), err);
}

/* Members of the object at s->at; those of "model" (depth 1) that are huge are noted. */
static bool find_members(HugeMembers *huge, JsonScan *s, int depth, Err *err)
{
    bool more = true;
    if (!json_scan_expect(s, '{', err)) return false;
    if (json_scan_peek(s) == '}') return json_scan_expect(s, '}', err);
    while (more) {
        JsonText key;
        JsonSpan value;
        if (!json_scan_text(s, &key, err) || !json_scan_expect(s, ':', err)) return false;
        const bool model = depth == 0 && key.length == 5 && memcmp(key.bytes, "model", 5) == 0;
        const bool vocab = depth == 1 && key.length == 5 && memcmp(key.bytes, "vocab", 5) == 0;
        const bool merges = depth == 1 && key.length == 6 && memcmp(key.bytes, "merges", 6) == 0;
        if (model && json_scan_peek(s) == '{') {
            if (!find_members(huge, s, 1, err)) return false;
        } else if (!json_scan_skip(s, &value, err)) {
            return false;
        }
        if (vocab) huge->vocab = value;
        if (merges) huge->merges = value;
        if (!json_scan_more(s, '}', &more, err)) return false;
    }
    return true;
}

/* Copies the file up to `span` and an empty value in its place. */
static bool copy_without(Text *out, const JsonScan *s, size_t *copied, JsonSpan span, Err *err)
{
    const char open = s->bytes[span.begin];
    const char *empty = open == '{' ? "{}" : open == '[' ? "[]" : "null";
    if (!text_add(out, s->bytes + *copied, span.begin - *copied, err) || !text_add_z(out, empty, err)) return false;
    *copied = span.begin + span.length;
    return true;
}

/* The document without what is huge. A file whose root is no object is left to the parser to refuse. */
static bool parse_rest(json_t **root, HugeMembers *huge, Err *err)
{
    JsonScan *s = &huge->scan;
    Text rest = {0};
    size_t copied = 0;
    bool done = json_scan_peek(s) != '{' || find_members(huge, s, 0, err);
    const bool vocab_first = huge->vocab.begin < huge->merges.begin;
    const JsonSpan spans[2] = {vocab_first ? huge->vocab : huge->merges, vocab_first ? huge->merges : huge->vocab};
    for (int i = 0; done && i < 2; i++) {
        if (spans[i].length) done = copy_without(&rest, s, &copied, spans[i], err);
    }
    done = done && text_add(&rest, s->bytes + copied, s->length - copied, err) &&
           json_parse(root, rest.bytes, rest.length, s->what, ERR_MODEL, err);
    text_free(&rest);
    text_free(&s->unescaped);
    return done;
}

bool tokenizer_load_json(Tokenizer *t, const char *path, Err *err)
{
    char *bytes;
    size_t length;
    json_t *root = NULL;
    if (!file_read_all(&bytes, &length, path, FILE_MOST, ERR_MODEL, err)) return false;
    hash_bytes(bytes, length, t->fingerprint);
    HugeMembers huge = {
        .scan = {.bytes = bytes, .length = length, .what = path}
    };
    const bool done = parse_rest(&root, &huge, err) && (load_root(t, root, &huge, err) || err_note(err, "%s", path));
    json_decref(root);
    mem_free(bytes);
    return done;
}
