#include "trainer/config_table.h"

#include <stdio.h>
#include <string.h>

/* The type column of the tables is CHOICE(Enum) for choices; only the kind matters here. */
#define KIND_TEXT CONFIG_TEXT
#define KIND_INT CONFIG_INT
#define KIND_WORD_INT CONFIG_WORD_INT
#define KIND_SIZE CONFIG_SIZE
#define KIND_REAL CONFIG_REAL
#define KIND_SHARE CONFIG_SHARE
#define KIND_MINUTES CONFIG_MINUTES
#define KIND_BOOL CONFIG_BOOL
#define KIND_CHOICE(type) CONFIG_CHOICE
#define KIND_TEXTS CONFIG_TEXTS
#define KIND_LAYERS CONFIG_LAYERS
#define KIND_PATTERNS CONFIG_PATTERNS
#define KIND_PAIRS CONFIG_PAIRS
#define KIND_ROLES CONFIG_ROLES
#define KIND_DATASETS CONFIG_DATASETS

const ConfigField config_fields[CONFIG_KEY_COUNT] = {
#define X(type, key, initial, low, high, change, help)                                                                 \
    {#key, KIND_##type, offsetof(Config, key), initial, low, high, CONFIG_CHANGE_##change, help},
#define GX(type, group, key, initial, low, high, change, help)                                                         \
    {#group "." #key, KIND_##type, offsetof(Config, group.key), initial, low, high, CONFIG_CHANGE_##change, help},
#include "trainer/config.def"
};

const ConfigField dataset_fields[] = {
#define X(type, key, initial, low, high, change, help)                                                                 \
    {#key, KIND_##type, offsetof(DatasetConfig, key), initial, low, high, CONFIG_CHANGE_##change, help},
#include "trainer/config_dataset.def"
};
const int dataset_field_count = (int)(sizeof dataset_fields / sizeof dataset_fields[0]);

const ConfigRow config_rows[] = {
#define SECTION(title) {.section = title},
#define GROUP(name, words) {.group = #name, .help = words},
#define GROUP_END(name)
#define X(type, key, initial, low, high, change, help) {.field = &config_fields[CONFIG_KEY_##key]},
#define GX(type, group_name, key, initial, low, high, change, words)                                                   \
    {.field = &config_fields[CONFIG_KEY_##group_name##_##key]},
#include "trainer/config.def"
};
const int config_row_count = (int)(sizeof config_rows / sizeof config_rows[0]);

static int field_find(const ConfigField *fields, int count, const char *name)
{
    for (int i = 0; i < count; i++) {
        if (strcmp(fields[i].name, name) == 0) return i;
    }
    return -1;
}

int config_field_find(const char *name)
{
    return field_find(config_fields, CONFIG_KEY_COUNT, name);
}

int dataset_field_find(const char *name)
{
    return field_find(dataset_fields, dataset_field_count, name);
}

bool config_is_group(const char *name)
{
    for (int i = 0; i < config_row_count; i++) {
        if (config_rows[i].group && strcmp(config_rows[i].group, name) == 0) return true;
    }
    return false;
}

bool config_field_is_derived(const ConfigField *f)
{
    return f->initial[0] == '=';
}

const char *config_choice(const ConfigField *f, int i, char *out, size_t size)
{
    const char *at = f->initial;
    for (; i > 0; i--) {
        at = strchr(at, '|');
        if (!at) return NULL;
        at++;
    }
    snprintf(out, size, "%.*s", (int)strcspn(at, "|"), at);
    return out;
}

const char *config_field_initial(const ConfigField *f, char *out, size_t size)
{
    if (f->type == CONFIG_CHOICE) return config_choice(f, 0, out, size);
    snprintf(out, size, "%s", config_field_is_derived(f) ? "" : f->initial);
    return out;
}

const char *config_type_name(ConfigType type)
{
    switch (type) {
#define X(name, looks)                                                                                                 \
    case CONFIG_##name: return #name;
        CONFIG_TYPES(X)
#undef X
    }
    return "";
}

const char *config_type_looks(ConfigType type)
{
    switch (type) {
#define X(name, looks)                                                                                                 \
    case CONFIG_##name: return looks;
        CONFIG_TYPES(X)
#undef X
    }
    return "";
}
