/*
 * unicode_forms.h - NFC, NFD, NFKC and NFKD of a piece of text, keeping track of where every character came from.
 *
 * Composed characters carry the range of all the characters they were made from. Character data: utf8proc.
 */
#pragma once

#include "data/pieces.h"

typedef struct UnicodeForm {
    bool compose, compatible;
} UnicodeForm;

/* Work memory; a zeroed struct is empty. */
typedef struct UnicodeScratch {
    struct UnicodeChar *chars;
    size_t count, capacity;
} UnicodeScratch;
void unicode_scratch_free(UnicodeScratch *s);

/* Appends the form of from[begin, end). */
bool unicode_form(UnicodeForm form, UnicodeScratch *s, PieceText *to, const PieceText *from, size_t begin, size_t end,
                  Err *err) MUST_USE;
