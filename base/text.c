#include "base/text.h"

#include "base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

bool text_add(Text *t, const char *bytes, size_t length, Err *err)
{
    if (length > SIZE_MAX - t->length - 1) return FAIL(err, ERR_MEMORY, "a text grew beyond the address space");
    if (!mem_grow(&t->bytes, &t->capacity, t->length + length + 1, 1, err)) return false;
    if (length) memcpy(t->bytes + t->length, bytes, length);
    t->length += length;
    t->bytes[t->length] = '\0';
    return true;
}

bool text_add_z(Text *t, const char *text, Err *err)
{
    return text_add(t, text, strlen(text), err);
}

bool text_format(Text *t, Err *err, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    const int length = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (length < 0) return FAIL(err, ERR_ARG, "a text could not be formatted");
    if (!mem_grow(&t->bytes, &t->capacity, t->length + (size_t)length + 1, 1, err)) return false;
    va_start(args, format);
    vsnprintf(t->bytes + t->length, (size_t)length + 1, format, args);
    va_end(args);
    t->length += (size_t)length;
    return true;
}

bool text_add_codepoint(Text *t, uint32_t c, Err *err)
{
    char out[4];
    size_t n = 0;
    if (c < 0x80) {
        out[n++] = (char)c;
    } else if (c < 0x800) {
        out[n++] = (char)(0xC0 | (c >> 6));
    } else if (c < 0x10000) {
        out[n++] = (char)(0xE0 | (c >> 12));
        out[n++] = (char)(0x80 | ((c >> 6) & 0x3F));
    } else {
        out[n++] = (char)(0xF0 | (c >> 18));
        out[n++] = (char)(0x80 | ((c >> 12) & 0x3F));
        out[n++] = (char)(0x80 | ((c >> 6) & 0x3F));
    }
    if (c >= 0x80) out[n++] = (char)(0x80 | (c & 0x3F));
    return text_add(t, out, n, err);
}

void text_clear(Text *t)
{
    t->length = 0;
    if (t->bytes) t->bytes[0] = '\0';
}

void text_free(Text *t)
{
    mem_free(t->bytes);
    *t = (Text){0};
}

size_t utf8_decode(const char *bytes, size_t length, uint32_t *codepoint)
{
    const unsigned char *s = (const unsigned char *)bytes;
    if (length == 0) return 0;
    if (s[0] < 0x80) {
        *codepoint = s[0];
        return 1;
    }
    static const struct {
        unsigned char lead_low, lead_high;
        size_t size;
        uint32_t lowest;
    } forms[] = {
        {0xC2, 0xDF, 2, 0x80   },
        {0xE0, 0xEF, 3, 0x800  },
        {0xF0, 0xF4, 4, 0x10000}
    };
    for (size_t f = 0; f < sizeof forms / sizeof forms[0]; f++) {
        if (s[0] < forms[f].lead_low || s[0] > forms[f].lead_high) continue;
        if (length < forms[f].size) return 0;
        uint32_t c = s[0] & (0x7Fu >> forms[f].size);
        for (size_t i = 1; i < forms[f].size; i++) {
            if ((s[i] & 0xC0) != 0x80) return 0;
            c = (c << 6) | (s[i] & 0x3Fu);
        }
        if (c < forms[f].lowest || c > 0x10FFFF || (c >= 0xD800 && c <= 0xDFFF)) return 0;
        *codepoint = c;
        return forms[f].size;
    }
    return 0;
}

bool utf8_valid(const char *bytes, size_t length, size_t *at)
{
    size_t i = 0;
    while (i < length) {
        uint32_t c;
        const size_t n = utf8_decode(bytes + i, length - i, &c);
        if (n == 0) {
            if (at) *at = i;
            return false;
        }
        i += n;
    }
    return true;
}

static bool is_unsafe(uint32_t c)
{
    return c < 0x20 || (c >= 0x7F && c < 0xA0) || c == 0x061C || (c >= 0x200E && c <= 0x200F) ||
           (c >= 0x2028 && c <= 0x202E) || (c >= 0x2066 && c <= 0x2069) || c == 0xFEFF;
}

const char *text_printable(char *out, size_t size, const char *bytes, size_t length)
{
    size_t used = 0;
    size_t i = 0;
    out[0] = '\0';
    while (i < length) {
        uint32_t c = 0;
        size_t n = utf8_decode(bytes + i, length - i, &c);
        char piece[24];
        size_t m = 0;
        if (n == 0 || is_unsafe(c)) {
            if (n == 0) n = 1;
            for (size_t k = 0; k < n; k++) {
                m += (size_t)snprintf(piece + m, sizeof piece - m, "\\x%02X", (unsigned char)bytes[i + k]);
            }
        } else {
            memcpy(piece, bytes + i, n);
            m = n;
        }
        if (used + m + 4 > size) { /* room for "..." and the NUL */
            if (used + 4 <= size) memcpy(out + used, "...", 4);
            return out;
        }
        memcpy(out + used, piece, m);
        used += m;
        out[used] = '\0';
        i += n;
    }
    return out;
}

int text_distance(const char *a, const char *b, int limit)
{
    enum { LONGEST = 64 };
    const size_t n = strlen(a);
    const size_t m = strlen(b);
    if (n > LONGEST || m > LONGEST) return limit + 1;
    int row[LONGEST + 1];
    for (size_t j = 0; j <= m; j++)
        row[j] = (int)j;
    for (size_t i = 1; i <= n; i++) {
        int diagonal = row[0];
        row[0] = (int)i;
        for (size_t j = 1; j <= m; j++) {
            const int replace = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            int best = replace;
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            row[j] = best;
        }
    }
    return row[m] > limit ? limit + 1 : row[m];
}
