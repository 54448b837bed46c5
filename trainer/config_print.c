#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"
#include "trainer/config_scalar.h"
#include "trainer/config_state.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Texts that read back as themselves without quotes; everything else is quoted, so the rule can stay simple. */
static bool is_simple(const char *text)
{
    static const char *const words[] = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"};
    if (!isalpha((unsigned char)text[0]) && text[0] != '/' && text[0] != '.') return false;
    if (text[0] == '.' && text[1] != '/' && !isalpha((unsigned char)text[1])) return false;
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (strcasecmp(text, words[i]) == 0) return false;
    }
    for (const char *at = text; *at; at++) {
        if (!isalnum((unsigned char)*at) && !strchr("_./-", *at)) return false;
    }
    return true;
}

static bool needs_escape(uint32_t c)
{
    return c < 0x20 || (c >= 0x7F && c < 0xA0) || c == 0x2028 || c == 0x2029 || c == 0xFEFF || c >= 0xFFFE;
}

/* In double quotes, on one line. */
static bool quoted_print(Text *out, const char *text, Err *err)
{
    const size_t length = strlen(text);
    if (!text_add_z(out, "\"", err)) return false;
    for (size_t at = 0; at < length;) {
        uint32_t c = 0;
        const size_t n = utf8_decode(text + at, length - at, &c);
        bool good;
        if (n == 0) {
            good = text_format(out, err, "\\x%02X", (unsigned char)text[at]); /* not from a file of ours */
        } else if (c == '"' || c == '\\') {
            good = text_format(out, err, "\\%c", (int)c);
        } else if (needs_escape(c)) {
            good = c > 0xFFFF ? text_format(out, err, "\\U%08X", c) : text_format(out, err, "\\u%04X", c);
        } else {
            good = text_add(out, text + at, n, err);
        }
        if (!good) return false;
        at += n ? n : 1;
    }
    return text_add_z(out, "\"", err);
}

static bool text_print(Text *out, const char *text, Err *err)
{
    return is_simple(text) ? text_add_z(out, text, err) : quoted_print(out, text, err);
}

static bool texts_print(Text *out, const ConfigTexts *texts, Err *err)
{
    if (texts->scalar) return text_print(out, texts->items[0], err);
    if (!text_add_z(out, "[", err)) return false;
    for (int i = 0; i < texts->count; i++) {
        if ((i && !text_add_z(out, ", ", err)) || !text_print(out, texts->items[i], err)) return false;
    }
    return text_add_z(out, "]", err);
}

static bool layers_print(Text *out, const ConfigLayers *layers, Err *err)
{
    if (layers->count == 0) return text_add_z(out, "all", err);
    if (!text_add_z(out, "[", err)) return false;
    for (int i = 0; i < layers->count; i++) {
        if (!text_format(out, err, "%s%d", i ? ", " : "", layers->items[i])) return false;
    }
    return text_add_z(out, "]", err);
}

static bool patterns_print(Text *out, const ConfigPatterns *patterns, Err *err)
{
    if (!text_add_z(out, "{", err)) return false;
    for (int i = 0; i < patterns->count; i++) {
        char number[40];
        if (i && !text_add_z(out, ", ", err)) return false;
        if (!quoted_print(out, patterns->items[i].pattern, err)) return false;
        scalar_print_real(patterns->items[i].value, number, sizeof number);
        if (!text_format(out, err, ": %s", number)) return false;
    }
    return text_add_z(out, "}", err);
}

static bool pairs_print(Text *out, const ConfigPairs *pairs, Err *err)
{
    if (!text_add_z(out, "{", err)) return false;
    for (int i = 0; i < pairs->count; i++) {
        if (i && !text_add_z(out, ", ", err)) return false;
        if (!quoted_print(out, pairs->items[i].key, err) || !text_add_z(out, ": ", err) ||
            !text_print(out, pairs->items[i].value, err)) {
            return false;
        }
    }
    return text_add_z(out, "}", err);
}

/* The names of one role, which stand together; the first of them is at `first`. */
static bool role_print(Text *out, const ConfigPairs *roles, int first, Err *err)
{
    const char *role = roles->items[first].value;
    if (!quoted_print(out, role, err) || !text_add_z(out, ": [", err)) return false;
    for (int i = first; i < roles->count; i++) {
        if (strcmp(roles->items[i].value, role) != 0) continue;
        if ((i > first && !text_add_z(out, ", ", err)) || !text_print(out, roles->items[i].key, err)) return false;
    }
    return text_add_z(out, "]", err);
}

static bool roles_print(Text *out, const ConfigPairs *roles, Err *err)
{
    bool any = false;
    if (!text_add_z(out, "{", err)) return false;
    for (int i = 0; i < roles->count; i++) {
        bool seen = false;
        for (int j = 0; j < i; j++)
            seen = seen || strcmp(roles->items[j].value, roles->items[i].value) == 0;
        if (seen) continue;
        if ((any && !text_add_z(out, ", ", err)) || !role_print(out, roles, i, err)) return false;
        any = true;
    }
    return text_add_z(out, "}", err);
}

static bool number_print(Text *out, const ConfigField *f, const void *member, Err *err)
{
    char text[60];
    if (f->type == CONFIG_INT) return text_format(out, err, "%" PRId64, *(const int64_t *)member);
    if (f->type == CONFIG_WORD_INT || f->type == CONFIG_SIZE) {
        const int64_t value = *(const int64_t *)member;
        if (value == 0) return text_add_z(out, f->type == CONFIG_SIZE ? "auto" : f->initial, err);
        return text_format(out, err, "%" PRId64, value);
    }
    return text_add_z(out, scalar_print_real(*(const double *)member, text, sizeof text), err);
}

bool config_value_print(Text *out, const ConfigField *f, const void *member, Err *err)
{
    char text[60];
    int choice;
    switch (f->type) {
    case CONFIG_TEXT: {
        const char *value = *(const char *const *)member;
        return value ? text_print(out, value, err) : text_add_z(out, "", err);
    }
    case CONFIG_BOOL: return text_add_z(out, *(const bool *)member ? "true" : "false", err);
    case CONFIG_CHOICE:
        memcpy(&choice, member, sizeof choice);
        return text_add_z(out, config_choice(f, choice, text, sizeof text), err);
    case CONFIG_TEXTS: return texts_print(out, member, err);
    case CONFIG_LAYERS: return layers_print(out, member, err);
    case CONFIG_PATTERNS: return patterns_print(out, member, err);
    case CONFIG_PAIRS: return pairs_print(out, member, err);
    case CONFIG_ROLES: return roles_print(out, member, err);
    case CONFIG_DATASETS: return text_format(out, err, "%d entries", ((const ConfigDatasets *)member)->count);
    default: return number_print(out, f, member, err);
    }
}

static bool line_print(Text *out, const char *lead, const char *name, const ConfigField *f, const void *member,
                       Err *err)
{
    Text value = {0};
    const bool good = config_value_print(&value, f, member, err) &&
                      text_format(out, err, "%s%s:%s%s\n", lead, name, value.length ? " " : "", value.bytes);
    text_free(&value);
    return good;
}

static bool datasets_print(Text *out, const ConfigField *f, const ConfigDatasets *datasets, Err *err)
{
    if (!text_format(out, err, "%s:%s\n", f->name, datasets->count ? "" : " []")) return false;
    for (int i = 0; i < datasets->count; i++) {
        for (int k = 0; k < dataset_field_count; k++) {
            const ConfigField *d = &dataset_fields[k];
            const void *member = (const char *)&datasets->items[i] + d->offset;
            if (!line_print(out, k ? "    " : "  - ", d->name, d, member, err)) return false;
        }
    }
    return true;
}

bool config_to_text(const Config *c, Text *out, Err *err)
{
    if (!text_format(out, err, "# Resolved configuration of qlora %s; a valid input.\n", QLORA_VERSION)) return false;
    for (int i = 0; i < config_row_count; i++) {
        const ConfigRow *row = &config_rows[i];
        bool good;
        if (row->section) {
            good = text_format(out, err, "\n# %s\n", row->section);
        } else if (row->group) {
            good = text_format(out, err, "%s:\n", row->group);
        } else if (row->field->type == CONFIG_DATASETS) {
            good = datasets_print(out, row->field, config_member(c, row->field), err);
        } else {
            const char *dot = strchr(row->field->name, '.');
            good = line_print(out, dot ? "  " : "", dot ? dot + 1 : row->field->name, row->field,
                              config_member(c, row->field), err);
        }
        if (!good) return false;
    }
    return true;
}

bool config_write(const Config *c, const char *path, Err *err)
{
    Text text = {0};
    const bool good = config_to_text(c, &text, err) && file_replace(path, text.bytes, text.length, err);
    text_free(&text);
    return good;
}

bool config_hash(const Config *c, char hash[HASH_TEXT], Err *err)
{
    Text text = {0};
    const bool good = config_to_text(c, &text, err);
    if (good) hash_bytes(text.bytes, text.length, hash);
    text_free(&text);
    return good;
}
