/*
 * lora.h - which linear modules get an adapter, and what kind: names, ranks, scales, initial values, PEFT files.
 *
 * y = W x + scale * B (A drop(x)); A (R, K), B (O, R) f32 masters in the flat parameter buffer (base/param.h);
 * scale = alpha / r, or alpha / sqrt(r) with rsLoRA. Module names are paths like "model.layers.0.self_attn.q_proj";
 * matching follows PEFT: "all-linear"; another string is one regular expression that must match the whole path; a list
 * matches a path that equals an item or ends with "." + item.
 * Source: Hu et al. 2021, arXiv:2106.09685; PEFT 0.20.
 */
#pragma once

#include "backend/backend.h"
#include "base/param.h"
#include "base/rng.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { LORA_RANK_MAX = 4096 };

typedef enum LoraInit { LORA_INIT_KAIMING, LORA_INIT_GAUSSIAN } LoraInit;

typedef struct LoraPattern {
    const char *pattern; /* matches ^(.*\.)?(pattern)$ */
    double value;
} LoraPattern;

typedef struct LoraOptions {
    int r;
    double alpha;
    double dropout; /* 0 <= p < 1, each module with its own mask */
    bool use_rslora;
    double loraplus_lr_ratio; /* B's learning rate over A's; 0 or 1: off */
    LoraInit init;
    const char *target_regex;   /* one regular expression, or null */
    const char *const *targets; /* list, or null: all-linear */
    int target_count;
    const char *const *exclude; /* list of names or one-element list with a regular expression */
    int exclude_count;
    const int *layers; /* layers_to_transform; null: all */
    int layer_count;
    const LoraPattern *rank_pattern;
    int rank_pattern_count;
    const LoraPattern *alpha_pattern;
    int alpha_pattern_count;
} LoraOptions;

/* A linear module that could carry an adapter. Neighbours with the same `input` read the same tensor: their A lie one after
 * the other in the flat buffer, then their B, so that one product gives the gradient of all A. */
typedef struct LoraModule {
    const char *path;   /* borrowed */
    int layer;          /* -1: outside of layers */
    int64_t rows, cols; /* O, K */
    int input;          /* 0: its own */
} LoraModule;

typedef struct LoraAdapter {
    int module; /* index into the modules given to lora_create */
    int r;
    float scale;
    float alpha;
    int a, b; /* indices into the ParamTable */
} LoraAdapter;

typedef struct Lora {
    LoraOptions options; /* borrowed texts */
    LoraAdapter *adapters;
    int count;
    int *of_module; /* module -> adapter, -1: none */
    int module_count;
    ParamTable table;
} Lora;

/* PEFT's rule for lists of names: the path equals the item or ends with "." + item. */
bool lora_name_matches(const char *path, const char *item);

/* ERR_CONFIG when nothing matches, a target matches nothing, or a pattern is no regular expression. */
bool lora_create(Lora *out, const LoraModule *modules, int count, const LoraOptions *options, Err *err) MUST_USE;
void lora_free(Lora *l);

/* Whether every rank and alpha pattern and every excluded name means some module: in a configuration one that does not is a
 * slip (ERR_CONFIG), while files of PEFT may have any. */
bool lora_check_used(const Lora *l, const LoraModule *modules, Err *err) MUST_USE;

/* One parameter (rows, cols) as a view on the flat buffer, or on the gradients. */
Tensor lora_param(const Tensor *flat, const Param *p);

/* Initial values into the flat buffer: A by `init` from (seed, adapter), B zero. */
bool lora_initialize(const Lora *l, Backend *be, const Tensor *params, uint64_t seed, Err *err) MUST_USE;

/* PEFT folder: adapter_model.safetensors (F32, keys "base_model.model.PATH.lora_A.weight") and adapter_config.json. */
bool lora_save(const Lora *l, const LoraModule *modules, Backend *be, const Tensor *params, const char *folder,
               const char *base_model, Err *err) MUST_USE;
/* Values of an existing adapter (F32, F16, BF16); every tensor must be there, of the right shape, and none left over. */
bool lora_load(const Lora *l, Backend *be, const Tensor *params, const char *folder, Err *err) MUST_USE;

/* r, alpha, patterns, targets of an adapter folder, so that eval and generate need no LoRA keys in the config.
 * Texts belong to *storage, which lora_config_free gives back. */
typedef struct LoraConfigFile {
    LoraOptions options;
    void *storage;
} LoraConfigFile;
bool lora_config_read(LoraConfigFile *out, const char *folder, Err *err) MUST_USE;
void lora_config_free(LoraConfigFile *c);

/* out = in with each element kept with probability 1 - p and scaled by 1 / (1 - p), by Philox (key.step, key.stream).
 * The same key gives the same mask: backward calls it on gradients. out may be in. */
void lora_dropout(Backend *be, const Tensor *out, const Tensor *in, float p, RngKey key);

#ifdef __cplusplus
}
#endif
