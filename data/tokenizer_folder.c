#include "data/tokenizer_internal.h"

#include "base/file.h"
#include "base/mem.h"

#include <string.h>

enum { CONFIG_MOST = 64 * 1024 * 1024, TEMPLATE_MOST = 4 * 1024 * 1024 };

/* *out stays null when the file is not there. */
static bool read_optional(json_t **out, const char *folder, const char *name, Err *err)
{
    char *path = path_join(folder, name, err);
    if (!path) return false;
    const bool done = !file_exists(path) || json_parse_file(out, path, CONFIG_MOST, ERR_MODEL, err);
    mem_free(path);
    return done;
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
        done = load_config(t, config, err) && read_generation(t, generation, err) && load_template_file(t, folder, err);
    }
    json_decref(map);
    json_decref(config);
    json_decref(generation);
    return done;
}
