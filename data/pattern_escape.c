#include "data/pattern_syntax.h"

#include <string.h>

static int hex_value(int c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* Up to `most` digits of the given base at r; the number of digits read. */
static int read_digits(RegexReader *r, int base, int most, uint32_t *value)
{
    int n = 0;
    *value = 0;
    while (n < most) {
        const int digit = hex_value(regex_peek(r, 0));
        if (digit < 0 || digit >= base) break;
        *value = *value * (uint32_t)base + (uint32_t)digit;
        r->at++;
        n++;
    }
    return n;
}

static bool numeric_escape(uint32_t *c, RegexReader *r, int kind, Err *err)
{
    int digits;
    r->at += 2;
    if (kind == 'x' && regex_peek(r, 0) == '{') {
        r->at++;
        digits = read_digits(r, 16, 8, c);
        if (digits == 0 || regex_peek(r, 0) != '}')
            return FAIL(err, ERR_MODEL, "a regular expression has a bad \\x{...}");
        r->at++;
    } else if (kind == 'x') {
        digits = read_digits(r, 16, 2, c);
    } else if (kind == 'u') {
        digits = read_digits(r, 16, 4, c);
        if (digits != 4) return FAIL(err, ERR_MODEL, "a regular expression has \\u without four hexadecimal digits");
    } else {
        r->at--; /* octal: the first digit counts */
        read_digits(r, 8, 3, c);
    }
    if (*c > 0x10FFFF || (*c >= 0xD800 && *c <= 0xDFFF)) {
        return FAIL(err, ERR_MODEL, "a regular expression names U+%04X, which is no character", (unsigned)*c);
    }
    return true;
}

bool pattern_escape_char(uint32_t *c, bool *found, RegexReader *r, Err *err)
{
    static const char letters[] = "abefnrtv";
    static const unsigned char values[] = {7, 8, 27, 12, 10, 13, 9, 11};
    const int kind = regex_peek(r, 1);
    *found = true;
    if (kind < 0) return FAIL(err, ERR_MODEL, "a regular expression ends in a backslash");
    if (kind == 'x' || kind == 'u' || kind == '0') return numeric_escape(c, r, kind, err);
    if (kind == 'c' || kind == 'C' || kind == 'M') {
        return FAIL(err, ERR_MODEL, "a regular expression uses \\%c, which is not supported", kind);
    }
    const char *const letter = strchr(letters, kind);
    if (kind != 0 && letter) {
        *c = values[letter - letters];
        r->at += 2;
        return true;
    }
    const size_t n = utf8_decode(r->source + r->at + 1, r->length - r->at - 1, c);
    if (n == 0) return FAIL(err, ERR_MODEL, "a regular expression is not valid UTF-8");
    r->at += 1 + n;
    return true;
}
