#include "data/rows.h"

#include "base/mem.h"
#include "base/text.h"
#include "data/bytes.h"

#include <stdio.h>
#include <string.h>

enum { READ_BYTES = 1 << 18 };

struct RowReader {
    ByteStream *stream;
    const char *path;
    char *buffer; /* bytes [at, end) are still to be handed out */
    size_t capacity, at, end;
    bool stream_ended, started, array, array_ended;
    int64_t line, column; /* of buffer[at] */
    int64_t rows;
};

bool row_place(Err *err, const char *path, int64_t line, int64_t column)
{
    if ((err->code != ERR_DATA && err->code != ERR_MODEL) || err->located) return false;
    char shown[400];
    text_printable(shown, sizeof shown, path, strlen(path));
    (void)err_note(err, "%s:%lld:%lld", shown, (long long)line, (long long)column);
    err->located = true;
    return false;
}

#define FAIL_ROW(r, ...) fail_here((r), FAIL(err, ERR_DATA, __VA_ARGS__), err)

static bool fail_here(const RowReader *r, bool failed, Err *err)
{
    (void)failed;
    return row_place(err, r->path, r->line, r->column);
}

/* Appends what the file gives next. Bytes already handed out are dropped first, so offsets from `at` stay valid. */
static bool read_more(RowReader *r, Err *err)
{
    if (r->at > 0) {
        memmove(r->buffer, r->buffer + r->at, r->end - r->at);
        r->end -= r->at;
        r->at = 0;
    }
    if (r->end > ROW_BYTES_MAX) {
        return FAIL_ROW(r, "the record is longer than %d MB; cut it into several", ROW_BYTES_MAX >> 20);
    }
    size_t got = 0;
    if (!mem_grow(&r->buffer, &r->capacity, r->end + READ_BYTES, 1, err)) return false;
    if (!byte_stream_read(r->stream, r->buffer + r->end, READ_BYTES, &got, err)) return false;
    r->end += got;
    if (got == 0) r->stream_ended = true;
    return true;
}

static void advance(RowReader *r, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (r->buffer[r->at + i] == '\n') {
            r->line++;
            r->column = 1;
        } else {
            r->column++;
        }
    }
    r->at += n;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* Makes buffer[at] the next byte that is not white space; *end when there is none. */
static bool skip_blank(RowReader *r, bool *end, Err *err)
{
    for (;;) {
        size_t n = 0;
        while (r->at + n < r->end && is_blank(r->buffer[r->at + n]))
            n++;
        advance(r, n);
        *end = r->at == r->end && r->stream_ended;
        if (r->at < r->end || *end) return true;
        if (!read_more(r, err)) return false;
    }
}

static bool start(RowReader *r, bool *end, Err *err)
{
    while (r->end - r->at < 3 && !r->stream_ended)
        if (!read_more(r, err)) return false;
    if (r->end - r->at >= 3 && !memcmp(r->buffer + r->at, "\xEF\xBB\xBF", 3)) r->at += 3;
    if (!skip_blank(r, end, err)) return false;
    r->started = true;
    if (*end) return true;
    r->array = r->buffer[r->at] == '[';
    if (r->array) advance(r, 1);
    return true;
}

/* The rest of the line at buffer[at], which is not blank. */
static bool next_line(RowReader *r, Row *row, Err *err)
{
    size_t n = 0;
    for (;;) {
        const char *newline = memchr(r->buffer + r->at + n, '\n', r->end - r->at - n);
        if (newline) {
            n = (size_t)(newline - (r->buffer + r->at));
            break;
        }
        n = r->end - r->at;
        if (r->stream_ended) break;
        if (!read_more(r, err)) return false;
    }
    if (n > ROW_BYTES_MAX)
        return FAIL_ROW(r, "the record is longer than %d MB; cut it into several", ROW_BYTES_MAX >> 20);
    *row = (Row){.bytes = r->buffer + r->at, .length = n, .line = r->line, .column = r->column};
    while (row->length > 0 && is_blank(row->bytes[row->length - 1]))
        row->length--;
    r->at += n;
    r->column += (int64_t)n;
    return true;
}

/* Length of the array element at buffer[at], up to its comma or the closing bracket. */
static bool element_length(RowReader *r, size_t *length, Err *err)
{
    int64_t depth = 0;
    bool text = false;
    for (size_t n = 0;; n++) {
        while (r->at + n >= r->end) {
            if (r->stream_ended) return FAIL_ROW(r, "the file ends inside of this record");
            if (!read_more(r, err)) return false;
        }
        const char c = r->buffer[r->at + n];
        if (text) {
            if (c == '"') text = false;
            if (c == '\\') n++; /* whatever follows, it does not end the text */
        } else if (c == '"') {
            text = true;
        } else if (c == '{' || c == '[') {
            depth++;
        } else if (depth == 0 && (c == ',' || c == ']')) {
            *length = n;
            return true;
        } else if (c == '}' || c == ']') {
            depth--;
        }
    }
}

static bool finish_array(RowReader *r, Err *err)
{
    bool end = false;
    advance(r, 1);
    r->array_ended = true;
    if (!skip_blank(r, &end, err)) return false;
    return end || FAIL_ROW(r, "there is something after the end of the JSON list");
}

static bool next_element(RowReader *r, Row *row, bool *end, Err *err)
{
    *end = r->array_ended;
    if (r->array_ended) return true;
    bool ended = false;
    if (!skip_blank(r, &ended, err)) return false;
    if (ended) return FAIL_ROW(r, "the JSON list is not closed");
    char c = r->buffer[r->at];
    if (c == ']') {
        *end = true;
        return finish_array(r, err);
    }
    if (r->rows > 0) { /* what element_length stopped at can only be a comma */
        advance(r, 1);
        if (!skip_blank(r, &ended, err)) return false;
        if (ended) return FAIL_ROW(r, "the JSON list is not closed");
        c = r->buffer[r->at];
    }
    if (c == ',' || c == ']') return FAIL_ROW(r, "expected a record, found '%c'", c);
    size_t n = 0;
    if (!element_length(r, &n, err)) return false;
    *row = (Row){.bytes = r->buffer + r->at, .length = n, .line = r->line, .column = r->column};
    advance(r, n);
    return true;
}

bool row_reader_open(RowReader **out, const char *path, Err *err)
{
    RowReader *r = mem_alloc(1, sizeof *r, err);
    if (!r) return false;
    r->path = path;
    r->line = r->column = 1;
    TRY(byte_stream_open(&r->stream, path, err));
    *out = r;
    return true;
fail:
    row_reader_close(r);
    return false;
}

void row_reader_close(RowReader *r)
{
    if (!r) return;
    byte_stream_close(r->stream);
    mem_free(r->buffer);
    mem_free(r);
}

bool row_reader_next(RowReader *r, Row *row, bool *end, Err *err)
{
    *end = false;
    if (!r->started && !start(r, end, err)) return false;
    if (*end) return true;
    if (r->array) {
        if (!next_element(r, row, end, err)) return false;
    } else {
        if (!skip_blank(r, end, err)) return false;
        if (!*end && !next_line(r, row, err)) return false;
    }
    if (!*end) r->rows++;
    return true;
}

/* json_parse counts lines and columns from the record; the file has text before it. */
static bool parse_fault(const Row *row, const char *path, Err *err)
{
    json_error_t fault;
    bool no_memory;
    json_t *value = json_read(row->bytes, row->length, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL,
                              &fault, &no_memory);
    if (no_memory) return FAIL(err, ERR_MEMORY, "out of host memory while reading %s", path);
    if (value) { /* too deep for json_parse, not for jansson */
        json_decref(value);
        (void)FAIL(err, ERR_DATA, "the record is nested too deep");
        return row_place(err, path, row->line, row->column);
    }
    const int line = fault.line > 0 ? fault.line : 1;
    const int column = fault.column > 0 ? fault.column : 1;
    char shown[256];
    text_printable(shown, sizeof shown, fault.text, strlen(fault.text));
    (void)FAIL(err, ERR_DATA, "%s", shown);
    return row_place(err, path, row->line + line - 1, line == 1 ? row->column + column - 1 : column);
}

bool row_parse(json_t **out, const Row *row, const char *path, Err *err)
{
    Err fault = {0};
    if (json_parse(out, row->bytes, row->length, path, ERR_DATA, &fault)) return true;
    if (fault.code != ERR_DATA) return FAIL(err, fault.code, "%s", fault.text);
    if (strstr(fault.text, "nested more than")) {
        (void)FAIL(err, ERR_DATA, "the record is nested more than 64 levels deep");
        return row_place(err, path, row->line, row->column);
    }
    return parse_fault(row, path, err);
}
