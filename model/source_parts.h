/*
 * source_parts.h - what the files of model/source*.c share; nobody else includes it.
 *
 * Every tensor that is read as f32 comes down to (file, offset, type, rows): safetensors types are GGUF types too.
 */
#pragma once

#include "base/gguf.h"
#include "model/source.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One tensor of one shard. */
typedef struct ShardEntry {
    const SafetensorsEntry *entry; /* also carries the name */
    const Safetensors *shard;
} ShardEntry;

/* A bitsandbytes 4-bit matrix: its codes lie at (file, offset), the rest beside it or in another shard. */
typedef struct SourceQuant {
    QuantOptions options;
    DType source_dtype;
    float offset;
    ShardEntry codes, absmax, nested_absmax, nested_map; /* the last two: double quantization only */
} SourceQuant;

typedef struct StoredTensor {
    SourceTensor shown; /* first: what callers hold is a pointer to it */
    char *name;         /* owned; null when the name is borrowed from a shard */
    const File *file;
    uint64_t offset;
    GgufType type;
    int interleaved; /* heads whose rows llama.cpp interleaved (q and k of GGUF); 0: none */
    SourceQuant quant;
    bool expected; /* found by the check that the model is complete */
} StoredTensor;

struct ModelSource {
    char *path; /* folder, or GGUF file */
    ModelSpec spec;
    StoredTensor *tensors; /* sorted by name */
    size_t count, capacity;
    Gguf *gguf;          /* null for a folder */
    Safetensors *shards; /* of a folder */
    size_t shard_count;
    ShardEntry *entries; /* of all shards, sorted by name */
    size_t entry_count;
};

bool source_open_folder(ModelSource *s, bool weights, Err *err) MUST_USE;
bool source_open_gguf(ModelSource *s, Err *err) MUST_USE; /* s->path is the file */

/* Room for one more tensor, zeroed; null with ERR_MEMORY. */
StoredTensor *source_add(ModelSource *s, Err *err) MUST_USE;

const ShardEntry *source_entry(const ModelSource *s, const char *name); /* null: none */

/* Whether the matrix NAME.weight is in 4 bits; then t->quant and what is shown of it are filled and checked. */
bool source_find_quant(const ModelSource *s, const ShardEntry *weight, StoredTensor *t, bool *found, Err *err) MUST_USE;

/*
 * folder/name as a path that the caller frees. A link may lead to another place in the folder or to the blobs of the
 * Hugging Face cache that the folder belongs to, and nowhere else.
 */
bool source_locate(char **path, const char *folder, const char *name, Err *err) MUST_USE;

/* The scaling that the divisors of rope_freqs.weight came from, or ERR_MODEL. */
bool source_rope_from_divisors(ModelSpec *spec, const float *divisors, int64_t count, const char *path,
                               Err *err) MUST_USE;

#ifdef __cplusplus
}
#endif
