#include "data/charclass.h"

#include "base/check.h"
#include "data/unicode_tables.def"

#include <stddef.h>
#include <utf8proc.h>

typedef struct CharRange {
    uint32_t low, high;
} CharRange;

/* Where the reference library's data are older or newer than utf8proc's: unicode_tables.def. Sorted. */
#define X(low, high) {low, high},
static const CharRange word_newer[] = {WORD_NEWER(X)};
static const CharRange number_newer[] = {NUMBER_NEWER(X)};
static const CharRange punctuation_old[] = {PUNCTUATION_OLD(X)};
static const CharRange punctuation_later[] = {PUNCTUATION_LATER(X)};
static const CharRange mark_old[] = {MARK_OLD(X)};
static const CharRange mark_later[] = {MARK_LATER(X)};
static const CharRange nonspacing_old[] = {NONSPACING_OLD(X)};
static const CharRange nonspacing_later[] = {NONSPACING_LATER(X)};
static const CharRange other_later[] = {OTHER_LATER(X)};
static const CharRange decomposition_later[] = {DECOMPOSITION_LATER(X)};
static const CharRange combining_later[] = {COMBINING_LATER(X)};
#undef X

static bool in_ranges(const CharRange *ranges, size_t count, uint32_t c)
{
    size_t low = 0;
    while (low < count) {
        const size_t middle = (low + count) / 2;
        if (c < ranges[middle].low) {
            count = middle;
        } else if (c > ranges[middle].high) {
            low = middle + 1;
        } else {
            return true;
        }
    }
    return false;
}

#define IN(ranges, c) in_ranges((ranges), ARRAY_COUNT(ranges), (c))

bool char_is_space(uint32_t c)
{
    if (c < 0x80) return c == ' ' || (c >= 9 && c <= 13);
    return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
           c == 0x202F || c == 0x205F || c == 0x3000;
}

static utf8proc_category_t category(uint32_t c)
{
    return utf8proc_category((utf8proc_int32_t)c);
}

bool char_is_numeric(uint32_t c)
{
    if (c < 0x80) return c >= '0' && c <= '9';
    const utf8proc_category_t k = category(c);
    return k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_NO || IN(number_newer, c);
}

/* Symbols with the property Alphabetic: the circled and squared letters. All other alphabetic characters are letters,
 * marks or letter numbers. */
static bool is_alphabetic_symbol(uint32_t c)
{
    return (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) ||
           (c >= 0x1F170 && c <= 0x1F189);
}

bool char_is_word(uint32_t c)
{
    if (c == 0x200C || c == 0x200D) return true; /* Join_Control */
    switch (category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC: return true;
    default: return is_alphabetic_symbol(c) || IN(word_newer, c);
    }
}

bool char_is_punctuation(uint32_t c)
{
    if (c < 0x80)
        return (c > 0x20 && c < 0x30) || (c > 0x39 && c < 0x41) || (c > 0x5A && c < 0x61) || (c > 0x7A && c < 0x7F);
    const utf8proc_category_t k = category(c);
    if (k >= UTF8PROC_CATEGORY_PC && k <= UTF8PROC_CATEGORY_PO) return !IN(punctuation_later, c);
    return IN(punctuation_old, c);
}

bool char_is_mark(uint32_t c)
{
    const utf8proc_category_t k = category(c);
    if (k == UTF8PROC_CATEGORY_MN || k == UTF8PROC_CATEGORY_MC || k == UTF8PROC_CATEGORY_ME) return !IN(mark_later, c);
    return IN(mark_old, c);
}

bool char_is_nonspacing(uint32_t c)
{
    if (category(c) == UTF8PROC_CATEGORY_MN) return !IN(nonspacing_later, c);
    return IN(nonspacing_old, c);
}

bool char_is_other(uint32_t c)
{
    const utf8proc_category_t k = category(c);
    if (k != UTF8PROC_CATEGORY_CC && k != UTF8PROC_CATEGORY_CF && k != UTF8PROC_CATEGORY_CO) return false;
    return !IN(other_later, c);
}

uint8_t char_combining_class(uint32_t c)
{
    const uint8_t ccc = (uint8_t)utf8proc_get_property((utf8proc_int32_t)c)->combining_class;
    return ccc && IN(combining_later, c) ? 0 : ccc;
}

bool char_decomposes(uint32_t c)
{
    return c >= 0xA0 && !IN(decomposition_later, c);
}

uint32_t char_lowercase(uint32_t c)
{
    static const struct {
        uint32_t low, high;
        int32_t distance;
    } newer[] = {
#define X(low, high, distance) {low, high, distance},
        LOWERCASE_NEWER(X)
#undef X
    };
    for (size_t i = 0; c >= newer[0].low && i < ARRAY_COUNT(newer); i++) {
        if (c >= newer[i].low && c <= newer[i].high) return (uint32_t)((int32_t)c + newer[i].distance);
    }
    return (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
}

bool char_is_chinese(uint32_t c)
{
    static const struct {
        uint32_t low, high;
    } ranges[] = {
        {0x3400,  0x4DBF },
        {0x4E00,  0x9FFF },
        {0xF900,  0xFAFF },
        {0x20000, 0x2A6DF},
        {0x2A700, 0x2B73F},
        {0x2B740, 0x2B81F},
        {0x2B920, 0x2CEAF}, /* 2B820 would be right; the reference library has 2B920 */
        {0x2F800, 0x2FA1F},
    };
    for (size_t i = 0; i < ARRAY_COUNT(ranges); i++) {
        if (c >= ranges[i].low && c <= ranges[i].high) return true;
    }
    return false;
}

static bool is_own_char(uint32_t byte)
{
    return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
}

/* The 68 bytes without a character of their own follow U+0100 in increasing order: 0-32, 127-160, 173. */
uint32_t byte_char(unsigned char byte)
{
    if (is_own_char(byte)) return byte;
    if (byte <= 32) return 0x100u + byte;
    if (byte <= 160) return 0x121u + (byte - 127u);
    return 0x143;
}

int byte_of_char(uint32_t c)
{
    if (c < 0x100) return is_own_char(c) ? (int)c : -1;
    if (c <= 0x120) return (int)(c - 0x100);
    if (c <= 0x142) return (int)(c - 0x121) + 127;
    return c == 0x143 ? 173 : -1;
}
