/*
 * token_cache.h - all samples of a data set as one block of bytes: in memory while it is built, then a mapped file.
 *
 *   TokenHeader                  fixed size, own checksum
 *   per sample: ids, labels      int32 each, one behind the other
 *   TokenSample per sample       where its ids stand and where it came from
 *
 * The file lies at FOLDER/KEY.tokens, where KEY hashes everything that changes tokens. It is written whole (temporary
 * file, sync, rename). A file that is cut, changed or of another version does not verify and is built again.
 */
#pragma once

#include "base/file.h"
#include "base/hash.h"
#include "data/dataset.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct TokenSample {
    uint64_t offset; /* of its ids in the block; its labels follow them */
    int64_t line;    /* in its file, from 1 */
    uint32_t tokens;
    uint32_t trained; /* labels that are not TARGET_NONE */
    uint32_t source;  /* index of its data source */
    uint32_t file;    /* index of its file in the order they are read */
} TokenSample;

typedef struct TokenStore {
    const char *block;
    const TokenSample *samples; /* inside of the block, or `building` */
    int64_t count;
    DatasetStats stats; /* of building it; from_cache tells where it came from now */
    char *owned;        /* block in memory, grows while building */
    size_t length, capacity;
    TokenSample *building;
    size_t building_capacity;
    FileMap map; /* block in a mapped file */
} TokenStore;
void token_store_free(TokenStore *s);

/* Building: samples in order, then token_store_finish. labels[0] must be TARGET_NONE. */
bool token_store_begin(TokenStore *s, Err *err) MUST_USE;
bool token_store_add(TokenStore *s, TokenSample from, const int32_t *ids, const int32_t *labels, int64_t tokens,
                     Err *err) MUST_USE;
bool token_store_finish(TokenStore *s, const char *key, Err *err) MUST_USE;

Sample token_store_sample(const TokenStore *s, int64_t index);

/* Path of the file; the caller frees it with mem_free. */
char *token_cache_path(const char *folder, const char *key, Err *err);

/* *found is false, without an error, when there is no file or it does not verify (said in a warning). */
bool token_cache_load(TokenStore *out, bool *found, const char *path, const char *key, Err *err) MUST_USE;

/* Writes a finished store and maps the file in its place. */
bool token_cache_save(TokenStore *s, const char *folder, const char *path, Err *err) MUST_USE;

#ifdef __cplusplus
}
#endif
