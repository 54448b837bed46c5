#include "data/chat_format.h"

#include "base/mem.h"

#include <string.h>

/*
 * Canonical form: literal text stands as it is; \x02 statement \x03; \x04 expression \x05. Inside of tags tokens are
 * joined without blanks unless two words meet, strings stand in single quotes with their escapes resolved, x['y'] is
 * x.y, and an output that is a sum of strings is cut into its operands.
 */

typedef enum TokenKind { TOKEN_WORD, TOKEN_STRING, TOKEN_SIGN } TokenKind;

typedef struct JinjaToken {
    TokenKind kind;
    size_t start, length; /* in Lexer.words */
} JinjaToken;

typedef struct Lexer {
    Text words; /* bytes of all tokens of one tag */
    JinjaToken *tokens;
    size_t count, capacity;
} Lexer;

static void lexer_free(Lexer *x)
{
    text_free(&x->words);
    mem_free(x->tokens);
}

static bool is_word(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v';
}

static bool lexer_push(Lexer *x, TokenKind kind, const char *bytes, size_t length, Err *err)
{
    if (!mem_grow(&x->tokens, &x->capacity, x->count + 1, sizeof *x->tokens, err)) return false;
    x->tokens[x->count++] = (JinjaToken){kind, x->words.length, length};
    return text_add(&x->words, bytes, length, err);
}

/* A quoted string at s[0]; the escapes that templates use are resolved, any other keeps its backslash. */
static bool lexer_string(Lexer *x, const char *s, size_t length, size_t *used, Err *err)
{
    const char quote = s[0];
    if (!lexer_push(x, TOKEN_STRING, "", 0, err)) return false;
    const size_t start = x->words.length;
    size_t i = 1;
    while (i < length && s[i] != quote) {
        char c = s[i++];
        if (c == '\\' && i < length) {
            const char next = s[i++];
            if (next == 'n') {
                c = '\n';
            } else if (next == 't') {
                c = '\t';
            } else if (next == '\\' || next == '\'' || next == '"') {
                c = next;
            } else {
                if (!text_add(&x->words, "\\", 1, err)) return false;
                c = next;
            }
        }
        if (!text_add(&x->words, &c, 1, err)) return false;
    }
    if (i >= length) return FAIL(err, ERR_MODEL, "the chat template has a string without an end");
    x->tokens[x->count - 1].length = x->words.length - start;
    *used = i + 1;
    return true;
}

static bool lexer_run(Lexer *x, const char *s, size_t length, Err *err)
{
    x->count = 0;
    text_clear(&x->words);
    size_t i = 0;
    while (i < length) {
        if (is_blank(s[i])) {
            i++;
        } else if (s[i] == '\'' || s[i] == '"') {
            size_t used = 0;
            if (!lexer_string(x, s + i, length - i, &used, err)) return false;
            i += used;
        } else if (is_word(s[i])) {
            size_t n = 1;
            while (i + n < length && is_word(s[i + n]))
                n++;
            if (!lexer_push(x, TOKEN_WORD, s + i, n, err)) return false;
            i += n;
        } else {
            const bool pair = i + 1 < length && s[i + 1] == '=' && strchr("=!<>", s[i]);
            if (!lexer_push(x, TOKEN_SIGN, s + i, pair ? 2 : 1, err)) return false;
            i += pair ? 2 : 1;
        }
    }
    return true;
}

static bool token_is(const Lexer *x, size_t i, const char *text)
{
    const JinjaToken *t = &x->tokens[i];
    return t->kind != TOKEN_STRING && t->length == strlen(text) && !memcmp(x->words.bytes + t->start, text, t->length);
}

static bool is_name(const char *s, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if (!is_word(s[i])) return false;
    return length > 0 && !(s[0] >= '0' && s[0] <= '9');
}

/* Tokens first..last-1 in canonical spelling. */
static bool write_tokens(const Lexer *x, Text *out, size_t first, size_t last, Err *err)
{
    for (size_t i = first; i < last; i++) {
        const JinjaToken *t = &x->tokens[i];
        const char *bytes = x->words.bytes + t->start;
        const bool subscript = i > first && i + 2 < last && token_is(x, i, "[") && token_is(x, i + 2, "]") &&
                               x->tokens[i + 1].kind == TOKEN_STRING;
        if (subscript && is_name(x->words.bytes + x->tokens[i + 1].start, x->tokens[i + 1].length)) {
            if (!text_add(out, ".", 1, err)) return false;
            if (!text_add(out, x->words.bytes + x->tokens[i + 1].start, x->tokens[i + 1].length, err)) return false;
            i += 2;
            continue;
        }
        const bool meet = i > first && t->kind != TOKEN_SIGN && x->tokens[i - 1].kind != TOKEN_SIGN;
        const bool after = i > first && t->kind != TOKEN_SIGN && token_is(x, i - 1, "]");
        if ((meet || after) && !text_add(out, " ", 1, err)) return false;
        const char *quote = t->kind == TOKEN_STRING ? "'" : "";
        if (!text_add_z(out, quote, err) || !text_add(out, bytes, t->length, err) || !text_add_z(out, quote, err)) {
            return false;
        }
    }
    return true;
}

static int depth_change(const Lexer *x, size_t i)
{
    if (token_is(x, i, "(") || token_is(x, i, "[") || token_is(x, i, "{")) return 1;
    if (token_is(x, i, ")") || token_is(x, i, "]") || token_is(x, i, "}")) return -1;
    return 0;
}

/* Whether all operators outside of brackets are `+`, `.` and `|`: then `{{ a + b }}` is `{{ a }}{{ b }}`. */
static bool is_plain_sum(const Lexer *x)
{
    int depth = 0;
    for (size_t i = 0; i < x->count; i++) {
        depth += depth_change(x, i);
        if (depth > 0 || x->tokens[i].kind == TOKEN_STRING) continue;
        if (x->tokens[i].kind == TOKEN_SIGN) {
            if (!depth_change(x, i) && !token_is(x, i, "+") && !token_is(x, i, ".") && !token_is(x, i, "|")) {
                return false;
            }
            continue;
        }
        static const char *const words[] = {"if", "else", "and", "or", "not", "in", "is"};
        for (size_t k = 0; k < sizeof words / sizeof words[0]; k++)
            if (token_is(x, i, words[k])) return false;
    }
    return true;
}

static bool write_operand(const Lexer *x, Text *out, size_t first, size_t last, Err *err)
{
    if (last == first + 1 && x->tokens[first].kind == TOKEN_STRING) {
        return text_add(out, x->words.bytes + x->tokens[first].start, x->tokens[first].length, err);
    }
    return text_add(out, "\x04", 1, err) && write_tokens(x, out, first, last, err) && text_add(out, "\x05", 1, err);
}

static bool write_output(const Lexer *x, Text *out, Err *err)
{
    if (!is_plain_sum(x)) return write_operand(x, out, 0, x->count, err);
    size_t first = 0;
    int depth = 0;
    for (size_t i = 0; i < x->count; i++) {
        depth += depth_change(x, i);
        if (depth > 0 || !token_is(x, i, "+")) continue;
        if (i > first && !write_operand(x, out, first, i, err)) return false;
        first = i + 1;
    }
    return first == x->count || write_operand(x, out, first, x->count, err);
}

/* `if (a == b)` loses brackets that enclose its whole condition. */
static bool encloses_all(const Lexer *x)
{
    if (x->count < 4 || !token_is(x, 1, "(") || !token_is(x, x->count - 1, ")")) return false;
    int depth = 0;
    for (size_t i = 1; i < x->count; i++) {
        depth += depth_change(x, i);
        if (depth == 0) return i == x->count - 1;
    }
    return false;
}

static bool write_statement(Lexer *x, Text *out, Err *err)
{
    if (x->count == 0) return true;
    /* Marks assistant text for Hugging Face's masks and prints nothing. */
    if (token_is(x, 0, "generation") || token_is(x, 0, "endgeneration")) return true;
    const bool condition = token_is(x, 0, "if") || token_is(x, 0, "elif");
    if (!text_add(out, "\x02", 1, err)) return false;
    if (condition && encloses_all(x)) {
        if (!write_tokens(x, out, 0, 1, err) || !text_add(out, " ", 1, err)) return false;
        if (!write_tokens(x, out, 2, x->count - 1, err)) return false;
    } else if (!write_tokens(x, out, 0, x->count, err)) {
        return false;
    }
    return text_add(out, "\x03", 1, err);
}

typedef struct Tag {
    size_t start, body, body_end, end; /* the whole tag [start, end), what it holds [body, body_end) */
    char kind;                         /* '{', '%' or '#' */
    char before, after;                /* '-', '+' or 0 */
} Tag;

static bool find_tag(Tag *tag, const char *s, size_t length, size_t from, bool *found, Err *err)
{
    *found = false;
    size_t i = from;
    while (i + 1 < length && !(s[i] == '{' && strchr("{%#", s[i + 1]) && s[i + 1]))
        i++;
    if (i + 1 >= length) return true;
    *tag = (Tag){.start = i, .kind = s[i + 1], .body = i + 2};
    if (tag->body < length && (s[tag->body] == '-' || s[tag->body] == '+')) tag->before = s[tag->body++];
    const char close = tag->kind == '{' ? '}' : tag->kind;
    char quote = 0;
    for (i = tag->body; i + 1 < length; i++) {
        if (quote) {
            if (s[i] == '\\')
                i++;
            else if (s[i] == quote)
                quote = 0;
        } else if (tag->kind != '#' && (s[i] == '\'' || s[i] == '"')) {
            quote = s[i];
        } else if (s[i] == close && s[i + 1] == '}') {
            tag->body_end = i;
            if (i > tag->body && (s[i - 1] == '-' || s[i - 1] == '+')) {
                tag->after = s[i - 1];
                tag->body_end--;
            }
            tag->end = i + 2;
            *found = true;
            return true;
        }
    }
    return FAIL(err, ERR_MODEL, "the chat template has a tag without an end");
}

/* Text between two tags, with Jinja's trim_blocks and lstrip_blocks as Hugging Face sets them. */
static bool write_literal(Text *out, const char *s, size_t from, size_t to, const Tag *previous, const Tag *next,
                          Err *err)
{
    if (previous && previous->after == '-') {
        while (from < to && is_blank(s[from]))
            from++;
    } else if (previous && previous->kind != '{' && previous->after != '+' && from < to && s[from] == '\n') {
        from++;
    }
    if (next && next->before == '-') {
        while (to > from && is_blank(s[to - 1]))
            to--;
    } else if (next && next->kind != '{' && next->before != '+') {
        size_t at = to;
        while (at > from && (s[at - 1] == ' ' || s[at - 1] == '\t'))
            at--;
        if (at == 0 || s[at - 1] == '\n') to = at;
    }
    return text_add(out, s + from, to - from, err);
}

bool chat_format_canonical(Text *out, const char *jinja, size_t length, Err *err)
{
    Lexer x = {0};
    Tag previous = {0};
    bool any = false;
    size_t at = 0;
    if (length > 0 && jinja[length - 1] == '\n') length--; /* keep_trailing_newline is off */
    for (;;) {
        Tag tag = {0};
        bool found = false;
        TRY(find_tag(&tag, jinja, length, at, &found, err));
        const size_t end = found ? tag.start : length;
        TRY(write_literal(out, jinja, at, end, any ? &previous : NULL, found ? &tag : NULL, err));
        if (!found) break;
        if (tag.kind != '#') {
            TRY(lexer_run(&x, jinja + tag.body, tag.body_end - tag.body, err));
            TRY(tag.kind == '{' ? write_output(&x, out, err) : write_statement(&x, out, err));
        }
        previous = tag;
        any = true;
        at = tag.end;
    }
    lexer_free(&x);
    return true;
fail:
    lexer_free(&x);
    return false;
}
