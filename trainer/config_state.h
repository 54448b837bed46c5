/*
 * config_state.h - what trainer/config*.c know about a Config beside its values; nobody else includes it.
 */
#pragma once

#include "trainer/config_table.h"
#include "trainer/config_value.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Who set a key; a higher one wins. */
typedef enum ConfigLevel {
    LEVEL_NONE,
    LEVEL_FILE_SOFT, /* another program's key that implies it */
    LEVEL_FILE,
    LEVEL_SET_SOFT, /* the same in an override */
    LEVEL_SET
} ConfigLevel;

struct ConfigState {
    char *name; /* of the file */
    ConfigPool pool;
    bool set[CONFIG_KEY_COUNT]; /* to a value; an empty one does not count */
    bool read[CONFIG_KEY_COUNT];
    bool bad[CONFIG_KEY_COUNT];          /* its value is a fault already */
    FaultPlace places[CONFIG_KEY_COUNT]; /* of the value; of line 1 when not set */
    ConfigLevel levels[CONFIG_KEY_COUNT];
    const char **notices;
    size_t notice_count, notice_capacity;
    bool without_data; /* datasets may be missing */
};

/* Adds a remark for the log; a lack of memory is left in err. */
void config_note(Config *c, Err *err, const char *format, ...) PRINTF_LIKE(3, 4);

static inline void *config_member(const Config *c, const ConfigField *f)
{
    return (char *)(uintptr_t)c + f->offset;
}

/* Relations between keys: fills derived values in and reports combinations that cannot be. config_check.c */
void config_check(Config *c, ConfigFaults *faults);

/* Assigns the keys of a parsed file and the overrides: config_keys.c */
void config_keys_read(Config *c, const YamlNode *root, const char *const *overrides, int count, YamlTree *tree,
                      ConfigFaults *faults);

#ifdef __cplusplus
}
#endif
