#include "data/decode_internal.h"

#include "base/check.h"
#include "base/mem.h"
#include "data/charclass.h"

#include <string.h>

enum { DECODED_MOST = 256 * 1024 * 1024 };

static const char replacement_char[] = "\xEF\xBF\xBD";

void text_list_free(TextList *l)
{
    text_free(&l->bytes);
    mem_free(l->ends);
    *l = (TextList){0};
}

/* Ends the text whose bytes were appended to l->bytes. */
static bool list_end(TextList *l, Err *err)
{
    if (!mem_grow(&l->ends, &l->capacity, l->count + 1, sizeof *l->ends, err)) return false;
    l->ends[l->count++] = l->bytes.length;
    return true;
}

bool text_list_add(TextList *l, const char *text, size_t length, Err *err)
{
    return text_add(&l->bytes, text, length, err) && list_end(l, err);
}

static const char *list_item(const TextList *l, size_t i, size_t *length)
{
    const size_t begin = i ? l->ends[i - 1] : 0;
    *length = l->ends[i] - begin;
    return l->bytes.bytes + begin;
}

/* Bytes of one token */

/* The bytes that a text of the byte-level alphabet stands for; a text with any other character stands for itself. */
static bool add_alphabet_bytes(Text *out, const char *text, size_t length, Err *err)
{
    const size_t before = out->length;
    for (size_t i = 0; i < length;) {
        uint32_t c;
        const size_t n = utf8_decode(text + i, length - i, &c);
        const int byte = n ? byte_of_char(c) : -1;
        if (byte < 0) {
            out->length = before;
            return text_add(out, text, length, err);
        }
        const char b = (char)byte;
        if (!text_add(out, &b, 1, err)) return false;
        i += n;
    }
    return true;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* Value of a token <0xHH>, or -1. A sign in place of the first digit is read as the reference library does. */
static int byte_token(const char *text, size_t length)
{
    if (length != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>') return -1;
    const int low = hex_digit(text[4]);
    const int high = text[3] == '+' ? 0 : hex_digit(text[3]);
    return low < 0 || high < 0 ? -1 : high * 16 + low;
}

/* A chain of replacements could double a text with every step. */
static bool check_growth(const Text *out, Err *err)
{
    if (out->length <= DECODED_MOST) return true;
    return FAIL(err, ERR_MODEL, "the tokenizer's decoder makes a text of more than %d bytes", DECODED_MOST);
}

static bool add_without(Text *out, const char *text, size_t length, const Text *what, const char *instead, Err *err)
{
    for (size_t i = 0; i < length;) {
        const char *at = what->length ? memmem(text + i, length - i, what->bytes, what->length) : NULL;
        if (!check_growth(out, err)) return false;
        if (!at) return text_add(out, text + i, length - i, err);
        if (!text_add(out, text + i, (size_t)(at - text) - i, err) || !text_add_z(out, instead, err)) return false;
        i = (size_t)(at - text) + what->length;
    }
    return true;
}

/* Steps */

/*
 * As String::from_utf8_lossy of Rust: each maximal part of an ill-formed sequence becomes one U+FFFD. Such a part is a
 * lead byte with as many continuation bytes as could still have led to a character.
 */
static size_t bad_part(const unsigned char *s, size_t length)
{
    const unsigned char lead = s[0];
    if (lead < 0xC2 || lead > 0xF4 || length < 2) return 1;
    unsigned char low = 0x80;
    unsigned char high = 0xBF;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
    if (s[1] < low || s[1] > high) return 1;
    if (lead < 0xF0 || length < 3 || (s[2] & 0xC0) != 0x80) return 2;
    return 3;
}

static bool add_lossy(Text *out, const char *bytes, size_t length, Err *err)
{
    for (size_t i = 0; i < length;) {
        size_t good;
        if (utf8_valid(bytes + i, length - i, &good)) good = length - i;
        if (!text_add(out, bytes + i, good, err)) return false;
        i += good;
        if (i >= length) break;
        if (!text_add_z(out, replacement_char, err)) return false;
        i += bad_part((const unsigned char *)bytes + i, length - i);
    }
    return true;
}

static bool run_byte_level(TextList *to, const TextList *from, Err *err)
{
    Text bytes = {0};
    bool done = true;
    for (size_t i = 0; done && i < from->count; i++) {
        size_t n;
        const char *text = list_item(from, i, &n);
        done = add_alphabet_bytes(&bytes, text, n, err);
    }
    done = done && add_lossy(&to->bytes, bytes.bytes, bytes.length, err) && list_end(to, err);
    text_free(&bytes);
    return done;
}

/* A run of byte tokens: its text, or one U+FFFD a token. */
static bool flush_bytes(TextList *to, Text *bytes, Err *err)
{
    if (bytes->length == 0) return true;
    bool done = true;
    if (utf8_valid(bytes->bytes, bytes->length, NULL)) {
        done = text_list_add(to, bytes->bytes, bytes->length, err);
    } else {
        for (size_t i = 0; done && i < bytes->length; i++)
            done = text_list_add(to, replacement_char, 3, err);
    }
    text_clear(bytes);
    return done;
}

static bool run_byte_fallback(TextList *to, const TextList *from, Err *err)
{
    Text bytes = {0};
    bool done = true;
    for (size_t i = 0; done && i < from->count; i++) {
        size_t n;
        const char *text = list_item(from, i, &n);
        const int byte = byte_token(text, n);
        if (byte >= 0) {
            const char b = (char)byte;
            done = text_add(&bytes, &b, 1, err);
        } else {
            done = flush_bytes(to, &bytes, err) && text_list_add(to, text, n, err);
        }
    }
    done = done && flush_bytes(to, &bytes, err);
    text_free(&bytes);
    return done;
}

static bool replace(const DecodeStep *step, PatternScratch *s, SpanList *spans, Text *out, const char *text,
                    size_t length, Err *err)
{
    if (!pattern_find(step->pattern, s, spans, text, length, err)) return false;
    for (size_t i = 0; i < spans->count; i++) {
        const Span span = spans->items[i];
        const bool done = span.match ? text_add(out, step->text.bytes, step->text.length, err)
                                     : text_add(out, text + span.begin, span.end - span.begin, err);
        if (!done || !check_growth(out, err)) return false;
    }
    return true;
}

/* Up to `start` of the character at the front and `stop` at the end. */
static bool strip(const DecodeStep *step, Text *out, const char *text, size_t length, Err *err)
{
    const size_t n = step->text.length;
    size_t begin = 0;
    for (int64_t i = 0; n && i < step->start && length - begin >= n; i++) {
        if (memcmp(text + begin, step->text.bytes, n) != 0) break;
        begin += n;
    }
    for (int64_t i = 0; n && i < step->stop && length - begin >= n; i++) {
        if (memcmp(text + length - n, step->text.bytes, n) != 0) break;
        length -= n;
    }
    return text_add(out, text + begin, length - begin, err);
}

/* English spacing, as BERT's decoder puts it right; in this order. */
static bool clean_up(Text *text, Err *err)
{
    static const char *const pairs[][2] = {
        {" .",      "."     },
        {" ?",      "?"     },
        {" !",      "!"     },
        {" ,",      ","     },
        {" ' ",     "'"     },
        {" n't",    "n't"   },
        {" 'm",     "'m"    },
        {" do not", " don't"},
        {" 's",     "'s"    },
        {" 've",    "'ve"   },
        {" 're",    "'re"   },
    };
    for (size_t i = 0; i < ARRAY_COUNT(pairs); i++) {
        const Text what = {.bytes = (char *)(uintptr_t)pairs[i][0], .length = strlen(pairs[i][0])};
        Text next = {0};
        if (!add_without(&next, text->bytes, text->length, &what, pairs[i][1], err)) {
            text_free(&next);
            return false;
        }
        text_free(text);
        *text = next;
    }
    return true;
}

static bool word_piece(const DecodeStep *step, Text *out, const char *text, size_t length, bool first, Err *err)
{
    Text word = {0};
    const size_t n = step->text.length;
    const bool prefixed = !first && length >= n && (n == 0 || memcmp(text, step->text.bytes, n) == 0);
    bool done = first || prefixed || text_add(&word, " ", 1, err);
    done = done && text_add(&word, text + (prefixed ? n : 0), length - (prefixed ? n : 0), err);
    if (done && step->cleanup) done = clean_up(&word, err);
    done = done && text_add(out, word.bytes, word.length, err);
    text_free(&word);
    return done;
}

/* Pad tokens vanish; with `cleanup` spacing is put right and the delimiter becomes a space. */
static bool ctc(const DecodeStep *step, Text *out, const char *text, size_t length, Err *err)
{
    Text word = {0};
    bool done = add_without(&word, text, length, &step->text, "", err);
    if (done && step->cleanup) {
        done = clean_up(&word, err) && add_without(out, word.bytes, word.length, &step->delimiter, " ", err);
    } else {
        done = done && text_add(out, word.bytes, word.length, err);
    }
    text_free(&word);
    return done;
}

/* Steps that map each text by itself. */
static bool run_each(const DecodeStep *step, PatternScratch *s, TextList *to, const TextList *from, Err *err)
{
    SpanList spans = {0};
    bool done = true;
    for (size_t i = 0; done && i < from->count; i++) {
        size_t n;
        const char *text = list_item(from, i, &n);
        Text *out = &to->bytes;
        const char *instead = " ";
        switch (step->kind) {
        case DECODE_REPLACE: done = replace(step, s, &spans, out, text, n, err); break;
        case DECODE_STRIP: done = strip(step, out, text, n, err); break;
        case DECODE_WORD_PIECE: done = word_piece(step, out, text, n, i == 0, err); break;
        case DECODE_METASPACE:
            if (i == 0 && step->first_dropped) instead = "";
            done = add_without(out, text, n, &step->text, instead, err);
            break;
        case DECODE_BPE:
            if (i + 1 == from->count) instead = "";
            done = add_without(out, text, n, &step->text, instead, err);
            break;
        default: CHECK(false);
        }
        done = done && list_end(to, err);
    }
    mem_free(spans.items);
    return done;
}

/* Repeated tokens count once, empty results not at all. */
static bool run_ctc(const DecodeStep *step, TextList *to, const TextList *from, Err *err)
{
    const char *last = NULL;
    size_t last_length = 0;
    for (size_t i = 0; i < from->count; i++) {
        size_t n;
        const char *text = list_item(from, i, &n);
        if (last && n == last_length && memcmp(text, last, n) == 0) continue;
        last = text;
        last_length = n;
        const size_t before = to->bytes.length;
        if (!ctc(step, &to->bytes, text, n, err)) return false;
        if (to->bytes.length > before && !list_end(to, err)) return false;
    }
    return true;
}

static bool run_step(const DecodeStep *step, PatternScratch *s, TextList *to, const TextList *from, Err *err)
{
    switch (step->kind) {
    case DECODE_BYTE_LEVEL: return run_byte_level(to, from, err);
    case DECODE_BYTE_FALLBACK: return run_byte_fallback(to, from, err);
    case DECODE_FUSE: return text_list_add(to, from->bytes.bytes, from->bytes.length, err);
    case DECODE_CTC: return run_ctc(step, to, from, err);
    default: return run_each(step, s, to, from, err);
    }
}

static bool join(const Decoder *d, Text *out, const TextList *list, Err *err)
{
    if (d) return text_add(out, list->bytes.bytes, list->bytes.length, err);
    for (size_t i = 0; i < list->count; i++) {
        size_t n;
        const char *text = list_item(list, i, &n);
        if (i > 0 && !text_add(out, " ", 1, err)) return false;
        if (!text_add(out, text, n, err)) return false;
    }
    return true;
}

static bool needs_scratch(const Decoder *d)
{
    for (size_t i = 0; d && i < d->count; i++) {
        if (d->steps[i].pattern) return true;
    }
    return false;
}

bool decoder_apply(const Decoder *d, Text *out, TextList *list, Err *err)
{
    PatternScratch *s = NULL;
    TextList next = {0};
    bool done = !needs_scratch(d) || pattern_scratch_create(&s, err);
    for (size_t i = 0; done && d && i < d->count; i++) {
        text_clear(&next.bytes);
        next.count = 0;
        done = run_step(&d->steps[i], s, &next, list, err);
        const TextList swap = *list;
        *list = next;
        next = swap;
    }
    done = done && join(d, out, list, err);
    text_list_free(&next);
    pattern_scratch_destroy(s);
    return done;
}

/* Whether a step has a meaning for a token by itself; what acts on borders of the whole text has none. */
static bool acts_inside(DecodeKind kind)
{
    return kind != DECODE_FUSE && kind != DECODE_STRIP && kind != DECODE_CTC;
}

static bool token_step(const DecodeStep *step, PatternScratch *s, SpanList *spans, Text *out, const char *text,
                       size_t length, Err *err)
{
    const int byte = step->kind == DECODE_BYTE_FALLBACK ? byte_token(text, length) : -1;
    const char b = (char)byte;
    if (byte >= 0) return text_add(out, &b, 1, err);
    switch (step->kind) {
    case DECODE_BYTE_LEVEL: return add_alphabet_bytes(out, text, length, err);
    case DECODE_REPLACE: return replace(step, s, spans, out, text, length, err);
    case DECODE_METASPACE:
    case DECODE_BPE: return add_without(out, text, length, &step->text, " ", err);
    case DECODE_WORD_PIECE: return word_piece(step, out, text, length, false, err);
    default: return text_add(out, text, length, err);
    }
}

bool decoder_token_bytes(const Decoder *d, Text *out, const char *text, size_t length, Err *err)
{
    PatternScratch *s = NULL;
    SpanList spans = {0};
    Text now = {0};
    bool done = (!needs_scratch(d) || pattern_scratch_create(&s, err)) && text_add(&now, text, length, err);
    for (size_t i = 0; done && d && i < d->count; i++) {
        if (!acts_inside(d->steps[i].kind)) continue;
        Text next = {0};
        done = token_step(&d->steps[i], s, &spans, &next, now.bytes, now.length, err);
        text_free(&now);
        now = next;
    }
    done = done && text_add(out, now.bytes, now.length, err);
    text_free(&now);
    mem_free(spans.items);
    pattern_scratch_destroy(s);
    return done;
}
