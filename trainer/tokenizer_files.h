/*
 * tokenizer_files.h - the tokenizer beside an adapter, as PEFT and vLLM users expect it.
 */
#pragma once

#include "data/tokenizer.h"

/* From a Hugging Face folder its files as they are; from a GGUF file tokenizer.json and tokenizer_config.json made from
 * its metadata. Files are synced. `t` may be null. */
bool tokenizer_files_write(const char *folder, const char *from, const Tokenizer *t, Err *err) MUST_USE;
/* Whether each of these files stands in `folder`. */
bool tokenizer_files_there(const char *folder, const char *from);
