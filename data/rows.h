/*
 * rows.h - the records of a data file, one by one, still as text.
 *
 * A file is JSONL (one JSON value a line) or one JSON array, plain or gzip; a byte order mark, CRLF line ends, blank
 * lines and a last line without its end are fine. A record is at most 16 MB. Records are only cut out here;
 * row_parse makes JSON of one and places its faults ("FILE:LINE:COL: ").
 */
#pragma once

#include "base/json.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { ROW_BYTES_MAX = 16 << 20 };

typedef struct Row {
    const char *bytes; /* borrowed from the reader until the next record */
    size_t length;
    int64_t line, column; /* of its first byte, from 1 */
} Row;

typedef struct RowReader RowReader;

/* `path` is borrowed. */
bool row_reader_open(RowReader **out, const char *path, Err *err) MUST_USE;
void row_reader_close(RowReader *r);

/* *end is set, and *row left alone, after the last record. */
bool row_reader_next(RowReader *r, Row *row, bool *end, Err *err) MUST_USE;

/* Always false: the fault gets "PATH:LINE:COL: " in front. Only faults of the data, and what they
 * lack of the model (ERR_DATA, ERR_MODEL), are placed. */
bool row_place(Err *err, const char *path, int64_t line, int64_t column);

bool row_parse(json_t **out, const Row *row, const char *path, Err *err) MUST_USE;

#ifdef __cplusplus
}
#endif
