#include "data/json_scan.h"

#include <string.h>

enum { DEPTH_MAX = 64 };

bool json_scan_fail(const JsonScan *s, const char *why, Err *err)
{
    size_t line = 1;
    size_t start = 0;
    const size_t at = s->at < s->length ? s->at : s->length;
    for (size_t i = 0; i < at; i++) {
        if (s->bytes[i] != '\n') continue;
        line++;
        start = i + 1;
    }
    return FAIL(err, ERR_MODEL, "%s, line %zu, column %zu: %s", s->what, line, at - start + 1, why);
}

char json_scan_peek(JsonScan *s)
{
    while (s->at < s->length) {
        const char c = s->bytes[s->at];
        if (c != ' ' && c != '\n' && c != '\r' && c != '\t') return c;
        s->at++;
    }
    return '\0';
}

bool json_scan_expect(JsonScan *s, char c, Err *err)
{
    if (json_scan_peek(s) != c || s->at >= s->length) {
        const char why[] = {'\'', c, '\'', ' ', 'e', 'x', 'p', 'e', 'c', 't', 'e', 'd', '\0'};
        return json_scan_fail(s, why, err);
    }
    s->at++;
    return true;
}

bool json_scan_more(JsonScan *s, char end, bool *more, Err *err)
{
    const char c = json_scan_peek(s);
    *more = c == ',';
    return json_scan_expect(s, *more ? ',' : end, err);
}

/* Texts */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* Four digits at s->at. */
static bool hex4(JsonScan *s, uint32_t *out, Err *err)
{
    *out = 0;
    for (int i = 0; i < 4; i++, s->at++) {
        const int digit = s->at < s->length ? hex_digit(s->bytes[s->at]) : -1;
        if (digit < 0) return json_scan_fail(s, "four hexadecimal digits expected", err);
        *out = *out * 16 + (uint32_t)digit;
    }
    return true;
}

/* \uHHHH, or two of them for a character above U+FFFF; s->at behind the u. */
static bool unicode_escape(JsonScan *s, Err *err)
{
    uint32_t c;
    uint32_t low;
    if (!hex4(s, &c, err)) return false;
    if (c >= 0xD800 && c < 0xDC00) {
        if (s->length - s->at < 6 || s->bytes[s->at] != '\\' || s->bytes[s->at + 1] != 'u') {
            return json_scan_fail(s, "half of a surrogate pair", err);
        }
        s->at += 2;
        if (!hex4(s, &low, err)) return false;
        if (low < 0xDC00 || low > 0xDFFF) return json_scan_fail(s, "half of a surrogate pair", err);
        c = 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00);
    } else if (c >= 0xDC00 && c < 0xE000) {
        return json_scan_fail(s, "half of a surrogate pair", err);
    }
    return text_add_codepoint(&s->unescaped, c, err);
}

static bool escape(JsonScan *s, Err *err)
{
    static const char letters[] = "\"\\/bfnrt";
    static const char values[] = "\"\\/\b\f\n\r\t";
    const char c = s->at < s->length ? s->bytes[s->at] : '\0';
    s->at++;
    if (c == 'u') return unicode_escape(s, err);
    const char *letter = c ? strchr(letters, c) : NULL;
    if (!letter) return json_scan_fail(s, "an escape that JSON does not know", err);
    return text_add(&s->unescaped, values + (letter - letters), 1, err);
}

/* Bytes up to the next quote, backslash or control character. */
static size_t plain_run(const JsonScan *s)
{
    size_t end = s->at;
    while (end < s->length) {
        const unsigned char c = (unsigned char)s->bytes[end];
        if (c == '"' || c == '\\' || c < 0x20) break;
        end++;
    }
    return end - s->at;
}

static bool escaped_text(JsonScan *s, Err *err)
{
    for (;;) {
        const size_t run = plain_run(s);
        if (!text_add(&s->unescaped, s->bytes + s->at, run, err)) return false;
        s->at += run;
        if (s->at >= s->length || (unsigned char)s->bytes[s->at] < 0x20) {
            return json_scan_fail(s, "a text that does not end, or a control character in one", err);
        }
        const char c = s->bytes[s->at++];
        if (c == '"') return true;
        if (!escape(s, err)) return false;
    }
}

bool json_scan_text(JsonScan *s, JsonText *out, Err *err)
{
    if (!json_scan_expect(s, '"', err)) return false;
    const size_t run = plain_run(s);
    if (s->at + run < s->length && s->bytes[s->at + run] == '"') {
        *out = (JsonText){.bytes = s->bytes + s->at, .length = run};
        s->at += run + 1;
    } else {
        text_clear(&s->unescaped);
        if (!escaped_text(s, err)) return false;
        *out = (JsonText){.bytes = s->unescaped.bytes, .length = s->unescaped.length};
    }
    return utf8_valid(out->bytes, out->length, NULL) || json_scan_fail(s, "a text that is not valid UTF-8", err);
}

bool json_scan_int(JsonScan *s, int64_t *out, Err *err)
{
    enum { DIGITS_MOST = 18 }; /* always fit */
    const bool negative = json_scan_peek(s) == '-';
    if (negative) s->at++;
    int64_t value = 0;
    size_t digits = 0;
    while (s->at < s->length && s->bytes[s->at] >= '0' && s->bytes[s->at] <= '9') {
        if (++digits <= DIGITS_MOST) value = value * 10 + (s->bytes[s->at] - '0');
        s->at++;
    }
    const char next = s->at < s->length ? s->bytes[s->at] : ',';
    if (digits == 0 || digits > DIGITS_MOST || next == '.' || next == 'e' || next == 'E') {
        return json_scan_fail(s, "an id that is no integer, or too large", err);
    }
    *out = negative ? -value : value;
    return true;
}

/* Skipping */

static bool skip_text(JsonScan *s, Err *err)
{
    s->at++;
    for (;;) {
        s->at += plain_run(s);
        if (s->at >= s->length || (unsigned char)s->bytes[s->at] < 0x20) {
            return json_scan_fail(s, "a text that does not end, or a control character in one", err);
        }
        const char c = s->bytes[s->at++];
        if (c == '"') return true;
        s->at++; /* whatever is escaped */
    }
}

/* A number or word: up to what can follow a value. */
static bool skip_word(JsonScan *s, Err *err)
{
    const size_t begin = s->at;
    while (s->at < s->length && !strchr(",]} \n\r\t:\"[{", s->bytes[s->at]))
        s->at++;
    return s->at > begin || json_scan_fail(s, "a value expected", err);
}

bool json_scan_skip(JsonScan *s, JsonSpan *out, Err *err)
{
    int depth = 0;
    json_scan_peek(s);
    out->begin = s->at;
    do {
        const char c = json_scan_peek(s);
        if (s->at >= s->length) return json_scan_fail(s, "the file ends in the middle of a value", err);
        if (c == '"') {
            if (!skip_text(s, err)) return false;
        } else if (c == '[' || c == '{') {
            s->at++;
            if (++depth > DEPTH_MAX) return json_scan_fail(s, "nested more than 64 levels deep", err);
        } else if (c == ']' || c == '}') {
            if (depth == 0) return json_scan_fail(s, "a value expected", err);
            s->at++;
            depth--;
        } else if ((c == ',' || c == ':') && depth > 0) {
            s->at++;
        } else if (!skip_word(s, err)) {
            return false;
        }
    } while (depth > 0);
    out->length = s->at - out->begin;
    return true;
}
