/*
 * pieces.h - the text of one encode call while normalizers and pre-tokenizers work on it.
 *
 * All pieces lie in one byte string; every byte carries the range [start, end) of the caller's text that it came from.
 * A piece is a range of that string, or an added token that was already recognised. A stage either cuts pieces
 * (the list changes) or rewrites them (text and list change): it fills `next_list` (and `next_text`), and
 * pieces_take_list (pieces_take_all) makes that the current state. Buffers are kept from call to call.
 */
#pragma once

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

enum { PIECE_TEXT = -1 };

typedef struct Piece {
    uint32_t begin, end; /* bytes of the current text */
    int32_t token;       /* id of an added token, or PIECE_TEXT */
} Piece;

typedef struct PieceList {
    Piece *items;
    size_t count, capacity;
} PieceList;

typedef struct PieceText {
    char *bytes;
    uint32_t *starts, *ends; /* one a byte: where it came from */
    size_t length, capacity;
    size_t most; /* a description that makes texts grow beyond this is taken for hostile */
} PieceText;

typedef struct Pieces {
    PieceText text, next_text;
    PieceList list, next_list;
} Pieces;

void pieces_free(Pieces *p);

/* One piece that is the whole text, mapped to itself. */
bool pieces_begin(Pieces *p, const char *text, size_t length, Err *err) MUST_USE;

/* Empty pieces vanish, as in Hugging Face. */
bool pieces_add(PieceList *list, size_t begin, size_t end, int32_t token, Err *err) MUST_USE;
void pieces_take_list(Pieces *p);
void pieces_take_all(Pieces *p);

/* Appends bytes that all came from [start, end); a copy of from[begin, end) with its origins. */
bool piece_text_add(PieceText *to, const char *bytes, size_t length, uint32_t start, uint32_t end, Err *err) MUST_USE;
bool piece_text_copy(PieceText *to, const PieceText *from, size_t begin, size_t end, Err *err) MUST_USE;
bool piece_text_add_char(PieceText *to, uint32_t codepoint, uint32_t start, uint32_t end, Err *err) MUST_USE;

/* Length of the UTF-8 sequence at `bytes`, which is known to be well-formed; *c is its code point. */
static inline size_t piece_char(const char *bytes, uint32_t *c)
{
    const unsigned char *s = (const unsigned char *)bytes;
    if (s[0] < 0x80) {
        *c = s[0];
        return 1;
    }
    if (s[0] < 0xE0) {
        *c = ((s[0] & 0x1Fu) << 6) | (s[1] & 0x3Fu);
        return 2;
    }
    if (s[0] < 0xF0) {
        *c = ((s[0] & 0x0Fu) << 12) | ((s[1] & 0x3Fu) << 6) | (s[2] & 0x3Fu);
        return 3;
    }
    *c = ((s[0] & 0x07u) << 18) | ((s[1] & 0x3Fu) << 12) | ((s[2] & 0x3Fu) << 6) | (s[3] & 0x3Fu);
    return 4;
}

/* UTF-8 of a code point; returns its length. */
size_t piece_put_char(char out[4], uint32_t c);
