/*
 * quantize_parts.h - what the files of trainer/quantize*.c share.
 */
#pragma once

#include "base/text.h"
#include "model/source.h"
#include "trainer/quantize.h"

/* Metadata of our safetensors files, by which a folder is known as one of ours. */
#define QUANTIZE_MARK_KEY "writer"
#define QUANTIZE_MARK "qlora quantize"

/* A tensor of the source and what becomes of it. */
typedef struct QuantizeItem {
    const SourceTensor *tensor;
    bool quantized;
    QuantMatrix matrix; /* of a quantized one: options, shape, source dtype, map, offset */
    size_t bytes;       /* in the file, with what lies beside the codes */
    int shard;          /* from 0 */
} QuantizeItem;

typedef struct QuantizeJob {
    ModelSource *source;
    QuantizeItem *items; /* in the order of the source */
    int count;
    int shards;
    bool copied; /* the source is in 4 bits already */
    const char *const *skip;
    int skip_count;
} QuantizeJob;

/* No file gets larger than this, but for one matrix that is; tests make it small. */
extern size_t quantize_shard_bytes;

/* All tensors into `folder`. */
bool quantize_write_weights(QuantizeJob *job, const char *folder, Err *err) MUST_USE;

/* Bytes of a quantized tensor in the file: codes, scales, maps; the quant_state text is counted as its longest. */
size_t quantize_matrix_bytes(const QuantMatrix *m);

/* bitsandbytes' quant_state of a matrix, exactly as Python's json.dumps writes it. */
bool quantize_state_text(Text *out, const QuantMatrix *m, Err *err) MUST_USE;
const char *quantize_type_name(QuantType type); /* "nf4" */

/* config.json and generation_config.json into `folder`. */
bool quantize_write_config(const QuantizeJob *job, const char *folder, Err *err) MUST_USE;
