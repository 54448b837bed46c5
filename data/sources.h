/*
 * sources.h - which files a data source means, and which part of their records.
 *
 * A path is a file, a folder (its .jsonl and .json files, also with .gz, sorted by name) or a glob. A split is "train"
 * or a slice of it as in Hugging Face datasets: "train[:100]", "train[10%:]", "train[-50:]"; percentages are rounded.
 */
#pragma once

#include "data/dataset.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct SourceFiles {
    char **paths;
    size_t count, capacity;
} SourceFiles;
void source_files_free(SourceFiles *f);

/* Never empty on success; nothing found is ERR_DATA. */
bool source_files_find(SourceFiles *out, const char *path, Err *err) MUST_USE;

typedef struct SliceEnd {
    bool given, percent;
    int64_t value; /* negative: from the end */
} SliceEnd;

typedef struct SourceSlice {
    SliceEnd from, to;
} SourceSlice;

bool source_slice_parse(SourceSlice *out, const char *split, Err *err) MUST_USE;

/* Whether first and last depend on how many records there are. */
bool source_slice_needs_count(const SourceSlice *s);

/* Records [first, last) of `rows`; rows may be INT64_MAX when the count is not needed. */
void source_slice_range(const SourceSlice *s, int64_t rows, int64_t *first, int64_t *last);

#ifdef __cplusplus
}
#endif
