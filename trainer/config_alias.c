#include "trainer/config_alias.h"

#include "base/text.h"
#include "trainer/config_table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

const AliasRule alias_rules[] = {
#define ALIAS(name, key) {ALIAS_SAME, name, NULL, key, NULL},
#define ALIAS_BUT(name, key, note) {ALIAS_BUT, name, NULL, key, note},
#define INVERSE(name, key) {ALIAS_INVERSE, name, NULL, key, NULL},
#define MEANS(name, value, key, to) {ALIAS_MEANS, name, value, key, to},
#define WEAK(name, value, key, to) {ALIAS_WEAK, name, value, key, to},
#define REFINES(name, value, key, to) {ALIAS_REFINES, name, value, key, to},
#define FINE(name, values) {ALIAS_FINE, name, values, NULL, NULL},
#define NOTICE(name, text) {ALIAS_NOTICE, name, NULL, NULL, text},
#define REFUSE(name, text) {ALIAS_REFUSE, name, NULL, NULL, text},
#define FRIEND(name, key) {ALIAS_FRIEND, name, NULL, key, NULL},
#include "trainer/config_alias.def"
};
const int alias_rule_count = (int)(sizeof alias_rules / sizeof alias_rules[0]);

const AliasValue alias_values[] = {
#define VALUE(key, word, to) {key, word, to, false},
#define WRONG(key, word, text) {key, word, text, true},
#include "trainer/config_alias.def"
};
const int alias_value_count = (int)(sizeof alias_values / sizeof alias_values[0]);

bool alias_fits(const AliasRule *rule, const char *name)
{
    const size_t n = strlen(rule->name);
    if (rule->name[n - 1] != '*') return strcmp(rule->name, name) == 0;
    return strncmp(rule->name, name, n - 1) == 0;
}

static bool word_in(const char *words, const char *word)
{
    for (const char *at = words; *at;) {
        const size_t n = strcspn(at, "|");
        if (strlen(word) == n && strncasecmp(at, word, n) == 0) return true;
        at += n + (at[n] == '|');
    }
    return false;
}

/* A list fits when all of its texts do, or as "[text]" when it has one; empty lists and maps are "[]" and "{}". */
static bool value_fits(const char *values, const YamlNode *value)
{
    if (!values || strcmp(values, "*") == 0) return true;
    if (value->kind == YAML_TEXT) return word_in(values, value->text);
    if (value->count == 0) return word_in(values, "[]") || word_in(values, "{}");
    if (value->kind == YAML_MAP) return false;
    char word[80];
    snprintf(word, sizeof word, "[%s]", value->first->kind == YAML_TEXT ? value->first->text : "");
    if (value->count == 1 && word_in(values, word)) return true;
    for (const YamlNode *item = value->first; item; item = item->next) {
        if (item->kind != YAML_TEXT || !word_in(values, item->text)) return false;
    }
    return true;
}

/* `special_tokens` is in most recipes only to name a padding token, which a program without padding can ignore. */
static bool is_padding_only(const char *name, const YamlNode *value)
{
    return strcmp(name, "special_tokens") == 0 && value->kind == YAML_MAP && value->count == 1 &&
           strcmp(value->first->key->text, "pad_token") == 0;
}

const AliasRule *alias_find(const char *name, const YamlNode *value)
{
    for (int i = 0; i < alias_rule_count; i++) {
        const AliasRule *rule = &alias_rules[i];
        if (rule->kind == ALIAS_FRIEND || !alias_fits(rule, name)) continue;
        if (value_fits(rule->values, value) || is_padding_only(name, value)) return rule;
    }
    return NULL;
}

bool alias_is_known(const char *name)
{
    for (int i = 0; i < alias_rule_count; i++) {
        if (alias_rules[i].kind != ALIAS_FRIEND && alias_fits(&alias_rules[i], name)) return true;
    }
    return false;
}

const char *alias_target(const char *name)
{
    for (int i = 0; i < alias_rule_count; i++) {
        const AliasKind kind = alias_rules[i].kind;
        if ((kind == ALIAS_SAME || kind == ALIAS_BUT) && strcmp(alias_rules[i].name, name) == 0)
            return alias_rules[i].key;
    }
    return NULL;
}

const char *alias_word(const char *key, const char *word, const char **why)
{
    *why = NULL;
    for (int i = 0; i < alias_value_count; i++) {
        const AliasValue *v = &alias_values[i];
        if (strcmp(v->key, key) != 0 || strcasecmp(v->word, word) != 0) continue;
        if (!v->wrong) return v->to;
        *why = v->to;
    }
    return word;
}

enum { NEAREST_MAX = 3 };

typedef struct Nearest {
    const char *names[NEAREST_MAX];
    int distances[NEAREST_MAX];
    int count;
} Nearest;

/* Keeps the list sorted by distance, each name once. */
static void nearest_add(Nearest *n, const char *name, int distance)
{
    int at = n->count;
    for (int i = 0; i < n->count; i++) {
        if (strcmp(n->names[i], name) == 0) return;
    }
    while (at > 0 && n->distances[at - 1] > distance)
        at--;
    if (at == NEAREST_MAX) return;
    const int last = n->count < NEAREST_MAX ? n->count : NEAREST_MAX - 1;
    for (int i = last; i > at; i--) {
        n->names[i] = n->names[i - 1];
        n->distances[i] = n->distances[i - 1];
    }
    n->names[at] = name;
    n->distances[at] = distance;
    if (n->count < NEAREST_MAX) n->count++;
}

/* `candidate` belongs to the scope: returns what follows it, or null. */
static const char *in_scope(const char *scope, const char *candidate)
{
    const size_t n = strlen(scope);
    if (strncmp(candidate, scope, n) != 0) return NULL;
    return n == 0 && strchr(candidate, '[') ? NULL : candidate + n;
}

static void friends_add(Nearest *n, const char *scope, const char *name)
{
    for (int i = 0; i < alias_rule_count; i++) {
        const char *other = in_scope(scope, alias_rules[i].name);
        if (alias_rules[i].kind == ALIAS_FRIEND && other && strcasecmp(other, name) == 0) {
            nearest_add(n, alias_rules[i].key, 0);
        }
    }
}

/* A third of the letters may differ; two may in a short name, so that a swap is found, but never all of them. */
static void near_add(Nearest *n, const char *name, const char *candidate, const char *key)
{
    const int length = (int)strlen(name);
    const int third = length / 3 > 2 ? length / 3 : 2;
    const int limit = third < length ? third : length - 1;
    if (abs(length - (int)strlen(candidate)) > limit) return;
    const int distance = text_distance(name, candidate, limit);
    if (distance <= limit) nearest_add(n, key, distance);
}

static void near_names_add(Nearest *n, const char *scope, const char *name)
{
    const bool data = strcmp(scope, "datasets[].") == 0;
    const ConfigField *fields = data ? dataset_fields : config_fields;
    const int count = data ? dataset_field_count : CONFIG_KEY_COUNT;
    for (int i = 0; i < count; i++) {
        const char *candidate = data ? fields[i].name : in_scope(scope, fields[i].name);
        if (candidate) near_add(n, name, candidate, candidate);
    }
    for (int i = 0; i < config_row_count && !scope[0]; i++) {
        if (config_rows[i].group) near_add(n, name, config_rows[i].group, config_rows[i].group);
    }
    for (int i = 0; i < alias_rule_count && !scope[0]; i++) {
        const AliasRule *rule = &alias_rules[i];
        const bool names_key = rule->kind == ALIAS_SAME || rule->kind == ALIAS_BUT || rule->kind == ALIAS_FRIEND;
        if (names_key && !strchr(rule->name, '[')) near_add(n, name, rule->name, rule->key);
    }
}

const char *alias_suggest(char *out, size_t size, const char *scope, const char *name)
{
    Nearest n = {0};
    friends_add(&n, scope, name);
    if (n.count == 0) near_names_add(&n, scope, name);
    size_t used = 0;
    out[0] = '\0';
    for (int i = 0; i < n.count && used < size; i++) {
        const char *lead = i == 0 ? "; did you mean " : i == n.count - 1 ? " or " : ", ";
        used += (size_t)snprintf(out + used, size - used, "%s%s%s", lead, n.names[i], i == n.count - 1 ? "?" : "");
    }
    return out;
}
