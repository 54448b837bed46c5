/*
 * source.h - a base model on disk: which tensors there are, and their values row by row.
 *
 * Hugging Face folder (config.json; model.safetensors or an index with shards; F32, F16, BF16; or a bitsandbytes 4-bit
 * folder), or one GGUF v3 file of llama architecture (F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K),
 * or a name "org/model" found in the local Hugging Face cache. Names are always transformers' names
 * ("model.layers.0.self_attn.q_proj.weight"); GGUF q/k rows come back in Hugging Face order.
 * Opening reads headers only. Nothing is trusted: every offset is checked (ERR_MODEL).
 */
#pragma once

#include "base/safetensors.h"
#include "model/spec.h"
#include "quant/nf4.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ModelSource ModelSource;

typedef struct SourceTensor {
    const char *name;   /* "model.layers.0.mlp.up_proj.weight" */
    int rank;           /* 1 or 2 */
    int64_t shape[2];   /* rows, cols; a vector is (n) */
    DType dtype;        /* F32, F16 or BF16: what decoding yields without loss (F32 for quantized GGUF types) */
    const char *stored; /* "BF16", "Q4_1", "NF4": for messages */
    bool prequantized;  /* bitsandbytes 4-bit: use source_read_quantized */
} SourceTensor;

/*
 * Finds the folder or file that `name` means: a path, or "org/model" in $HF_HUB_CACHE, $HF_HOME/hub or
 * ~/.cache/huggingface/hub (revision null: refs/main). The caller frees *path with mem_free.
 */
bool source_resolve(char **path, const char *name, const char *revision, Err *err) MUST_USE;

/* With `weights` false only config.json (or the GGUF header) has to be there: enough for a plan. Of a 4-bit folder the headers
 * of its weights are read all the same where they are there: they say what is stored how. */
bool source_open(ModelSource **out, const char *path, bool weights, Err *err) MUST_USE;
void source_close(ModelSource *s);

const ModelSpec *source_spec(const ModelSource *s);
const char *source_path(const ModelSource *s);
bool source_is_gguf(const ModelSource *s);
int source_count(const ModelSource *s);
const SourceTensor *source_tensor(const ModelSource *s, int i);
const SourceTensor *source_find(const ModelSource *s, const char *name); /* null: none */

/* Rows [first, first + count) as f32 into `to` (count * cols). Thread-safe. For a vector: elements. */
bool source_read(const ModelSource *s, const SourceTensor *t, int64_t first, int64_t count, float *to,
                 Err *err) MUST_USE;

/* A prequantized matrix: options, source_dtype, map and offset into *m, bytes into the host arrays (sizes as in
 * quant/nf4.h for m's options; call once with host = null to learn the options, then with arrays). */
bool source_read_quantized(const ModelSource *s, const SourceTensor *t, QuantMatrix *m, QuantHost *host,
                           Err *err) MUST_USE;

/* Fingerprint of config and of the layout and sizes of all tensors plus a sample of their bytes; cheap. */
bool source_fingerprint(const ModelSource *s, char text[33], Err *err) MUST_USE;

#ifdef __cplusplus
}
#endif
