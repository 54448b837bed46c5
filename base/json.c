#include "base/json.h"

#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"

#include <ctype.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>

enum { DEPTH_MAX = 64 };

/*
 * jansson does not always say that memory ran out, so its allocator does. Its reader even aborts the process when the
 * buffer of a token cannot grow; so while one reads, blocks then come from a reserve, and its text ends early.
 */
static _Thread_local bool out_of_memory;
static _Thread_local struct {
    char *bytes; /* null: nobody reads */
    size_t size, used;
    size_t block_max; /* larger ones are not of a token, and jansson bears that they fail */
} reserve;

static void *from_reserve(size_t size)
{
    const size_t whole = (size + 15) / 16 * 16;
    if (!reserve.bytes || size > reserve.block_max || whole > reserve.size - reserve.used) return NULL;
    void *block = reserve.bytes + reserve.used;
    reserve.used += whole;
    memset(block, 0, size);
    return block;
}

static void *allocate(size_t size)
{
    void *block = mem_alloc(size, 1, NULL);
    if (block) return block;
    out_of_memory = true;
    return from_reserve(size);
}

static void release(void *block)
{
    const uintptr_t at = (uintptr_t)block, first = (uintptr_t)reserve.bytes;
    if (!first || at < first || at - first >= reserve.size) mem_free(block);
}

static void set_allocator(void)
{
    json_set_alloc_funcs(allocate, release);
}

static void watch_memory(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, set_allocator);
    out_of_memory = false;
}

/* "FILE:LINE" (one line of a larger file) already says the line; only the column is missing. */
static bool names_line(const char *what)
{
    size_t n = strlen(what);
    size_t digits = 0;
    while (n > 0 && isdigit((unsigned char)what[n - 1])) {
        n--;
        digits++;
    }
    return digits > 0 && n > 1 && what[n - 1] == ':';
}

/* Faults in a user's own file get the form that editors understand. */
static bool fail_place(Err *err, ErrCode code, const char *what, int line, int column, const char *why)
{
    char place[1024];
    char shown[256];
    text_printable(place, sizeof place, what, strlen(what));
    text_printable(shown, sizeof shown, why, strlen(why));
    if (code != ERR_CONFIG && code != ERR_DATA) {
        return FAIL(err, code, "%s, line %d, column %d: %s", place, line, column, shown);
    }
    if (line == 1 && names_line(place)) return FAIL_AT(err, code, "%s:%d: %s", place, column, shown);
    return FAIL_AT(err, code, "%s:%d:%d: %s", place, line, column, shown);
}

/* Nesting is counted before jansson recurses into it. Brackets inside of strings do not count. */
static bool check_depth(const char *bytes, size_t length, const char *what, ErrCode code, Err *err)
{
    int depth = 0;
    bool text = false;
    for (size_t i = 0; i < length; i++) {
        const char c = bytes[i];
        if (text) {
            if (c == '\\') i++;
            if (c == '"') text = false;
        } else if (c == '"') {
            text = true;
        } else if (c == '[' || c == '{') {
            if (++depth <= DEPTH_MAX) continue;
            int line = 1;
            size_t start = 0;
            for (size_t k = 0; k < i; k++) {
                if (bytes[k] != '\n') continue;
                line++;
                start = k + 1;
            }
            const size_t column = i - start + 1;
            return fail_place(err, code, what, line, column > INT32_MAX ? INT32_MAX : (int)column,
                              "nested more than 64 levels deep");
        } else if (c == ']' || c == '}') {
            depth--;
        }
    }
    return true;
}

/* jansson points at the end of a token that it quotes ("... near 'token'"); people look for its start. */
static int start_column(const json_error_t *fault)
{
    static const char mark[] = " near '";
    const char *token = strstr(fault->text, mark);
    int column = fault->column > 0 ? fault->column : 1;
    if (!token) return column;
    token += sizeof mark - 1;
    for (const char *c = token + 1; *c && c[1]; c++) { /* all but the first character and the closing quote */
        if (((unsigned char)*c & 0xC0) != 0x80) column--;
    }
    return column > 0 ? column : 1;
}

typedef struct Reading {
    const char *bytes;
    size_t left;
} Reading;

/* jansson asks for a kilobyte at a time, so that is all that is read once memory ran out. */
static size_t read_more(void *buffer, size_t size, void *user)
{
    Reading *r = user;
    if (out_of_memory) return 0;
    const size_t n = size < r->left ? size : r->left;
    memcpy(buffer, r->bytes, n);
    r->bytes += n;
    r->left -= n;
    return n;
}

/* No token is longer than the stretch between two quotes or two ends of the text. */
static size_t longest_token(const char *bytes, size_t length)
{
    size_t longest = 0, start = 0;
    for (size_t i = 0; i <= length; i++) {
        if (i < length && bytes[i] == '\\') i++; /* nor is an escaped quote an end */
        if (i < length && bytes[i] != '"') continue;
        if (i - start > longest) longest = i - start;
        start = i + 1;
    }
    return longest;
}

json_t *json_read(const char *bytes, size_t length, size_t flags, json_error_t *fault, bool *no_memory)
{
    enum { SMALL = 1 << 16, PER_BYTE = 8 }; /* a buffer doubles: all of its sizes together are half of that */
    char small[SMALL];
    const size_t longest = longest_token(bytes, length), token = longest < 1024 ? 0 : longest;
    char *large = token ? mem_resize(NULL, SMALL + PER_BYTE * token, 1, NULL) : small;
    const bool before = out_of_memory; /* of a value that is being built */
    json_t *root = NULL;
    watch_memory();
    out_of_memory = !large;
    if (large) {
        Reading r = {bytes, length};
        reserve.bytes = large;
        reserve.size = SMALL + PER_BYTE * token; /* without a token: `small` */
        reserve.block_max = 2 * longest + 1024;
        reserve.used = 0;
        root = json_load_callback(read_more, &r, flags, fault);
    }
    if (out_of_memory) { /* jansson may have gone on and dropped a character */
        json_decref(root);
        root = NULL;
    }
    reserve.bytes = NULL;
    *no_memory = out_of_memory;
    out_of_memory = before;
    if (large != small) mem_free(large);
    return root;
}

bool json_parse(json_t **out, const char *bytes, size_t length, const char *what, ErrCode code, Err *err)
{
    if (!check_depth(bytes, length, what, code, err)) return false;
    json_error_t fault;
    bool no_memory;
    json_t *root =
        json_read(bytes, length, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, &fault, &no_memory);
    if (no_memory) return FAIL(err, ERR_MEMORY, "out of host memory while reading %s", what);
    if (root) {
        *out = root;
        return true;
    }
    return fail_place(err, code, what, fault.line > 0 ? fault.line : 1, start_column(&fault), fault.text);
}

void json_begin(void)
{
    watch_memory();
}

bool json_whole(void)
{
    return !out_of_memory;
}

char *json_print(const json_t *value, size_t flags, const char *what, Err *err)
{
    char *text = json_dumps(value, flags);
    if (text && !out_of_memory) return text;
    mem_free(text);
    if (value && !out_of_memory) {
        (void)FAIL(err, ERR_MODEL, "%s holds a text that is not UTF-8", what);
    } else {
        (void)FAIL(err, ERR_MEMORY, "out of host memory while writing %s", what);
    }
    return NULL;
}

bool json_parse_file(json_t **out, const char *path, size_t limit, ErrCode code, Err *err)
{
    char *bytes;
    size_t length;
    if (!file_read_all(&bytes, &length, path, limit, code, err)) return false;
    const bool ok = json_parse(out, bytes, length, path, code, err);
    mem_free(bytes);
    return ok;
}

/* Null when the member is absent or null. */
static const json_t *member(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

static bool fail_type(Err *err, const char *what, const char *key, const char *wanted, const json_t *value)
{
    static const char *const names[] = {
        [JSON_OBJECT] = "an object",   [JSON_ARRAY] = "a list", [JSON_STRING] = "a text", [JSON_INTEGER] = "an integer",
        [JSON_REAL] = "a real number", [JSON_TRUE] = "true",    [JSON_FALSE] = "false",   [JSON_NULL] = "null",
    };
    return FAIL(err, ERR_MODEL, "%s: \"%s\" must be %s, but is %s", what, key, wanted, names[json_typeof(value)]);
}

bool json_get_int(int64_t *out, const json_t *object, const char *key, int64_t low, int64_t high, const char *what,
                  Err *err)
{
    const json_t *value = member(object, key);
    if (!value) return true;
    if (!json_is_integer(value)) return fail_type(err, what, key, "an integer", value);
    const int64_t number = json_integer_value(value);
    if (number < low || number > high) {
        return FAIL(err, ERR_MODEL, "%s: \"%s\" is %lld, outside of %lld to %lld", what, key, (long long)number,
                    (long long)low, (long long)high);
    }
    *out = number;
    return true;
}

bool json_get_real(double *out, const json_t *object, const char *key, const char *what, Err *err)
{
    const json_t *value = member(object, key);
    if (!value) return true;
    if (!json_is_number(value)) return fail_type(err, what, key, "a number", value);
    *out = json_number_value(value);
    return true;
}

bool json_get_bool(bool *out, const json_t *object, const char *key, const char *what, Err *err)
{
    const json_t *value = member(object, key);
    if (!value) return true;
    if (!json_is_boolean(value)) return fail_type(err, what, key, "true or false", value);
    *out = json_is_true(value);
    return true;
}

bool json_get_text(const char **out, const json_t *object, const char *key, const char *what, Err *err)
{
    const json_t *value = member(object, key);
    if (!value) return true;
    if (!json_is_string(value)) return fail_type(err, what, key, "a text", value);
    const char *text = json_string_value(value);
    if (strlen(text) != json_string_length(value)) {
        return FAIL(err, ERR_MODEL, "%s: \"%s\" contains a NUL character", what, key);
    }
    *out = text;
    return true;
}
