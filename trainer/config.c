#include "trainer/config.h"

#include "base/check.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "trainer/config_state.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { NOTICES_MAX = 200 };

void config_note(Config *c, Err *err, const char *format, ...)
{
    char text[400];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    ConfigState *s = c->state;
    if (s->notice_count == NOTICES_MAX) return;
    for (size_t i = 0; i < s->notice_count; i++) {
        if (strcmp(s->notices[i], text) == 0) return;
    }
    if (!mem_grow(&s->notices, &s->notice_capacity, s->notice_count + 1, sizeof s->notices[0], err)) return;
    const char *copy = config_pool_text(&s->pool, text, strlen(text), err);
    if (copy) s->notices[s->notice_count++] = copy;
}

void config_free(Config *c)
{
    if (!c) return;
    if (c->state) {
        mem_free(c->state->name);
        mem_free(c->state->notices);
        config_pool_free(&c->state->pool);
        mem_free(c->state);
    }
    mem_free(c);
}

static Config *config_make(const char *name, Err *err)
{
    Config *c = mem_alloc(1, sizeof *c, err);
    if (!c) return NULL;
    c->state = mem_alloc(1, sizeof *c->state, err);
    if (c->state) c->state->name = mem_copy_text(name, err);
    if (c->state && c->state->name) return c;
    config_free(c);
    return NULL;
}

/* A text and what it is for. */
typedef struct ConfigText {
    const char *name, *bytes;
    size_t length;
    bool without_data;
} ConfigText;

static bool parse(Config **out, const ConfigText *text, const char *const *overrides, int count, Err *err)
{
    Config *c = config_make(text->name, err);
    if (!c) return false;
    c->state->without_data = text->without_data;
    ConfigFaults faults = {.name = c->state->name, .err = err};
    YamlTree tree = {0};
    const YamlNode *root = yaml_parse(&tree, text->bytes, text->length, NULL, &faults);
    config_keys_read(c, root, overrides, count, &tree, &faults);
    /* What a broken text lacks, nobody can say. */
    if (!tree.broken && err->code == ERR_NONE) config_check(c, &faults);
    const bool good = config_faults_finish(&faults);
    yaml_tree_free(&tree);
    if (good) {
        *out = c;
    } else {
        config_free(c);
    }
    return good;
}

bool config_parse(Config **out, const char *name, const char *text, size_t length, const char *const *overrides,
                  int count, Err *err)
{
    return parse(out, &(ConfigText){.name = name, .bytes = text, .length = length}, overrides, count, err);
}

static bool load(Config **out, const char *path, bool without_data, const char *const *overrides, int count, Err *err)
{
    char *bytes = NULL;
    ConfigText text = {.name = path, .without_data = without_data};
    if (!file_read_all(&bytes, &text.length, path, YAML_BYTES_MAX, ERR_CONFIG, err)) return false;
    text.bytes = bytes;
    const bool good = parse(out, &text, overrides, count, err);
    mem_free(bytes);
    return good;
}

bool config_load(Config **out, const char *path, const char *const *overrides, int count, Err *err)
{
    return load(out, path, false, overrides, count, err);
}

bool config_load_without_data(Config **out, const char *path, const char *const *overrides, int count, Err *err)
{
    return load(out, path, true, overrides, count, err);
}

void config_mark_read(const Config *c, ConfigKey key)
{
    c->state->read[key] = true;
}

bool config_is_set(const Config *c, const char *key)
{
    const int i = config_field_find(key);
    if (i >= 0) return c->state->set[i];
    CHECK(config_is_group(key));
    const size_t n = strlen(key);
    for (int k = 0; k < CONFIG_KEY_COUNT; k++) {
        if (strncmp(config_fields[k].name, key, n) == 0 && config_fields[k].name[n] == '.' && c->state->set[k]) {
            return true;
        }
    }
    return false;
}

int config_notice_count(const Config *c)
{
    return (int)c->state->notice_count;
}

const char *config_notice(const Config *c, int i)
{
    return c->state->notices[i];
}

void config_log_notices(const Config *c)
{
    for (size_t i = 0; i < c->state->notice_count; i++)
        log_info("%s", c->state->notices[i]);
}

/* Whether the key holds what it holds when nobody sets it. Derived values count as changed. */
static bool is_initial(const Config *c, const ConfigField *f, bool *same, Err *err)
{
    Config *fresh = config_make("", err);
    if (!fresh) return false;
    Text now = {0};
    Text then = {0};
    ConfigFaults faults = {.name = "", .err = err};
    const ConfigReader reader = {&fresh->state->pool, &faults, false};
    config_value_read(config_member(fresh, f), f, f->name, NULL, &reader);
    bool good = config_value_print(&now, f, config_member(c, f), err) &&
                config_value_print(&then, f, config_member(fresh, f), err);
    if (good) *same = now.length == then.length && (now.length == 0 || strcmp(now.bytes, then.bytes) == 0);
    good = config_faults_finish(&faults) && good;
    text_free(&now);
    text_free(&then);
    config_free(fresh);
    return good;
}

bool config_check_consumed(const Config *c, Err *err)
{
    ConfigFaults faults = {.name = c->state->name, .err = err};
    for (int i = 0; i < CONFIG_KEY_COUNT; i++) {
        if (!c->state->set[i] || c->state->read[i]) continue;
        bool same = false;
        const ConfigField *f = &config_fields[i];
        if (f->type != CONFIG_DATASETS && !is_initial(c, f, &same, err)) break;
        if (same) continue;
        config_fault(&faults, c->state->places[i], "%s is set, but nothing in this run uses it; remove it", f->name);
    }
    return config_faults_finish(&faults);
}

bool config_has_evaluation(const Config *c)
{
    return c->test_datasets.count > 0 || c->val_set_size > 0;
}

int64_t config_share(double share, int64_t total)
{
    if (share <= 0) return 0;
    if (share >= 1) return (int64_t)share;
    const int64_t n = (int64_t)ceil(share * (double)total);
    return n > 1 ? n : 1;
}
