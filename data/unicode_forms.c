#include "data/unicode_forms.h"

#include "base/mem.h"
#include "data/charclass.h"

#include <string.h>
#include <utf8proc.h>

typedef struct UnicodeChar {
    int32_t c;
    uint32_t start, end; /* origin in the caller's text */
    uint8_t ccc;         /* canonical combining class; 0: a starter */
} UnicodeChar;

enum { DECOMPOSED_MOST = 32 }; /* the longest, U+FDFA, has 18 */

void unicode_scratch_free(UnicodeScratch *s)
{
    mem_free(s->chars);
    *s = (UnicodeScratch){0};
}

/* Code points below are their own NFC; below U+0080 they are unchanged in every form. */
static uint32_t unchanged_below(UnicodeForm form)
{
    return form.compose && !form.compatible ? 0x300 : 0x80;
}

static bool decompose(UnicodeForm form, UnicodeScratch *s, const PieceText *from, size_t begin, size_t end, Err *err)
{
    const utf8proc_option_t options =
        UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (form.compatible ? UTF8PROC_COMPAT : (utf8proc_option_t)0);
    s->count = 0;
    for (size_t i = begin; i < end;) {
        uint32_t c;
        int32_t parts[DECOMPOSED_MOST];
        int boundary = 0;
        const size_t size = piece_char(from->bytes + i, &c);
        utf8proc_ssize_t n = 1;
        parts[0] = (int32_t)c;
        if (char_decomposes(c)) n = utf8proc_decompose_char((int32_t)c, parts, DECOMPOSED_MOST, options, &boundary);
        if (n < 0 || n > DECOMPOSED_MOST) return FAIL(err, ERR_DATA, "U+%04X cannot be decomposed", (unsigned)c);
        if (!mem_grow(&s->chars, &s->capacity, s->count + (size_t)n, sizeof *s->chars, err)) return false;
        for (utf8proc_ssize_t k = 0; k < n; k++) {
            s->chars[s->count++] = (UnicodeChar){
                .c = parts[k],
                .start = from->starts[i],
                .end = from->ends[i + size - 1],
                .ccc = char_combining_class((uint32_t)parts[k]),
            };
        }
        i += size;
    }
    return true;
}

/* Merges two sorted halves of a run of marks. */
static void merge_marks(UnicodeChar *out, const UnicodeChar *in, size_t begin, size_t middle, size_t end)
{
    size_t a = begin;
    size_t b = middle;
    for (size_t i = begin; i < end; i++)
        out[i] = a < middle && (b >= end || in[a].ccc <= in[b].ccc) ? in[a++] : in[b++];
}

/* Stable sort by combining class. A run of marks may be as long as the text, so it has to be n log n: insertion for the
 * usual few, merging for the rest. `spare` has room for `n`. */
static void sort_marks(UnicodeChar *marks, UnicodeChar *spare, size_t n)
{
    enum { SHORT = 16 };
    for (size_t block = 0; block < n; block += SHORT) {
        const size_t last = block + SHORT < n ? block + SHORT : n;
        for (size_t i = block + 1; i < last; i++) {
            const UnicodeChar moved = marks[i];
            size_t k = i;
            for (; k > block && marks[k - 1].ccc > moved.ccc; k--)
                marks[k] = marks[k - 1];
            marks[k] = moved;
        }
    }
    for (size_t width = SHORT; width < n; width *= 2) {
        for (size_t begin = 0; begin < n; begin += 2 * width) {
            const size_t middle = begin + width < n ? begin + width : n;
            const size_t end = middle + width < n ? middle + width : n;
            merge_marks(spare, marks, begin, middle, end);
        }
        memcpy(marks, spare, n * sizeof *marks);
    }
}

static bool reorder(UnicodeScratch *s, Err *err)
{
    for (size_t i = 0; i < s->count;) {
        size_t end = i;
        bool sorted = true;
        while (end < s->count && s->chars[end].ccc != 0) {
            if (end > i && s->chars[end - 1].ccc > s->chars[end].ccc) sorted = false;
            end++;
        }
        if (!sorted) {
            const size_t n = end - i;
            if (!mem_grow(&s->chars, &s->capacity, s->count + n, sizeof *s->chars, err)) return false;
            sort_marks(s->chars + i, s->chars + s->count, n);
        }
        i = end + 1;
    }
    return true;
}

/* The primary composite of a pair, or -1. */
static int32_t compose_pair(int32_t first, int32_t second)
{
    int32_t pair[2] = {first, second};
    const utf8proc_ssize_t n = utf8proc_normalize_utf32(pair, 2, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    return n == 1 && char_decomposes((uint32_t)pair[0]) ? pair[0] : -1;
}

static void join_origin(UnicodeChar *to, const UnicodeChar *from)
{
    if (from->start < to->start) to->start = from->start;
    if (from->end > to->end) to->end = from->end;
}

/*
 * Canonical composition (Unicode 3.11): each character joins the last starter when they have a composite and nothing
 * between them blocks it, that is, has the same or a higher combining class, or is a starter.
 */
static void compose(UnicodeScratch *s)
{
    size_t used = 0;
    size_t starter = SIZE_MAX;
    uint8_t last_ccc = 0; /* of the last character kept since the starter */
    for (size_t i = 0; i < s->count; i++) {
        const UnicodeChar c = s->chars[i];
        const bool adjacent = starter != SIZE_MAX && used == starter + 1;
        if (starter != SIZE_MAX && (adjacent || last_ccc < c.ccc)) {
            const int32_t joined = compose_pair(s->chars[starter].c, c.c);
            if (joined >= 0) {
                s->chars[starter].c = joined;
                join_origin(&s->chars[starter], &c);
                continue;
            }
        }
        if (c.ccc == 0) starter = used;
        last_ccc = c.ccc;
        s->chars[used++] = c;
    }
    s->count = used;
}

/*
 * End of the part from `at` on that needs no work: one character before the first unusual one, because that may compose
 * with it.
 */
static size_t skip_unchanged(const PieceText *from, size_t at, size_t end, uint32_t limit)
{
    size_t previous = at;
    while (at < end) {
        uint32_t c;
        const size_t n = piece_char(from->bytes + at, &c);
        if (c >= limit) return previous;
        previous = at;
        at += n;
    }
    return end;
}

/* The next unchanged character: it never joins what stands before it. */
static size_t skip_unusual(const PieceText *from, size_t at, size_t end, uint32_t limit)
{
    while (at < end) {
        uint32_t c;
        const size_t n = piece_char(from->bytes + at, &c);
        if (c < limit) break;
        at += n;
    }
    return at;
}

static bool write_chars(const UnicodeScratch *s, PieceText *to, Err *err)
{
    for (size_t i = 0; i < s->count; i++) {
        const UnicodeChar *c = &s->chars[i];
        if (!piece_text_add_char(to, (uint32_t)c->c, c->start, c->end, err)) return false;
    }
    return true;
}

bool unicode_form(UnicodeForm form, UnicodeScratch *s, PieceText *to, const PieceText *from, size_t begin, size_t end,
                  Err *err)
{
    const uint32_t limit = unchanged_below(form);
    while (begin < end) {
        const size_t plain_end = skip_unchanged(from, begin, end, limit);
        if (!piece_text_copy(to, from, begin, plain_end, err)) return false;
        begin = plain_end;
        if (begin >= end) break;
        uint32_t c;
        const size_t first = piece_char(from->bytes + begin, &c);
        const size_t unusual_end = skip_unusual(from, begin + (c < limit ? first : 0), end, limit);
        if (!decompose(form, s, from, begin, unusual_end, err) || !reorder(s, err)) return false;
        if (form.compose) compose(s);
        if (!write_chars(s, to, err)) return false;
        begin = unusual_end;
    }
    return true;
}
