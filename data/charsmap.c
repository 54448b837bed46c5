#include "data/charsmap.h"

#include "base/mem.h"
#include "base/text.h"

#include <string.h>
#include <utf8proc.h>

struct Charsmap {
    uint32_t *units;
    size_t unit_count;
    Text texts; /* replacements; ends in NUL */
};

void charsmap_destroy(Charsmap *m)
{
    if (!m) return;
    mem_free(m->units);
    text_free(&m->texts);
    mem_free(m);
}

static int sextet(char c)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c ? strchr(digits, c) : NULL;
    return at ? (int)(at - digits) : -1;
}

static bool decode_base64(Text *out, const char *text, size_t length, Err *err)
{
    uint32_t bits = 0;
    int count = 0;
    while (length > 0 && text[length - 1] == '=')
        length--;
    for (size_t i = 0; i < length; i++) {
        const int value = sextet(text[i]);
        if (value < 0) return FAIL(err, ERR_MODEL, "precompiled_charsmap is not base64");
        bits = (bits << 6) | (uint32_t)value;
        count += 6;
        if (count < 8) continue;
        count -= 8;
        const char byte = (char)(bits >> count);
        if (!text_add(out, &byte, 1, err)) return false;
    }
    return true;
}

static uint32_t u32_at(const char *bytes)
{
    const unsigned char *b = (const unsigned char *)bytes;
    return b[0] | ((uint32_t)b[1] << 8) | ((uint32_t)b[2] << 16) | ((uint32_t)b[3] << 24);
}

static bool read_blob(Charsmap *m, const Text *blob, Err *err)
{
    const size_t trie = blob->length >= 4 ? u32_at(blob->bytes) : 0;
    if (trie < 4 || trie % 4 != 0 || trie > blob->length - 4) {
        return FAIL(err, ERR_MODEL, "precompiled_charsmap has no trie of the size that it states");
    }
    m->unit_count = trie / 4;
    m->units = mem_alloc(m->unit_count, sizeof *m->units, err);
    if (!m->units) return false;
    for (size_t i = 0; i < m->unit_count; i++)
        m->units[i] = u32_at(blob->bytes + 4 + 4 * i);
    if (!utf8_valid(blob->bytes + 4 + trie, blob->length - 4 - trie, NULL)) {
        return FAIL(err, ERR_MODEL, "precompiled_charsmap has replacements that are not valid UTF-8");
    }
    return text_add(&m->texts, blob->bytes + 4 + trie, blob->length - 4 - trie, err) && text_add(&m->texts, "", 1, err);
}

bool charsmap_create(Charsmap **out, const char *base64, size_t length, Err *err)
{
    Text blob = {0};
    Charsmap *m = mem_alloc(1, sizeof *m, err);
    const bool done = m && decode_base64(&blob, base64, length, err) && read_blob(m, &blob, err);
    text_free(&blob);
    if (done) {
        *out = m;
    } else {
        charsmap_destroy(m);
    }
    return done;
}

/* A unit of the double array: where its children are, whether a value hangs on it, the byte that leads to it. */
static uint32_t unit_offset(uint32_t unit)
{
    return (unit >> 10) << ((unit & (1u << 9)) >> 6);
}

/*
 * Replacement for the shortest key that `bytes` starts with, or null. That it is the shortest, and still replaces all
 * of what was asked for, is how the reference library does it.
 */
static const char *find(const Charsmap *m, const char *bytes, size_t length)
{
    size_t at = unit_offset(m->units[0]);
    for (size_t i = 0; i < length; i++) {
        const unsigned char c = (unsigned char)bytes[i];
        at ^= c;
        if (c == 0 || at >= m->unit_count) return NULL;
        const uint32_t unit = m->units[at];
        if ((unit & (0x80000000u | 0xFFu)) != c) return NULL;
        at ^= unit_offset(unit);
        if (!((unit >> 8) & 1)) continue;
        const size_t value = at < m->unit_count ? m->units[at] & 0x7FFFFFFFu : m->texts.length;
        const bool usable = value < m->texts.length && ((unsigned char)m->texts.bytes[value] & 0xC0) != 0x80;
        return usable ? m->texts.bytes + value : NULL; /* never from the middle of a character */
    }
    return NULL;
}

/* End of the grapheme cluster that starts at `begin`. */
static size_t grapheme_end(const PieceText *from, size_t begin, size_t end)
{
    uint32_t c;
    utf8proc_int32_t state = 0;
    size_t at = begin + piece_char(from->bytes + begin, &c);
    while (at < end) {
        uint32_t next;
        const size_t n = piece_char(from->bytes + at, &next);
        if (utf8proc_grapheme_break_stateful((utf8proc_int32_t)c, (utf8proc_int32_t)next, &state)) break;
        c = next;
        at += n;
    }
    return at;
}

static bool put(PieceText *to, const PieceText *from, size_t begin, size_t end, const char *text, Err *err)
{
    if (!text) return piece_text_copy(to, from, begin, end, err);
    return piece_text_add(to, text, strlen(text), from->starts[begin], from->ends[end - 1], err);
}

/* Short clusters are looked up whole, all others character by character. */
bool charsmap_apply(const Charsmap *m, PieceText *to, const PieceText *from, size_t begin, size_t end, Err *err)
{
    enum { SHORT = 6 };
    while (begin < end) {
        const size_t cluster = grapheme_end(from, begin, end);
        const char *whole = cluster - begin < SHORT ? find(m, from->bytes + begin, cluster - begin) : NULL;
        if (whole) {
            if (!put(to, from, begin, cluster, whole, err)) return false;
            begin = cluster;
        }
        while (begin < cluster) {
            uint32_t c;
            const size_t n = piece_char(from->bytes + begin, &c);
            if (!put(to, from, begin, begin + n, find(m, from->bytes + begin, n), err)) return false;
            begin += n;
        }
    }
    return true;
}
