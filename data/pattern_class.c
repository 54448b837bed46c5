#include "data/pattern_syntax.h"

#include "base/check.h"

#include <stdio.h>
#include <string.h>

enum { CLASS_DEPTH = 32 };

/* One operand of an intersection: PCRE2 class items, and expressions for what a PCRE2 class cannot hold. */
typedef struct ClassSet {
    Text items;
    Text others; /* "|expression" each */
} ClassSet;

static void set_free(ClassSet *set)
{
    text_free(&set->items);
    text_free(&set->others);
}

/* An expression that matches one character of the set. */
static bool set_write(Text *out, const ClassSet *set, Err *err)
{
    const bool items = set->items.length > 0;
    if (!set->others.length) return text_format(out, err, "[%s]", set->items.bytes ? set->items.bytes : "");
    if (!text_add_z(out, "(?:", err)) return false;
    if (items && !text_format(out, err, "[%s]", set->items.bytes)) return false;
    /* without items the first '|' would be an empty alternative */
    if (!text_add_z(out, set->others.bytes + (items ? 0 : 1), err)) return false;
    return text_add_z(out, ")", err);
}

/* Items of a set, or of its complement. */
static bool set_add(ClassSet *set, const char *items, bool negated, Err *err)
{
    if (!negated) return text_add_z(&set->items, items, err);
    return text_format(&set->others, err, "|[^%s]", items);
}

static bool posix_set(ClassSet *set, bool *found, RegexReader *r, Err *err)
{
    *found = false;
    const char *const name = r->source + r->at + 2;
    const char *const close = memmem(name, r->length - r->at - 2, ":]", 2);
    if (!close || close - name > 20) return true;
    const bool caret = name[0] == '^';
    for (const char *c = name + caret; c < close; c++) {
        if (*c < 'a' || *c > 'z') return true; /* not a POSIX class: an ordinary nested one */
    }
    /* the names of properties, two of which mean something else here */
    const int length = (int)(close - name) - caret;
    char full[32];
    const bool differs = strncmp(name + caret, "punct", 5) == 0 || strncmp(name + caret, "word", 4) == 0;
    const int n = snprintf(full, sizeof full, "%s%.*s", differs ? "posix" : "", length, name + caret);
    Text items = {0};
    bool negated = caret;
    *found = true;
    const bool done =
        pattern_property(&items, &negated, full, (size_t)n, err) && set_add(set, items.bytes, negated, err);
    text_free(&items);
    r->at = (size_t)(close - r->source) + 2;
    return done;
}

static bool nested_set(ClassSet *set, RegexReader *r, int depth, Err *err)
{
    bool found;
    if (regex_peek(r, 1) == ':') {
        if (!posix_set(set, &found, r, err)) return false;
        if (found) return true;
    }
    Text inner = {0};
    bool done = pattern_class(&inner, r, depth + 1, err);
    done = done && text_format(&set->others, err, "|%s", inner.bytes);
    text_free(&inner);
    return done;
}

static bool class_char(uint32_t *c, RegexReader *r, Err *err)
{
    if (regex_peek(r, 0) == '\\') {
        bool found;
        return pattern_escape_char(c, &found, r, err);
    }
    const size_t n = utf8_decode(r->source + r->at, r->length - r->at, c);
    if (n == 0) return FAIL(err, ERR_MODEL, "a regular expression has a class that is not closed");
    r->at += n;
    return true;
}

/* Whether "-x" follows with an x that can end a range. */
static bool range_follows(const RegexReader *r)
{
    if (regex_peek(r, 0) != '-') return false;
    const int end = regex_peek(r, 1);
    if (end < 0 || end == ']' || end == '[') return false;
    if (end == '&' && regex_peek(r, 2) == '&') return false;
    if (end != '\\') return true;
    const int kind = regex_peek(r, 2);
    return kind < 0 || !strchr("dDsSwWhHpP", kind);
}

static bool char_or_range(ClassSet *set, RegexReader *r, Err *err)
{
    uint32_t low;
    uint32_t high;
    if (!class_char(&low, r, err)) return false;
    if (!range_follows(r)) return text_format(&set->items, err, "\\x{%x}", (unsigned)low);
    r->at++;
    if (!class_char(&high, r, err)) return false;
    if (low > high) return FAIL(err, ERR_MODEL, "a regular expression has a range that ends before it begins");
    return text_format(&set->items, err, "\\x{%x}-\\x{%x}", (unsigned)low, (unsigned)high);
}

/* In a class \w is the POSIX class, without the few numbers that Oniguruma adds outside of one. */
static bool class_escape(Text *items, bool *negated, bool *found, RegexReader *r, Err *err)
{
    const int kind = regex_peek(r, 1);
    *found = kind == 'w' || kind == 'W';
    if (!*found) return pattern_escape_set(items, negated, found, r, err);
    *negated = kind == 'W';
    r->at += 2;
    return pattern_property(items, negated, "posixword", 9, err);
}

static bool class_item(ClassSet *set, RegexReader *r, int depth, Err *err)
{
    const int c = regex_peek(r, 0);
    if (c == '[') return nested_set(set, r, depth, err);
    if (c == '\\') {
        Text items = {0};
        bool negated = false;
        bool found = false;
        bool done = class_escape(&items, &negated, &found, r, err);
        if (done && found) done = set_add(set, items.bytes, negated, err);
        text_free(&items);
        if (!done || found) return done;
    }
    return char_or_range(set, r, err);
}

/* Items up to ']' or '&&'. */
static bool class_operand(ClassSet *set, RegexReader *r, bool first, int depth, Err *err)
{
    /* A ']' that comes first is a character, if another one closes the class. */
    if (first && regex_peek(r, 0) == ']' && memchr(r->source + r->at + 1, ']', r->length - r->at - 1)) {
        if (!text_add_z(&set->items, "\\x{5d}", err)) return false;
        r->at++;
    }
    for (;;) {
        const int c = regex_peek(r, 0);
        if (c < 0) return FAIL(err, ERR_MODEL, "a regular expression has a class that is not closed");
        if (c == ']' || (c == '&' && regex_peek(r, 1) == '&')) break;
        if (!class_item(set, r, depth, err)) return false;
    }
    if (set->items.length || set->others.length) return true;
    return FAIL(err, ERR_MODEL, "a regular expression has an empty class");
}

/* All operands but the last are tested without moving, the last one takes the character. */
static bool class_operands(Text *out, RegexReader *r, bool *simple, int depth, Err *err)
{
    bool done = false;
    *simple = true;
    for (bool first = true;; first = false) {
        ClassSet set = {0};
        done = class_operand(&set, r, first, depth, err);
        const bool last = done && regex_peek(r, 0) == ']';
        if (!last || set.others.length) *simple = false;
        if (done && !last) done = text_add_z(out, "(?=", err);
        done = done && set_write(out, &set, err);
        if (done && !last) done = text_add_z(out, ")", err);
        set_free(&set);
        if (!done || last) break;
        r->at += 2;
    }
    r->at++;
    return done;
}

bool pattern_class(Text *out, RegexReader *r, int depth, Err *err)
{
    if (depth > CLASS_DEPTH) return FAIL(err, ERR_MODEL, "a regular expression nests classes too deeply");
    r->at++;
    const bool negated = regex_peek(r, 0) == '^';
    if (negated) r->at++;
    Text body = {0};
    bool simple = false;
    bool done = class_operands(&body, r, &simple, depth, err);
    if (done && !negated) {
        done = simple ? text_add_z(out, body.bytes, err) : text_format(out, err, "(?:%s)", body.bytes);
    } else if (done && simple) {
        done = text_format(out, err, "[^%s", body.bytes + 1); /* body is "[items]" */
    } else if (done) {
        done = text_format(out, err, "(?:(?!%s)(?s:.))", body.bytes);
    }
    text_free(&body);
    return done;
}
