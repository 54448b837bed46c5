/*
 * config.h - the configuration of a run, as one typed struct.
 *
 * trainer/config.def lists every key once; included several times it gives this struct, the parser, `qlora schema`,
 * `qlora explain` and configs/REFERENCE.md. A file is YAML (trainer/yaml.h says what of it). config_load reports all
 * faults of a file at once, one a line, each "FILE:LINE:COL: what, and what to do", or "--set KEY=VALUE: ..." for an
 * override. Derived values are filled in: after loading, lora_alpha, gradient_accumulation_steps and the like hold
 * what counts, whether they were set or not.
 * Readers use CONFIG_GET, which marks a key as read; config_check_consumed then refuses keys that the user set to
 * something and that nothing read. Paths in a file are relative to the current directory.
 * All texts and lists belong to the Config.
 */
#pragma once

#include "base/hash.h"
#include "base/text.h"
#include "data/dataset.h"
#include "lora/lora.h"
#include "optim/schedule.h"
#include "quant/nf4.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum AdapterKind { ADAPTER_QLORA, ADAPTER_LORA } AdapterKind;
typedef enum ComputeKind { COMPUTE_AUTO, COMPUTE_BF16, COMPUTE_FP16, COMPUTE_FP32 } ComputeKind;
typedef enum OptimizerKind {
    OPTIMIZER_PAGED_ADAMW_8BIT,
    OPTIMIZER_ADAMW_8BIT,
    OPTIMIZER_ADAMW,
    OPTIMIZER_PAGED_ADAMW_32BIT
} OptimizerKind;
typedef enum HostPlace { HOST_AUTO, HOST_TRUE, HOST_FALSE } HostPlace;
typedef enum CheckpointingKind {
    CHECKPOINTING_AUTO,
    CHECKPOINTING_TRUE,
    CHECKPOINTING_FALSE,
    CHECKPOINTING_OFFLOAD
} CheckpointingKind;
typedef enum WatchdogAction { WATCHDOG_STOP, WATCHDOG_SKIP, WATCHDOG_ROLLBACK } WatchdogAction;

typedef enum DatasetType {
    DATASET_AUTO,
    DATASET_CHAT,
    DATASET_SHAREGPT,
    DATASET_ALPACA,
    DATASET_PROMPT_COMPLETION,
    DATASET_TEXT,
    DATASET_PRETOKENIZED
} DatasetType;

/* `scalar`: one text stood there instead of a list (a regular expression, a file). */
typedef struct ConfigTexts {
    const char *const *items;
    int count;
    bool scalar;
} ConfigTexts;
typedef struct ConfigLayers {
    const int *items; /* ascending; null: all */
    int count;
} ConfigLayers;
typedef struct ConfigPatterns {
    const LoraPattern *items;
    int count;
} ConfigPatterns;
typedef struct ConfigPairs {
    const DataPair *items; /* for roles: alias -> role */
    int count;
} ConfigPairs;

/* C types of config.def's types. */
typedef const char *ConfigTEXT; /* null: unset */
typedef int64_t ConfigINT;
typedef int64_t ConfigWORD_INT; /* 0: the word */
typedef int64_t ConfigSIZE;     /* bytes; 0: auto */
typedef double ConfigREAL;
typedef double ConfigSHARE;   /* 0: off; below 1 a share; else a whole number */
typedef double ConfigMINUTES; /* minutes */
typedef bool ConfigBOOL;
typedef ConfigTexts ConfigTEXTS;
typedef ConfigLayers ConfigLAYERS;
typedef ConfigPatterns ConfigPATTERNS;
typedef ConfigPairs ConfigPAIRS;
typedef ConfigPairs ConfigROLES;
#define ConfigCHOICE(type) type

typedef struct DatasetConfig {
#define X(type, key, initial, low, high, change, help) Config##type key;
#include "trainer/config_dataset.def"
} DatasetConfig;

typedef struct ConfigDatasets {
    const DatasetConfig *items;
    int count;
} ConfigDatasets;
typedef ConfigDatasets ConfigDATASETS;

typedef struct ConfigState ConfigState;

typedef struct Config {
#define X(type, key, initial, low, high, change, help) Config##type key;
#define GROUP(name, help) struct {
#define GX(type, group, key, initial, low, high, change, help) Config##type key;
#define GROUP_END(name)                                                                                                \
    }                                                                                                                  \
    name;
#include "trainer/config.def"
    ConfigState *state; /* which keys were set and read, and the memory of it all */
} Config;

/* CONFIG_KEY_lora_r, CONFIG_KEY_variance_clamp_min, ... */
typedef enum ConfigKey {
#define X(type, key, initial, low, high, change, help) CONFIG_KEY_##key,
#define GX(type, group, key, initial, low, high, change, help) CONFIG_KEY_##group##_##key,
#include "trainer/config.def"
    CONFIG_KEY_COUNT
} ConfigKey;

/* CONFIG_GET(c, lora_r); CONFIG_GET_IN(c, variance_clamp, min). Each marks the key as read. */
#define CONFIG_GET(c, key) (config_mark_read((c), CONFIG_KEY_##key), (c)->key)
#define CONFIG_GET_IN(c, group, key) (config_mark_read((c), CONFIG_KEY_##group##_##key), (c)->group.key)
void config_mark_read(const Config *c, ConfigKey key);

/* `overrides`: "key=value" or "group.key=value" texts of --set, count of them; the value is YAML. ERR_CONFIG. */
bool config_load(Config **out, const char *path, const char *const *overrides, int count, Err *err) MUST_USE;
/* The same for a command that can do without data: datasets may be missing. */
bool config_load_without_data(Config **out, const char *path, const char *const *overrides, int count,
                              Err *err) MUST_USE;
/* The same from memory; `name` stands for the path in messages. */
bool config_parse(Config **out, const char *name, const char *text, size_t length, const char *const *overrides,
                  int count, Err *err) MUST_USE;
void config_free(Config *c);

/* Whether the user gave the key a value; "variance_clamp" is set when one of its keys is. CHECKs that the key exists. */
bool config_is_set(const Config *c, const char *key);

/* Remarks of loading, such as "cutoff_len read as sequence_len"; for the log. */
int config_notice_count(const Config *c);
const char *config_notice(const Config *c, int i);
void config_log_notices(const Config *c);

/* ERR_CONFIG with one line for each key that was set to something else than its default and that nothing read. */
bool config_check_consumed(const Config *c, Err *err) MUST_USE;

/* Resolved YAML: every key, valid input, equal when read again. */
bool config_to_text(const Config *c, Text *out, Err *err) MUST_USE;
bool config_write(const Config *c, const char *path, Err *err) MUST_USE;
bool config_hash(const Config *c, char text[HASH_TEXT], Err *err) MUST_USE; /* of the resolved text */

typedef enum ConfigChangeKind {
    CONFIG_CHANGE_HARMLESS,
    CONFIG_CHANGE_RESULT,
    CONFIG_CHANGE_IMPOSSIBLE
} ConfigChangeKind;
typedef struct ConfigChange {
    const char *key; /* static */
    char *before, *after;
    ConfigChangeKind kind;
} ConfigChange;
typedef struct ConfigChanges {
    ConfigChange *items;
    size_t count, capacity;
} ConfigChanges;
/* Keys whose resolved values differ, in the order of the table. */
bool config_diff(ConfigChanges *out, const Config *before, const Config *after, Err *err) MUST_USE;
void config_changes_free(ConfigChanges *changes);

/* Whether there is evaluation data: test_datasets or val_set_size. */
bool config_has_evaluation(const Config *c);
/* A SHARE in units of `total`: 0 stays 0, a share becomes at least 1, a count stays. */
int64_t config_share(double share, int64_t total);
/* A view for data/dataset.h; borrowed. */
DataSource dataset_config_source(const DatasetConfig *d);

#ifdef __cplusplus
}
#endif
