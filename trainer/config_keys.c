#include "base/mem.h"
#include "base/text.h"
#include "trainer/config_alias.h"
#include "trainer/config_scalar.h"
#include "trainer/config_state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * From names in the text to keys of the table. Every key has one slot; a name that is another spelling fills the slot
 * of its key, overrides replace what the file says, and keys of other programs that imply one of ours ("bf16: true")
 * take a slot only when nothing else does, and have to agree with it otherwise.
 */
typedef struct Slot {
    YamlNode *value;
    ConfigLevel level;
    const char *spelling; /* as the user wrote it */
} Slot;

typedef struct Implied {
    int key;
    YamlNode *value;
    const YamlNode *source; /* the value that implies it; its key is the name */
    ConfigLevel level;
    AliasKind kind; /* MEANS, WEAK or REFINES */
} Implied;

enum { IMPLIED_MAX = 64 };

typedef struct Keys {
    Config *c;
    YamlTree *tree;
    ConfigFaults *faults;
    Slot slots[CONFIG_KEY_COUNT];
    Implied implied[IMPLIED_MAX];
    int implied_count;
} Keys;

static bool is_file_level(ConfigLevel level)
{
    return level == LEVEL_FILE || level == LEVEL_FILE_SOFT;
}

static void slot_take(Keys *k, int key, YamlNode *value, ConfigLevel level)
{
    Slot *slot = &k->slots[key];
    const char *name = config_fields[key].name;
    const FaultPlace place = value->key->place;
    if (slot->level == LEVEL_FILE && level == LEVEL_FILE && !yaml_is_null(slot->value)) {
        /* The same name twice was reported when the text was read. */
        if (strcmp(slot->spelling, value->key->text) == 0 || yaml_is_null(value)) return;
        config_fault(k->faults, place, "%s and %s are one key, and line %d sets it already; keep one of them",
                     value->key->text, slot->spelling, slot->value->key->place.line);
        return;
    }
    if (strcmp(name, value->key->text) != 0 && !strchr(name, '.') && !yaml_is_null(value)) {
        config_note(k->c, k->faults->err, "%s read as %s", value->key->text, name);
    }
    *slot = (Slot){value, level, value->key->text};
}

static void imply(Keys *k, const AliasRule *rule, const YamlNode *source, ConfigLevel level)
{
    const int key = config_field_find(rule->key);
    YamlNode *value = yaml_make_text(k->tree, rule->text, source->place, k->faults->err);
    if (!value || k->implied_count == IMPLIED_MAX) return;
    value->key = source->key;
    k->implied[k->implied_count++] =
        (Implied){key, value, source, level == LEVEL_FILE ? LEVEL_FILE_SOFT : LEVEL_SET_SOFT, rule->kind};
}

static void take_inverse(Keys *k, const AliasRule *rule, YamlNode *source, ConfigLevel level)
{
    bool on;
    char why[WHY_MAX];
    char shown[100];
    if (source->kind != YAML_TEXT || !scalar_bool(&on, source->text, why)) {
        if (source->kind != YAML_TEXT) snprintf(why, sizeof why, "is neither true nor false");
        config_fault(k->faults, source->place, "%s: %s %s", source->key->text, yaml_show(source, shown, sizeof shown),
                     why);
        return;
    }
    YamlNode *value = yaml_make_text(k->tree, on ? "false" : "true", source->place, k->faults->err);
    if (!value) return;
    value->key = source->key;
    config_note(k->c, k->faults->err, "%s: %s read as %s: %s", source->key->text, on ? "true" : "false", rule->key,
                value->text);
    slot_take(k, config_field_find(rule->key), value, level);
}

/* A key of another program, by its rule. */
static void foreign_take(Keys *k, YamlNode *value, ConfigLevel level)
{
    const char *name = value->key->text;
    const AliasRule *rule = alias_find(name, value);
    char shown[100];
    if (yaml_is_null(value) && (!rule || (rule->kind != ALIAS_SAME && rule->kind != ALIAS_BUT))) return;
    if (!rule) {
        config_fault(k->faults, value->place, "%s: %s is not a value that has a meaning here; see configs/REFERENCE.md",
                     name, yaml_show(value, shown, sizeof shown));
        return;
    }
    switch (rule->kind) {
    case ALIAS_BUT:
        config_note(k->c, k->faults->err, "%s: %s", name, rule->text);
        slot_take(k, config_field_find(rule->key), value, level);
        return;
    case ALIAS_SAME: slot_take(k, config_field_find(rule->key), value, level); return;
    case ALIAS_INVERSE: take_inverse(k, rule, value, level); return;
    case ALIAS_MEANS:
    case ALIAS_REFINES:
    case ALIAS_WEAK: imply(k, rule, value, level); return;
    case ALIAS_NOTICE: config_note(k->c, k->faults->err, "%s has no effect: %s", name, rule->text); return;
    case ALIAS_REFUSE: config_fault(k->faults, value->key->place, "%s is not supported: %s", name, rule->text); return;
    case ALIAS_FINE:
    case ALIAS_FRIEND: return;
    }
}

/* `scope` is "variance_clamp." for a name inside of that group, "" otherwise. */
static void unknown_fault(Keys *k, const YamlNode *value, const char *scope, const char *name)
{
    char shown[100];
    char near[200] = "";
    const int group = scope[0] ? (int)strlen(scope) - 1 : 0;
    if (!scope[0] && dataset_field_find(name) >= 0) {
        config_fault(k->faults, value->key->place, "%s stands in an entry of datasets, not at the top", name);
        return;
    }
    /* Suggestions take time, and nobody reads the thousandth. */
    if (k->faults->count < FAULTS_KEPT) alias_suggest(near, sizeof near, scope, name);
    config_fault(k->faults, value->key->place, "%.*s%sunknown key \"%s\"%s", group, scope, group ? ": " : "",
                 text_printable(shown, sizeof shown, name, strlen(name)), near);
}

/* "variance_clamp.mim": a name in a group that has no such key. */
static bool is_in_group(const char *name, char *scope, size_t size)
{
    const char *dot = strchr(name, '.');
    if (!dot || (size_t)(dot - name) >= size - 1) return false;
    snprintf(scope, size, "%.*s", (int)(dot - name), name);
    if (!config_is_group(scope)) return false;
    snprintf(scope, size, "%.*s.", (int)(dot - name), name);
    return true;
}

static void group_take(Keys *k, YamlNode *map, ConfigLevel level)
{
    const char *group = map->key->text;
    char shown[100];
    if (map->kind != YAML_MAP && !yaml_is_null(map) && !yaml_is(map, "false")) {
        config_fault(k->faults, map->place, "%s takes a map such as {key: value}, not %s", group,
                     yaml_show(map, shown, sizeof shown));
        return;
    }
    for (YamlNode *value = map->first; value; value = value->next) {
        char name[200];
        snprintf(name, sizeof name, "%s.%s", group, value->key->text);
        const int key = config_field_find(name);
        if (key >= 0) {
            slot_take(k, key, value, level);
        } else {
            snprintf(name, sizeof name, "%s.", group);
            unknown_fault(k, value, name, value->key->text);
        }
    }
}

/* Clears what the file says of a group: "--set variance_clamp=". */
static void group_clear(Keys *k, const char *group)
{
    const size_t n = strlen(group);
    for (int i = 0; i < CONFIG_KEY_COUNT; i++) {
        if (strncmp(config_fields[i].name, group, n) == 0 && config_fields[i].name[n] == '.') k->slots[i] = (Slot){0};
    }
}

static void key_take(Keys *k, YamlNode *value, ConfigLevel level)
{
    const char *name = value->key->text;
    char scope[80];
    const int key = config_field_find(name);
    if (key >= 0) {
        slot_take(k, key, value, level);
    } else if (config_is_group(name)) {
        const bool off = yaml_is_null(value) || yaml_is(value, "false");
        if (level == LEVEL_SET && off) group_clear(k, name);
        group_take(k, value, level);
    } else if (alias_is_known(name)) {
        foreign_take(k, value, level);
    } else if (is_in_group(name, scope, sizeof scope)) {
        unknown_fault(k, value, scope, name + strlen(scope));
    } else {
        unknown_fault(k, value, "", name);
    }
}

/* "datasets.0.path=x": changes one key of an entry that the file (or an earlier override) has. */
static bool entry_take(Keys *k, const char *name, YamlNode *value)
{
    const char *dot = strchr(name, '.');
    if (!dot || dot[1] < '0' || dot[1] > '9') return false;
    char list[40];
    snprintf(list, sizeof list, "%.*s", (int)(dot - name), name);
    const int key = config_field_find(list);
    if (key < 0 || config_fields[key].type != CONFIG_DATASETS) return false;
    char *end;
    long index = strtol(dot + 1, &end, 10);
    YamlNode *root = k->slots[key].value;
    YamlNode *entry = root && root->kind == YAML_LIST ? root->first : NULL;
    while (entry && index-- > 0)
        entry = entry->next;
    if (*end != '.' || !end[1] || !entry || entry->kind != YAML_MAP) {
        config_fault(k->faults, value->key->place, "there is no such entry; write %s.0.path=FILE for the first one",
                     list);
        return true;
    }
    value->key->text = end + 1;
    value->key->length = strlen(end + 1);
    YamlNode *old = yaml_find(entry, end + 1);
    if (old) {
        YamlNode *next = old->next;
        *old = *value;
        old->next = next;
    } else {
        if (entry->last) entry->last->next = value;
        if (!entry->first) entry->first = value;
        entry->last = value;
        entry->count++;
    }
    return true;
}

static void override_take(Keys *k, const char *text)
{
    const FaultPlace place = {text, 1, 1};
    Err *err = k->faults->err;
    const char *equals = strchr(text, '=');
    if (!equals || equals == text) {
        config_fault(k->faults, place, "write --set KEY=VALUE");
        return;
    }
    const size_t before = k->faults->count;
    YamlNode *value = yaml_parse(k->tree, equals + 1, strlen(equals + 1), text, k->faults);
    if (k->faults->count > before || err->code != ERR_NONE) return;
    if (!value) value = yaml_make_text(k->tree, "", place, err);
    const char *name = config_pool_text(&k->tree->pool, text, (size_t)(equals - text), err);
    YamlNode *key = name ? yaml_make_text(k->tree, name, place, err) : NULL;
    if (!value || !key) return;
    value->key = key;
    if (!entry_take(k, name, value)) key_take(k, value, LEVEL_SET);
}

/* Two ways to say one thing: an override of one drops what the file says of the other. */
static void drop_rivals(Keys *k)
{
    static const int rivals[][2] = {
        {CONFIG_KEY_save_steps,                  CONFIG_KEY_saves_per_epoch  },
        {CONFIG_KEY_eval_steps,                  CONFIG_KEY_evals_per_epoch  },
        {CONFIG_KEY_warmup_steps,                CONFIG_KEY_warmup_ratio     },
        {CONFIG_KEY_gradient_accumulation_steps, CONFIG_KEY_global_batch_size},
        {CONFIG_KEY_test_datasets,               CONFIG_KEY_val_set_size     },
        {CONFIG_KEY_adapter,                     CONFIG_KEY_load_in_4bit     },
    };
    for (size_t i = 0; i < sizeof rivals / sizeof rivals[0]; i++) {
        for (int side = 0; side < 2; side++) {
            const Slot *winner = &k->slots[rivals[i][side]];
            Slot *loser = &k->slots[rivals[i][1 - side]];
            if (winner->level <= LEVEL_FILE || !is_file_level(loser->level)) continue;
            if (yaml_is_null(winner->value) || yaml_is(winner->value, "0")) continue;
            *loser = (Slot){0};
        }
    }
}

/* "gradient_checkpointing: true" beside "activation_offloading: true", which says how. */
static bool is_refined(const Implied *m, const Slot *slot)
{
    bool on = false;
    char why[WHY_MAX];
    return m->kind == ALIAS_REFINES && slot->level != LEVEL_NONE &&
           is_file_level(slot->level) == is_file_level(m->level) && slot->value->kind == YAML_TEXT &&
           scalar_bool(&on, slot->value->text, why) && on;
}

static void apply_implied(Keys *k, bool weak)
{
    for (int i = 0; i < k->implied_count; i++) {
        const Implied *m = &k->implied[i];
        Slot *slot = &k->slots[m->key];
        const bool empty = slot->level != LEVEL_NONE && is_file_level(slot->level) == is_file_level(m->level) &&
                           yaml_is_null(slot->value);
        if ((m->kind == ALIAS_WEAK) != weak) continue;
        if (slot->level >= m->level && !empty && !is_refined(m, slot)) continue;
        char initial[60];
        const ConfigField *f = &config_fields[m->key];
        *slot = (Slot){m->value, m->level, f->name};
        if (yaml_is(m->value, config_field_initial(f, initial, sizeof initial))) continue;
        config_note(k->c, k->faults->err, "%s: %s read as %s: %s", m->source->key->text,
                    m->source->kind == YAML_TEXT ? m->source->text : "...", slot->spelling, m->value->text);
    }
}

/* What a key of another program implies must be what the slot got from a setting of the same standing. */
static void check_implied(Keys *k)
{
    for (int i = 0; i < k->implied_count; i++) {
        const Implied *m = &k->implied[i];
        const Slot *slot = &k->slots[m->key];
        const ConfigField *f = &config_fields[m->key];
        if (m->kind == ALIAS_WEAK || slot->value == m->value || is_file_level(slot->level) != is_file_level(m->level))
            continue;
        Config other = {.state = k->c->state};
        const ConfigReader reader = {&k->c->state->pool, k->faults, false};
        Text ours = {0};
        Text theirs = {0};
        Err *err = k->faults->err;
        config_value_read(config_member(&other, f), f, f->name, m->value, &reader);
        if (config_value_print(&ours, f, config_member(k->c, f), err) &&
            config_value_print(&theirs, f, config_member(&other, f), err) && strcmp(ours.bytes, theirs.bytes) != 0) {
            config_fault(k->faults, m->source->place, "%s says %s: %s, but line %d says %s; keep one of them",
                         m->source->key->text, f->name, theirs.bytes, slot->value->key->place.line, ours.bytes);
        }
        text_free(&ours);
        text_free(&theirs);
    }
}

static void values_read(Keys *k)
{
    const ConfigReader reader = {&k->c->state->pool, k->faults, k->tree->broken};
    for (int i = 0; i < CONFIG_KEY_COUNT; i++) {
        const ConfigField *f = &config_fields[i];
        const Slot *slot = &k->slots[i];
        ConfigState *s = k->c->state;
        s->places[i] = slot->value ? slot->value->key->place : (FaultPlace){NULL, 1, 1};
        s->levels[i] = slot->level;
        s->set[i] = slot->value && !yaml_is_null(slot->value);
        /* What the user wrote, with the group in front. */
        const char *name = slot->spelling && !strchr(f->name, '.') ? slot->spelling : f->name;
        config_value_read(config_member(k->c, f), f, name, NULL, &reader);
        const size_t before = k->faults->count;
        if (s->set[i]) config_value_read(config_member(k->c, f), f, name, slot->value, &reader);
        s->bad[i] = k->faults->count > before;
    }
}

void config_keys_read(Config *c, const YamlNode *root, const char *const *overrides, int count, YamlTree *tree,
                      ConfigFaults *faults)
{
    Keys k = {.c = c, .tree = tree, .faults = faults};
    if (root && root->kind != YAML_MAP && !yaml_is_null(root)) {
        config_fault(faults, root->place, "a configuration is a map of key: value lines");
    } else if (root) {
        for (YamlNode *value = root->first; value; value = value->next)
            key_take(&k, value, LEVEL_FILE);
    }
    for (int i = 0; i < count; i++)
        override_take(&k, overrides[i]);
    drop_rivals(&k);
    apply_implied(&k, false);
    apply_implied(&k, true);
    values_read(&k);
    check_implied(&k);
}
