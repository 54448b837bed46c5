#include "data/pattern_syntax.h"

#include <string.h>

enum { GROUP_DEPTH = 200, OUTPUT_LONGEST = 1024 * 1024 };

typedef struct Translator {
    RegexReader r;
    Text *out;
    bool extended; /* (?x): blanks and comments do not count */
    int depth;
    Err *err;
} Translator;

static bool alternatives(Translator *t);

static bool put(Translator *t, const char *text)
{
    if (t->out->length > OUTPUT_LONGEST) return FAIL(t->err, ERR_MODEL, "a regular expression is too long");
    return text_add_z(t->out, text, t->err);
}

static bool put_char(Translator *t, uint32_t c)
{
    return text_format(t->out, t->err, "\\x{%x}", (unsigned)c);
}

/* Copies `n` bytes of the source. */
static bool copy(Translator *t, size_t n)
{
    const size_t at = t->r.at;
    t->r.at += n;
    return text_add(t->out, t->r.source + at, n, t->err);
}

/* Makes what was written since `from` one group. */
static bool wrap(Translator *t, size_t from)
{
    if (!put(t, "(?:)")) return false;
    char *const start = t->out->bytes + from;
    memmove(start + 3, start, t->out->length - from - 4);
    memcpy(start, "(?:", 3);
    t->out->bytes[t->out->length - 1] = ')';
    return true;
}

/* {n} {n,} {n,m} {,m}: digits as they stand; false when the brace is just a brace. */
typedef struct Interval {
    char low[8], high[8]; /* empty: not given */
    bool comma;
    size_t size; /* bytes in the source */
} Interval;

static size_t digits_at(const RegexReader *r, size_t ahead, char out[8])
{
    size_t n = 0;
    while (n < 7) {
        const int c = regex_peek(r, ahead + n);
        if (c < '0' || c > '9') break;
        out[n++] = (char)c;
    }
    out[n] = '\0';
    return n;
}

static bool read_interval(const RegexReader *r, Interval *out)
{
    size_t n = 1;
    n += digits_at(r, n, out->low);
    out->comma = regex_peek(r, n) == ',';
    out->high[0] = '\0';
    if (out->comma) n += 1 + digits_at(r, n + 1, out->high);
    if (regex_peek(r, n) != '}') return false;
    out->size = n + 1;
    return out->low[0] || out->high[0];
}

static bool interval(Translator *t, const Interval *n)
{
    t->r.at += n->size;
    if (!text_format(t->out, t->err, "{%s%s%s}", n->low[0] ? n->low : "0", n->comma ? "," : "", n->high)) return false;
    /* X{n}? is X{n} made optional, any X{n,m}+ is X{n,m} repeated: both are left to the next quantifier */
    if (n->comma && regex_peek(&t->r, 0) == '?') return copy(t, 1);
    return true;
}

/*
 * All quantifiers behind the atom that was written from `atom` on. X** X+* X?* are X*, as Oniguruma reduces them: taken
 * literally they would try every way to cut a run.
 */
static bool quantifiers(Translator *t, size_t atom)
{
    bool plain = false; /* the last one was * + or ? alone */
    for (bool first = true;; first = false) {
        const int c = regex_peek(&t->r, 0);
        const int next = regex_peek(&t->r, 1);
        const bool suffixed = next == '?' || next == '+';
        Interval n;
        const bool braces = c == '{' && read_interval(&t->r, &n);
        if (!braces && c != '*' && c != '+' && c != '?') return true;
        if (plain && c == '*' && !suffixed) {
            t->out->bytes[t->out->length - 1] = '*';
            t->r.at++;
            continue;
        }
        if (!first && !wrap(t, atom)) return false;
        if (!(braces ? interval(t, &n) : copy(t, suffixed ? 2 : 1))) return false;
        plain = !braces && !suffixed;
    }
}

static bool unsupported(Translator *t, const char *what)
{
    return FAIL(t->err, ERR_MODEL, "a regular expression uses %s, which is not supported", what);
}

static bool close_group(Translator *t)
{
    if (regex_peek(&t->r, 0) != ')') return FAIL(t->err, ERR_MODEL, "a regular expression has an unclosed group");
    return copy(t, 1);
}

/* The inside of a group whose opening was written. */
static bool group_body(Translator *t)
{
    const bool extended = t->extended;
    if (++t->depth > GROUP_DEPTH) return FAIL(t->err, ERR_MODEL, "a regular expression nests groups too deeply");
    if (!alternatives(t)) return false;
    t->depth--;
    t->extended = extended;
    return true;
}

/* (?imx-imx) and (?imx-imx: ; r behind the "(?". */
static bool option_group(Translator *t)
{
    const bool outer = t->extended;
    bool on = true;
    if (!put(t, "(?")) return false;
    for (;; t->r.at++) {
        const int c = regex_peek(&t->r, 0);
        if (c == ')' || c == ':') break;
        if (c == '-') on = false;
        if (c == 'x') t->extended = on;
        if (c == 'x') continue;
        if (c != '-' && c != 'i' && c != 'm') return unsupported(t, "an option group other than i, m, x");
        if (!put(t, c == 'm' ? "s" : c == 'i' ? "i" : "-")) return false;
    }
    if (!put(t, ":")) return false;
    const bool rest_of_group = regex_peek(&t->r, 0) == ')';
    t->r.at++;
    if (!group_body(t)) return false;
    t->extended = outer;
    /* (?i) without a colon: the enclosing group's own parenthesis stays where it is */
    return rest_of_group ? put(t, ")") : close_group(t);
}

static bool group(Translator *t)
{
    const int second = regex_peek(&t->r, 1);
    const int third = regex_peek(&t->r, 2);
    const int fourth = regex_peek(&t->r, 3);
    if (second == '*') return unsupported(t, "a callout (*...)");
    if (second != '?') return copy(t, 1) && group_body(t) && close_group(t);
    if (third == '#') {
        const char *const end = memchr(t->r.source + t->r.at, ')', t->r.length - t->r.at);
        if (!end) return FAIL(t->err, ERR_MODEL, "a regular expression has an unclosed comment");
        t->r.at = (size_t)(end - t->r.source) + 1;
        return true;
    }
    size_t opening = 0;
    if (third == ':' || third == '=' || third == '!' || third == '>') opening = 3;
    if (third == '<' && (fourth == '=' || fourth == '!')) opening = 4;
    if (!opening && (third == '<' || third == '\'')) {
        const char close = third == '<' ? '>' : '\'';
        const char *const end = memchr(t->r.source + t->r.at + 3, close, t->r.length - t->r.at - 3);
        if (!end) return FAIL(t->err, ERR_MODEL, "a regular expression has an unclosed group name");
        opening = (size_t)(end - t->r.source) + 1 - t->r.at;
    }
    if (opening) return copy(t, opening) && group_body(t) && close_group(t);
    if (third == '~') return unsupported(t, "an absent operator (?~...)");
    if (third == '(') return unsupported(t, "a conditional group");
    t->r.at += 2;
    return option_group(t);
}

static bool set_escape(Translator *t, bool *found)
{
    Text items = {0};
    bool negated = false;
    bool done = pattern_escape_set(&items, &negated, found, &t->r, t->err);
    if (done && *found) done = text_format(t->out, t->err, "[%s%s]", negated ? "^" : "", items.bytes);
    text_free(&items);
    return done;
}

/* PCRE2's own \b has another idea of word characters. */
static bool word_boundary(Translator *t, bool wanted)
{
    Text word = {0};
    bool unused = false;
    const char *const format =
        wanted ? "(?:(?<=[%s])(?![%s])|(?<![%s])(?=[%s]))" : "(?:(?<=[%s])(?=[%s])|(?<![%s])(?![%s]))";
    t->r.at += 2;
    const bool done = pattern_property(&word, &unused, "word", 4, t->err) &&
                      text_format(t->out, t->err, format, word.bytes, word.bytes, word.bytes, word.bytes);
    text_free(&word);
    return done;
}

/* \k<name> \g<name>: the same in PCRE2. */
static bool name_escape(Translator *t)
{
    const char *const end = memchr(t->r.source + t->r.at, '>', t->r.length - t->r.at);
    if (regex_peek(&t->r, 2) != '<' || !end) return unsupported(t, "\\k or \\g without <name>");
    return copy(t, (size_t)(end - t->r.source) + 1 - t->r.at);
}

static bool escape(Translator *t)
{
    bool found = false;
    const int kind = regex_peek(&t->r, 1);
    if (kind > 0 && strchr("AzZGKRXN", kind)) return copy(t, 2);
    if (kind == 'b' || kind == 'B') return word_boundary(t, kind == 'b');
    if (kind == 'O') {
        t->r.at += 2;
        return put(t, "(?s:.)");
    }
    if (kind == 'y' || kind == 'Y') return unsupported(t, "a text segment boundary \\y");
    if (kind == 'k' || kind == 'g') return name_escape(t);
    if (kind >= '1' && kind <= '9') {
        const int second = regex_peek(&t->r, 2);
        if (second >= '0' && second <= '9') return unsupported(t, "a group number above 9");
        t->r.at += 2;
        return text_format(t->out, t->err, "\\g{%c}", kind);
    }
    if (!set_escape(t, &found)) return false;
    if (found) return true;
    uint32_t c;
    return pattern_escape_char(&c, &found, &t->r, t->err) && put_char(t, c);
}

static bool plain_char(Translator *t)
{
    uint32_t c;
    const size_t n = utf8_decode(t->r.source + t->r.at, t->r.length - t->r.at, &c);
    if (n == 0) return FAIL(t->err, ERR_MODEL, "a regular expression is not valid UTF-8");
    t->r.at += n;
    return put_char(t, c);
}

/* Blanks and #comments of (?x). */
static bool skip_extended(Translator *t)
{
    const int c = regex_peek(&t->r, 0);
    if (!t->extended || c < 0 || !strchr(" \t\n\r\f\v#", c)) return false;
    do {
        t->r.at++;
    } while (c == '#' && regex_peek(&t->r, 0) >= 0 && regex_peek(&t->r, 0) != '\n');
    return true;
}

static bool atom(Translator *t)
{
    const int c = regex_peek(&t->r, 0);
    switch (c) {
    case '(': return group(t);
    case '[': return pattern_class(t->out, &t->r, 0, t->err);
    case '\\': return escape(t);
    case '.':
    case '^':
    case '$': return copy(t, 1);
    case '*':
    case '+':
    case '?': return FAIL(t->err, ERR_MODEL, "a regular expression has a quantifier with nothing before it");
    default: return plain_char(t);
    }
}

/* Up to the end or to the ')' of the enclosing group, which stays unread. */
static bool alternatives(Translator *t)
{
    for (;;) {
        const int c = regex_peek(&t->r, 0);
        if (c < 0 || c == ')') return true;
        if (c == '|') {
            if (!copy(t, 1)) return false;
            continue;
        }
        if (skip_extended(t)) continue;
        const size_t from = t->out->length;
        if (!atom(t)) return false;
        while (skip_extended(t)) {}
        if (!quantifiers(t, from)) return false;
    }
}

bool pattern_translate(Text *out, const char *regex, size_t length, Err *err)
{
    Translator t = {
        .r = {.source = regex, .length = length},
          .out = out, .err = err
    };
    if (!alternatives(&t)) return false;
    if (t.r.at < length) return FAIL(err, ERR_MODEL, "a regular expression has an unmatched ')'");
    return true;
}
