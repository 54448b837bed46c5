/*
 * text.h - a growing byte string, and showing text that came from outside.
 *
 * Text.bytes is always NUL-terminated once something was added (embedded NULs are allowed; trust `length`).
 * A zeroed struct is empty; text_free gives the memory back and zeroes it.
 */
#pragma once

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Text {
    char *bytes; /* owned; null while empty */
    size_t length;
    size_t capacity;
} Text;

bool text_add(Text *t, const char *bytes, size_t length, Err *err) MUST_USE;
bool text_add_z(Text *t, const char *text, Err *err) MUST_USE;
bool text_format(Text *t, Err *err, const char *format, ...) PRINTF_LIKE(3, 4) MUST_USE;
bool text_add_codepoint(Text *t, uint32_t codepoint, Err *err) MUST_USE; /* as UTF-8 */
void text_clear(Text *t);                                                /* keeps the memory */
void text_free(Text *t);

/*
 * Decodes one UTF-8 code point at bytes[0..length). Returns the bytes it takes (1-4), or 0 when they are ill-formed
 * (overlong forms, surrogates and values above U+10FFFF included) or length is 0.
 */
size_t utf8_decode(const char *bytes, size_t length, uint32_t *codepoint);

/* Whether all of it is well-formed; *at is the offset of the first bad byte otherwise (may be null). */
bool utf8_valid(const char *bytes, size_t length, size_t *at);

/*
 * Writes `bytes` into out[0..size) so that it is safe on a terminal and in a log: control characters, DEL, C1, bidi
 * overrides and ill-formed bytes become \xNN; cut with "..." when it does not fit. Returns out.
 */
const char *text_printable(char *out, size_t size, const char *bytes, size_t length);

/* Levenshtein distance, capped at `limit` + 1; for "did you mean". */
int text_distance(const char *a, const char *b, int limit);

#ifdef __cplusplus
}
#endif
