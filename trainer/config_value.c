#include "trainer/config_value.h"

#include "trainer/config_alias.h"
#include "trainer/config_scalar.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    LAYER_MAX = 9999,
    NAME_MAX_BYTES = 100,  /* of a name in a map; libyaml refuses keys beyond 1,024 characters, escapes included */
    TEXT_MAX_BYTES = 65536 /* of one text; prompts are the longest */
};

/* Everything that one value needs on its way. */
typedef struct Value {
    const ConfigField *field;
    const char *name;
    const ConfigReader *reader;
} Value;

static bool wrong(const Value *v, const YamlNode *node, const char *why)
{
    char shown[100];
    config_fault(v->reader->faults, node->place, "%s: %s %s", v->name, yaml_show(node, shown, sizeof shown), why);
    return false;
}

static bool wrong_kind(const Value *v, const YamlNode *node, const char *wanted)
{
    char shown[100];
    config_fault(v->reader->faults, node->place, "%s takes a %s, not %s", v->name, wanted,
                 yaml_show(node, shown, sizeof shown));
    return false;
}

static bool wrong_item(const Value *v, const YamlNode *item, const char *wanted)
{
    char shown[100];
    config_fault(v->reader->faults, item->place, "%s: %s stands where a %s should", v->name,
                 yaml_show(item, shown, sizeof shown), wanted);
    return false;
}

static const char *keep_text(const Value *v, const YamlNode *node)
{
    if (node->length > TEXT_MAX_BYTES) {
        config_fault(v->reader->faults, node->place, "%s: %zu bytes in one text; at most %d", v->name, node->length,
                     TEXT_MAX_BYTES);
        return NULL;
    }
    return config_pool_text(v->reader->pool, node->text, node->length, v->reader->faults->err);
}

static void *keep_items(const Value *v, int count, size_t size)
{
    return config_pool_alloc(v->reader->pool, (size_t)count, size, v->reader->faults->err);
}

/* An item of a list that has to be a text with something in it. */
static bool item_check(const Value *v, const YamlNode *item)
{
    if (item->kind != YAML_TEXT) return wrong_item(v, item, "text");
    if (item->length == 0 || yaml_is_null(item)) {
        config_fault(v->reader->faults, item->place, "%s: an empty item; remove it or give it a value", v->name);
        return false;
    }
    return true;
}

static bool texts_read(ConfigTexts *out, const Value *v, const YamlNode *node)
{
    if (node->kind == YAML_MAP) return wrong_kind(v, node, "text or a list of texts");
    const bool scalar = node->kind == YAML_TEXT;
    const int count = scalar ? 1 : node->count;
    const char **items = keep_items(v, count, sizeof items[0]);
    if (!items) return false;
    const YamlNode *item = scalar ? node : node->first;
    for (int i = 0; i < count; i++, item = item->next) {
        if (!item_check(v, item)) return false;
        const char *why;
        const YamlNode own = {.kind = YAML_TEXT, .place = item->place, .text = item->text, .length = item->length};
        const char *word = scalar ? alias_word(v->field->name, item->text, &why) : item->text;
        items[i] = word == item->text ? keep_text(v, &own) : word; /* words of the table are static */
        if (!items[i]) return false;
    }
    *out = (ConfigTexts){.items = count ? items : NULL, .count = count, .scalar = scalar};
    return true;
}

/* "7" or "16-31" at *at, which moves behind it. */
static bool range_read(const char **at, long *first, long *last)
{
    char *end;
    if (**at < '0' || **at > '9') return false;
    *first = *last = strtol(*at, &end, 10);
    if (*end == '-') {
        if (end[1] < '0' || end[1] > '9') return false;
        *last = strtol(end + 1, &end, 10);
    }
    *at = end;
    return *first <= *last && *last <= LAYER_MAX;
}

static bool ranges_read(bool *chosen, const Value *v, const YamlNode *node)
{
    char plain[200];
    size_t n = 0;
    for (const char *c = node->text; *c && n < sizeof plain - 1; c++) {
        if (*c != ' ') plain[n++] = *c;
    }
    plain[n] = '\0';
    const char *at = plain;
    do {
        long first;
        long last;
        if (!range_read(&at, &first, &last) || (*at && *at != ',')) {
            return wrong(v, node, "is not a list of layers; write all, \"16-31\", \"0,2,8-11\" or [0, 1, 2]");
        }
        memset(chosen + first, true, (size_t)(last - first + 1));
    } while (*at++ == ',');
    return true;
}

static bool layers_read(ConfigLayers *out, const Value *v, const YamlNode *node)
{
    bool chosen[LAYER_MAX + 1] = {false};
    if (node->kind == YAML_MAP) return wrong_kind(v, node, "text or a list of layers");
    if (node->kind == YAML_TEXT) {
        if (yaml_is(node, "all")) {
            *out = (ConfigLayers){0};
            return true;
        }
        if (node->text[strspn(node->text, "0123456789")] == '\0') {
            return wrong(v, node,
                         "could be a layer or a number of layers; write [N] for layer N, or a range such as \"16-31\"");
        }
        if (!ranges_read(chosen, v, node)) return false;
    }
    for (const YamlNode *item = node->first; item; item = item->next) {
        if (!item_check(v, item) || !ranges_read(chosen, v, item)) return false;
    }
    int count = 0;
    for (int i = 0; i <= LAYER_MAX; i++)
        count += chosen[i];
    if (count == 0) return wrong(v, node, "names no layer; write all, or name some");
    int *items = keep_items(v, count, sizeof items[0]);
    if (!items) return false;
    for (int i = 0, at = 0; i <= LAYER_MAX; i++) {
        if (chosen[i]) items[at++] = i;
    }
    *out = (ConfigLayers){.items = items, .count = count};
    return true;
}

static bool name_check(const Value *v, const YamlNode *key)
{
    if (key->length == 0) return wrong(v, key, "is no name");
    if (key->length > NAME_MAX_BYTES) return wrong(v, key, "is longer than the 100 bytes that a name may have");
    return true;
}

static bool patterns_read(ConfigPatterns *out, const Value *v, const YamlNode *node)
{
    if (node->kind != YAML_MAP) return wrong_kind(v, node, "map of name to number");
    LoraPattern *items = keep_items(v, node->count, sizeof items[0]);
    if (!items) return false;
    int i = 0;
    for (const YamlNode *item = node->first; item; item = item->next, i++) {
        char why[WHY_MAX];
        if (!name_check(v, item->key)) return false;
        if (item->kind != YAML_TEXT) return wrong_item(v, item, "number");
        if (!scalar_real(&items[i].value, item->text, v->field->low, v->field->high, why)) return wrong(v, item, why);
        items[i].pattern = keep_text(v, item->key);
        if (!items[i].pattern) return false;
    }
    *out = (ConfigPatterns){.items = i ? items : NULL, .count = i};
    return true;
}

static bool pairs_read(ConfigPairs *out, const Value *v, const YamlNode *node)
{
    if (node->kind != YAML_MAP) return wrong_kind(v, node, "map of text to text");
    DataPair *items = keep_items(v, node->count, sizeof items[0]);
    if (!items) return false;
    int i = 0;
    for (const YamlNode *item = node->first; item; item = item->next, i++) {
        if (!name_check(v, item->key) || !item_check(v, item)) return false;
        items[i] = (DataPair){.key = keep_text(v, item->key), .value = keep_text(v, item)};
        if (!items[i].key || !items[i].value) return false;
    }
    *out = (ConfigPairs){.items = i ? items : NULL, .count = i};
    return true;
}

static bool role_add(DataPair *items, int *count, const Value *v, const YamlNode *role, const YamlNode *alias)
{
    if (!item_check(v, alias) || !name_check(v, alias)) return false;
    for (int i = 0; i < *count; i++) {
        if (strcmp(items[i].key, alias->text) == 0) return wrong(v, alias, "is a name of two roles, or twice of one");
    }
    items[*count] = (DataPair){.key = keep_text(v, alias), .value = keep_text(v, role)};
    if (!items[*count].key || !items[*count].value) return false;
    ++*count;
    return true;
}

static bool roles_read(ConfigPairs *out, const Value *v, const YamlNode *node)
{
    if (node->kind != YAML_MAP) return wrong_kind(v, node, "map of role to a list of its other names");
    int most = 0;
    for (const YamlNode *item = node->first; item; item = item->next)
        most += item->kind == YAML_LIST ? item->count : 1;
    DataPair *items = keep_items(v, most, sizeof items[0]);
    if (!items) return false;
    int count = 0;
    for (const YamlNode *item = node->first; item; item = item->next) {
        if (!name_check(v, item->key)) return false;
        if (item->kind == YAML_TEXT && !role_add(items, &count, v, item->key, item)) return false;
        if (item->kind == YAML_MAP) return wrong_item(v, item, "list of names");
        for (const YamlNode *alias = item->first; alias; alias = alias->next) {
            if (!role_add(items, &count, v, item->key, alias)) return false;
        }
    }
    *out = (ConfigPairs){.items = count ? items : NULL, .count = count};
    return true;
}

static bool text_read(ConfigTEXT *out, const Value *v, const YamlNode *node, const char *word)
{
    if (node->length == 0) return wrong(v, node, "is empty; remove the quotes to leave the key unset");
    *out = word == node->text ? keep_text(v, node) : word;
    return *out != NULL;
}

static bool scalar_read(void *member, const Value *v, const YamlNode *node)
{
    const ConfigField *f = v->field;
    char why[WHY_MAX];
    char word[60];
    if (node->kind != YAML_TEXT) {
        config_fault(v->reader->faults, node->place, "%s takes one value, not %s", v->name,
                     yaml_show(node, word, sizeof word));
        return false;
    }
    const char *known;
    const char *text = alias_word(f->name, node->text, &known);
    if (known) return wrong(v, node, known);
    bool good = false;
    int choice = 0;
    switch (f->type) {
    case CONFIG_TEXT: return text_read(member, v, node, text);
    case CONFIG_INT: good = scalar_int(member, text, f->low, f->high, why); break;
    case CONFIG_WORD_INT:
        if (strcmp(text, config_field_initial(f, word, sizeof word)) == 0) {
            *(int64_t *)member = 0;
            return true;
        }
        good = scalar_int(member, text, 1, f->high, why);
        if (!good) snprintf(why + strlen(why), sizeof why - strlen(why), "; the word for it is %s", word);
        break;
    case CONFIG_SIZE:
        if (strcmp(text, "auto") == 0) {
            *(int64_t *)member = 0;
            return true;
        }
        good = scalar_size(member, text, why);
        break;
    case CONFIG_REAL: good = scalar_real(member, text, f->low, f->high, why); break;
    case CONFIG_SHARE: good = scalar_share(member, text, f->low, f->high, why); break;
    case CONFIG_MINUTES: good = scalar_minutes(member, text, f->low, f->high, why); break;
    case CONFIG_BOOL: good = scalar_bool(member, text, why); break;
    case CONFIG_CHOICE:
        good = scalar_choice(&choice, text, f, why);
        if (good) memcpy(member, &choice, sizeof choice); /* enums are int-sized */
        break;
    default: break;
    }
    return good ? true : wrong(v, node, why);
}

static bool value_read(void *member, const Value *v, const YamlNode *node)
{
    switch (v->field->type) {
    case CONFIG_TEXTS: return texts_read(member, v, node);
    case CONFIG_LAYERS: return layers_read(member, v, node);
    case CONFIG_PATTERNS: return patterns_read(member, v, node);
    case CONFIG_PAIRS: return pairs_read(member, v, node);
    case CONFIG_ROLES: return roles_read(member, v, node);
    case CONFIG_DATASETS: config_datasets_read(member, v->name, node, v->reader); return true;
    default: return scalar_read(member, v, node);
    }
}

/* Initial values are texts of the table: "" is nothing, "[x]" a list of one. They are part of the program, so a fault
 * in them shows in the first test. */
static void initial_read(void *member, const Value *v)
{
    char text[60];
    config_field_initial(v->field, text, sizeof text);
    if (text[0] == '\0') return;
    const size_t n = strlen(text);
    if (text[0] != '[') {
        const YamlNode node = {.kind = YAML_TEXT, .text = text, .length = n, .plain = true};
        (void)value_read(member, v, &node);
        return;
    }
    text[n - 1] = '\0';
    YamlNode item = {.kind = YAML_TEXT, .text = text + 1, .length = n - 2, .plain = true};
    const YamlNode list = {.kind = YAML_LIST, .first = &item, .count = 1};
    (void)value_read(member, v, &list);
}

void config_value_read(void *member, const ConfigField *f, const char *name, const YamlNode *node,
                       const ConfigReader *r)
{
    const Value v = {f, name, r};
    if (yaml_is_null(node)) {
        initial_read(member, &v);
    } else {
        (void)value_read(member, &v, node);
    }
}
