#include "data/tokenizer_internal.h"

#include "base/check.h"
#include "base/file.h"
#include "base/mem.h"
#include "data/json_scan.h"

#include <stdlib.h>
#include <string.h>

enum { CONFIG_MOST = 64 * 1024 * 1024, TEMPLATE_MOST = 4 * 1024 * 1024 };

/* What is read of each file; the rest may be anything (model_max_length is often 1e30, which no integer type holds). */
static const char *const token_keys[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                         "pad_token", "cls_token", "mask_token"};
static const char *const other_keys[] = {
    "add_bos_token",        "add_eos_token", "chat_template", "added_tokens_decoder", "additional_special_tokens",
    "extra_special_tokens", "eos_token_id"};

static bool is_wanted(JsonText key)
{
    for (size_t i = 0; i < ARRAY_COUNT(token_keys) + ARRAY_COUNT(other_keys); i++) {
        const size_t first = ARRAY_COUNT(token_keys);
        const char *name = i < first ? token_keys[i] : other_keys[i - first];
        if (key.length == strlen(name) && memcmp(key.bytes, name, key.length) == 0) return true;
    }
    return false;
}

/* An object with the wanted members of the one at s->at. */
static bool copy_wanted(Text *out, JsonScan *s, Err *err)
{
    bool more = true;
    bool first = true;
    if (!json_scan_expect(s, '{', err) || !text_add_z(out, "{", err)) return false;
    if (json_scan_peek(s) == '}') return text_add_z(out, "}", err);
    while (more) {
        JsonText key;
        JsonSpan value;
        if (!json_scan_text(s, &key, err)) return false;
        const bool wanted = is_wanted(key);
        if (wanted && !text_format(out, err, "%s\"%.*s\":", first ? "" : ",", (int)key.length, key.bytes)) return false;
        if (wanted) first = false;
        if (!json_scan_expect(s, ':', err) || !json_scan_skip(s, &value, err)) return false;
        if (wanted && !text_add(out, s->bytes + value.begin, value.length, err)) return false;
        if (!json_scan_more(s, '}', &more, err)) return false;
    }
    return text_add_z(out, "}", err);
}

static bool read_wanted(json_t **out, const char *path, Err *err)
{
    JsonScan s = {.what = path};
    Text wanted = {0};
    char *bytes;
    if (!file_read_all(&bytes, &s.length, path, CONFIG_MOST, ERR_MODEL, err)) return false;
    s.bytes = bytes;
    const bool done =
        copy_wanted(&wanted, &s, err) && json_parse(out, wanted.bytes, wanted.length, path, ERR_MODEL, err);
    text_free(&s.unescaped);
    text_free(&wanted);
    mem_free(bytes);
    return done;
}

/* *out stays null when the file is not there. */
static bool read_optional(json_t **out, const char *folder, const char *name, Err *err)
{
    char *path = path_join(folder, name, err);
    if (!path) return false;
    const bool done = !file_exists(path) || read_wanted(out, path, err);
    mem_free(path);
    return done;
}

/* Added tokens: what the config says counts, as in transformers, also about tokens that tokenizer.json has too. */

static bool add_token(Tokenizer *t, const char *content, const json_t *flags, Err *err)
{
    static const char what[] = "a token of tokenizer_config.json";
    AddedToken token = {.special = true};
    bool done = text_add_z(&token.content, content, err);
    if (flags) {
        done = done && json_get_bool(&token.special, flags, "special", what, err) &&
               json_get_bool(&token.lstrip, flags, "lstrip", what, err) &&
               json_get_bool(&token.rstrip, flags, "rstrip", what, err) &&
               json_get_bool(&token.single_word, flags, "single_word", what, err) &&
               json_get_bool(&token.normalized, flags, "normalized", what, err);
    }
    done = done && tokenizer_add_token(t, &token, err);
    text_free(&token.content);
    return done;
}

typedef struct NumberedToken {
    long number;
    const json_t *token;
} NumberedToken;

static int by_number(const void *a, const void *b)
{
    const NumberedToken *x = a;
    const NumberedToken *y = b;
    return x->number < y->number ? -1 : x->number > y->number;
}

/* {"512": {"content": ..., flags}, ...} in the order of the numbers. */
static bool add_numbered(Tokenizer *t, json_t *object, Err *err)
{
    const size_t count = json_object_size(object);
    if (count == 0) return true;
    NumberedToken *list = mem_alloc(count, sizeof *list, err);
    if (!list) return false;
    size_t n = 0;
    for (void *it = json_object_iter(object); it; it = json_object_iter_next(object, it)) {
        list[n++] =
            (NumberedToken){.number = strtol(json_object_iter_key(it), NULL, 10), .token = json_object_iter_value(it)};
    }
    qsort(list, n, sizeof *list, by_number);
    bool done = true;
    for (size_t i = 0; done && i < n; i++) {
        const char *content = json_string_value(json_object_get(list[i].token, "content"));
        if (content) done = add_token(t, content, list[i].token, err);
    }
    mem_free(list);
    return done;
}

/* A special token that is not among the added ones becomes one. */
static bool add_missing(Tokenizer *t, const json_t *value, Err *err)
{
    const json_t *flags = json_is_object(value) ? value : NULL;
    const char *content = json_string_value(flags ? json_object_get(flags, "content") : value);
    if (!content || added_tokens_by_text(&t->added, content, strlen(content))) return true;
    return add_token(t, content, flags, err);
}

static bool add_config_tokens(Tokenizer *t, const json_t *config, Err *err)
{
    if (!add_numbered(t, json_object_get(config, "added_tokens_decoder"), err)) return false;
    for (size_t i = 0; i < ARRAY_COUNT(token_keys); i++) {
        if (!add_missing(t, json_object_get(config, token_keys[i]), err)) return false;
    }
    const json_t *lists[] = {json_object_get(config, "additional_special_tokens"),
                             json_object_get(config, "extra_special_tokens")};
    for (size_t k = 0; k < ARRAY_COUNT(lists); k++) {
        for (size_t i = 0; i < json_array_size(lists[k]); i++) {
            if (!add_missing(t, json_array_get(lists[k], i), err)) return false;
        }
    }
    json_t *named = json_object_get(config, "extra_special_tokens");
    for (void *it = json_object_iter(named); it; it = json_object_iter_next(named, it)) {
        if (!add_missing(t, json_object_iter_value(it), err)) return false;
    }
    return tokenizer_index_tokens(t, err);
}

/* "text" or {"content": "text"}; an absent, null or unknown one leaves *id alone. */
static void read_token(const Tokenizer *t, int32_t *id, const json_t *config, const char *key)
{
    const json_t *value = json_object_get(config, key);
    if (json_is_object(value)) value = json_object_get(value, "content");
    const char *text = json_string_value(value);
    const int32_t found = text ? tokenizer_id(t, text) : -1;
    if (found >= 0) *id = found;
}

static void read_tokens(Tokenizer *t, const json_t *config)
{
    read_token(t, &t->bos, config, "bos_token");
    read_token(t, &t->eos, config, "eos_token");
    read_token(t, &t->pad, config, "pad_token");
    read_token(t, &t->unk, config, "unk_token");
}

/* add_bos_token / add_eos_token, where given, decide instead of the post-processor. */
static bool read_affix(IdList *list, const json_t *config, const char *key, int32_t id, Err *err)
{
    const json_t *value = json_object_get(config, key);
    if (!json_is_boolean(value)) return true;
    list->count = 0;
    return !json_is_true(value) || id < 0 || id_list_add(list, id, err);
}

static bool set_template(Tokenizer *t, const char *text, Err *err)
{
    mem_free(t->chat_template);
    t->chat_template = mem_copy_text(text, err);
    return t->chat_template != NULL;
}

/* A text, or a list of {"name", "template"} of which "default" counts. */
static bool read_template(Tokenizer *t, const json_t *config, Err *err)
{
    const json_t *value = json_object_get(config, "chat_template");
    if (json_is_string(value)) return set_template(t, json_string_value(value), err);
    for (size_t i = 0; i < json_array_size(value); i++) {
        const json_t *item = json_array_get(value, i);
        const char *name = json_string_value(json_object_get(item, "name"));
        const char *text = json_string_value(json_object_get(item, "template"));
        if (name && text && strcmp(name, "default") == 0) return set_template(t, text, err);
    }
    return true;
}

static bool load_template_file(Tokenizer *t, const char *folder, Err *err)
{
    char *path = path_join(folder, "chat_template.jinja", err);
    char *text = NULL;
    size_t length;
    if (!path) return false;
    bool done = true;
    if (file_exists(path)) {
        done = file_read_all(&text, &length, path, TEMPLATE_MOST, ERR_MODEL, err) && set_template(t, text, err);
    }
    mem_free(text);
    mem_free(path);
    return done;
}

static bool add_stop_id(Tokenizer *t, const json_t *id, Err *err)
{
    const json_int_t value = json_integer_value(id);
    if (!json_is_integer(id) || value < 0 || value >= VOCAB_ID_MOST) return true;
    return id_list_add(&t->stops, (int32_t)value, err);
}

/* eos_token_id: one id or a list; the first one also stands in for an eos that nothing else names. */
static bool read_generation(Tokenizer *t, const json_t *config, Err *err)
{
    const json_t *eos = json_object_get(config, "eos_token_id");
    if (json_is_integer(eos) && !add_stop_id(t, eos, err)) return false;
    for (size_t i = 0; i < json_array_size(eos); i++) {
        if (!add_stop_id(t, json_array_get(eos, i), err)) return false;
    }
    if (t->eos < 0 && t->stops.count) t->eos = t->stops.ids[0];
    return true;
}

static bool load_config(Tokenizer *t, const json_t *config, Err *err)
{
    if (!add_config_tokens(t, config, err)) return false;
    read_tokens(t, config);
    return read_affix(&t->prefix, config, "add_bos_token", t->bos, err) &&
           read_affix(&t->suffix, config, "add_eos_token", t->eos, err) && read_template(t, config, err);
}

bool tokenizer_load_folder(Tokenizer *t, const char *folder, Err *err)
{
    json_t *map = NULL;
    json_t *config = NULL;
    json_t *generation = NULL;
    bool done = read_optional(&map, folder, "special_tokens_map.json", err) &&
                read_optional(&config, folder, "tokenizer_config.json", err) &&
                read_optional(&generation, folder, "generation_config.json", err);
    if (done) {
        read_tokens(t, map);
        done = (!config || load_config(t, config, err)) && read_generation(t, generation, err) &&
               load_template_file(t, folder, err);
    }
    json_decref(map);
    json_decref(config);
    json_decref(generation);
    return done;
}
