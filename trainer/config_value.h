/*
 * config_value.h - one value of the configuration: from a YAML node to a member of Config, and back to text.
 *
 * What the types of config.def take:
 *   TEXT      a text                                 BOOL      true or false
 *   INT       a whole number; 2e3 is one             CHOICE    one of the words
 *   WORD_INT  a whole number, or the word for 0      SIZE      auto, or 4GiB, 512MiB, 11GB; at least 1MiB
 *   REAL      a number; 2e-4 is one                  MINUTES   15, 90s, 15m, 2h
 *   SHARE     0, a share below 1, or a whole number  TEXTS     a text or a list of texts
 *   LAYERS    all, "16-31", "0,2,8-11", [0, 1]       PATTERNS  {name: number}
 *   PAIRS     {text: text}                           ROLES     {role: [other names]}
 */
#pragma once

#include "trainer/config_table.h"
#include "trainer/yaml.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Where values live and faults go. */
typedef struct ConfigReader {
    ConfigPool *pool;
    ConfigFaults *faults;
    bool broken; /* the text ended early: missing parts are no fault of their own */
} ConfigReader;

/*
 * Reads `node` into `member`; a null node or an empty value gives the initial value. `name` is for messages
 * ("datasets[0].weight"). On a fault the member keeps its bytes.
 */
void config_value_read(void *member, const ConfigField *f, const char *name, const YamlNode *node,
                       const ConfigReader *r);

/* The list behind `datasets`: config_datasets.c. */
void config_datasets_read(ConfigDatasets *out, const char *name, const YamlNode *node, const ConfigReader *r);

/* The value as YAML on one line, "" when it is unset; not for DATASETS. */
bool config_value_print(Text *out, const ConfigField *f, const void *member, Err *err) MUST_USE;

#ifdef __cplusplus
}
#endif
