#include "data/pretokenize.h"

#include "base/check.h"
#include "base/mem.h"
#include "data/charclass.h"
#include "data/normalize.h"

#include <string.h>

/* GPT-2's expression, in ByteLevel with use_regex. */
static const char gpt2_regex[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

typedef enum Behavior { ISOLATED, REMOVED, MERGED_WITH_PREVIOUS, MERGED_WITH_NEXT, CONTIGUOUS } Behavior;

enum { STEPS_MOST = 256 };

typedef enum StepKind {
    STEP_SPLIT,
    STEP_SPACE_FIRST, /* a space in front of pieces that do not start with one */
    STEP_BYTES,
    STEP_METASPACE,
    STEP_FIXED
} StepKind;

typedef enum Prepend { PREPEND_ALWAYS, PREPEND_FIRST, PREPEND_NEVER } Prepend;

typedef struct Step {
    StepKind kind;
    Pattern *pattern;
    Behavior behavior;
    bool invert;
    Text replacement; /* Metaspace: stands for a space */
    Prepend prepend;
    size_t size; /* FixedLength: characters a piece */
} Step;

struct Pretokenizer {
    Step *steps;
    size_t count, capacity;
};

void pretokenizer_destroy(Pretokenizer *p)
{
    if (!p) return;
    for (size_t i = 0; i < p->count; i++) {
        pattern_destroy(p->steps[i].pattern);
        text_free(&p->steps[i].replacement);
    }
    mem_free(p->steps);
    mem_free(p);
}

/* Reading the description */

static Step *add_step(Pretokenizer *p, StepKind kind, Err *err)
{
    if (p->count >= STEPS_MOST) {
        (void)FAIL(err, ERR_MODEL, "the tokenizer has more than %d pre-tokenizers", STEPS_MOST);
        return NULL;
    }
    if (!mem_grow(&p->steps, &p->capacity, p->count + 1, sizeof *p->steps, err)) return NULL;
    p->steps[p->count] = (Step){.kind = kind};
    return &p->steps[p->count++];
}

static Step *add_split(Pretokenizer *p, Behavior behavior, bool invert, Err *err)
{
    Step *step = add_step(p, STEP_SPLIT, err);
    if (!step) return NULL;
    step->behavior = behavior;
    step->invert = invert;
    return step;
}

static bool add_class_split(Pretokenizer *p, CharTest *test, Behavior behavior, Err *err)
{
    Step *step = add_split(p, behavior, false, err);
    return step && pattern_from_class(&step->pattern, test, err);
}

static bool add_text_split(Pretokenizer *p, const char *text, size_t length, Behavior behavior, Err *err)
{
    Step *step = add_split(p, behavior, false, err);
    return step && pattern_from_text(&step->pattern, text, length, err);
}

static bool add_regex_split(Pretokenizer *p, const char *regex, Behavior behavior, bool invert, Err *err)
{
    Step *step = add_split(p, behavior, invert, err);
    return step && pattern_from_regex(&step->pattern, regex, strlen(regex), err);
}

static bool read_behavior(Behavior *out, const json_t *json, Err *err)
{
    /* as Split spells them, and as they are saved */
    static const char *const names[][2] = {
        {"Isolated",           "isolated"            },
        {"Removed",            "removed"             },
        {"MergedWithPrevious", "merged_with_previous"},
        {"MergedWithNext",     "merged_with_next"    },
        {"Contiguous",         "contiguous"          },
    };
    const char *name = json_string_value(json_object_get(json, "behavior"));
    for (size_t i = 0; name && i < ARRAY_COUNT(names); i++) {
        if (strcmp(name, names[i][0]) != 0 && strcmp(name, names[i][1]) != 0) continue;
        *out = (Behavior)i;
        return true;
    }
    return refuse_named("a pre-tokenizer's behavior", name, "is not known", err);
}

static bool add_split_json(Pretokenizer *p, const json_t *json, Err *err)
{
    Behavior behavior;
    bool invert = false;
    if (!read_behavior(&behavior, json, err)) return false;
    if (!json_get_bool(&invert, json, "invert", "a Split pre-tokenizer", err)) return false;
    Step *step = add_split(p, behavior, invert, err);
    return step && pattern_from_json(&step->pattern, json_object_get(json, "pattern"), "a Split pre-tokenizer", err);
}

static bool add_byte_level(Pretokenizer *p, const json_t *json, Err *err)
{
    bool space_first = true;
    bool use_regex = true;
    if (!json_get_bool(&space_first, json, "add_prefix_space", "a ByteLevel pre-tokenizer", err)) return false;
    if (!json_get_bool(&use_regex, json, "use_regex", "a ByteLevel pre-tokenizer", err)) return false;
    if (space_first && !add_step(p, STEP_SPACE_FIRST, err)) return false;
    if (use_regex && !add_regex_split(p, gpt2_regex, ISOLATED, false, err)) return false;
    return add_step(p, STEP_BYTES, err) != NULL;
}

static bool add_digits(Pretokenizer *p, const json_t *json, Err *err)
{
    bool individual = false;
    if (!json_get_bool(&individual, json, "individual_digits", "a Digits pre-tokenizer", err)) return false;
    return add_class_split(p, char_is_numeric, individual ? ISOLATED : CONTIGUOUS, err);
}

static bool add_punctuation(Pretokenizer *p, const json_t *json, Err *err)
{
    Behavior behavior = ISOLATED;
    if (json_object_get(json, "behavior") && !read_behavior(&behavior, json, err)) return false;
    return add_class_split(p, char_is_punctuation, behavior, err);
}

/* A text of exactly one character. */
static bool read_char(const char **text, size_t *length, const json_t *json, const char *key, Err *err)
{
    const json_t *value = json_object_get(json, key);
    uint32_t c;
    *text = json_string_value(value);
    *length = json_string_length(value);
    if (*text && *length && utf8_decode(*text, *length, &c) == *length) return true;
    return FAIL(err, ERR_MODEL, "a pre-tokenizer's \"%s\" is not one character", key);
}

static bool read_prepend(Prepend *out, const json_t *json, Err *err)
{
    static const char *const names[] = {"always", "first", "never"};
    const json_t *scheme = json_object_get(json, "prepend_scheme");
    *out = PREPEND_ALWAYS;
    if (json_is_false(json_object_get(json, "add_prefix_space"))) *out = PREPEND_NEVER; /* the older key */
    if (!scheme || json_is_null(scheme)) return true;
    const char *name = json_string_value(scheme);
    for (size_t i = 0; name && i < ARRAY_COUNT(names); i++) {
        if (strcmp(name, names[i]) != 0) continue;
        *out = (Prepend)i;
        return true;
    }
    return refuse_named("a Metaspace pre-tokenizer's prepend_scheme", name, "is not known", err);
}

static bool add_metaspace(Pretokenizer *p, const json_t *json, Err *err)
{
    const char *text;
    size_t length;
    bool split = true;
    Prepend prepend;
    if (!read_char(&text, &length, json, "replacement", err) || !read_prepend(&prepend, json, err)) return false;
    if (!json_get_bool(&split, json, "split", "a Metaspace pre-tokenizer", err)) return false;
    Step *step = add_step(p, STEP_METASPACE, err);
    if (!step || !text_add(&step->replacement, text, length, err)) return false;
    step->prepend = prepend;
    return !split || add_text_split(p, text, length, MERGED_WITH_NEXT, err);
}

static bool add_delimiter(Pretokenizer *p, const json_t *json, Err *err)
{
    const char *text;
    size_t length;
    return read_char(&text, &length, json, "delimiter", err) && add_text_split(p, text, length, REMOVED, err);
}

static bool add_fixed(Pretokenizer *p, const json_t *json, Err *err)
{
    int64_t size = 5;
    if (!json_get_int(&size, json, "length", 1, INT32_MAX, "a FixedLength pre-tokenizer", err)) return false;
    Step *step = add_step(p, STEP_FIXED, err);
    if (step) step->size = (size_t)size;
    return step != NULL;
}

static bool is_not_word_nor_space(uint32_t c)
{
    return !char_is_word(c) && !char_is_space(c);
}

/* Matches of \w+|[^\w\s]+, everything else removed. */
static bool add_whitespace(Pretokenizer *p, Err *err)
{
    return add_class_split(p, char_is_space, REMOVED, err) &&
           add_class_split(p, is_not_word_nor_space, CONTIGUOUS, err);
}

static bool add_pretokenizer(Pretokenizer *p, const json_t *json, Err *err);

static bool add_sequence(Pretokenizer *p, const json_t *json, Err *err)
{
    const json_t *list = json_object_get(json, "pretokenizers");
    if (!json_is_array(list)) return FAIL(err, ERR_MODEL, "a pre-tokenizer Sequence has no list \"pretokenizers\"");
    for (size_t i = 0; i < json_array_size(list); i++) {
        if (!add_pretokenizer(p, json_array_get(list, i), err)) return false;
    }
    return true;
}

static bool add_pretokenizer(Pretokenizer *p, const json_t *json, Err *err)
{
    const char *type = json_string_value(json_object_get(json, "type"));
    if (!type) return FAIL(err, ERR_MODEL, "a pre-tokenizer has no \"type\"");
    if (strcmp(type, "Sequence") == 0) return add_sequence(p, json, err);
    if (strcmp(type, "Split") == 0) return add_split_json(p, json, err);
    if (strcmp(type, "ByteLevel") == 0) return add_byte_level(p, json, err);
    if (strcmp(type, "Digits") == 0) return add_digits(p, json, err);
    if (strcmp(type, "Punctuation") == 0) return add_punctuation(p, json, err);
    if (strcmp(type, "Whitespace") == 0) return add_whitespace(p, err);
    if (strcmp(type, "WhitespaceSplit") == 0) return add_class_split(p, char_is_space, REMOVED, err);
    if (strcmp(type, "Metaspace") == 0) return add_metaspace(p, json, err);
    if (strcmp(type, "CharDelimiterSplit") == 0) return add_delimiter(p, json, err);
    if (strcmp(type, "FixedLength") == 0) return add_fixed(p, json, err);
    if (strcmp(type, "BertPreTokenizer") == 0) {
        return add_class_split(p, char_is_space, REMOVED, err) &&
               add_class_split(p, char_is_punctuation, ISOLATED, err);
    }
    return refuse_named("the pre-tokenizer", type, "is not supported", err);
}

bool pretokenizer_create(Pretokenizer **out, const json_t *json, Err *err)
{
    *out = NULL;
    if (!json || json_is_null(json)) return true;
    Pretokenizer *p = mem_alloc(1, sizeof *p, err);
    if (!p) return false;
    if (!add_pretokenizer(p, json, err)) {
        pretokenizer_destroy(p);
        return false;
    }
    *out = p;
    return true;
}

/* Applying it */

/*
 * Whether span i starts a new piece, given whether it and its neighbours are matches. A match merges with the previous
 * (next) span only when that is no match itself.
 */
static bool starts_piece(Behavior behavior, const Span *spans, size_t i, bool invert)
{
    if (i == 0) return true;
    const bool match = spans[i].match != invert;
    const bool before = spans[i - 1].match != invert;
    switch (behavior) {
    case CONTIGUOUS: return match != before;
    case MERGED_WITH_PREVIOUS: return !match || before;
    case MERGED_WITH_NEXT: return match || !before;
    case ISOLATED:
    case REMOVED: return true;
    }
    CHECK(false);
    return true;
}

static bool split_piece(const Step *step, PieceList *out, const SpanList *spans, size_t base, Err *err)
{
    for (size_t i = 0; i < spans->count;) {
        size_t end = i + 1;
        while (end < spans->count && !starts_piece(step->behavior, spans->items, end, step->invert))
            end++;
        const bool removed = step->behavior == REMOVED && spans->items[i].match != step->invert;
        if (!removed &&
            !pieces_add(out, base + spans->items[i].begin, base + spans->items[end - 1].end, PIECE_TEXT, err)) {
            return false;
        }
        i = end;
    }
    return true;
}

static bool cut_fixed(const Step *step, PieceList *out, const char *bytes, Piece piece, Err *err)
{
    size_t begin = piece.begin;
    while (begin < piece.end) {
        size_t end = begin;
        uint32_t c;
        for (size_t n = 0; n < step->size && end < piece.end; n++)
            end += piece_char(bytes + end, &c);
        if (!pieces_add(out, begin, end, PIECE_TEXT, err)) return false;
        begin = end;
    }
    return true;
}

/* Text in front of a piece counts as part of its first character. */
static bool put_first(PieceText *to, const PieceText *in, Piece piece, const char *text, size_t length, Err *err)
{
    uint32_t c;
    const size_t first = piece_char(in->bytes + piece.begin, &c);
    return piece_text_add(to, text, length, in->starts[piece.begin], in->ends[piece.begin + first - 1], err);
}

static bool starts_with(const PieceText *in, Piece piece, const char *text, size_t length)
{
    return piece.end - piece.begin >= length && memcmp(in->bytes + piece.begin, text, length) == 0;
}

static bool write_metaspace(const Step *step, PieceText *to, const PieceText *in, Piece piece, Err *err)
{
    const Text *r = &step->replacement;
    const bool wanted =
        step->prepend == PREPEND_ALWAYS || (step->prepend == PREPEND_FIRST && in->starts[piece.begin] == 0);
    const bool has = in->bytes[piece.begin] == ' ' || starts_with(in, piece, r->bytes, r->length);
    if (wanted && !has && !put_first(to, in, piece, r->bytes, r->length, err)) return false;
    for (size_t i = piece.begin; i < piece.end;) {
        size_t end = i;
        while (end < piece.end && in->bytes[end] != ' ')
            end++;
        if (!piece_text_copy(to, in, i, end, err)) return false;
        if (end < piece.end && !piece_text_add(to, r->bytes, r->length, in->starts[end], in->ends[end], err))
            return false;
        i = end + 1;
    }
    return true;
}

static bool write_bytes(PieceText *to, const PieceText *in, Piece piece, Err *err)
{
    for (size_t i = piece.begin; i < piece.end; i++) {
        const uint32_t c = byte_char((unsigned char)in->bytes[i]);
        if (!piece_text_add_char(to, c, in->starts[i], in->ends[i], err)) return false;
    }
    return true;
}

static bool write_piece(const Step *step, PieceText *to, const PieceText *in, Piece piece, Err *err)
{
    if (piece.token != PIECE_TEXT) return piece_text_copy(to, in, piece.begin, piece.end, err);
    switch (step->kind) {
    case STEP_BYTES: return write_bytes(to, in, piece, err);
    case STEP_METASPACE: return write_metaspace(step, to, in, piece, err);
    case STEP_SPACE_FIRST:
        if (!starts_with(in, piece, " ", 1) && !put_first(to, in, piece, " ", 1, err)) return false;
        return piece_text_copy(to, in, piece.begin, piece.end, err);
    case STEP_SPLIT:
    case STEP_FIXED: break;
    }
    CHECK(false);
    return false;
}

static bool rewrite_step(const Step *step, Pieces *p, Err *err)
{
    for (size_t i = 0; i < p->list.count; i++) {
        const Piece piece = p->list.items[i];
        const size_t from = p->next_text.length;
        if (!write_piece(step, &p->next_text, &p->text, piece, err)) return false;
        if (!pieces_add(&p->next_list, from, p->next_text.length, piece.token, err)) return false;
    }
    pieces_take_all(p);
    return true;
}

static bool split_step(const Step *step, PatternScratch *pattern, SpanList *spans, Pieces *p, Err *err)
{
    for (size_t i = 0; i < p->list.count; i++) {
        const Piece piece = p->list.items[i];
        const char *const bytes = p->text.bytes;
        bool done;
        if (piece.token != PIECE_TEXT) {
            done = pieces_add(&p->next_list, piece.begin, piece.end, piece.token, err);
        } else if (step->kind == STEP_FIXED) {
            done = cut_fixed(step, &p->next_list, bytes, piece, err);
        } else {
            done = pattern_find(step->pattern, pattern, spans, bytes + piece.begin, piece.end - piece.begin, err) &&
                   split_piece(step, &p->next_list, spans, piece.begin, err);
        }
        if (!done) return false;
    }
    pieces_take_list(p);
    return true;
}

bool pretokenizer_apply(const Pretokenizer *p, PatternScratch *pattern, SpanList *spans, Pieces *pieces, Err *err)
{
    for (size_t k = 0; p && k < p->count; k++) {
        const Step *step = &p->steps[k];
        const bool cuts = step->kind == STEP_SPLIT || step->kind == STEP_FIXED;
        if (!(cuts ? split_step(step, pattern, spans, pieces, err) : rewrite_step(step, pieces, err))) return false;
    }
    return true;
}
