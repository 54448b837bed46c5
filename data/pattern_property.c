#include "data/pattern_syntax.h"

#include "base/check.h"
#include "data/unicode_tables.def"

#include <ctype.h>
#include <string.h>

#define SPACE_ITEMS                                                                                                    \
    "\\x09-\\x0d\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define NOT_SPACE_ITEMS                                                                                                \
    "\\x00-\\x08\\x0e-\\x1f\\x21-\\x84\\x86-\\x9f\\xa1-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}"                \
    "\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}"
/* Oniguruma's \w also has the superscripts and fractions of Latin-1. */
#define LATIN_NUMBERS "\\xb2\\xb3\\xb9\\xbc-\\xbe"

/* A name that is other properties, or several together. */
typedef struct NamedSet {
    const char *name;
    const char *properties; /* separated by spaces */
    const char *items;      /* class items beside them */
    bool negated;           /* the complement of all that */
} NamedSet;

static const NamedSet named_sets[] = {
    {"alnum",                "alphabetic nd",           "",                  false},
    {"alpha",                "alphabetic",              "",                  false},
    {"blank",                "zs",                      "\\x09",             false},
    {"cntrl",                "cc",                      "",                  false},
    {"digit",                "nd",                      "",                  false},
    {"graph",                "l m n p s cf co",         "",                  false},
    {"lower",                "lowercase",               "",                  false},
    {"print",                "l m n p s cf co zs",      "",                  false},
    {"punct",                "p",                       "",                  false},
    {"posixpunct",           "p s",                     "",                  false},
    {"space",                "",                        SPACE_ITEMS,         false},
    {"whitespace",           "",                        SPACE_ITEMS,         false},
    {"upper",                "uppercase",               "",                  false},
    {"xdigit",               "",                        "0-9A-Fa-f",         false},
    {"word",                 "alphabetic m nd pc",      LATIN_NUMBERS,       false},
    {"posixword",            "alphabetic m nd pc",      "",                  false},
    {"ascii",                "",                        "\\x00-\\x7f",       false},
    {"any",                  "",                        "\\x00-\\x{10ffff}", false},
    {"assigned",             "l m n p s z cc cf co cs", "",                  false},
    {"unassigned",           "l m n p s z cc cf co cs", "",                  true },
    {"cn",                   "l m n p s z cc cf co cs", "",                  true },
    {"other",                "l m n p s z",             "",                  true },
    {"c",                    "l m n p s z",             "",                  true },
    {"lc",                   "lu ll lt",                "",                  false},
    {"casedletter",          "lu ll lt",                "",                  false},
    {"letter",               "l",                       "",                  false},
    {"uppercaseletter",      "lu",                      "",                  false},
    {"lowercaseletter",      "ll",                      "",                  false},
    {"titlecaseletter",      "lt",                      "",                  false},
    {"modifierletter",       "lm",                      "",                  false},
    {"otherletter",          "lo",                      "",                  false},
    {"mark",                 "m",                       "",                  false},
    {"combiningmark",        "m",                       "",                  false},
    {"nonspacingmark",       "mn",                      "",                  false},
    {"spacingmark",          "mc",                      "",                  false},
    {"enclosingmark",        "me",                      "",                  false},
    {"number",               "n",                       "",                  false},
    {"decimalnumber",        "nd",                      "",                  false},
    {"letternumber",         "nl",                      "",                  false},
    {"othernumber",          "no",                      "",                  false},
    {"punctuation",          "p",                       "",                  false},
    {"connectorpunctuation", "pc",                      "",                  false},
    {"dashpunctuation",      "pd",                      "",                  false},
    {"openpunctuation",      "ps",                      "",                  false},
    {"closepunctuation",     "pe",                      "",                  false},
    {"initialpunctuation",   "pi",                      "",                  false},
    {"finalpunctuation",     "pf",                      "",                  false},
    {"otherpunctuation",     "po",                      "",                  false},
    {"symbol",               "s",                       "",                  false},
    {"mathsymbol",           "sm",                      "",                  false},
    {"currencysymbol",       "sc",                      "",                  false},
    {"modifiersymbol",       "sk",                      "",                  false},
    {"othersymbol",          "so",                      "",                  false},
    {"separator",            "z",                       "",                  false},
    {"spaceseparator",       "zs",                      "",                  false},
    {"lineseparator",        "zl",                      "",                  false},
    {"paragraphseparator",   "zp",                      "",                  false},
    {"control",              "cc",                      "",                  false},
    {"format",               "cf",                      "",                  false},
    {"surrogate",            "cs",                      "",                  false},
    {"privateuse",           "co",                      "",                  false},
};

/* General categories and binary properties; every other name is a script. */
static const char *const plain_properties[] = {
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
    "cc",
    "cf",
    "cs",
    "co",
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
    "sentenceterminal",
};

/* Characters that Oniguruma has in a property and PCRE2 does not yet. */
static const struct {
    const char *name;
    bool known; /* PCRE2 has the property at all */
    const char *items;
} newer[] = {
#define X(name, known, items) {name, known, items},
    PROPERTY_NEWER(X)
#undef X
};

/* A one-letter category is the sum of the two-letter ones. */
static bool is_part(const char *name, const char *part)
{
    if (strlen(name) != 1) return strcmp(name, part) == 0;
    return strlen(part) == 2 && part[0] == name[0];
}

/* One property as class items. */
static bool add_property(Text *items, const char *name, Err *err)
{
    const char *kind = "sc:"; /* without it PCRE2 would add script extensions */
    for (size_t i = 0; i < ARRAY_COUNT(plain_properties); i++) {
        if (strcmp(name, plain_properties[i]) == 0) kind = "";
    }
    bool known = true;
    for (size_t i = 0; i < ARRAY_COUNT(newer); i++) {
        if (!is_part(name, newer[i].name)) continue;
        if (!newer[i].known) known = false;
        if (!text_add_z(items, newer[i].items, err)) return false;
    }
    return !known || text_format(items, err, "\\p{%s%s}", kind, name);
}

static bool add_named_set(Text *items, const NamedSet *set, Err *err)
{
    for (const char *at = set->properties; *at;) {
        char name[40];
        const size_t n = strcspn(at, " ");
        memcpy(name, at, n);
        name[n] = '\0';
        if (!add_property(items, name, err)) return false;
        at += n;
        at += *at == ' ';
    }
    return text_add_z(items, set->items, err);
}

/* Letters and digits of a name in lower case, as Oniguruma compares them; false when other characters than ' ' '_' '-'
 * are in it. */
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

bool pattern_property(Text *items, bool *negated, const char *name, size_t length, Err *err)
{
    char plain[64];
    if (!plain_name(plain, sizeof plain, name, length)) {
        char shown[80];
        return FAIL(err, ERR_MODEL, "a regular expression asks for an unknown property \\p{%s}",
                    text_printable(shown, sizeof shown, name, length));
    }
    for (size_t i = 0; i < ARRAY_COUNT(named_sets); i++) {
        if (strcmp(plain, named_sets[i].name) != 0) continue;
        if (named_sets[i].negated) *negated = !*negated;
        return add_named_set(items, &named_sets[i], err);
    }
    return add_property(items, plain, err);
}

/* \p{Name}, \p{^Name}, \P{Name}; r at the backslash. A letter p without braces is a letter. */
static bool property_escape(Text *items, bool *negated, bool *found, RegexReader *r, Err *err)
{
    *found = regex_peek(r, 2) == '{';
    if (!*found) return true;
    const char *const name = r->source + r->at + 3;
    const char *const close = memchr(name, '}', r->length - r->at - 3);
    if (!close) return FAIL(err, ERR_MODEL, "a regular expression ends inside \\p{...}");
    const bool caret = close > name && name[0] == '^';
    *negated = (regex_peek(r, 1) == 'P') != caret;
    r->at = (size_t)(close - r->source) + 1;
    return pattern_property(items, negated, name + caret, (size_t)(close - name) - caret, err);
}

bool pattern_escape_set(Text *items, bool *negated, bool *found, RegexReader *r, Err *err)
{
    const int kind = regex_peek(r, 1);
    *found = kind > 0 && strchr("pPdDsSwWhH", kind);
    *negated = kind == 'D' || kind == 'W' || kind == 'H';
    if (!*found) return true;
    if (kind == 'p' || kind == 'P') return property_escape(items, negated, found, r, err);
    r->at += 2;
    bool unused = false;
    switch (kind) {
    case 'd':
    case 'D': return pattern_property(items, &unused, "digit", 5, err);
    case 'w':
    case 'W': return pattern_property(items, &unused, "word", 4, err);
    case 's': return text_add_z(items, SPACE_ITEMS, err);
    case 'S': return text_add_z(items, NOT_SPACE_ITEMS, err);
    default: return text_add_z(items, "0-9A-Fa-f", err);
    }
}
