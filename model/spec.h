/*
 * spec.h - the shape of a decoder, from config.json or from the metadata of a GGUF file.
 *
 * Covered: the Llama family (model_type "llama"; GGUF architecture "llama"): grouped-query attention, tied embeddings,
 * default / linear / llama3 / dynamic rope, attention_bias, mlp_bias. What is not covered is refused by name.
 */
#pragma once

#include "base/err.h"
#include "base/json.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum RopeKind { ROPE_DEFAULT, ROPE_LINEAR, ROPE_LLAMA3 } RopeKind;

typedef struct ModelSpec {
    char family[32]; /* "llama" */
    int64_t vocab;   /* V */
    int64_t hidden;  /* C */
    int64_t ffn;     /* F */
    int layers;      /* L */
    int heads;       /* H */
    int kv_heads;    /* G */
    int head_dim;    /* D */
    float norm_eps;
    bool tied;           /* lm_head shares the embedding */
    bool attention_bias; /* q, k, v, o have biases */
    bool mlp_bias;
    bool prequantized; /* bitsandbytes 4-bit, as quantization_config says */
    int64_t max_positions;
    double rope_theta;
    RopeKind rope;
    bool rope_dynamic; /* scaled beyond max_positions, which we do not: sequences have to stay below */
    double rope_factor, rope_low, rope_high; /* llama3: factor, low_freq_factor, high_freq_factor */
    int64_t rope_original;                   /* original_max_position_embeddings */
} ModelSpec;

/* `config` is the root of config.json. ERR_MODEL: "PATH: model_type \"mamba\" is not supported; supported: llama". */
bool spec_from_config(ModelSpec *out, const json_t *config, const char *path, Err *err) MUST_USE;
bool spec_check(const ModelSpec *s, const char *path, Err *err) MUST_USE; /* ranges, divisibility */

/* D/2 frequencies in f32, scaled as the spec says, computed in f32 in the order Hugging Face does. */
void spec_rope_frequencies(const ModelSpec *s, float *out);

/* config.json of transformers for this spec, as an object that the caller decrefs. dtype: "float32", "bfloat16". */
json_t *spec_to_config(const ModelSpec *s, const char *dtype);

/* The seven projections of a layer. */
typedef enum Projection { PROJ_Q, PROJ_K, PROJ_V, PROJ_O, PROJ_GATE, PROJ_UP, PROJ_DOWN, PROJ_COUNT } Projection;
const char *projection_module(Projection p);               /* "self_attn.q_proj" */
int64_t projection_rows(const ModelSpec *s, Projection p); /* out features */
int64_t projection_cols(const ModelSpec *s, Projection p); /* in features */

#ifdef __cplusplus
}
#endif
