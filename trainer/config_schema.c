#include "trainer/config_schema.h"

#include "base/json.h"
#include "base/mem.h"
#include "trainer/config_alias.h"
#include "trainer/config_scalar.h"
#include "trainer/config_table.h"

#include <stdio.h>
#include <string.h>

enum { SHOWN_MAX = 200 };

/* "16", "2 * lora_r", "required", "unset"; in out. */
static const char *default_show(const ConfigField *f, char *out, size_t size)
{
    if (config_field_is_derived(f)) {
        snprintf(out, size, "%s", f->initial + 1);
    } else {
        config_field_initial(f, out, size);
    }
    if (out[0] == '\0') snprintf(out, size, "%s", strstr(f->help, "; required") ? "required" : "unset");
    return out;
}

static bool has_range(const ConfigField *f)
{
    return f->high > f->low;
}

/* "1..1024", "qlora, lora", "" */
static const char *range_show(const ConfigField *f, char *out, size_t size)
{
    char low[40];
    char high[40];
    out[0] = '\0';
    if (f->type == CONFIG_CHOICE) {
        size_t used = 0;
        char choice[60];
        for (int i = 0; config_choice(f, i, choice, sizeof choice) && used < size; i++)
            used += (size_t)snprintf(out + used, size - used, "%s%s", i ? ", " : "", choice);
    } else if (f->type == CONFIG_WORD_INT) {
        snprintf(out, size, "%s, or 1..%.0f", f->initial, f->high);
    } else if (f->type == CONFIG_INT) {
        snprintf(out, size, "%.0f..%.0f", f->low, f->high);
    } else if (has_range(f)) {
        snprintf(out, size, "%s..%s", scalar_print_real(f->low, low, sizeof low),
                 scalar_print_real(f->high, high, sizeof high));
    }
    return out;
}

static const char *change_show(ConfigChangeKind kind)
{
    switch (kind) {
    case CONFIG_CHANGE_HARMLESS: return "may change when a run is resumed";
    case CONFIG_CHANGE_RESULT: return "changing it for a resume changes the result from there on";
    case CONFIG_CHANGE_IMPOSSIBLE: return "cannot change when a run is resumed";
    }
    return "";
}

static const char *change_name(ConfigChangeKind kind)
{
    switch (kind) {
    case CONFIG_CHANGE_HARMLESS: return "harmless";
    case CONFIG_CHANGE_RESULT: return "changes the result";
    case CONFIG_CHANGE_IMPOSSIBLE: return "impossible";
    }
    return "";
}

/* Rows of the files and of the data sources in one order: those of a data source follow `datasets`. */
typedef bool (*RowVisitor)(Text *out, const ConfigRow *row, const char *name, Err *err);

static bool rows_visit(Text *out, RowVisitor visit, Err *err)
{
    for (int i = 0; i < config_row_count; i++) {
        const ConfigRow *row = &config_rows[i];
        if (!visit(out, row, row->field ? row->field->name : NULL, err)) return false;
        if (!row->field || strcmp(row->field->name, "datasets") != 0) continue;
        for (int k = 0; k < dataset_field_count; k++) {
            char name[80];
            const ConfigRow entry = {.field = &dataset_fields[k]};
            snprintf(name, sizeof name, "datasets[].%s", dataset_fields[k].name);
            if (!visit(out, &entry, name, err)) return false;
        }
    }
    return true;
}

static bool line_visit(Text *out, const ConfigRow *row, const char *name, Err *err)
{
    char value[SHOWN_MAX];
    if (row->section) return text_format(out, err, "%s%s\n", out->length ? "\n" : "", row->section);
    if (row->group) return true;
    default_show(row->field, value, sizeof value);
    return text_format(out, err, "  %-42s %-22s %s\n", name, value, row->field->help);
}

bool config_schema_text(Text *out, Err *err)
{
    return rows_visit(out, line_visit, err) &&
           text_add_z(out, "\nqlora explain KEY says more, also about the keys of other programs.\n", err);
}

/* " text |"; a row is "|" and its cells. */
static bool cell(Text *out, const char *text, Err *err)
{
    bool good = text_add_z(out, " ", err);
    for (const char *at = text; *at && good; at++)
        good = (*at != '|' || text_add_z(out, "\\", err)) && text_add(out, at, 1, err);
    return good && text_add_z(out, text[0] ? " |" : "|", err);
}

static bool markdown_visit(Text *out, const ConfigRow *row, const char *name, Err *err)
{
    char value[SHOWN_MAX];
    char range[SHOWN_MAX];
    if (row->section) {
        return text_format(out, err, "\n## %s\n\n| Key | Type | Default | Range | Meaning |\n|---|---|---|---|---|\n",
                           row->section);
    }
    if (row->group) return text_format(out, err, "| `%s` | map | | | %s |\n", row->group, row->help);
    const ConfigField *f = row->field;
    return text_format(out, err, "| `%s` |", name) && cell(out, config_type_looks(f->type), err) &&
           cell(out, default_show(f, value, sizeof value), err) && cell(out, range_show(f, range, sizeof range), err) &&
           cell(out, f->help, err) && text_add_z(out, "\n", err);
}

/* `mark` goes around code: "`" on a page, "" on a terminal. */
static const char *rule_words(const AliasRule *rule, const char *mark, char *out, size_t size)
{
    switch (rule->kind) {
    case ALIAS_SAME: snprintf(out, size, "is %s%s%s", mark, rule->key, mark); break;
    case ALIAS_BUT: snprintf(out, size, "is %s%s%s; %s", mark, rule->key, mark, rule->text); break;
    case ALIAS_INVERSE: snprintf(out, size, "is the opposite of %s%s%s", mark, rule->key, mark); break;
    case ALIAS_MEANS:
    case ALIAS_WEAK:
    case ALIAS_REFINES:
        snprintf(out, size, "%s%s%s means %s%s: %s%s%s", mark, rule->values, mark, mark, rule->key, rule->text, mark,
                 rule->kind == ALIAS_WEAK ? " unless that key is set" : "");
        break;
    case ALIAS_FINE:
        if (strcmp(rule->values, "*") == 0) {
            snprintf(out, size, "accepted, without effect");
        } else {
            snprintf(out, size, "%s%s%s is what happens anyway", mark, rule->values, mark);
        }
        break;
    case ALIAS_NOTICE: snprintf(out, size, "accepted, without effect: %s", rule->text); break;
    case ALIAS_REFUSE: snprintf(out, size, "refused: %s", rule->text); break;
    case ALIAS_FRIEND: out[0] = '\0'; break;
    }
    return out;
}

/* All rules of one name in one row. */
static bool markdown_rules(Text *out, Err *err)
{
    bool good = text_add_z(out,
                           "\n## Keys of other programs\n\nAn empty value is always fine.\n\n| Key | What happens "
                           "|\n|---|---|\n",
                           err);
    Text words = {0};
    for (int i = 0; i < alias_rule_count && good; i++) {
        const AliasRule *rule = &alias_rules[i];
        char one[400];
        if (rule->kind == ALIAS_FRIEND) continue;
        good = text_format(&words, err, "%s%s", words.length ? "; " : "", rule_words(rule, "`", one, sizeof one));
        if (i + 1 < alias_rule_count && strcmp(rule[1].name, rule->name) == 0) continue;
        good = good && text_format(out, err, "| `%s` |", rule->name) && cell(out, words.bytes, err) &&
               text_add_z(out, "\n", err);
        text_clear(&words);
    }
    text_free(&words);
    return good;
}

static bool markdown_values(Text *out, Err *err)
{
    bool good = text_add_z(out, "\n## Other words for values\n\n| Key | Word | What it is |\n|---|---|---|\n", err);
    for (int i = 0; i < alias_value_count && good; i++) {
        const AliasValue *v = &alias_values[i];
        good = text_format(out, err, v->wrong ? "| `%s` | `%s` | %s |\n" : "| `%s` | `%s` | `%s` |\n", v->key, v->word,
                           v->to);
    }
    return good;
}

bool config_schema_markdown(Text *out, Err *err)
{
    return text_add_z(out,
                      "# Keys of a configuration\n\n"
                      "Generated from `trainer/config.def`; `qlora schema --markdown` writes this page.\n\n"
                      "A configuration is a YAML file of `key: value` lines. An empty value means unset. `2e-4` is a "
                      "number. Words other than `true` and `false` are no bools. Anchors, aliases, tags, tabs and "
                      "further documents are refused, and so are unknown keys and keys that nothing in a run uses. "
                      "Paths are relative to the current directory. `--set key=value` and `--set group.key=value` "
                      "override a file, and `--set datasets.0.path=FILE` a key of its first data source.\n",
                      err) &&
           rows_visit(out, markdown_visit, err) && markdown_rules(out, err) && markdown_values(out, err);
}

static json_t *choices_json(const ConfigField *f)
{
    json_t *list = json_array();
    char choice[60];
    for (int i = 0; config_choice(f, i, choice, sizeof choice); i++)
        json_array_append_new(list, json_string(choice));
    return list;
}

static json_t *aliases_json(const char *key)
{
    json_t *list = json_array();
    for (int i = 0; i < alias_rule_count; i++) {
        const AliasRule *rule = &alias_rules[i];
        const bool same = rule->kind == ALIAS_SAME || rule->kind == ALIAS_BUT;
        if (same && strcmp(rule->key, key) == 0) json_array_append_new(list, json_string(rule->name));
    }
    return list;
}

static json_t *field_json(const ConfigField *f, const char *name, const char *section)
{
    char text[SHOWN_MAX];
    json_t *o = json_object();
    json_object_set_new(o, "key", json_string(name));
    json_object_set_new(o, "section", json_string(section));
    json_object_set_new(o, "type", json_string(config_type_name(f->type)));
    json_object_set_new(o, "takes", json_string(config_type_looks(f->type)));
    config_field_initial(f, text, sizeof text);
    json_object_set_new(o, "default", text[0] ? json_string(text) : json_null());
    if (config_field_is_derived(f)) json_object_set_new(o, "otherwise", json_string(f->initial + 1));
    if (f->type == CONFIG_CHOICE) json_object_set_new(o, "choices", choices_json(f));
    if (has_range(f)) {
        json_object_set_new(o, "minimum", json_real(f->low));
        json_object_set_new(o, "maximum", json_real(f->high));
    }
    json_object_set_new(o, "help", json_string(f->help));
    json_object_set_new(o, "resume", json_string(change_name(f->change)));
    json_object_set_new(o, "aliases", aliases_json(f->name));
    return o;
}

static const char *rule_kind_name(AliasKind kind)
{
    switch (kind) {
    case ALIAS_SAME: return "alias";
    case ALIAS_BUT: return "alias";
    case ALIAS_INVERSE: return "inverse";
    case ALIAS_MEANS: return "means";
    case ALIAS_WEAK: return "means";
    case ALIAS_REFINES: return "means";
    case ALIAS_FINE: return "accepted";
    case ALIAS_NOTICE: return "accepted";
    case ALIAS_REFUSE: return "refused";
    case ALIAS_FRIEND: return "unknown";
    }
    return "";
}

static json_t *rule_json(const AliasRule *rule)
{
    json_t *o = json_object();
    json_object_set_new(o, "name", json_string(rule->name));
    json_object_set_new(o, "kind", json_string(rule_kind_name(rule->kind)));
    if (rule->values) json_object_set_new(o, "values", json_string(rule->values));
    if (rule->key) json_object_set_new(o, "key", json_string(rule->key));
    if (rule->text) json_object_set_new(o, "text", json_string(rule->text));
    return o;
}

static json_t *schema_json(void)
{
    json_t *keys = json_array();
    json_t *others = json_array();
    const char *section = "";
    for (int i = 0; i < config_row_count; i++) {
        const ConfigRow *row = &config_rows[i];
        if (row->section) section = row->section;
        if (!row->field) continue;
        json_array_append_new(keys, field_json(row->field, row->field->name, section));
        for (int k = 0; k < dataset_field_count && strcmp(row->field->name, "datasets") == 0; k++) {
            char name[80];
            snprintf(name, sizeof name, "datasets[].%s", dataset_fields[k].name);
            json_array_append_new(keys, field_json(&dataset_fields[k], name, section));
        }
    }
    for (int i = 0; i < alias_rule_count; i++) {
        if (alias_rules[i].kind != ALIAS_FRIEND) json_array_append_new(others, rule_json(&alias_rules[i]));
    }
    json_t *root = json_object();
    json_object_set_new(root, "version", json_string(QLORA_VERSION));
    json_object_set_new(root, "keys", keys);
    json_object_set_new(root, "other_keys", others);
    return root;
}

bool config_schema_json(Text *out, Err *err)
{
    json_begin();
    json_t *root = schema_json();
    char *text = json_print(root, JSON_COMPACT, "the schema", err);
    json_decref(root);
    if (!text) return false;
    const bool good = text_add_z(out, text, err) && text_add_z(out, "\n", err);
    mem_free(text);
    return good;
}

static bool explain_aliases(Text *out, const char *key, Err *err)
{
    int found = 0;
    for (int i = 0; i < alias_rule_count; i++) {
        const AliasRule *rule = &alias_rules[i];
        char words[400];
        if (!rule->key || strcmp(rule->key, key) != 0 || rule->kind == ALIAS_FRIEND) continue;
        if (!found++ && !text_add_z(out, "Other programs' keys:\n", err)) return false;
        if (!text_format(out, err, "  %s: %s\n", rule->name, rule_words(rule, "", words, sizeof words))) return false;
    }
    found = 0;
    for (int i = 0; i < alias_value_count; i++) {
        const AliasValue *v = &alias_values[i];
        if (strcmp(v->key, key) != 0) continue;
        if (!found++ && !text_add_z(out, "Other words:\n", err)) return false;
        if (!text_format(out, err, "  %s: %s\n", v->word, v->to)) return false;
    }
    return true;
}

static bool explain_field(Text *out, const ConfigField *f, const char *name, Err *err)
{
    char text[SHOWN_MAX];
    if (!text_format(out, err, "%s: %s\n", name, f->help)) return false;
    if (!text_format(out, err, "  takes    %s\n", config_type_looks(f->type))) return false;
    if (range_show(f, text, sizeof text)[0] && !text_format(out, err, "  range    %s\n", text)) return false;
    if (!text_format(out, err, "  default  %s\n", default_show(f, text, sizeof text))) return false;
    return text_format(out, err, "  resume   %s\n", change_show(f->change)) && explain_aliases(out, f->name, err);
}

static bool explain_group(Text *out, const char *group, Err *err)
{
    const size_t n = strlen(group);
    for (int i = 0; i < config_row_count; i++) {
        const ConfigRow *row = &config_rows[i];
        if (row->group && strcmp(row->group, group) == 0) {
            if (!text_format(out, err, "%s: %s\n", group, row->help)) return false;
        } else if (row->field && strncmp(row->field->name, group, n) == 0 && row->field->name[n] == '.') {
            if (!explain_field(out, row->field, row->field->name, err)) return false;
        }
    }
    return true;
}

/* A key of another program: its rules, and the key of ours that it is another spelling of. */
static bool explain_foreign(Text *out, const char *name, Err *err)
{
    for (int i = 0; i < alias_rule_count; i++) {
        const AliasRule *rule = &alias_rules[i];
        char words[400];
        if (!alias_fits(rule, name) || rule->kind == ALIAS_FRIEND) continue;
        if (!text_format(out, err, "%s: %s\n", name, rule_words(rule, "", words, sizeof words))) return false;
    }
    const char *target = alias_target(name);
    const int key = target ? config_field_find(target) : -1;
    return key < 0 || explain_field(out, &config_fields[key], target, err);
}

bool config_explain(Text *out, const char *name, Err *err)
{
    char shown[80];
    char near[SHOWN_MAX];
    const int key = config_field_find(name);
    const char *bare = strncmp(name, "datasets[].", 11) == 0 ? name + 11 : name;
    const int entry = dataset_field_find(bare);
    if (key >= 0) return explain_field(out, &config_fields[key], name, err);
    if (config_is_group(name)) return explain_group(out, name, err);
    if (alias_is_known(name)) return explain_foreign(out, name, err);
    if (entry >= 0) {
        char full[80];
        snprintf(full, sizeof full, "datasets[].%s", bare);
        return explain_field(out, &dataset_fields[entry], full, err);
    }
    text_printable(shown, sizeof shown, name, strlen(name));
    return FAIL(err, ERR_ARG, "there is no key \"%s\"%s", shown, alias_suggest(near, sizeof near, "", name));
}
