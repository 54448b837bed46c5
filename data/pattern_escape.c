#include "data/pattern_syntax.h"

#include "base/check.h"

#include <ctype.h>
#include <string.h>

#define SPACE_ITEMS                                                                                                    \
    "\\x09-\\x0d\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define NOT_SPACE_ITEMS                                                                                                \
    "\\x00-\\x08\\x0e-\\x1f\\x21-\\x84\\x86-\\x9f\\xa1-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}"                \
    "\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}"
/* Alphabetic, M, Nd, Pc. What is alphabetic but no letter, mark or letter number are the circled and squared letters. */
#define ALPHA_SYMBOLS "\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}"
#define WORD_ITEMS "\\p{L}\\p{M}\\p{Nl}\\p{Nd}\\p{Pc}" ALPHA_SYMBOLS

/* Names as Oniguruma compares them: without case, spaces, '_' and '-'. */
static const struct {
    const char *name, *items;
    bool negated; /* the class is the complement of the items */
} property_names[] = {
    {"alnum",                "\\p{Alphabetic}\\p{Nd}",                                  false},
    {"alpha",                "\\p{Alphabetic}",                                         false},
    {"blank",                "\\p{Zs}\\x09",                                            false},
    {"cntrl",                "\\p{Cc}",                                                 false},
    {"digit",                "\\p{Nd}",                                                 false},
    {"graph",                SPACE_ITEMS "\\p{Cc}\\p{Cn}\\p{Cs}",                       true },
    {"lower",                "\\p{Lowercase}",                                          false},
    {"print",                "\\x09-\\x0d\\x85\\x{2028}\\x{2029}\\p{Cc}\\p{Cn}\\p{Cs}", true },
    {"punct",                "\\p{P}$+<=>^`|~",                                         false},
    {"space",                SPACE_ITEMS,                                               false},
    {"upper",                "\\p{Uppercase}",                                          false},
    {"xdigit",               "0-9A-Fa-f",                                               false},
    {"word",                 WORD_ITEMS,                                                false},
    {"ascii",                "\\x00-\\x7f",                                             false},
    {"any",                  "\\x00-\\x{10ffff}",                                       false},
    {"assigned",             "\\p{Cn}",                                                 true },
    {"letter",               "\\p{L}",                                                  false},
    {"uppercaseletter",      "\\p{Lu}",                                                 false},
    {"lowercaseletter",      "\\p{Ll}",                                                 false},
    {"titlecaseletter",      "\\p{Lt}",                                                 false},
    {"casedletter",          "\\p{Lu}\\p{Ll}\\p{Lt}",                                   false},
    {"lc",                   "\\p{Lu}\\p{Ll}\\p{Lt}",                                   false},
    {"modifierletter",       "\\p{Lm}",                                                 false},
    {"otherletter",          "\\p{Lo}",                                                 false},
    {"mark",                 "\\p{M}",                                                  false},
    {"combiningmark",        "\\p{M}",                                                  false},
    {"nonspacingmark",       "\\p{Mn}",                                                 false},
    {"spacingmark",          "\\p{Mc}",                                                 false},
    {"enclosingmark",        "\\p{Me}",                                                 false},
    {"number",               "\\p{N}",                                                  false},
    {"decimalnumber",        "\\p{Nd}",                                                 false},
    {"letternumber",         "\\p{Nl}",                                                 false},
    {"othernumber",          "\\p{No}",                                                 false},
    {"punctuation",          "\\p{P}",                                                  false},
    {"connectorpunctuation", "\\p{Pc}",                                                 false},
    {"dashpunctuation",      "\\p{Pd}",                                                 false},
    {"openpunctuation",      "\\p{Ps}",                                                 false},
    {"closepunctuation",     "\\p{Pe}",                                                 false},
    {"initialpunctuation",   "\\p{Pi}",                                                 false},
    {"finalpunctuation",     "\\p{Pf}",                                                 false},
    {"otherpunctuation",     "\\p{Po}",                                                 false},
    {"symbol",               "\\p{S}",                                                  false},
    {"mathsymbol",           "\\p{Sm}",                                                 false},
    {"currencysymbol",       "\\p{Sc}",                                                 false},
    {"modifiersymbol",       "\\p{Sk}",                                                 false},
    {"othersymbol",          "\\p{So}",                                                 false},
    {"separator",            "\\p{Z}",                                                  false},
    {"spaceseparator",       "\\p{Zs}",                                                 false},
    {"lineseparator",        "\\p{Zl}",                                                 false},
    {"paragraphseparator",   "\\p{Zp}",                                                 false},
    {"other",                "\\p{C}",                                                  false},
    {"control",              "\\p{Cc}",                                                 false},
    {"format",               "\\p{Cf}",                                                 false},
    {"surrogate",            "\\p{Cs}",                                                 false},
    {"privateuse",           "\\p{Co}",                                                 false},
    {"unassigned",           "\\p{Cn}",                                                 false},
    {"whitespace",           SPACE_ITEMS,                                               false},
};

/* Names that mean the same to PCRE2: general categories in short, and binary properties. */
static const char *const pcre2_names[] = {
    "l",
    "lu",
    "ll",
    "lt",
    "lm",
    "lo",
    "m",
    "mn",
    "mc",
    "me",
    "n",
    "nd",
    "nl",
    "no",
    "p",
    "pc",
    "pd",
    "ps",
    "pe",
    "pi",
    "pf",
    "po",
    "s",
    "sm",
    "sc",
    "sk",
    "so",
    "z",
    "zs",
    "zl",
    "zp",
    "c",
    "cc",
    "cf",
    "cs",
    "co",
    "cn",
    "alphabetic",
    "lowercase",
    "uppercase",
    "math",
    "dash",
    "ideographic",
    "unifiedideograph",
    "hexdigit",
    "asciihexdigit",
    "emoji",
    "emojipresentation",
    "emojimodifier",
    "emojimodifierbase",
    "emojicomponent",
    "extendedpictographic",
    "cased",
    "caseignorable",
    "diacritic",
    "extender",
    "joincontrol",
    "idstart",
    "idcontinue",
    "xidstart",
    "xidcontinue",
    "variationselector",
    "quotationmark",
    "terminalpunctuation",
    "defaultignorablecodepoint",
    "graphemebase",
    "graphemeextend",
    "radical",
    "regionalindicator",
    "softdotted",
    "patternsyntax",
    "patternwhitespace",
    "noncharactercodepoint",
    "deprecated",
    "logicalorderexception",
};

const char *pattern_word_items(void)
{
    return WORD_ITEMS;
}

/* Letters and digits of a property's name in lower case; false when other characters than ' ' '_' '-' are in it. */
static bool plain_name(char *out, size_t size, const char *name, size_t length)
{
    size_t n = 0;
    for (size_t i = 0; i < length; i++) {
        const unsigned char c = (unsigned char)name[i];
        if (c == ' ' || c == '_' || c == '-') continue;
        if (!isalnum(c) || n + 1 >= size) return false;
        out[n++] = (char)tolower(c);
    }
    out[n] = '\0';
    return n > 0;
}

static bool property(Text *items, bool *negated, const char *name, size_t length, Err *err)
{
    char plain[64];
    if (!plain_name(plain, sizeof plain, name, length)) {
        return FAIL(err, ERR_MODEL, "a regular expression asks for an unknown property \\p{%.*s}",
                    (int)(length < 40 ? length : 40), name);
    }
    for (size_t i = 0; i < ARRAY_COUNT(property_names); i++) {
        if (strcmp(plain, property_names[i].name) != 0) continue;
        if (property_names[i].negated) *negated = !*negated;
        return text_add_z(items, property_names[i].items, err);
    }
    for (size_t i = 0; i < ARRAY_COUNT(pcre2_names); i++) {
        if (strcmp(plain, pcre2_names[i]) == 0) return text_format(items, err, "\\p{%s}", plain);
    }
    return text_format(items, err, "\\p{sc:%s}", plain);
}

/* \p{Name}, \p{^Name}, \P{Name}; r at the backslash. */
static bool property_escape(Text *items, bool *negated, bool *found, RegexReader *r, Err *err)
{
    if (regex_peek(r, 2) != '{') return true; /* a letter p without braces is a letter */
    const char *const name = r->source + r->at + 3;
    const char *const close = memchr(name, '}', r->length - r->at - 3);
    if (!close) return FAIL(err, ERR_MODEL, "a regular expression ends inside \\p{...}");
    const bool caret = close > name && name[0] == '^';
    *negated = (regex_peek(r, 1) == 'P') != caret;
    if (!property(items, negated, name + caret, (size_t)(close - name) - caret, err)) return false;
    r->at = (size_t)(close - r->source) + 1;
    *found = true;
    return true;
}

bool pattern_escape_set(Text *items, bool *negated, bool *found, RegexReader *r, Err *err)
{
    const int kind = regex_peek(r, 1);
    const char *set = NULL;
    *found = false;
    *negated = kind == 'D' || kind == 'W' || kind == 'H';
    switch (kind) {
    case 'p':
    case 'P': return property_escape(items, negated, found, r, err);
    case 'd':
    case 'D': set = "\\p{Nd}"; break;
    case 's': set = SPACE_ITEMS; break;
    case 'S': set = NOT_SPACE_ITEMS; break;
    case 'w':
    case 'W': set = WORD_ITEMS; break;
    case 'h':
    case 'H': set = "0-9A-Fa-f"; break;
    default: return true;
    }
    *found = true;
    r->at += 2;
    return text_add_z(items, set, err);
}

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
