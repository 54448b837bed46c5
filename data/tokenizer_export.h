/*
 * tokenizer_export.h - the tokenizer inside a GGUF file as the files that transformers reads.
 */
#pragma once

#include "base/err.h"

/*
 * tokenizer.json (vocabulary, merges, added tokens, normalizer, pre-tokenizer, decoder, template of special tokens) and
 * tokenizer_config.json (names of special tokens, chat template) into `folder`, synced. Ids are equal to those of
 * tokenizer_open on the same file, but for characters that are no tokens and still take part in merges (llama.cpp's
 * rule for SentencePiece vocabularies, which tokenizer.json cannot express).
 */
bool tokenizer_export_gguf(const char *folder, const char *path, Err *err) MUST_USE;
