/*
 * yaml_text.h - what trainer/yaml.c checks on the bytes themselves: encoding, control characters, tabs.
 */
#pragma once

#include "trainer/config_faults.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Characters [start, end) of the text, counted as code points, that belong to a scalar. */
typedef struct YamlSpan {
    size_t start, end;
    bool quoted; /* quotes or a block scalar: tabs are content there */
} YamlSpan;

/* Ill-formed UTF-8, control characters and line separators that YAML readers disagree about; false at the first. */
bool yaml_text_check(const char *text, size_t length, const char *origin, ConfigFaults *faults) MUST_USE;

/* Tabs outside of quotes and comments; spans are in the order of the text. */
void yaml_text_check_tabs(const char *text, size_t length, const YamlSpan *spans, size_t count, const char *origin,
                          ConfigFaults *faults);

/* The byte at code point `index`, or 0 at the end. */
char yaml_text_at(const char *text, size_t length, size_t index);

#ifdef __cplusplus
}
#endif
