#include "model/spec.h"

#include "base/check.h"
#include "base/text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Sizes that no released model comes near, and whose products fit easily. */
enum {
    VOCAB_MAX = 1 << 24,
    HIDDEN_MAX = 1 << 18,
    FFN_MAX = 1 << 20,
    LAYERS_MAX = 1024,
    HEADS_MAX = 1024,
    HEAD_DIM_MAX = 256, /* what attention has room for */
};

static bool fail_value(Err *err, const char *path, const char *key, const char *value, const char *supported)
{
    char shown[128];
    return FAIL(err, ERR_MODEL, "%s: %s \"%s\" is not supported; supported: %s", path, key,
                text_printable(shown, sizeof shown, value, strlen(value)), supported);
}

static bool check_family(ModelSpec *s, const json_t *config, const char *path, Err *err)
{
    const char *type = NULL;
    if (!json_get_text(&type, config, "model_type", path, err)) return false;
    if (!type) return FAIL(err, ERR_MODEL, "%s has no model_type, so the kind of model is unknown", path);
    if (strcmp(type, "llama") != 0) return fail_value(err, path, "model_type", type, "llama");
    const json_t *list = json_object_get(config, "architectures");
    const char *architecture = json_is_array(list) ? json_string_value(json_array_get(list, 0)) : NULL;
    if (architecture && strcasecmp(architecture, "LlamaForCausalLM") != 0) {
        return fail_value(err, path, "the architecture", architecture, "LlamaForCausalLM");
    }
    memcpy(s->family, "llama", sizeof "llama");
    return true;
}

/* Keys of other families or variants: they change the mathematics, so only their neutral value passes. */
static bool check_absent(const json_t *config, const char *path, Err *err)
{
    static const struct {
        const char *key;
        double neutral;
    } keys[] = {
        {"sliding_window",          0},
        {"partial_rotary_factor",   1},
        {"attention_dropout",       0},
        {"num_local_experts",       0},
        {"num_experts",             0},
        {"attn_logit_softcapping",  0},
        {"final_logit_softcapping", 0},
        {"embedding_multiplier",    1},
        {"residual_multiplier",     1},
        {"logits_scaling",          1},
        {"query_pre_attn_scalar",   0},
        {"use_qk_norm",             0},
    };
    for (size_t i = 0; i < ARRAY_COUNT(keys); i++) {
        const json_t *value = json_object_get(config, keys[i].key);
        if (!value || json_is_null(value) || json_is_false(value)) continue;
        if (json_is_number(value) && json_number_value(value) == keys[i].neutral) continue;
        char text[64];
        const size_t length = json_dumpb(value, text, sizeof text, JSON_ENCODE_ANY | JSON_COMPACT);
        char shown[80];
        text_printable(shown, sizeof shown, text, length < sizeof text ? length : sizeof text);
        return FAIL(err, ERR_MODEL, "%s: %s = %s is not supported", path, keys[i].key, shown);
    }
    const json_t *types = json_object_get(config, "layer_types");
    size_t i;
    const json_t *type;
    json_array_foreach(types, i, type)
    {
        const char *text = json_string_value(type);
        if (!text || strcmp(text, "full_attention") != 0) {
            return fail_value(err, path, "the layer type", text ? text : "?", "full_attention");
        }
    }
    return true;
}

/* Only 4-bit bitsandbytes can be loaded as it is; anything else would be read as noise. */
static bool check_quantization(ModelSpec *s, const json_t *config, const char *path, Err *err)
{
    const json_t *q = json_object_get(config, "quantization_config");
    const char *method = NULL;
    bool eight = false;
    if (!q || json_is_null(q)) return true;
    if (!json_is_object(q)) return FAIL(err, ERR_MODEL, "%s: quantization_config must be an object", path);
    if (!json_get_text(&method, q, "quant_method", path, err)) return false;
    if (!json_get_bool(&eight, q, "load_in_8bit", path, err)) return false;
    if (!method || strcmp(method, "bitsandbytes") != 0) {
        return fail_value(err, path, "the quantization method", method ? method : "unknown",
                          "bitsandbytes 4-bit, or a model that is not quantized");
    }
    if (eight) {
        return FAIL(err, ERR_MODEL,
                    "%s: 8-bit bitsandbytes weights are not supported; use the model that is not quantized", path);
    }
    s->prequantized = true;
    return true;
}

/* Absent keys take transformers' defaults for llama. */
static bool read_sizes(ModelSpec *s, const json_t *config, const char *path, Err *err)
{
    int64_t layers = 32;
    int64_t heads = 32;
    int64_t kv_heads = 0;
    int64_t head_dim = 0;
    double eps = 1e-6;
    s->vocab = 32000;
    s->hidden = 4096;
    s->ffn = 11008;
    s->max_positions = 2048;
    TRY(json_get_int(&s->vocab, config, "vocab_size", 1, VOCAB_MAX, path, err));
    TRY(json_get_int(&s->hidden, config, "hidden_size", 1, HIDDEN_MAX, path, err));
    TRY(json_get_int(&s->ffn, config, "intermediate_size", 1, FFN_MAX, path, err));
    TRY(json_get_int(&layers, config, "num_hidden_layers", 1, LAYERS_MAX, path, err));
    TRY(json_get_int(&heads, config, "num_attention_heads", 1, HEADS_MAX, path, err));
    TRY(json_get_int(&kv_heads, config, "num_key_value_heads", 1, HEADS_MAX, path, err));
    TRY(json_get_int(&head_dim, config, "head_dim", 1, HEAD_DIM_MAX, path, err));
    TRY(json_get_int(&s->max_positions, config, "max_position_embeddings", 1, INT32_MAX, path, err));
    TRY(json_get_real(&eps, config, "rms_norm_eps", path, err));
    TRY(json_get_bool(&s->tied, config, "tie_word_embeddings", path, err));
    TRY(json_get_bool(&s->attention_bias, config, "attention_bias", path, err));
    TRY(json_get_bool(&s->mlp_bias, config, "mlp_bias", path, err));
    if (head_dim == 0 && s->hidden % heads != 0) {
        return FAIL(err, ERR_MODEL, "%s: hidden_size %lld is not a multiple of num_attention_heads %lld", path,
                    (long long)s->hidden, (long long)heads);
    }
    s->layers = (int)layers;
    s->heads = (int)heads;
    s->kv_heads = (int)(kv_heads ? kv_heads : heads);
    s->head_dim = (int)(head_dim ? head_dim : s->hidden / heads);
    s->norm_eps = (float)eps;
    return true;
fail:
    return false;
}

static bool read_rope_scaling(ModelSpec *s, const json_t *rope, const char *type, const char *path, Err *err)
{
    s->rope_dynamic = strcmp(type, "dynamic") == 0;
    if (s->rope_dynamic || strcmp(type, "default") == 0) return true;
    if (!json_get_real(&s->rope_factor, rope, "factor", path, err)) return false;
    if (strcmp(type, "linear") == 0) {
        s->rope = ROPE_LINEAR;
        return s->rope_factor != 0 || FAIL(err, ERR_MODEL, "%s: linear rope scaling has no factor", path);
    }
    if (strcmp(type, "llama3") != 0) {
        return fail_value(err, path, "rope scaling", type, "default, linear, dynamic, llama3");
    }
    s->rope = ROPE_LLAMA3;
    if (!json_get_real(&s->rope_low, rope, "low_freq_factor", path, err)) return false;
    if (!json_get_real(&s->rope_high, rope, "high_freq_factor", path, err)) return false;
    if (!json_get_int(&s->rope_original, rope, "original_max_position_embeddings", 1, INT32_MAX, path, err))
        return false;
    return (s->rope_factor != 0 && s->rope_low != 0 && s->rope_high != 0 && s->rope_original != 0) ||
           FAIL(err, ERR_MODEL,
                "%s: llama3 rope scaling needs factor, low_freq_factor, high_freq_factor and "
                "original_max_position_embeddings",
                path);
}

/* transformers 5 has one rope_parameters; transformers 4 rope_theta and rope_scaling. */
static bool read_rope(ModelSpec *s, const json_t *config, const char *path, Err *err)
{
    const char *type = NULL;
    double partial = 1;
    const json_t *rope = json_object_get(config, "rope_parameters");
    if (!rope || json_is_null(rope)) rope = json_object_get(config, "rope_scaling");
    if (json_object_get(rope, "full_attention") || json_object_get(rope, "sliding_attention")) {
        return FAIL(err, ERR_MODEL, "%s: rope parameters by layer type are not supported", path);
    }
    s->rope_theta = 1e4;
    if (!json_get_real(&s->rope_theta, config, "rope_theta", path, err)) return false;
    if (!rope || json_is_null(rope)) return true;
    if (!json_is_object(rope)) return FAIL(err, ERR_MODEL, "%s: the rope parameters must be an object", path);
    TRY(json_get_real(&s->rope_theta, rope, "rope_theta", path, err));
    TRY(json_get_real(&partial, rope, "partial_rotary_factor", path, err));
    TRY(json_get_text(&type, rope, "type", path, err));
    TRY(json_get_text(&type, rope, "rope_type", path, err));
    if (partial != 1) return FAIL(err, ERR_MODEL, "%s: partial_rotary_factor = %g is not supported", path, partial);
    s->rope_original = 0;
    TRY(json_get_int(&s->rope_original, config, "original_max_position_embeddings", 1, INT32_MAX, path, err));
    TRY(read_rope_scaling(s, rope, type ? type : "default", path, err));
    if (s->rope != ROPE_LLAMA3) s->rope_original = 0;
    return true;
fail:
    return false;
}

bool spec_from_config(ModelSpec *out, const json_t *config, const char *path, Err *err)
{
    ModelSpec s = {0};
    const char *activation = "silu";
    if (!json_is_object(config)) return FAIL(err, ERR_MODEL, "%s is not a JSON object", path);
    TRY(check_family(&s, config, path, err));
    TRY(check_absent(config, path, err));
    TRY(check_quantization(&s, config, path, err));
    TRY(json_get_text(&activation, config, "hidden_act", path, err));
    if (strcmp(activation, "silu") != 0) return fail_value(err, path, "hidden_act", activation, "silu");
    TRY(read_sizes(&s, config, path, err));
    TRY(read_rope(&s, config, path, err));
    TRY(spec_check(&s, path, err));
    *out = s;
    return true;
fail:
    return false;
}

static bool check_real(double value, double low, double high, const char *name, const char *path, Err *err)
{
    if (value >= low && value <= high) return true; /* false for NaN */
    return FAIL(err, ERR_MODEL, "%s: %s is %g, outside of %g to %g", path, name, value, low, high);
}

static bool check_size(int64_t value, int64_t high, const char *name, const char *path, Err *err)
{
    if (value >= 1 && value <= high) return true;
    return FAIL(err, ERR_MODEL, "%s: the %s is %lld, outside of 1 to %lld", path, name, (long long)value,
                (long long)high);
}

bool spec_check(const ModelSpec *s, const char *path, Err *err)
{
    TRY(check_size(s->vocab, VOCAB_MAX, "vocabulary size", path, err));
    TRY(check_size(s->hidden, HIDDEN_MAX, "hidden size", path, err));
    TRY(check_size(s->ffn, FFN_MAX, "feed-forward size", path, err));
    TRY(check_size(s->layers, LAYERS_MAX, "number of layers", path, err));
    TRY(check_size(s->heads, HEADS_MAX, "number of heads", path, err));
    TRY(check_size(s->kv_heads, s->heads, "number of key/value heads", path, err));
    TRY(check_size(s->head_dim, HEAD_DIM_MAX, "head size", path, err));
    TRY(check_size(s->max_positions, INT32_MAX, "maximum of positions", path, err));
    if (s->heads % s->kv_heads != 0) {
        return FAIL(err, ERR_MODEL, "%s: %d heads are not a multiple of %d key/value heads", path, s->heads,
                    s->kv_heads);
    }
    if (s->head_dim % 2 != 0) {
        return FAIL(err, ERR_MODEL, "%s: the head size %d is odd, so rope cannot rotate pairs", path, s->head_dim);
    }
    TRY(check_real((double)s->norm_eps, 0, 1, "rms_norm_eps", path, err));
    TRY(check_real(s->rope_theta, 1, 1e12, "rope_theta", path, err));
    if (s->rope == ROPE_DEFAULT) return true;
    TRY(check_real(s->rope_factor, 1, 1e6, "the rope scaling factor", path, err));
    if (s->rope == ROPE_LINEAR) return true;
    TRY(check_real(s->rope_low, 1e-3, 1e6, "low_freq_factor", path, err));
    TRY(check_real(s->rope_high, 1e-3, 1e6, "high_freq_factor", path, err));
    TRY(check_size(s->rope_original, INT32_MAX, "original_max_position_embeddings", path, err));
    return s->rope_high > s->rope_low ||
           FAIL(err, ERR_MODEL, "%s: high_freq_factor must be larger than low_freq_factor", path);
fail:
    return false;
}

/*
 * llama3 scaling of one frequency, each step in f32 as torch does it: wavelengths below original/high keep theirs,
 * above original/low it is divided by the factor, and between them the two are blended.
 */
static float scale_llama3(const ModelSpec *s, float frequency)
{
    const float factor = (float)s->rope_factor;
    const float low = (float)s->rope_low;
    const float high = (float)s->rope_high;
    const float original = (float)s->rope_original;
    const float wavelength = (float)(2 * M_PI) / frequency;
    if (wavelength < (float)((double)s->rope_original / s->rope_high)) return frequency;
    if (wavelength > (float)((double)s->rope_original / s->rope_low)) return frequency / factor;
    const float smooth = (original / wavelength - low) / (high - low);
    return (1 - smooth) * frequency / factor + smooth * frequency;
}

void spec_rope_frequencies(const ModelSpec *s, float *out)
{
    for (int i = 0; i < s->head_dim / 2; i++) {
        const float exponent = (float)(2 * i) / (float)s->head_dim;
        float frequency = 1 / powf((float)s->rope_theta, exponent);
        if (s->rope == ROPE_LINEAR) frequency /= (float)s->rope_factor;
        if (s->rope == ROPE_LLAMA3) frequency = scale_llama3(s, frequency);
        out[i] = frequency;
    }
}

/* Null stays null, and both are given up. */
static json_t *set(json_t *object, const char *key, json_t *value)
{
    if (!object) {
        json_decref(value);
        return NULL;
    }
    if (json_object_set_new(object, key, value) == 0) return object;
    json_decref(object);
    return NULL;
}

static json_t *rope_to_config(const ModelSpec *s)
{
    if (s->rope == ROPE_DEFAULT) return json_null();
    json_t *rope = set(json_object(), "rope_type", json_string(s->rope == ROPE_LINEAR ? "linear" : "llama3"));
    rope = set(rope, "factor", json_real(s->rope_factor));
    if (s->rope == ROPE_LINEAR) return rope;
    rope = set(rope, "low_freq_factor", json_real(s->rope_low));
    rope = set(rope, "high_freq_factor", json_real(s->rope_high));
    return set(rope, "original_max_position_embeddings", json_integer(s->rope_original));
}

/* f32 values in as few digits as tell them apart: 1e-05, not 9.9999997e-06. */
static double shortest(float value)
{
    for (int digits = 1; digits < 9; digits++) {
        char text[32];
        snprintf(text, sizeof text, "%.*g", digits, (double)value);
        const double parsed = strtod(text, NULL);
        if ((float)parsed == value) return parsed;
    }
    return (double)value;
}

/* In the style of transformers 4, which version 5 reads too. */
json_t *spec_to_config(const ModelSpec *s, const char *dtype)
{
    json_t *c = set(json_object(), "architectures", json_pack("[s]", "LlamaForCausalLM"));
    c = set(c, "model_type", json_string("llama"));
    c = set(c, "vocab_size", json_integer(s->vocab));
    c = set(c, "hidden_size", json_integer(s->hidden));
    c = set(c, "intermediate_size", json_integer(s->ffn));
    c = set(c, "num_hidden_layers", json_integer(s->layers));
    c = set(c, "num_attention_heads", json_integer(s->heads));
    c = set(c, "num_key_value_heads", json_integer(s->kv_heads));
    c = set(c, "head_dim", json_integer(s->head_dim));
    c = set(c, "hidden_act", json_string("silu"));
    c = set(c, "max_position_embeddings", json_integer(s->max_positions));
    c = set(c, "rms_norm_eps", json_real(shortest(s->norm_eps)));
    c = set(c, "tie_word_embeddings", json_boolean(s->tied));
    c = set(c, "attention_bias", json_boolean(s->attention_bias));
    c = set(c, "attention_dropout", json_real(0));
    c = set(c, "mlp_bias", json_boolean(s->mlp_bias));
    c = set(c, "rope_theta", json_real(s->rope_theta));
    c = set(c, "rope_scaling", rope_to_config(s));
    return set(c, "torch_dtype", json_string(dtype));
}

const char *projection_module(Projection p)
{
    static const char *const names[PROJ_COUNT] = {
        [PROJ_Q] = "self_attn.q_proj", [PROJ_K] = "self_attn.k_proj", [PROJ_V] = "self_attn.v_proj",
        [PROJ_O] = "self_attn.o_proj", [PROJ_GATE] = "mlp.gate_proj", [PROJ_UP] = "mlp.up_proj",
        [PROJ_DOWN] = "mlp.down_proj",
    };
    CHECK(p < PROJ_COUNT);
    return names[p];
}

int64_t projection_rows(const ModelSpec *s, Projection p)
{
    switch (p) {
    case PROJ_Q: return (int64_t)s->heads * s->head_dim;
    case PROJ_K:
    case PROJ_V: return (int64_t)s->kv_heads * s->head_dim;
    case PROJ_GATE:
    case PROJ_UP: return s->ffn;
    case PROJ_O:
    case PROJ_DOWN: return s->hidden;
    case PROJ_COUNT: break;
    }
    CHECK(false);
}

int64_t projection_cols(const ModelSpec *s, Projection p)
{
    CHECK(p < PROJ_COUNT);
    if (p == PROJ_O) return (int64_t)s->heads * s->head_dim;
    return p == PROJ_DOWN ? s->ffn : s->hidden;
}
