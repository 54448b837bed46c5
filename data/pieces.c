#include "data/pieces.h"

#include "base/mem.h"

#include <string.h>

static void text_release(PieceText *t)
{
    mem_free(t->bytes);
    mem_free(t->starts);
    mem_free(t->ends);
}

void pieces_free(Pieces *p)
{
    text_release(&p->text);
    text_release(&p->next_text);
    mem_free(p->list.items);
    mem_free(p->next_list.items);
    *p = (Pieces){0};
}

/* The three arrays grow together. */
static bool text_reserve(PieceText *t, size_t more, Err *err)
{
    const size_t need = t->length + more;
    if (need <= t->capacity) return true;
    if (need > t->most) {
        return FAIL(err, ERR_DATA, "the tokenizer makes a text grow to more than %zu bytes", t->most);
    }
    size_t capacity = t->capacity;
    if (!mem_grow(&t->bytes, &capacity, need, 1, err)) return false;
    uint32_t *starts = mem_resize(t->starts, capacity, sizeof *starts, err);
    if (!starts) return false;
    t->starts = starts;
    uint32_t *ends = mem_resize(t->ends, capacity, sizeof *ends, err);
    if (!ends) return false;
    t->ends = ends;
    t->capacity = capacity;
    return true;
}

/* The worst that real descriptions do is NFKD, which makes one character eighteen. */
static size_t most_for(size_t length)
{
    enum { GROWTH = 64, SPARE = 64 * 1024 };
    return length < (UINT32_MAX - SPARE) / GROWTH ? length * GROWTH + SPARE : UINT32_MAX - 1;
}

bool pieces_begin(Pieces *p, const char *text, size_t length, Err *err)
{
    p->text.length = p->next_text.length = 0;
    p->list.count = p->next_list.count = 0;
    p->text.most = p->next_text.most = most_for(length);
    if (!text_reserve(&p->text, length, err)) return false;
    if (length) memcpy(p->text.bytes, text, length);
    for (size_t i = 0; i < length; i++) {
        p->text.starts[i] = (uint32_t)i;
        p->text.ends[i] = (uint32_t)i + 1;
    }
    p->text.length = length;
    return pieces_add(&p->list, 0, length, PIECE_TEXT, err);
}

bool pieces_add(PieceList *list, size_t begin, size_t end, int32_t token, Err *err)
{
    if (begin >= end) return true;
    if (!mem_grow(&list->items, &list->capacity, list->count + 1, sizeof *list->items, err)) return false;
    list->items[list->count++] = (Piece){.begin = (uint32_t)begin, .end = (uint32_t)end, .token = token};
    return true;
}

void pieces_take_list(Pieces *p)
{
    const PieceList list = p->list;
    p->list = p->next_list;
    p->next_list = list;
    p->next_list.count = 0;
}

void pieces_take_all(Pieces *p)
{
    const PieceText text = p->text;
    p->text = p->next_text;
    p->next_text = text;
    p->next_text.length = 0;
    pieces_take_list(p);
}

bool piece_text_add(PieceText *to, const char *bytes, size_t length, uint32_t start, uint32_t end, Err *err)
{
    if (!text_reserve(to, length, err)) return false;
    if (length) memcpy(to->bytes + to->length, bytes, length);
    for (size_t i = 0; i < length; i++) {
        to->starts[to->length + i] = start;
        to->ends[to->length + i] = end;
    }
    to->length += length;
    return true;
}

bool piece_text_copy(PieceText *to, const PieceText *from, size_t begin, size_t end, Err *err)
{
    const size_t n = end - begin;
    if (!text_reserve(to, n, err)) return false;
    if (n == 0) return true;
    memcpy(to->bytes + to->length, from->bytes + begin, n);
    memcpy(to->starts + to->length, from->starts + begin, n * sizeof *to->starts);
    memcpy(to->ends + to->length, from->ends + begin, n * sizeof *to->ends);
    to->length += n;
    return true;
}

size_t piece_put_char(char out[4], uint32_t c)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    const size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const unsigned char lead[] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (size_t i = n - 1; i > 0; i--, c >>= 6)
        out[i] = (char)(0x80 | (c & 0x3F));
    out[0] = (char)(lead[n] | c);
    return n;
}

bool piece_text_add_char(PieceText *to, uint32_t codepoint, uint32_t start, uint32_t end, Err *err)
{
    char utf8[4];
    return piece_text_add(to, utf8, piece_put_char(utf8, codepoint), start, end, err);
}
