/*
 * pattern_syntax.h - from Oniguruma's regular expressions (Ruby syntax, Unicode) to the same thing in PCRE2's syntax.
 *
 * What differs, and is rewritten:
 *   X{n,m}+      repeats X{n,m}; in PCRE2 it would be possessive. X{n}? makes X{n} optional. {,m} is {0,m}.
 *   X*+ X+* ...  a quantifier on a quantified atom repeats it
 *   \s           White_Space; PCRE2 adds U+180E
 *   \w \b        Alphabetic, M, Nd, Pc; PCRE2 10.42 has letters, numbers and underscore
 *   \p{..}       with the characters that are newer than PCRE2 (unicode_tables.def)
 *   \h \v        a hexadecimal digit; a vertical tab
 *   \uHHHH       a code point
 *   [a[bc]&&d]   nested classes and intersections
 *   [[:punct:]]  and the other POSIX classes and their \p{..} spellings
 *   \p{Han}      the script, without script extensions; long names of general categories
 *   (?m)         the dot matches newlines; (?i) without a colon covers the rest of its group, alternatives included
 * ^ and $ match at every line and newline is \n: both are options of the compilation (pattern.c).
 * What PCRE2 cannot do (absent operators, callouts, text segments) is refused by name.
 */
#pragma once

#include "base/text.h"

#include <stddef.h>
#include <stdint.h>

/* The expression that is read, and where the next character is. */
typedef struct RegexReader {
    const char *source;
    size_t length;
    size_t at;
} RegexReader;

static inline int regex_peek(const RegexReader *r, size_t ahead)
{
    return ahead < r->length - r->at ? (unsigned char)r->source[r->at + ahead] : -1;
}

/* Whole expression. ERR_MODEL names what is not supported. */
bool pattern_translate(Text *out, const char *regex, size_t length, Err *err) MUST_USE;

/* r at '[': appends an expression that matches one character; r moves behind the ']'. */
bool pattern_class(Text *out, RegexReader *r, int depth, Err *err) MUST_USE;

/*
 * r at a backslash. When the escape stands for a set of characters (\d \D \s \S \w \W \h \H \p{..} \P{..}), appends
 * the items of a class to `items`, sets *negated when the complement is meant, and r moves behind it. Otherwise *found
 * is false and r stays.
 */
bool pattern_escape_set(Text *items, bool *negated, bool *found, RegexReader *r, Err *err) MUST_USE;

/* The same for an escape that stands for one character (\n \x41 \u0041 \. ...). */
bool pattern_escape_char(uint32_t *c, bool *found, RegexReader *r, Err *err) MUST_USE;

/* Items of a property by its name; *negated is turned over when they are the complement of what is meant. */
bool pattern_property(Text *items, bool *negated, const char *name, size_t length, Err *err) MUST_USE;
