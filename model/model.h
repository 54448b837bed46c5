/*
 * model.h - a frozen 4-bit decoder with LoRA adapters: load it, train it, evaluate it, generate with it.
 *
 * Life: model_create (decides what is quantized and what carries an adapter; reads no weights) -> model_place on empty
 * arenas (measures) -> the caller reserves the arenas -> model_place again (places) -> model_load (streams weights, on
 * all cores, host memory bounded by the largest tensor plus a constant) -> steps. Nothing is allocated after model_load.
 *
 * Layer: x -> rmsnorm -> qkv group -> rope -> attention -> o -> + -> rmsnorm -> gate+up group -> swiglu -> down -> +.
 * The weights of a group are decoded into one scratch buffer (out + R) x (in + R) with scale*B beside and A below, so
 * LoRA is part of the product (design section 2). Recompute policies give the same bits.
 */
#pragma once

#include "base/batch.h"
#include "lora/lora.h"
#include "model/sample.h"
#include "model/source.h"
#include "quant/nf4.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum Recompute {
    RECOMPUTE_KEEP,       /* keep activations; recompute only norms and the SwiGLU product */
    RECOMPUTE_CHECKPOINT, /* keep layer inputs, attention output and its log-sum-exp */
    RECOMPUTE_OFFLOAD,    /* the same, waiting in pinned host memory, but for OFFLOAD_SETS layers */
} Recompute;

enum { OFFLOAD_SETS = 3 }; /* of checkpoints on the device, for all offloaded layers */

typedef struct ModelOptions {
    DType compute; /* F32, BF16, on CUDA also F16; embeddings, head and norms are held in it too */
    bool quantize; /* false: adapter "lora" on a 16-bit (compute type) base */
    QuantOptions quant;
    const char *const *skip_modules; /* quant_skip_modules: names as LoRA targets match; null: {"lm_head"} */
    int skip_count;
    bool adapters; /* false: base only (eval, generate without adapter) */
    LoraOptions lora;
    bool training;        /* gradients and what backward needs */
    int64_t max_tokens;   /* most tokens of one micro-batch */
    int kept_layers;      /* first layers with RECOMPUTE_KEEP; L: keep all */
    int offloaded_layers; /* that many after them with RECOMPUTE_OFFLOAD, the others RECOMPUTE_CHECKPOINT */
    int64_t loss_rows;    /* rows of logits that exist at once; 0: chosen */
    float neftune_alpha;
    float label_smoothing;
    uint64_t seed;
    int64_t cache_tokens; /* KV cache: tokens per sequence; 0: no generation */
    int sequences;        /* sequences generated side by side; 0 means 1 */
    bool host_embeddings; /* the embedding table lies in pinned host memory, unless the head shares it */
    bool layer_weights;   /* a buffer for each group of a layer: decoded once for recompute and backward */
    bool decoded_weights; /* keep 4-bit weights decoded too: faster generation, compute type's memory on top */
} ModelOptions;

typedef struct ModelArenas {
    Arena weights, state, activations, scratch;
} ModelArenas;

typedef struct Model Model;

/* The options are copied; texts and lists they point to must outlive the model. `source` may be closed after
 * model_load; for a plan it may be open without weights. */
bool model_create(Model **out, Backend *be, const ModelSource *source, const ModelOptions *options, Err *err) MUST_USE;
void model_free(Model *m);
void model_place(Model *m, ModelArenas *arenas);

/* Pinned host memory that model_load reserves for offloaded layers; known once placed. The last few of them need none:
 * they are still on the device when their backward comes. */
size_t model_offloaded_bytes(const Model *m);

/* And for the embedding table: 0 when it lies on the device. */
size_t model_host_embedding_bytes(const Model *m);

typedef struct ModelSummary {
    int quantized, kept;                 /* linear modules in 4 bits, and those left in the compute type */
    char quantized_names[256];           /* "q_proj, k_proj, ... in 30 layers" */
    size_t quantized_bytes, saved_bytes; /* against 16 bits */
    int64_t trainable, total;            /* parameters; total as PEFT counts: base + trainable */
} ModelSummary;
ModelSummary model_summary(const Model *m);

/* Progress goes to the log. ERR_MODEL names a tensor that is missing, misshapen or not finite. */
bool model_load(Model *m, const ModelSource *source, Err *err) MUST_USE;

const ModelSpec *model_spec(const Model *m);
const Lora *model_lora(const Model *m); /* null without adapters */
const LoraModule *model_modules(const Model *m, int *count);
const Tensor *model_params(const Model *m); /* flat f32; masters of A and B */
const Tensor *model_grads(const Model *m);

/* After params changed (update, load): refresh whatever was derived from them. */
void model_params_changed(Model *m);

/*
 * Forward and backward of one micro-batch: adds its gradients to model_grads, returns the sum of its token losses
 * (with label smoothing inside). `update_tokens`: trained tokens of the whole update, the loss's denominator.
 * `step` and `micro` key dropout and NEFTune. A batch without trained tokens is fine.
 */
double model_train(Model *m, const Batch *batch, int64_t update_tokens, int64_t step, int micro);
void model_zero_grads(Model *m);

/* Gradients of later calls are multiplied with `scale`, 1 at first; losses are not. A power of 2 keeps small ones in F16. */
void model_scale_loss(Model *m, float scale);

/* Sum of token losses, no smoothing, no dropout, no noise. */
double model_evaluate(Model *m, const Batch *batch);

/* Hidden states after layer `layer` (0: embeddings; L: before the final norm) of a batch, (N, C) f32 into host memory;
 * logits (n, V) f32 of the last `n` tokens. For golden tests and for `verify`. */
void model_hidden(Model *m, const Batch *batch, int layer, float *out);
void model_logits(Model *m, const Batch *batch, int64_t n, float *out);

/* Generation. Prefill replaces what sequence `s` holds and yields the logits (V) f32 of its last token; a step appends
 * one token to each of the first `count` sequences and yields their logits (count, V). Host memory. */
void model_prefill(Model *m, int s, const int32_t *ids, int64_t count, float *logits);
void model_decode(Model *m, const int32_t *ids, int count, float *logits);
/* The same, but only the next token leaves the device: picked as `how` says, for a step one for each sequence. */
int32_t model_prefill_sample(Model *m, int s, const int32_t *ids, int64_t count, const Sampling *how);
void model_decode_sample(Model *m, const int32_t *ids, int count, const Sampling *how, int32_t *next);
int64_t model_cached(const Model *m, int s);

#ifdef __cplusplus
}
#endif
