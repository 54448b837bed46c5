/* source_gguf.c - a GGUF file of llama architecture as a model in Hugging Face's terms. */
#include "base/mem.h"
#include "base/text.h"
#include "model/gguf_decode.h"
#include "model/source_parts.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_BYTES = 128, HALF_HEAD_MAX = 512 };

static bool fail_file(const ModelSource *s, Err *err, const char *why)
{
    return FAIL(err, ERR_MODEL, "%s: %s", s->path, why);
}

static bool text_is(const Gguf *g, const char *key, const char *wanted)
{
    const char *text;
    size_t length;
    return gguf_text(g, key, &text, &length) && length == strlen(wanted) && memcmp(text, wanted, length) == 0;
}

static bool has_text(const Gguf *g, const char *key)
{
    const char *text;
    size_t length;
    return gguf_text(g, key, &text, &length);
}

static bool check_kind(const ModelSource *s, Err *err)
{
    const char *text;
    size_t length;
    char shown[64];
    if (!gguf_text(s->gguf, "general.architecture", &text, &length)) {
        return fail_file(s, err, "it has no general.architecture");
    }
    if (!text_is(s->gguf, "general.architecture", "llama")) {
        return FAIL(err, ERR_MODEL, "%s: the architecture \"%s\" is not supported; supported: llama", s->path,
                    text_printable(shown, sizeof shown, text, length));
    }
    if (has_text(s->gguf, "general.type") && !text_is(s->gguf, "general.type", "model")) {
        return fail_file(s, err, "it is not a model but an adapter or another kind of GGUF file");
    }
    int64_t splits = 1;
    if (gguf_int(s->gguf, "split.count", &splits) && splits > 1) {
        return fail_file(s, err, "it is one part of several; join them first (llama-gguf-split --merge)");
    }
    return true;
}

/* Keys that change the mathematics: only their neutral value passes. */
static bool check_neutral(const ModelSource *s, Err *err)
{
    static const struct {
        const char *key;
        double neutral;
    } keys[] = {
        {"llama.expert_count",             0},
        {"llama.attention.sliding_window", 0},
        {"llama.attn_logit_softcapping",   0},
        {"llama.final_logit_softcapping",  0},
        {"llama.rope.scaling.attn_factor", 1},
        {"llama.logit_scale",              1},
        {"llama.residual_scale",           1},
        {"llama.embedding_scale",          1},
        {"llama.attention.scale",          0},
    };
    for (size_t i = 0; i < ARRAY_COUNT(keys); i++) {
        double value;
        if (!gguf_real(s->gguf, keys[i].key, &value) || value == keys[i].neutral) continue;
        return FAIL(err, ERR_MODEL, "%s: %s = %g is not supported", s->path, keys[i].key, value);
    }
    bool causal = true;
    if (gguf_bool(s->gguf, "llama.attention.causal", &causal) && !causal) {
        return fail_file(s, err, "its attention is not causal, so it generates no text");
    }
    return true;
}

/* A key with one number for all layers, or a list of equal numbers. False: absent. */
static bool int_for_all(const ModelSource *s, const char *key, int64_t *out, Err *err)
{
    const int64_t count = gguf_array_count(s->gguf, key);
    if (count < 0) return gguf_int(s->gguf, key, out);
    for (int64_t i = 0; i < count; i++) {
        int64_t value;
        if (!gguf_array_int(s->gguf, key, i, &value) || (i > 0 && value != *out)) {
            return FAIL(err, ERR_MODEL, "%s: %s differs from layer to layer, which is not supported", s->path, key);
        }
        *out = value;
    }
    return count > 0;
}

static bool need_int(const ModelSource *s, const char *key, int64_t *out, Err *err)
{
    if (int_for_all(s, key, out, err)) {
        if (*out >= 1 && *out <= INT32_MAX) return true;
        return FAIL(err, ERR_MODEL, "%s: %s is %lld", s->path, key, (long long)*out);
    }
    return FAIL(err, ERR_MODEL, "%s has no number %s", s->path, key);
}

static bool read_heads(ModelSource *s, Err *err)
{
    int64_t heads = 0;
    int64_t kv_heads = 0;
    int64_t keys = 0;
    int64_t values = 0;
    int64_t rotated = 0;
    if (!need_int(s, "llama.attention.head_count", &heads, err)) return false;
    kv_heads = heads;
    if (!int_for_all(s, "llama.attention.head_count_kv", &kv_heads, err) && err->code != ERR_NONE) return false;
    if (!gguf_int(s->gguf, "llama.attention.key_length", &keys)) {
        if (s->spec.hidden % heads != 0) return fail_file(s, err, "its width is not a multiple of its heads");
        keys = s->spec.hidden / heads;
    }
    if (gguf_int(s->gguf, "llama.attention.value_length", &values) && values != keys) {
        return fail_file(s, err, "keys and values of different length are not supported");
    }
    if (gguf_int(s->gguf, "llama.rope.dimension_count", &rotated) && rotated != keys) {
        return fail_file(s, err, "rope on a part of each head is not supported");
    }
    if (heads > INT32_MAX || kv_heads < 1 || kv_heads > INT32_MAX || keys < 1 || keys > INT32_MAX) {
        return fail_file(s, err, "a number of its attention is out of range");
    }
    s->spec.heads = (int)heads;
    s->spec.kv_heads = (int)kv_heads;
    s->spec.head_dim = (int)keys;
    return true;
}

static bool read_rope(ModelSource *s, Err *err)
{
    ModelSpec *spec = &s->spec;
    double factor = 0;
    const char *type = "llama.rope.scaling.type";
    spec->rope_theta = 1e4;
    gguf_real(s->gguf, "llama.rope.freq_base", &spec->rope_theta);
    if (!gguf_real(s->gguf, "llama.rope.scaling.factor", &factor)) {
        gguf_real(s->gguf, "llama.rope.scale_linear", &factor); /* the older name */
    }
    if (has_text(s->gguf, type) && !text_is(s->gguf, type, "linear") && !text_is(s->gguf, type, "none")) {
        return fail_file(s, err, "its llama.rope.scaling.type is not supported; supported: none, linear, and llama3");
    }
    if (text_is(s->gguf, type, "none") || factor == 0 || factor == 1) return true;
    spec->rope = ROPE_LINEAR;
    spec->rope_factor = factor;
    return true;
}

/* llama3 scaling does not stand in the keys but as divisors of the frequencies. */
static bool read_divisors(ModelSource *s, Err *err)
{
    const GgufTensor *t = gguf_find(s->gguf, "rope_freqs.weight");
    float divisors[HALF_HEAD_MAX];
    if (!t) return true;
    if (t->type != GGUF_F32 || t->count != s->spec.head_dim / 2 || t->count > HALF_HEAD_MAX) {
        return fail_file(s, err, "rope_freqs.weight does not hold one F32 for each pair of a head");
    }
    if (s->spec.rope != ROPE_DEFAULT) return fail_file(s, err, "it has rope_freqs.weight and linear rope scaling");
    if (!file_read_at(gguf_file(s->gguf), t->offset, divisors, t->bytes, err)) return false;
    return source_rope_from_divisors(&s->spec, divisors, t->count, s->path, err);
}

static bool read_spec(ModelSource *s, Err *err)
{
    ModelSpec *spec = &s->spec;
    int64_t layers = 0;
    double eps = 0;
    const GgufTensor *embedding = gguf_find(s->gguf, "token_embd.weight");
    memcpy(spec->family, "llama", sizeof "llama");
    if (!embedding || embedding->rank != 2) return fail_file(s, err, "the matrix token_embd.weight is missing");
    spec->vocab = embedding->shape[0];
    spec->tied = !gguf_find(s->gguf, "output.weight");
    spec->attention_bias = gguf_find(s->gguf, "blk.0.attn_q.bias") != NULL;
    spec->mlp_bias = gguf_find(s->gguf, "blk.0.ffn_gate.bias") != NULL;
    if (!need_int(s, "llama.block_count", &layers, err)) return false;
    if (!need_int(s, "llama.embedding_length", &spec->hidden, err)) return false;
    if (!need_int(s, "llama.feed_forward_length", &spec->ffn, err)) return false;
    if (!need_int(s, "llama.context_length", &spec->max_positions, err)) return false;
    if (!gguf_real(s->gguf, "llama.attention.layer_norm_rms_epsilon", &eps)) {
        return fail_file(s, err, "it has no number llama.attention.layer_norm_rms_epsilon");
    }
    spec->layers = (int)layers;
    spec->norm_eps = (float)eps;
    return read_heads(s, err) && read_rope(s, err) && spec_check(spec, s->path, err) && read_divisors(s, err) &&
           spec_check(spec, s->path, err);
}

/* transformers' name of a tensor, or false; *heads: 1 for q, 2 for k, 0 otherwise. */
static bool translate_name(const char *name, char *out, int *rope)
{
    static const struct {
        const char *from, *to;
    } whole[] = {
        {"token_embd.weight",  "model.embed_tokens.weight"},
        {"output_norm.weight", "model.norm.weight"        },
        {"output.weight",      "lm_head.weight"           },
    };
    static const struct {
        const char *from, *to;
        int rope;
    } parts[] = {
        {"attn_norm",   "input_layernorm",          0},
        {"ffn_norm",    "post_attention_layernorm", 0},
        {"attn_q",      "self_attn.q_proj",         1},
        {"attn_k",      "self_attn.k_proj",         2},
        {"attn_v",      "self_attn.v_proj",         0},
        {"attn_output", "self_attn.o_proj",         0},
        {"ffn_gate",    "mlp.gate_proj",            0},
        {"ffn_up",      "mlp.up_proj",              0},
        {"ffn_down",    "mlp.down_proj",            0},
    };
    *rope = 0;
    for (size_t i = 0; i < ARRAY_COUNT(whole); i++) {
        if (strcmp(name, whole[i].from) != 0) continue;
        snprintf(out, NAME_BYTES, "%s", whole[i].to);
        return true;
    }
    char *end;
    if (strncmp(name, "blk.", 4) != 0 || name[4] < '0' || name[4] > '9') return false;
    const unsigned long layer = strtoul(name + 4, &end, 10);
    const char *dot = *end == '.' ? strrchr(end, '.') : NULL;
    if (!dot || dot == end || layer > INT32_MAX) return false;
    if (strcmp(dot, ".weight") != 0 && strcmp(dot, ".bias") != 0) return false;
    for (size_t i = 0; i < ARRAY_COUNT(parts); i++) {
        const size_t length = strlen(parts[i].from);
        if ((size_t)(dot - end - 1) != length || strncmp(end + 1, parts[i].from, length) != 0) continue;
        snprintf(out, NAME_BYTES, "model.layers.%lu.%s%s", layer, parts[i].to, dot);
        *rope = parts[i].rope;
        return true;
    }
    return false;
}

static DType plain_dtype(GgufType type)
{
    return type == GGUF_F16 ? DTYPE_F16 : type == GGUF_BF16 ? DTYPE_BF16 : DTYPE_F32;
}

static bool add_tensor(ModelSource *s, const GgufTensor *g, Err *err)
{
    char name[NAME_BYTES];
    int rope;
    if (!translate_name(g->name, name, &rope)) {
        return FAIL(err, ERR_MODEL, "%s: the tensor \"%s\" is not part of a llama model that is supported", s->path,
                    g->name);
    }
    if (g->rank > 2 || (g->rank == 1 && gguf_block_elements(g->type) > 1)) {
        return FAIL(err, ERR_MODEL, "%s: the tensor \"%s\" is neither a matrix nor a plain vector", s->path, g->name);
    }
    StoredTensor *t = source_add(s, err);
    if (!t) return false;
    t->name = mem_copy_text(name, err);
    if (!t->name) return false;
    t->shown = (SourceTensor){.name = t->name, .rank = g->rank, .dtype = plain_dtype(g->type), .stored = g->type_name};
    for (int i = 0; i < g->rank; i++)
        t->shown.shape[i] = g->shape[i];
    t->file = gguf_file(s->gguf);
    t->offset = g->offset;
    t->type = g->type;
    if (rope) t->interleaved = rope == 1 ? s->spec.heads : s->spec.kv_heads;
    if (rope && g->shape[0] != (int64_t)t->interleaved * s->spec.head_dim) {
        return FAIL(err, ERR_MODEL, "%s: the tensor \"%s\" does not have one row for each element of its heads",
                    s->path, g->name);
    }
    return true;
}

bool source_open_gguf(ModelSource *s, Err *err)
{
    if (!gguf_open(&s->gguf, s->path, err)) return false;
    if (!check_kind(s, err) || !check_neutral(s, err) || !read_spec(s, err)) return false;
    for (int i = 0; i < gguf_tensor_count(s->gguf); i++) {
        const GgufTensor *g = gguf_tensor(s->gguf, i);
        const bool computed = strcmp(g->name, "rope_freqs.weight") == 0 || strstr(g->name, ".attn_rot_embd.");
        if (!computed && !add_tensor(s, g, err)) return false;
    }
    return true;
}
