/*
 * config_alias.h - config_alias.def as rules: other programs' keys, other words for values, and suggestions.
 */
#pragma once

#include "trainer/yaml.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum AliasKind {
    ALIAS_SAME,
    ALIAS_BUT,
    ALIAS_INVERSE,
    ALIAS_MEANS,
    ALIAS_WEAK,
    ALIAS_REFINES,
    ALIAS_FINE,
    ALIAS_NOTICE,
    ALIAS_REFUSE,
    ALIAS_FRIEND
} AliasKind;

typedef struct AliasRule {
    AliasKind kind;
    const char *name;   /* may end in "*" */
    const char *values; /* "a|b" or "*"; null: any */
    const char *key;    /* ours */
    const char *text;   /* the value it stands for, or words for the user */
} AliasRule;
extern const AliasRule alias_rules[];
extern const int alias_rule_count;

typedef struct AliasValue {
    const char *key, *word, *to; /* to: the word of ours, or why it is wrong */
    bool wrong;
} AliasValue;
extern const AliasValue alias_values[];
extern const int alias_value_count;

/* The rule for a key that is not ours and its value; null: none fits. Friends are no rules. */
const AliasRule *alias_find(const char *name, const YamlNode *value);
/* Whether the name is that of the rule, or one of those that its "*" stands for. */
bool alias_fits(const AliasRule *rule, const char *name);
/* Whether any rule, friends aside, has the name. */
bool alias_is_known(const char *name);
/* The key of ours that a name is another spelling of; null: none. */
const char *alias_target(const char *name);

/* Our word for a value, the word itself when there is no other; *why is set when the word is known to be wrong. */
const char *alias_word(const char *key, const char *word, const char **why);

/*
 * Up to three names near `name`, friends first, as "; did you mean a, b or c?"; "" when none is near. `scope`: "" for
 * the keys of a file, "variance_clamp." for those of a group, "datasets[]." for those of a data source.
 */
const char *alias_suggest(char *out, size_t size, const char *scope, const char *name);

#ifdef __cplusplus
}
#endif
