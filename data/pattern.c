#include "data/pattern.h"

#include "base/mem.h"
#include "data/pattern_syntax.h"
#include "data/pieces.h"

#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

typedef enum PatternKind { PATTERN_TEXT, PATTERN_REGEX, PATTERN_CLASS } PatternKind;

struct Pattern {
    PatternKind kind;
    Text text; /* what to look for; of a regex: its source, for messages */
    pcre2_code *code;
    bool jit;
    CharTest *test;
};

struct PatternScratch {
    pcre2_match_data *match;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

enum {
    REGEX_LONGEST = 64 * 1024,
    JIT_STACK_FIRST = 64 * 1024,
    JIT_STACK_MOST = 256 * 1024 * 1024, /* address space; pages are touched only by expressions that recurse per char */
    STEPS_LEAST = 20 * 1000 * 1000,     /* enough for every published expression */
    STEPS_A_BYTE = 200,
};

/* PCRE2 takes its memory from mem.h too, so that its failures are tested like ours. */
static void *regex_alloc(PCRE2_SIZE size, void *unused)
{
    (void)unused;
    Err err = {0};
    return mem_alloc(size, 1, &err);
}

static void regex_free(void *block, void *unused)
{
    (void)unused;
    mem_free(block);
}

static bool pattern_create(Pattern **out, PatternKind kind, const char *text, size_t length, Err *err)
{
    Pattern *p = mem_alloc(1, sizeof *p, err);
    if (!p) return false;
    p->kind = kind;
    if (!text_add(&p->text, text, length, err)) {
        pattern_destroy(p);
        return false;
    }
    *out = p;
    return true;
}

void pattern_destroy(Pattern *p)
{
    if (!p) return;
    pcre2_code_free(p->code);
    text_free(&p->text);
    mem_free(p);
}

bool pattern_from_text(Pattern **out, const char *text, size_t length, Err *err)
{
    return pattern_create(out, PATTERN_TEXT, text, length, err);
}

bool pattern_from_class(Pattern **out, CharTest *test, Err *err)
{
    if (!pattern_create(out, PATTERN_CLASS, "", 0, err)) return false;
    (*out)->test = test;
    return true;
}

static bool compile_failed(const Pattern *p, int code, Err *err)
{
    char what[200] = "";
    char source[200];
    pcre2_get_error_message(code, (PCRE2_UCHAR *)what, sizeof what);
    text_printable(source, sizeof source, p->text.bytes, p->text.length);
    return FAIL(err, code == PCRE2_ERROR_HEAP_FAILED ? ERR_MEMORY : ERR_MODEL,
                "the regular expression \"%s\" cannot be used: %s", source, what);
}

static bool compile(Pattern *p, const Text *translated, Err *err)
{
    pcre2_general_context *general = pcre2_general_context_create(regex_alloc, regex_free, NULL);
    pcre2_compile_context *context = general ? pcre2_compile_context_create(general) : NULL;
    bool done = false;
    if (!context) {
        (void)FAIL(err, ERR_MEMORY, "out of host memory while compiling a regular expression");
    } else {
        int code = 0;
        PCRE2_SIZE at = 0;
        pcre2_set_newline(context, PCRE2_NEWLINE_LF); /* Oniguruma's "." and "$" know only this one */
        pcre2_set_bsr(context, PCRE2_BSR_UNICODE);
        p->code = pcre2_compile((PCRE2_SPTR)translated->bytes, translated->length,
                                PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &code, &at, context);
        done = p->code || compile_failed(p, code, err);
        /* Without machine code the interpreter does the same, slower. */
        if (p->code) p->jit = pcre2_jit_compile(p->code, PCRE2_JIT_COMPLETE) == 0;
    }
    pcre2_compile_context_free(context);
    pcre2_general_context_free(general);
    return done;
}

bool pattern_from_regex(Pattern **out, const char *regex, size_t length, Err *err)
{
    if (length > REGEX_LONGEST) {
        return FAIL(err, ERR_MODEL, "a regular expression of %zu bytes is longer than %d", length, REGEX_LONGEST);
    }
    Pattern *p = NULL;
    Text translated = {0};
    TRY(pattern_create(&p, PATTERN_REGEX, regex, length, err));
    TRY(text_add(&translated, "", 0, err));
    TRY(pattern_translate(&translated, regex, length, err));
    TRY(compile(p, &translated, err));
    text_free(&translated);
    *out = p;
    return true;
fail:
    text_free(&translated);
    pattern_destroy(p);
    return false;
}

bool pattern_scratch_create(PatternScratch **out, Err *err)
{
    PatternScratch *s = mem_alloc(1, sizeof *s, err);
    if (!s) return false;
    pcre2_general_context *general = pcre2_general_context_create(regex_alloc, regex_free, NULL);
    if (general) {
        s->match = pcre2_match_data_create(1, general);
        s->context = pcre2_match_context_create(general);
        s->stack = pcre2_jit_stack_create(JIT_STACK_FIRST, JIT_STACK_MOST, general);
        pcre2_general_context_free(general);
    }
    if (!s->match || !s->context) {
        pattern_scratch_destroy(s);
        return FAIL(err, ERR_MEMORY, "out of host memory for matching regular expressions");
    }
    if (s->stack) pcre2_jit_stack_assign(s->context, NULL, s->stack);
    *out = s;
    return true;
}

void pattern_scratch_destroy(PatternScratch *s)
{
    if (!s) return;
    pcre2_match_data_free(s->match);
    pcre2_match_context_free(s->context);
    pcre2_jit_stack_free(s->stack);
    mem_free(s);
}

static bool add_span(SpanList *list, size_t begin, size_t end, bool match, Err *err)
{
    if (!mem_grow(&list->items, &list->capacity, list->count + 1, sizeof *list->items, err)) return false;
    list->items[list->count++] = (Span){.begin = (uint32_t)begin, .end = (uint32_t)end, .match = match};
    return true;
}

/* A match and the text before it that no span covers yet. */
static bool add_match(SpanList *list, size_t *covered, size_t begin, size_t end, Err *err)
{
    if (*covered < begin && !add_span(list, *covered, begin, false, err)) return false;
    *covered = end;
    return add_span(list, begin, end, true, err);
}

static bool find_text(const Pattern *p, SpanList *out, size_t *covered, const char *text, size_t length, Err *err)
{
    if (p->text.length == 0) return true; /* the empty text matches nowhere, as in Hugging Face */
    const char *const end = text + length;
    const char *at = text;
    while ((at = memmem(at, (size_t)(end - at), p->text.bytes, p->text.length)) != NULL) {
        const size_t begin = (size_t)(at - text);
        if (!add_match(out, covered, begin, begin + p->text.length, err)) return false;
        at += p->text.length;
    }
    return true;
}

static bool find_class(const Pattern *p, SpanList *out, size_t *covered, const char *text, size_t length, Err *err)
{
    for (size_t i = 0; i < length;) {
        uint32_t c;
        const size_t n = piece_char(text + i, &c);
        if (p->test(c) && !add_match(out, covered, i, i + n, err)) return false;
        i += n;
    }
    return true;
}

static bool match_failed(const Pattern *p, int code, Err *err)
{
    char source[200];
    char what[120] = "";
    text_printable(source, sizeof source, p->text.bytes, p->text.length);
    pcre2_get_error_message(code, (PCRE2_UCHAR *)what, sizeof what);
    return FAIL(err, code == PCRE2_ERROR_NOMEMORY ? ERR_MEMORY : ERR_DATA,
                "the tokenizer's expression \"%s\" gave up on a text: %s", source, what);
}

/* First match at or after `from`: 1 found, 0 none, below 0 an error of PCRE2. */
static int search(const Pattern *p, PatternScratch *s, const char *text, size_t length, size_t from)
{
    int code = PCRE2_ERROR_JIT_STACKLIMIT;
    if (p->jit) {
        code = pcre2_jit_match(p->code, (PCRE2_SPTR)text, length, from, PCRE2_NO_UTF_CHECK, s->match, s->context);
    }
    if (code == PCRE2_ERROR_JIT_STACKLIMIT) { /* the interpreter keeps its stack on the heap */
        code = pcre2_match(p->code, (PCRE2_SPTR)text, length, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, s->match,
                           s->context);
    }
    if (code == PCRE2_ERROR_NOMATCH) return 0;
    return code < 0 ? code : 1;
}

static void set_step_limit(PatternScratch *s, size_t length)
{
    const uint64_t steps = STEPS_LEAST + (uint64_t)STEPS_A_BYTE * length;
    pcre2_set_match_limit(s->context, steps < UINT32_MAX ? (uint32_t)steps : UINT32_MAX);
}

/*
 * All matches, as the reference library walks over them: after a match the search goes on at its end; an empty match
 * right behind the previous match does not count, and the search moves on by one character.
 */
static bool find_regex(const Pattern *p, PatternScratch *s, SpanList *out, size_t *covered, const char *text,
                       size_t length, Err *err)
{
    size_t last_end = SIZE_MAX;
    size_t from = 0;
    set_step_limit(s, length);
    while (from <= length) {
        const int found = search(p, s, text, length, from);
        if (found < 0) return match_failed(p, found, err);
        if (found == 0) break;
        const PCRE2_SIZE *range = pcre2_get_ovector_pointer(s->match);
        const size_t begin = range[0];
        const size_t end = range[1];
        if (begin >= end && end == last_end) {
            uint32_t c;
            from += from < length ? piece_char(text + from, &c) : 1;
            continue;
        }
        if (begin > end) return match_failed(p, PCRE2_ERROR_BADOFFSET, err); /* \K inside a lookahead */
        if (!add_match(out, covered, begin, end, err)) return false;
        from = last_end = end;
    }
    return true;
}

bool pattern_find(const Pattern *p, PatternScratch *scratch, SpanList *out, const char *text, size_t length, Err *err)
{
    size_t covered = 0;
    bool done = true;
    out->count = 0;
    if (length == 0) return true;
    switch (p->kind) {
    case PATTERN_TEXT: done = find_text(p, out, &covered, text, length, err); break;
    case PATTERN_CLASS: done = find_class(p, out, &covered, text, length, err); break;
    case PATTERN_REGEX: done = find_regex(p, scratch, out, &covered, text, length, err); break;
    }
    if (done && covered < length) done = add_span(out, covered, length, false, err);
    return done;
}
