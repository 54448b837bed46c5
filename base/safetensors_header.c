#include "base/safetensors_header.h"

#include "base/mem.h"
#include "base/text.h"

#include <string.h>

typedef struct Scanner {
    char *bytes;
    size_t at, length;
    const char *path;
    Err *err;
} Scanner;

static bool fail_scan(Scanner *s, const char *why)
{
    return FAIL(s->err, ERR_MODEL, "%s: header, byte %zu: %s", s->path, s->at, why);
}

static void skip_space(Scanner *s)
{
    while (s->at < s->length && strchr(" \t\r\n", s->bytes[s->at]) && s->bytes[s->at])
        s->at++;
}

/* The next character that is not space, consumed when it is `c`. */
static bool accept(Scanner *s, char c)
{
    skip_space(s);
    if (s->at >= s->length || s->bytes[s->at] != c) return false;
    s->at++;
    return true;
}

static bool expect(Scanner *s, char c)
{
    if (accept(s, c)) return true;
    char why[32] = "expected ' '";
    why[10] = c;
    return fail_scan(s, why);
}

static bool scan_hex4(Scanner *s, uint32_t *out)
{
    uint32_t value = 0;
    for (int i = 0; i < 4; i++, s->at++) {
        const char c = s->at < s->length ? s->bytes[s->at] : '\0';
        uint32_t digit;
        if (c >= '0' && c <= '9') {
            digit = (uint32_t)(c - '0');
        } else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f') {
            digit = (uint32_t)((c | 0x20) - 'a') + 10;
        } else {
            return fail_scan(s, "\\u needs four hexadecimal digits");
        }
        value = value * 16 + digit;
    }
    *out = value;
    return true;
}

/* After the backslash: one code point. */
static bool scan_escape(Scanner *s, uint32_t *out)
{
    static const char plain[] = "\"\\/bfnrt";
    static const char meaning[] = "\"\\/\b\f\n\r\t";
    const char c = s->at < s->length ? s->bytes[s->at++] : '\0';
    const char *found = c ? strchr(plain, c) : NULL;
    if (found) {
        *out = (unsigned char)meaning[found - plain];
        return true;
    }
    if (c != 'u') return fail_scan(s, "unknown escape in a text");
    uint32_t low = 0;
    if (!scan_hex4(s, out)) return false;
    if (*out < 0xD800 || *out > 0xDFFF) return true;
    const bool pair = *out <= 0xDBFF && s->at + 1 < s->length && s->bytes[s->at] == '\\' && s->bytes[s->at + 1] == 'u';
    if (!pair) return fail_scan(s, "lone surrogate in a text");
    s->at += 2;
    if (!scan_hex4(s, &low)) return false;
    if (low < 0xDC00 || low > 0xDFFF) return fail_scan(s, "lone surrogate in a text");
    *out = 0x10000 + ((*out - 0xD800) << 10) + (low - 0xDC00);
    return true;
}

static size_t put_codepoint(char *to, uint32_t c)
{
    static const uint32_t leads[] = {0, 0, 0xC0, 0xE0, 0xF0}; /* by bytes */
    if (c < 0x80) {
        to[0] = (char)c;
        return 1;
    }
    const size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n; i-- > 1; c >>= 6)
        to[i] = (char)(0x80 | (c & 0x3F));
    to[0] = (char)(leads[n] | c);
    return n;
}

/* A text, decoded where it stands (an escape is never shorter than what it means) and NUL-terminated. */
static bool scan_text(Scanner *s, char **out)
{
    if (!expect(s, '"')) return false;
    char *to = s->bytes + s->at;
    *out = to;
    for (;;) {
        if (s->at >= s->length) return fail_scan(s, "a text does not end");
        const unsigned char c = (unsigned char)s->bytes[s->at];
        if (c == '"') break;
        if (c < 0x20) return fail_scan(s, "control character in a text");
        uint32_t codepoint = 0;
        s->at++;
        if (c != '\\') {
            *to++ = (char)c;
            continue;
        }
        if (!scan_escape(s, &codepoint)) return false;
        if (codepoint == 0) return fail_scan(s, "NUL in a text");
        to += put_codepoint(to, codepoint);
    }
    s->at++;
    *to = '\0'; /* at the closing quote or before it */
    return true;
}

/* A whole number from 0 to 2^63 - 1. */
static bool scan_count(Scanner *s, int64_t *out)
{
    skip_space(s);
    const size_t start = s->at;
    uint64_t value = 0;
    while (s->at < s->length && s->bytes[s->at] >= '0' && s->bytes[s->at] <= '9') {
        if (!checked_mul(value, 10, &value) || !checked_add(value, (uint64_t)(s->bytes[s->at] - '0'), &value) ||
            value > INT64_MAX) {
            return fail_scan(s, "a number is too large");
        }
        s->at++;
    }
    if (s->at == start) return fail_scan(s, "expected a whole number that is not negative");
    if (s->bytes[start] == '0' && s->at > start + 1) return fail_scan(s, "a number starts with 0");
    if (s->at < s->length && strchr(".eE", s->bytes[s->at]) && s->bytes[s->at]) {
        return fail_scan(s, "a number is not written as a whole number");
    }
    *out = (int64_t)value;
    return true;
}

/* "[a, b, ...]", at most `most` numbers. */
static bool scan_counts(Scanner *s, int64_t *out, int most, int *count)
{
    *count = 0;
    if (!expect(s, '[')) return false;
    if (accept(s, ']')) return true;
    do {
        int64_t value = 0;
        if (!scan_count(s, &value)) return false;
        if (*count >= most)
            return fail_scan(s, most == 2 ? "data_offsets has more than two numbers"
                                          : "a tensor has more than four dimensions");
        out[(*count)++] = value;
    } while (accept(s, ','));
    return expect(s, ']');
}

static bool scan_dtype(Scanner *s, SafetensorsEntry *e)
{
    char *name;
    if (!scan_text(s, &name)) return false;
    if (dtype_from_name(&e->dtype, name)) return true;
    char shown[64];
    return FAIL(s->err, ERR_MODEL, "%s: tensor \"%s\" has the type \"%s\", which is not supported", s->path, e->name,
                text_printable(shown, sizeof shown, name, strlen(name)));
}

/* {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, in any order */
static bool scan_entry(Scanner *s, SafetensorsEntry *e)
{
    enum { DTYPE = 1, SHAPE = 2, OFFSETS = 4 };
    int seen = 0;
    if (!expect(s, '{')) return false;
    do {
        char *key;
        int count;
        int64_t ends[2];
        if (!scan_text(s, &key) || !expect(s, ':')) return false;
        const int member = strcmp(key, "dtype") == 0          ? DTYPE
                           : strcmp(key, "shape") == 0        ? SHAPE
                           : strcmp(key, "data_offsets") == 0 ? OFFSETS
                                                              : 0;
        if (!member) return fail_scan(s, "a tensor has a key other than dtype, shape and data_offsets");
        if (seen & member) return fail_scan(s, "a key of a tensor stands there twice");
        seen |= member;
        if (member == DTYPE && !scan_dtype(s, e)) return false;
        if (member == SHAPE && !scan_counts(s, e->shape, TENSOR_RANK_MAX, &e->rank)) return false;
        if (member != OFFSETS) continue;
        if (!scan_counts(s, ends, 2, &count)) return false;
        if (count != 2) return fail_scan(s, "data_offsets needs two numbers");
        if (ends[0] > ends[1]) return fail_scan(s, "a tensor ends before it begins");
        e->offset = (uint64_t)ends[0];
        e->bytes = (size_t)(ends[1] - ends[0]);
    } while (accept(s, ','));
    if (!expect(s, '}')) return false;
    return seen == (DTYPE | SHAPE | OFFSETS) || fail_scan(s, "a tensor lacks dtype, shape or data_offsets");
}

static bool scan_metadata(Scanner *s, Safetensors *st)
{
    size_t capacity = 0;
    if (st->metadata) return fail_scan(s, "__metadata__ stands there twice");
    if (!mem_grow(&st->metadata, &capacity, 2, sizeof *st->metadata, s->err) || !expect(s, '{')) return false;
    if (accept(s, '}')) return true;
    do {
        const size_t used = 2 * (size_t)st->metadata_count;
        if (!mem_grow(&st->metadata, &capacity, used + 2, sizeof *st->metadata, s->err)) return false;
        if (!scan_text(s, &st->metadata[used]) || !expect(s, ':')) return false;
        if (!scan_text(s, &st->metadata[used + 1])) return false;
        st->metadata_count++; /* a pair takes six bytes of a 32 MB header, so it cannot overflow */
    } while (accept(s, ','));
    return expect(s, '}');
}

static bool check_name(Scanner *s, const char *name)
{
    const size_t length = strlen(name);
    if (length == 0) return fail_scan(s, "a tensor has no name");
    if (length > SAFETENSORS_NAME_MAX) return fail_scan(s, "the name of a tensor is longer than 1024 bytes");
    for (size_t i = 0; i < length; i++) {
        if ((unsigned char)name[i] < 0x20 || name[i] == 0x7F) {
            return fail_scan(s, "the name of a tensor has a control character");
        }
    }
    return true;
}

bool safetensors_header_scan(Safetensors *st, size_t length, Err *err)
{
    Scanner s = {.bytes = st->text, .length = length, .path = st->file.path, .err = err};
    size_t capacity = 0;
    size_t bad;
    if (!utf8_valid(s.bytes, length, &bad)) {
        s.at = bad;
        return fail_scan(&s, "not UTF-8");
    }
    if (length == 0 || s.bytes[0] != '{') return fail_scan(&s, "it does not start with '{'");
    s.at = 1;
    bool more = !accept(&s, '}');
    while (more) {
        char *name;
        if (!scan_text(&s, &name) || !expect(&s, ':')) return false;
        if (strcmp(name, "__metadata__") == 0) {
            if (!scan_metadata(&s, st)) return false;
        } else {
            if (st->count >= SAFETENSORS_TENSORS_MAX) return fail_scan(&s, "more than 200000 tensors");
            if (!mem_grow(&st->entries, &capacity, (size_t)st->count + 1, sizeof *st->entries, err)) return false;
            st->entries[st->count] = (SafetensorsEntry){.name = name};
            if (!check_name(&s, name) || !scan_entry(&s, &st->entries[st->count])) return false;
            st->count++;
        }
        more = accept(&s, ',');
        if (!more && !expect(&s, '}')) return false;
    }
    skip_space(&s);
    return s.at == length || fail_scan(&s, "something follows the last '}'");
}
