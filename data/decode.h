/*
 * decode.h - the decoders of tokenizer.json: from the texts of tokens to one text.
 *
 * A decoder is a chain of steps, each of which maps a list of texts to a list of texts; what is left is joined.
 * Without any decoder the texts are joined by spaces, as in Hugging Face.
 */
#pragma once

#include "base/json.h"
#include "data/pattern.h"

typedef struct Decoder Decoder; /* null: none */

bool decoder_create(Decoder **out, const json_t *json, Err *err) MUST_USE;
bool decoder_create_byte_level(Decoder **out, Err *err) MUST_USE;
/* U+2581 to space, bytes, and one leading space dropped when `strip`: SentencePiece's. */
bool decoder_create_sentencepiece(Decoder **out, bool strip, Err *err) MUST_USE;
void decoder_destroy(Decoder *d);

/* A list of texts, one behind the other in `bytes`. */
typedef struct TextList {
    Text bytes;
    size_t *ends;
    size_t count, capacity;
} TextList;
void text_list_free(TextList *l);
bool text_list_add(TextList *l, const char *text, size_t length, Err *err) MUST_USE;

/* Appends the text of the tokens in `list`, which is used up. */
bool decoder_apply(const Decoder *d, Text *out, TextList *list, Err *err) MUST_USE;

/* Appends what one token contributes inside of a text: raw bytes, nothing stripped, nothing replaced by U+FFFD. */
bool decoder_token_bytes(const Decoder *d, Text *out, const char *text, size_t length, Err *err) MUST_USE;
