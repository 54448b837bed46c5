/*
 * config_table.h - config.def as rows that code can walk over.
 */
#pragma once

#include "trainer/config.h"

#ifdef __cplusplus
extern "C" {
#endif

/* X(type, what a value looks like) */
#define CONFIG_TYPES(X)                                                                                                \
    X(TEXT, "text")                                                                                                    \
    X(INT, "whole number")                                                                                             \
    X(WORD_INT, "whole number or word")                                                                                \
    X(SIZE, "bytes, or a number with KiB, MiB, GiB, TiB, KB, MB, GB or TB")                                            \
    X(REAL, "number")                                                                                                  \
    X(SHARE, "whole number, or a share below 1")                                                                       \
    X(MINUTES, "minutes, or a number with s, m or h")                                                                  \
    X(BOOL, "true or false")                                                                                           \
    X(CHOICE, "one of the values")                                                                                     \
    X(TEXTS, "text or list of texts")                                                                                  \
    X(LAYERS, "all, ranges, or list of whole numbers")                                                                 \
    X(PATTERNS, "map of name to number")                                                                               \
    X(PAIRS, "map of text to text")                                                                                    \
    X(ROLES, "map of role to list of texts")                                                                           \
    X(DATASETS, "list of maps")

typedef enum ConfigType {
#define X(type, looks) CONFIG_##type,
    CONFIG_TYPES(X)
#undef X
} ConfigType;

typedef struct ConfigField {
    const char *name; /* "lora_r", "variance_clamp.min" */
    ConfigType type;
    size_t offset; /* in Config or DatasetConfig */
    const char *initial;
    double low, high;
    ConfigChangeKind change;
    const char *help;
} ConfigField;

extern const ConfigField config_fields[CONFIG_KEY_COUNT];
extern const ConfigField dataset_fields[];
extern const int dataset_field_count;

/* Headings, groups and keys in the order of the table, for documentation. Exactly one of them is set. */
typedef struct ConfigRow {
    const char *section;
    const char *group;
    const char *help;         /* of a group */
    const ConfigField *field; /* null for headings and groups */
} ConfigRow;
extern const ConfigRow config_rows[];
extern const int config_row_count;

/* Index of a key's name, or -1. */
int config_field_find(const char *name);
int dataset_field_find(const char *name);
/* Whether keys named "name.*" exist. */
bool config_is_group(const char *name);

/* The value that stands in `initial` when nothing is set, "" when there is none; in out. */
const char *config_field_initial(const ConfigField *f, char *out, size_t size);
/* Whether `initial` is words about how the value is found. */
bool config_field_is_derived(const ConfigField *f);
const char *config_type_name(ConfigType type);  /* "INT" */
const char *config_type_looks(ConfigType type); /* "whole number" */

/* Choice i of a CHOICE as text in out; null when there are fewer. */
const char *config_choice(const ConfigField *f, int i, char *out, size_t size);

#ifdef __cplusplus
}
#endif
