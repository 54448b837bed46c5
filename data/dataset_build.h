/*
 * dataset_build.h - the files of all sources to samples, and the key that says when that has to be done again.
 */
#pragma once

#include "data/sources.h"
#include "data/token_cache.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Files of every source, in the order they are read. */
typedef struct DataFiles {
    SourceFiles *sources; /* (count) */
    int count;
} DataFiles;
void data_files_free(DataFiles *f);
bool data_files_find(DataFiles *out, const DataOptions *options, Err *err) MUST_USE;
const char *data_files_path(const DataFiles *f, const TokenSample *s);

/* Hash of the files' contents (not their paths), the tokenizer, the template and every option that changes tokens. */
bool dataset_key(char key[HASH_TEXT], const DataOptions *options, const DataFiles *files, const Tokenizer *t,
                 const ChatTemplate *chat, Err *err) MUST_USE;

/* Reads, tokenizes on all cores, masks, cuts; samples stand in file order whatever the number of threads. */
bool dataset_build(TokenStore *out, const DataOptions *options, const DataFiles *files, const Tokenizer *t,
                   const ChatTemplate *chat, Err *err) MUST_USE;

#ifdef __cplusplus
}
#endif
