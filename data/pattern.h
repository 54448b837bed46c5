/*
 * pattern.h - what normalizers, pre-tokenizers and decoders search for: a text, a regular expression, a class of chars.
 *
 * Regular expressions are Oniguruma's (Ruby syntax), as in tokenizer.json; pattern_translate rewrites them for PCRE2,
 * which then compiles them to machine code. A Pattern is immutable; what a search needs is in a PatternScratch, one
 * per thread. Searches that would take too many steps fail with ERR_DATA; they never yield half a result.
 */
#pragma once

#include "base/text.h"

#include <stddef.h>
#include <stdint.h>

typedef struct Pattern Pattern;
typedef struct PatternScratch PatternScratch;
typedef bool CharTest(uint32_t c);

bool pattern_from_text(Pattern **out, const char *text, size_t length, Err *err) MUST_USE;
bool pattern_from_regex(Pattern **out, const char *regex, size_t length, Err *err) MUST_USE; /* ERR_MODEL */
bool pattern_from_class(Pattern **out, CharTest *test, Err *err) MUST_USE; /* every such char is a match of its own */
void pattern_destroy(Pattern *p);

bool pattern_scratch_create(PatternScratch **out, Err *err) MUST_USE;
void pattern_scratch_destroy(PatternScratch *s);

/* A text cut into matches and what lies between them, in order; only matches can be empty. */
typedef struct Span {
    uint32_t begin, end;
    bool match;
} Span;

typedef struct SpanList {
    Span *items;
    size_t count, capacity;
} SpanList;

/* Replaces the list by the spans of `text`, which is well-formed UTF-8. */
bool pattern_find(const Pattern *p, PatternScratch *scratch, SpanList *out, const char *text, size_t length,
                  Err *err) MUST_USE;
