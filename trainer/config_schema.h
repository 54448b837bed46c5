/*
 * config_schema.h - the table of keys as text: `qlora schema [--json | --markdown]` and `qlora explain KEY`.
 */
#pragma once

#include "trainer/config.h"

#ifdef __cplusplus
extern "C" {
#endif

bool config_schema_text(Text *out, Err *err) MUST_USE;     /* one line a key */
bool config_schema_json(Text *out, Err *err) MUST_USE;     /* {"keys": [...], "aliases": {...}, ...} */
bool config_schema_markdown(Text *out, Err *err) MUST_USE; /* configs/REFERENCE.md */

/* Everything about one key, other spellings and "datasets[].weight" included; ERR_ARG with the nearest names. */
bool config_explain(Text *out, const char *key, Err *err) MUST_USE;

#ifdef __cplusplus
}
#endif
