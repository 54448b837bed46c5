/*
 * charsmap.h - SentencePiece's compiled normalization ("Precompiled" in tokenizer.json).
 *
 * Base64 of: u32 size of the trie in bytes, little-endian; the trie, an array of u32 units (a double array as in
 * darts-clone); replacement texts, each ended by NUL. A trie value is the offset of a replacement.
 */
#pragma once

#include "data/pieces.h"

typedef struct Charsmap Charsmap;

/* ERR_MODEL when the blob is damaged. */
bool charsmap_create(Charsmap **out, const char *base64, size_t length, Err *err) MUST_USE;
void charsmap_destroy(Charsmap *m);

/* Appends the normalized form of from[begin, end). */
bool charsmap_apply(const Charsmap *m, PieceText *to, const PieceText *from, size_t begin, size_t end,
                    Err *err) MUST_USE;
