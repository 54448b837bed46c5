/*
 * json_scan.h - reads the two huge members of a tokenizer.json (vocabulary and merges) without building a document.
 *
 * With jansson they were half of the start-up time (gemma's 33 MB), its object keys cannot hold a NUL, and it aborts
 * when memory runs out inside of a text. The rest of the file, with the two members emptied, still goes through
 * base/json.h.
 */
#pragma once

#include "base/text.h"

#include <stddef.h>
#include <stdint.h>

typedef struct JsonScan {
    const char *bytes;
    size_t length, at;
    const char *what; /* the file, for messages */
    Text unescaped;   /* work memory of json_scan_text; the caller frees it */
} JsonScan;

/* One JSON text without its quotes; points into the file or into scan->unescaped, valid until the next one. */
typedef struct JsonText {
    const char *bytes;
    size_t length;
} JsonText;

/* Where a value stands in the file; length 0: it is not there. */
typedef struct JsonSpan {
    size_t begin, length;
} JsonSpan;

/* Next character that is no blank, 0 at the end; it stays unread. */
char json_scan_peek(JsonScan *s);

/* That character and no other. ERR_MODEL with line and column otherwise. */
bool json_scan_expect(JsonScan *s, char c, Err *err) MUST_USE;

bool json_scan_text(JsonScan *s, JsonText *out, Err *err) MUST_USE;
bool json_scan_int(JsonScan *s, int64_t *out, Err *err) MUST_USE;

/* After an item of a list or object: true in *more behind a comma, false behind the closing `end`. */
bool json_scan_more(JsonScan *s, char end, bool *more, Err *err) MUST_USE;

bool json_scan_skip(JsonScan *s, JsonSpan *out, Err *err) MUST_USE;

bool json_scan_fail(const JsonScan *s, const char *why, Err *err);
