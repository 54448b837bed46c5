/*
 * pretokenize.h - the pre-tokenizers of tokenizer.json, as a list of steps that cut or rewrite pieces.
 *
 * Sequences are flattened, and most kinds are one cut by a pattern: Digits, Punctuation, Whitespace, WhitespaceSplit,
 * CharDelimiterSplit, BertPreTokenizer and Split itself. ByteLevel is an optional space in front, a cut by GPT-2's
 * expression, and a rewrite to the byte-level alphabet. Text that no pattern matches stays a piece.
 */
#pragma once

#include "base/json.h"
#include "data/pattern.h"
#include "data/pieces.h"

typedef struct Pretokenizer Pretokenizer; /* null: nothing to do */

/* ERR_MODEL names a kind that is not supported. `json` may be null. */
bool pretokenizer_create(Pretokenizer **out, const json_t *json, Err *err) MUST_USE;
void pretokenizer_destroy(Pretokenizer *p);

/* `spans` is work memory. */
bool pretokenizer_apply(const Pretokenizer *p, PatternScratch *pattern, SpanList *spans, Pieces *pieces,
                        Err *err) MUST_USE;
