/*
 * safetensors.h - reading and writing the safetensors format, never trusting it.
 *
 * A file is: u64 little-endian header length n; n bytes of JSON {"name": {"dtype", "shape", "data_offsets": [b, e]}},
 * optionally "__metadata__": {string: string}; then the data. Offsets count from byte 8 + n. The reader demands: header
 * at most 32 MB, no duplicate keys, known dtypes, no overflow, contiguous data without hole or overlap, end of the last
 * tensor = end of the file. Violations are ERR_MODEL with the tensor's name. The writer lays tensors out as Hugging
 * Face's does (by type, then name), so files with equal content are equal byte by byte and every tensor is aligned.
 * Source: huggingface/safetensors README (format), and its audit of 2023.
 */
#pragma once

#include "base/file.h"
#include "base/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct SafetensorsEntry {
    char *name; /* borrowed from the Safetensors */
    DType dtype;
    int rank; /* 0..8 in the file; above TENSOR_RANK_MAX is refused */
    int64_t shape[TENSOR_RANK_MAX];
    int64_t count;   /* elements */
    uint64_t offset; /* of the first byte in the file */
    size_t bytes;
} SafetensorsEntry;

typedef struct Safetensors {
    File file;                 /* open for reading */
    SafetensorsEntry *entries; /* sorted by name */
    int count;
    char **metadata; /* key, value, key, value, ...; metadata_count pairs, sorted by key */
    int metadata_count;
    char *text; /* the header, in which names and metadata lie */
} Safetensors;

bool safetensors_open(Safetensors *out, const char *path, Err *err) MUST_USE;
void safetensors_close(Safetensors *st); /* accepts a zeroed struct */

/* Null when there is none of that name. */
const SafetensorsEntry *safetensors_find(const Safetensors *st, const char *name);
const char *safetensors_metadata(const Safetensors *st, const char *key);

/* Bytes [first, first + length) of a tensor into `to`. */
bool safetensors_read(const Safetensors *st, const SafetensorsEntry *e, size_t first, size_t length, void *to,
                      Err *err) MUST_USE;

/* Writing: declare all tensors, begin, then their bytes in the order of declaration. */
typedef struct SafetensorsWriter SafetensorsWriter;
bool safetensors_writer_create(SafetensorsWriter **out, const char *path, Err *err) MUST_USE;
bool safetensors_writer_metadata(SafetensorsWriter *w, const char *key, const char *value, Err *err) MUST_USE;
bool safetensors_writer_declare(SafetensorsWriter *w, const char *name, DType dtype, int rank, const int64_t *shape,
                                Err *err) MUST_USE;
bool safetensors_writer_begin(SafetensorsWriter *w, Err *err) MUST_USE; /* writes the header */
/* Next bytes; they may end anywhere, tensor borders are counted here. */
bool safetensors_writer_data(SafetensorsWriter *w, const void *bytes, size_t length, Err *err) MUST_USE;
/* Syncs, closes and renames PATH.tmp to PATH; fails when bytes are missing. Frees the writer in either case. */
bool safetensors_writer_finish(SafetensorsWriter *w, Err *err) MUST_USE;
void safetensors_writer_discard(SafetensorsWriter *w); /* closes and removes the half-written file */

#ifdef __cplusplus
}
#endif
