/*
 * match.h - which module paths a LoRA option means, by PEFT's rules.
 *
 * Patterns are Python regular expressions there and PCRE2 here; what people write in them means the same in both.
 */
#pragma once

#include "lora/lora.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Whether the whole path matches; ERR_CONFIG naming `key` when the pattern is no regular expression. */
bool match_regex(bool *matched, const char *pattern, const char *path, const char *key, Err *err) MUST_USE;

/* Whether an item of a list names the path: plainly (lora_name_matches), or, when it is `alone` in its list, as a regular
 * expression for the whole path too. */
bool match_item(bool *matched, const char *item, bool alone, const char *path, const char *key, Err *err) MUST_USE;

/* Whether any item of a list does. */
bool match_list(bool *matched, const char *const *items, int count, const char *path, const char *key,
                Err *err) MUST_USE;

/* Whether ^(.*\.)?(pattern)$ matches the path. */
bool match_pattern(bool *matched, const char *pattern, const char *path, const char *key, Err *err) MUST_USE;

/* Whether the options give this module an adapter; hits[i] counts what target i matched (may be null). */
bool match_module(bool *matched, const LoraOptions *o, const LoraModule *module, int *hits, Err *err) MUST_USE;

/* Rank and alpha of a module: the first pattern that matches, else the global value. */
bool match_rank(int *r, const LoraOptions *o, const char *path, Err *err) MUST_USE;
bool match_alpha(double *alpha, const LoraOptions *o, const char *path, Err *err) MUST_USE;

#ifdef __cplusplus
}
#endif
