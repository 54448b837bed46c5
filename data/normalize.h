/*
 * normalize.h - the normalizers of tokenizer.json, as a list of steps that rewrite pieces.
 *
 * Sequences are flattened. Each step works on every piece that is not an added token, so "Prepend" acts once a piece:
 * again after every special token, as in Hugging Face.
 */
#pragma once

#include "base/json.h"
#include "data/pattern.h"
#include "data/pieces.h"
#include "data/unicode_forms.h"

typedef struct Normalizer Normalizer; /* null: nothing to do */

/* Work memory of one thread; a zeroed struct is empty. */
typedef struct NormalizeScratch {
    PatternScratch *pattern; /* borrowed */
    SpanList spans;
    UnicodeScratch unicode;
} NormalizeScratch;
void normalize_scratch_free(NormalizeScratch *s);

/* `json` may be null (the value or the pointer): *out becomes null. ERR_MODEL names a kind that is not supported. */
bool normalizer_create(Normalizer **out, const json_t *json, Err *err) MUST_USE;
void normalizer_destroy(Normalizer *n);

bool normalizer_apply(const Normalizer *n, NormalizeScratch *s, Pieces *p, Err *err) MUST_USE;

/* One text by itself, appended to `out`. */
bool normalizer_text(const Normalizer *n, NormalizeScratch *s, Text *out, const char *text, size_t length,
                     Err *err) MUST_USE;

/* Always false: "<what> "<name>" <why>", with a name from the file made safe to print (null: empty). */
bool refuse_named(const char *what, const char *name, const char *why, Err *err);

/* {"String": s} or {"Regex": r}, or a plain string; used by Split and by decoders too. */
bool pattern_from_json(Pattern **out, const json_t *json, const char *what, Err *err) MUST_USE;
