/*
 * config_scalar.h - texts of a configuration as numbers, words, sizes and durations.
 *
 * Each function says false when the text is not of its kind and puts the reason, without the text itself, into `why`:
 * "is not a whole number", "is outside 1..1024". Numbers are decimal; 2e-5 is one; infinities, NaN, hexadecimal
 * digits, digit separators and leading zeros (octal to some YAML readers) are not.
 */
#pragma once

#include "trainer/config_table.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { WHY_MAX = 240 };

bool scalar_int(int64_t *out, const char *text, double low, double high, char why[WHY_MAX]);
bool scalar_real(double *out, const char *text, double low, double high, char why[WHY_MAX]);
bool scalar_share(double *out, const char *text, double low, double high, char why[WHY_MAX]);
bool scalar_size(int64_t *out, const char *text, char why[WHY_MAX]);
bool scalar_minutes(double *out, const char *text, double low, double high, char why[WHY_MAX]);
bool scalar_bool(bool *out, const char *text, char why[WHY_MAX]);
bool scalar_choice(int *out, const char *text, const ConfigField *f, char why[WHY_MAX]);

/* The shortest decimal text that reads back equal. */
const char *scalar_print_real(double value, char *out, size_t size);

#ifdef __cplusplus
}
#endif
