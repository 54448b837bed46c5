#include "data/normalize.h"

#include "base/check.h"
#include "base/mem.h"
#include "data/charclass.h"
#include "data/charsmap.h"

#include <string.h>

/* One character in, up to CHAR_MAP_MOST out; 0 drops it. */
enum { CHAR_MAP_MOST = 4 };
typedef size_t CharMap(uint32_t c, uint32_t out[CHAR_MAP_MOST]);

enum { STEPS_MOST = 256 };

typedef enum StepKind {
    STEP_FORM,
    STEP_CHARS,
    STEP_BYTES, /* every byte becomes its character of the byte-level alphabet */
    STEP_PREPEND,
    STEP_REPLACE,
    STEP_STRIP,
    STEP_CHARSMAP
} StepKind;

typedef struct Step {
    StepKind kind;
    UnicodeForm form;
    CharMap *map;
    Pattern *pattern;
    Charsmap *charsmap;
    Text content; /* what is prepended, or put in place of a match */
    bool left, right;
} Step;

struct Normalizer {
    Step *steps;
    size_t count, capacity;
};

void normalize_scratch_free(NormalizeScratch *s)
{
    mem_free(s->spans.items);
    unicode_scratch_free(&s->unicode);
    s->spans = (SpanList){0};
}

void normalizer_destroy(Normalizer *n)
{
    if (!n) return;
    for (size_t i = 0; i < n->count; i++) {
        pattern_destroy(n->steps[i].pattern);
        charsmap_destroy(n->steps[i].charsmap);
        text_free(&n->steps[i].content);
    }
    mem_free(n->steps);
    mem_free(n);
}

/* Character maps */

static size_t map_lowercase(uint32_t c, uint32_t *out)
{
    if (c == 0x130) { /* the only one that becomes two: i and a dot above */
        out[0] = 'i';
        out[1] = 0x307;
        return 2;
    }
    out[0] = char_lowercase(c);
    return 1;
}

static size_t map_strip_accents(uint32_t c, uint32_t *out)
{
    out[0] = c;
    return !char_is_mark(c);
}

static size_t map_drop_nonspacing(uint32_t c, uint32_t *out)
{
    out[0] = c;
    return !char_is_nonspacing(c);
}

/* SentencePiece's nmt rule: control characters go, rare blanks become spaces. */
static size_t map_nmt(uint32_t c, uint32_t *out)
{
    const bool control =
        (c >= 1 && c <= 8) || c == 0x0B || (c >= 0x0E && c <= 0x1F) || c == 0x7F || c == 0x8F || c == 0x9F;
    const bool blank = c == 9 || c == 10 || c == 12 || c == 13 || c == 0x1680 || (c >= 0x200B && c <= 0x200F) ||
                       c == 0x2028 || c == 0x2029 || c == 0x2581 || c == 0xFEFF || c == 0xFFFD;
    out[0] = blank ? ' ' : c;
    return !control;
}

/* Control characters go (tab and line ends are none), blanks become spaces. */
static size_t map_bert_clean(uint32_t c, uint32_t *out)
{
    out[0] = char_is_space(c) ? ' ' : c;
    if (c == '\t' || c == '\n' || c == '\r') return 1;
    return c != 0 && c != 0xFFFD && !char_is_other(c);
}

static size_t map_bert_chinese(uint32_t c, uint32_t *out)
{
    if (!char_is_chinese(c)) {
        out[0] = c;
        return 1;
    }
    out[0] = out[2] = ' ';
    out[1] = c;
    return 3;
}

/* Reading the description */

static Step *add_step(Normalizer *n, StepKind kind, Err *err)
{
    if (n->count >= STEPS_MOST) {
        (void)FAIL(err, ERR_MODEL, "the tokenizer has more than %d normalizers", STEPS_MOST);
        return NULL;
    }
    if (!mem_grow(&n->steps, &n->capacity, n->count + 1, sizeof *n->steps, err)) return NULL;
    n->steps[n->count] = (Step){.kind = kind};
    return &n->steps[n->count++];
}

static bool add_form(Normalizer *n, bool compose, bool compatible, Err *err)
{
    Step *step = add_step(n, STEP_FORM, err);
    if (step) step->form = (UnicodeForm){.compose = compose, .compatible = compatible};
    return step != NULL;
}

static bool add_map(Normalizer *n, CharMap *map, Err *err)
{
    Step *step = add_step(n, STEP_CHARS, err);
    if (step) step->map = map;
    return step != NULL;
}

static bool read_content(Text *out, const json_t *json, const char *key, Err *err)
{
    const json_t *value = json_object_get(json, key);
    if (!json_is_string(value)) return FAIL(err, ERR_MODEL, "a normalizer has no text \"%s\"", key);
    return text_add(out, json_string_value(value), json_string_length(value), err);
}

bool refuse_named(const char *what, const char *name, const char *why, Err *err)
{
    char shown[100];
    if (!name) name = "";
    return FAIL(err, ERR_MODEL, "%s \"%s\" %s", what, text_printable(shown, sizeof shown, name, strlen(name)), why);
}

bool pattern_from_json(Pattern **out, const json_t *json, const char *what, Err *err)
{
    const json_t *text = json_is_string(json) ? json : json_object_get(json, "String");
    const json_t *regex = json_object_get(json, "Regex");
    if (json_is_string(text)) return pattern_from_text(out, json_string_value(text), json_string_length(text), err);
    if (json_is_string(regex)) return pattern_from_regex(out, json_string_value(regex), json_string_length(regex), err);
    return FAIL(err, ERR_MODEL, "%s has no pattern {\"String\": ...} or {\"Regex\": ...}", what);
}

static bool add_prepend(Normalizer *n, const json_t *json, Err *err)
{
    Step *step = add_step(n, STEP_PREPEND, err);
    return step && read_content(&step->content, json, "prepend", err);
}

static bool add_replace(Normalizer *n, const json_t *json, Err *err)
{
    Step *step = add_step(n, STEP_REPLACE, err);
    return step && read_content(&step->content, json, "content", err) &&
           pattern_from_json(&step->pattern, json_object_get(json, "pattern"), "a Replace normalizer", err);
}

static bool add_strip(Normalizer *n, const json_t *json, Err *err)
{
    Step *step = add_step(n, STEP_STRIP, err);
    if (!step) return false;
    step->left = step->right = true;
    return json_get_bool(&step->left, json, "strip_left", "a Strip normalizer", err) &&
           json_get_bool(&step->right, json, "strip_right", "a Strip normalizer", err);
}

static bool add_charsmap(Normalizer *n, const json_t *json, Err *err)
{
    const json_t *blob = json_object_get(json, "precompiled_charsmap");
    if (!json_is_string(blob)) return FAIL(err, ERR_MODEL, "a Precompiled normalizer has no \"precompiled_charsmap\"");
    if (json_string_length(blob) == 0) return true; /* the identity */
    Step *step = add_step(n, STEP_CHARSMAP, err);
    return step && charsmap_create(&step->charsmap, json_string_value(blob), json_string_length(blob), err);
}

static bool add_bert(Normalizer *n, const json_t *json, Err *err)
{
    bool clean = true;
    bool chinese = true;
    bool lowercase = true;
    static const char what[] = "a BertNormalizer";
    if (!json_get_bool(&clean, json, "clean_text", what, err)) return false;
    if (!json_get_bool(&chinese, json, "handle_chinese_chars", what, err)) return false;
    if (!json_get_bool(&lowercase, json, "lowercase", what, err)) return false;
    bool strip = lowercase; /* unless it is given */
    if (!json_get_bool(&strip, json, "strip_accents", what, err)) return false;
    if (clean && !add_map(n, map_bert_clean, err)) return false;
    if (chinese && !add_map(n, map_bert_chinese, err)) return false;
    if (strip && !(add_form(n, false, false, err) && add_map(n, map_drop_nonspacing, err))) return false;
    return !lowercase || add_map(n, map_lowercase, err);
}

static bool add_normalizer(Normalizer *n, const json_t *json, Err *err);

static bool add_sequence(Normalizer *n, const json_t *json, Err *err)
{
    const json_t *list = json_object_get(json, "normalizers");
    if (!json_is_array(list)) return FAIL(err, ERR_MODEL, "a normalizer Sequence has no list \"normalizers\"");
    for (size_t i = 0; i < json_array_size(list); i++) {
        if (!add_normalizer(n, json_array_get(list, i), err)) return false;
    }
    return true;
}

static bool add_normalizer(Normalizer *n, const json_t *json, Err *err)
{
    const char *type = json_string_value(json_object_get(json, "type"));
    if (!type) return FAIL(err, ERR_MODEL, "a normalizer has no \"type\"");
    if (strcmp(type, "Sequence") == 0) return add_sequence(n, json, err);
    if (strcmp(type, "NFC") == 0) return add_form(n, true, false, err);
    if (strcmp(type, "NFD") == 0) return add_form(n, false, false, err);
    if (strcmp(type, "NFKC") == 0) return add_form(n, true, true, err);
    if (strcmp(type, "NFKD") == 0) return add_form(n, false, true, err);
    if (strcmp(type, "Prepend") == 0) return add_prepend(n, json, err);
    if (strcmp(type, "Replace") == 0) return add_replace(n, json, err);
    if (strcmp(type, "Strip") == 0) return add_strip(n, json, err);
    if (strcmp(type, "Lowercase") == 0) return add_map(n, map_lowercase, err);
    if (strcmp(type, "StripAccents") == 0) return add_map(n, map_strip_accents, err);
    if (strcmp(type, "Nmt") == 0) return add_map(n, map_nmt, err);
    if (strcmp(type, "BertNormalizer") == 0) return add_bert(n, json, err);
    if (strcmp(type, "Precompiled") == 0) return add_charsmap(n, json, err);
    if (strcmp(type, "ByteLevel") == 0) return add_step(n, STEP_BYTES, err) != NULL;
    return refuse_named("the normalizer", type, "is not supported", err);
}

bool normalizer_create(Normalizer **out, const json_t *json, Err *err)
{
    *out = NULL;
    if (!json || json_is_null(json)) return true;
    Normalizer *n = mem_alloc(1, sizeof *n, err);
    if (!n) return false;
    if (!add_normalizer(n, json, err)) {
        normalizer_destroy(n);
        return false;
    }
    *out = n;
    return true;
}

/* Applying it: each function appends the new form of in[begin, end) to `to` */

static bool apply_chars(const Step *step, PieceText *to, const PieceText *in, size_t begin, size_t end, Err *err)
{
    for (size_t i = begin; i < end;) {
        uint32_t c;
        uint32_t mapped[CHAR_MAP_MOST];
        const size_t size = piece_char(in->bytes + i, &c);
        const size_t n = step->map(c, mapped);
        if (n == 1 && mapped[0] == c) {
            if (!piece_text_copy(to, in, i, i + size, err)) return false;
        } else {
            for (size_t k = 0; k < n; k++) {
                if (!piece_text_add_char(to, mapped[k], in->starts[i], in->ends[i + size - 1], err)) return false;
            }
        }
        i += size;
    }
    return true;
}

static bool apply_bytes(PieceText *to, const PieceText *in, size_t begin, size_t end, Err *err)
{
    for (size_t i = begin; i < end; i++) {
        const uint32_t c = byte_char((unsigned char)in->bytes[i]);
        if (!piece_text_add_char(to, c, in->starts[i], in->ends[i], err)) return false;
    }
    return true;
}

/* New text in front counts as part of the first character. */
static bool apply_prepend(const Step *step, PieceText *to, const PieceText *in, size_t begin, size_t end, Err *err)
{
    uint32_t c;
    const size_t first = piece_char(in->bytes + begin, &c);
    return piece_text_add(to, step->content.bytes, step->content.length, in->starts[begin], in->ends[begin + first - 1],
                          err) &&
           piece_text_copy(to, in, begin, end, err);
}

static bool apply_replace(const Step *step, NormalizeScratch *s, PieceText *to, const PieceText *in, size_t begin,
                          size_t end, Err *err)
{
    if (!pattern_find(step->pattern, s->pattern, &s->spans, in->bytes + begin, end - begin, err)) return false;
    for (size_t i = 0; i < s->spans.count; i++) {
        const size_t from = begin + s->spans.items[i].begin;
        const size_t until = begin + s->spans.items[i].end;
        bool done;
        if (!s->spans.items[i].match) {
            done = piece_text_copy(to, in, from, until, err);
        } else {
            const uint32_t start = from < end ? in->starts[from] : in->ends[end - 1];
            const uint32_t stop = until > from ? in->ends[until - 1] : start;
            done = piece_text_add(to, step->content.bytes, step->content.length, start, stop, err);
        }
        if (!done) return false;
    }
    return true;
}

static bool apply_strip(const Step *step, PieceText *to, const PieceText *in, size_t begin, size_t end, Err *err)
{
    uint32_t c;
    while (step->left && begin < end) {
        const size_t n = piece_char(in->bytes + begin, &c);
        if (!char_is_space(c)) break;
        begin += n;
    }
    while (step->right && begin < end) {
        size_t last = end - 1;
        while (((unsigned char)in->bytes[last] & 0xC0) == 0x80)
            last--;
        piece_char(in->bytes + last, &c);
        if (!char_is_space(c)) break;
        end = last;
    }
    return piece_text_copy(to, in, begin, end, err);
}

static bool apply_step(const Step *step, NormalizeScratch *s, PieceText *to, const PieceText *in, size_t begin,
                       size_t end, Err *err)
{
    if (begin >= end) return true;
    switch (step->kind) {
    case STEP_FORM: return unicode_form(step->form, &s->unicode, to, in, begin, end, err);
    case STEP_CHARS: return apply_chars(step, to, in, begin, end, err);
    case STEP_BYTES: return apply_bytes(to, in, begin, end, err);
    case STEP_PREPEND: return apply_prepend(step, to, in, begin, end, err);
    case STEP_REPLACE: return apply_replace(step, s, to, in, begin, end, err);
    case STEP_STRIP: return apply_strip(step, to, in, begin, end, err);
    case STEP_CHARSMAP: return charsmap_apply(step->charsmap, to, in, begin, end, err);
    }
    CHECK(false);
    return false;
}

bool normalizer_apply(const Normalizer *n, NormalizeScratch *s, Pieces *p, Err *err)
{
    for (size_t k = 0; n && k < n->count; k++) {
        for (size_t i = 0; i < p->list.count; i++) {
            const Piece piece = p->list.items[i];
            const size_t from = p->next_text.length;
            const bool done = piece.token == PIECE_TEXT
                                  ? apply_step(&n->steps[k], s, &p->next_text, &p->text, piece.begin, piece.end, err)
                                  : piece_text_copy(&p->next_text, &p->text, piece.begin, piece.end, err);
            if (!done || !pieces_add(&p->next_list, from, p->next_text.length, piece.token, err)) return false;
        }
        pieces_take_all(p);
    }
    return true;
}

bool normalizer_text(const Normalizer *n, NormalizeScratch *s, Text *out, const char *text, size_t length, Err *err)
{
    Pieces p = {0};
    const bool done = pieces_begin(&p, text, length, err) && normalizer_apply(n, s, &p, err) &&
                      text_add(out, p.text.bytes, p.text.length, err);
    pieces_free(&p);
    return done;
}
