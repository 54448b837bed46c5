/* GGUF files that are no llama models, or not quite. */
#include "model/source_parts.h"
#include "tests/model/source_rig.h"
#include "tests/support/gguf_file.h"

#include <math.h>

/* The small model as GGUF; `skip` is a key left out, and extra pairs and tensors are the caller's. */
static void put_gguf(GgufFile *f, const char *skip, uint64_t pairs, void (*extra)(GgufFile *), bool bias)
{
    static const struct {
        const char *key;
        uint32_t value;
    } keys[] = {
        {"llama.block_count",             1  },
        {"llama.context_length",          128},
        {"llama.embedding_length",        32 },
        {"llama.feed_forward_length",     64 },
        {"llama.attention.head_count",    2  },
        {"llama.attention.head_count_kv", 1  },
    };
    static const struct {
        const char *name;
        uint64_t rows, cols;
    } tensors[] = {
        {"token_embd.weight",        10, 32},
        {"output_norm.weight",       32, 0 },
        {"blk.0.attn_norm.weight",   32, 0 },
        {"blk.0.ffn_norm.weight",    32, 0 },
        {"blk.0.attn_q.weight",      32, 32},
        {"blk.0.attn_k.weight",      16, 32},
        {"blk.0.attn_v.weight",      16, 32},
        {"blk.0.attn_output.weight", 32, 32},
        {"blk.0.ffn_gate.weight",    64, 32},
        {"blk.0.ffn_up.weight",      64, 32},
        {"blk.0.ffn_down.weight",    32, 64},
        {"blk.0.attn_q.bias",        32, 0 },
    };
    const size_t count = ARRAY_COUNT(tensors) - !bias;
    uint64_t written = pairs;
    for (size_t i = 0; i < ARRAY_COUNT(keys); i++)
        written += !skip || strcmp(skip, keys[i].key) != 0;
    const bool eps = !skip || strcmp(skip, "eps") != 0;
    gguf_start(f, 3, count, written + eps);
    for (size_t i = 0; i < ARRAY_COUNT(keys); i++) {
        if (!skip || strcmp(skip, keys[i].key) != 0) gguf_key_u32(f, keys[i].key, keys[i].value);
    }
    if (eps) gguf_key_f32(f, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    if (extra) extra(f);
    uint64_t offset = 0;
    for (size_t i = 0; i < count; i++) {
        gguf_tensor_info(f, tensors[i].name, tensors[i].rows, tensors[i].cols, 0, offset);
        offset += tensors[i].rows * (tensors[i].cols ? tensors[i].cols : 1) * 4;
        offset = (offset + 31) / 32 * 32;
    }
    gguf_pad(f, 32);
    gguf_zeros(f, offset);
}

static void llama(GgufFile *f)
{
    gguf_key_text(f, "general.architecture", "llama");
}
static void mamba(GgufFile *f)
{
    gguf_key_text(f, "general.architecture", "mamba");
}
static void adapter(GgufFile *f)
{
    llama(f);
    gguf_key_text(f, "general.type", "adapter");
}
static void split(GgufFile *f)
{
    llama(f);
    gguf_key_u32(f, "split.count", 3);
}
static void experts(GgufFile *f)
{
    llama(f);
    gguf_key_u32(f, "llama.expert_count", 8);
}
static void yarn(GgufFile *f)
{
    llama(f);
    gguf_key_text(f, "llama.rope.scaling.type", "yarn");
}
static void partial_rope(GgufFile *f)
{
    llama(f);
    gguf_key_u32(f, "llama.rope.dimension_count", 8);
}
static void uneven_values(GgufFile *f)
{
    llama(f);
    gguf_key_u32(f, "llama.attention.value_length", 8);
}
static void huge_theta(GgufFile *f)
{
    llama(f);
    gguf_key_f32(f, "llama.rope.freq_base", NAN);
}
static void heads_by_layer(GgufFile *f)
{
    llama(f);
    gguf_key_array(f, "llama.attention.head_count_kv", G_I32, 2);
    gguf_put_u32(f, 1);
    gguf_put_u32(f, 2);
}
static void equal_heads_by_layer(GgufFile *f)
{
    llama(f);
    gguf_key_array(f, "llama.attention.head_count_kv", G_I32, 1);
    gguf_put_u32(f, 1);
}
static void no_heads(GgufFile *f)
{
    llama(f);
    gguf_key_u32(f, "llama.attention.head_count", 0);
}
static void many_layers(GgufFile *f) /* block_count far above any model */
{
    llama(f);
    gguf_key_u32(f, "llama.block_count", UINT32_MAX);
}
static void two_layers(GgufFile *f)
{
    llama(f);
    gguf_key_u32(f, "llama.block_count", 2);
}
static void linear_rope(GgufFile *f)
{
    llama(f);
    gguf_key_text(f, "llama.rope.scaling.type", "linear");
    gguf_key_f32(f, "llama.rope.scaling.factor", 4);
}

static void gguf_files_must_be_llama_models(void **state)
{
    (void)state;
    static const struct {
        const char *skip;
        uint64_t pairs;
        void (*extra)(GgufFile *);
        bool bias;
        const char *part;
    } cases[] = {
        {NULL,                            1, llama,                false, NULL                                                  },
        {NULL,                            0, NULL,                 false, "no general.architecture"                             },
        {NULL,                            1, mamba,                false, "architecture \"mamba\" is not supported"             },
        {NULL,                            2, adapter,              false, "not a model but an adapter"                          },
        {NULL,                            2, split,                false, "one part of several"                                 },
        {NULL,                            2, experts,              false, "llama.expert_count = 8 is not supported"             },
        {NULL,                            2, yarn,                 false, "rope.scaling.type is not supported"                  },
        {NULL,                            2, partial_rope,         false, "rope on a part of each head"                         },
        {NULL,                            2, uneven_values,        false, "keys and values of different length"                 },
        {NULL,                            2, huge_theta,           false, "rope_theta is"                                       },
        {"llama.attention.head_count_kv", 2, heads_by_layer,       false, "differs from layer to layer"                         },
        {"llama.attention.head_count_kv", 2, equal_heads_by_layer, false, NULL                                                  },
        {"llama.attention.head_count_kv", 1, llama,                false,
         "one row for each element of its heads"                                                                                }, /* absent: as many as heads */
        {"llama.attention.head_count",    2, no_heads,             false, "llama.attention.head_count is 0"                     },
        {"llama.attention.head_count",    1, llama,                false, "has no number llama.attention.head_count"            },
        {"llama.block_count",             2, many_layers,          false, "llama.block_count is 4294967295"                     },
        {"llama.block_count",             2, two_layers,           false, "\"model.layers.1.input_layernorm.weight\" is missing"},
        {"llama.block_count",             1, llama,                false, "has no number llama.block_count"                     },
        {"eps",                           1, llama,                false, "has no number llama.attention.layer_norm_rms_epsilon"},
        {NULL,                            1, llama,                true,  "k_proj.bias\" is missing"                            },
        {NULL,                            3, linear_rope,          false, NULL                                                  },
    };
    Scratch s = scratch_make();
    const char *path = scratch_path(&s, "m.gguf");
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        Err err = {0};
        ModelSource *source;
        GgufFile f = {0};
        put_gguf(&f, cases[i].skip, cases[i].pairs, cases[i].extra, cases[i].bias);
        gguf_save(&f, path);
        const bool ok = source_open(&source, path, true, &err);
        if (ok != !cases[i].part) fail_msg("case %zu: %s", i, err.text);
        if (!ok) {
            if (!strstr(err.text, cases[i].part)) fail_msg("case %zu: \"%s\"", i, err.text);
            assert_error(&err, ERR_MODEL, "m.gguf");
        } else {
            assert_true(source_spec(source)->tied); /* no output.weight */
            if (cases[i].extra == linear_rope) assert_int_equal(source_spec(source)->rope, ROPE_LINEAR);
            source_close(source);
        }
    }
    /* A folder with nothing but one GGUF file is that file; with two it is not clear which. */
    GgufFile f = {0};
    put_gguf(&f, NULL, 1, llama, false);
    gguf_save(&f, path);
    expect_open(&s);
    scratch_write(scratch_path(&s, "n.gguf"), "GGUF", 4);
    expect_refused(&s, "several GGUF files");
    scratch_remove(&s);
}

static void one_gguf_tensor(GgufFile *f, const char *name, uint64_t rows, uint64_t cols, uint32_t type, uint64_t bytes)
{
    gguf_start(f, 3, 2, 9);
    gguf_key_text(f, "general.architecture", "llama");
    gguf_key_u32(f, "llama.block_count", 1);
    gguf_key_u32(f, "llama.context_length", 128);
    gguf_key_u32(f, "llama.embedding_length", 32);
    gguf_key_u32(f, "llama.feed_forward_length", 64);
    gguf_key_u32(f, "llama.attention.head_count", 2);
    gguf_key_u32(f, "llama.attention.head_count_kv", 1);
    gguf_key_f32(f, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    gguf_key_f32(f, "llama.rope.freq_base", 5e5f);
    gguf_tensor_info(f, "token_embd.weight", 10, 32, 0, 0);
    gguf_tensor_info(f, name, rows, cols, type, 1280);
    gguf_pad(f, 32);
    gguf_zeros(f, 1280 + bytes);
}

static void odd_gguf_tensors_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        uint64_t rows, cols;
        uint32_t type;
        uint64_t bytes;
        const char *part;
    } cases[] = {
        {"blk.0.attn_q_norm.weight",                  16, 0,  0, 64,   "is not part of a llama model"         },
        {"blk.x.attn_q.weight",                       32, 32, 0, 4096, "is not part of a llama model"         },
        {"blk.99999999999999999999.attn_norm.weight", 32, 0,  0, 128,  "is not part of a llama model"         },
        {"blk.0.attn_q",                              32, 32, 0, 4096, "is not part of a llama model"         },
        {"blk.0.attn_q.scale",                        32, 32, 0, 4096, "is not part of a llama model"         },
        {"blk.0.attn_q.weight",                       33, 32, 0, 4224, "one row for each element of its heads"},
        {"blk.0.attn_k.weight",                       32, 32, 0, 4096, "one row for each element of its heads"},
        {"output_norm.weight",                        32, 0,  8, 34,   "neither a matrix nor a plain vector"  }, /* a quantized norm */
        {"rope_freqs.weight",                         7,  0,  0, 28,   "one F32 for each pair of a head"      },
        {"rope_freqs.weight",                         8,  0,  1, 16,   "one F32 for each pair of a head"      },
        {"rope_freqs.weight",                         8,  0,  0, 32,   "not llama3 rope scaling"              }, /* zeros */
        {"rope_factors_long.weight",                  8,  0,  0, 32,   "is not part of a llama model"         },
    };
    Scratch s = scratch_make();
    const char *path = scratch_path(&s, "m.gguf");
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        Err err = {0};
        ModelSource *source;
        GgufFile f = {0};
        one_gguf_tensor(&f, cases[i].name, cases[i].rows, cases[i].cols, cases[i].type, cases[i].bytes);
        gguf_save(&f, path);
        if (source_open(&source, path, true, &err)) fail_msg("%s was read", cases[i].name);
        if (!strstr(err.text, cases[i].part)) fail_msg("%s: \"%s\"", cases[i].name, err.text);
        assert_error(&err, ERR_MODEL, "m.gguf");
    }
    scratch_remove(&s);
}

/* The divisors that llama.cpp's converter computes, in f32. */
static void make_divisors(float *out, const ModelSpec *spec)
{
    for (int i = 0; i < spec->head_dim / 2; i++) {
        const double wavelength = 2 * M_PI * pow(spec->rope_theta, 2.0 * i / spec->head_dim);
        const double smooth =
            ((double)spec->rope_original / wavelength - spec->rope_low) / (spec->rope_high - spec->rope_low);
        const double inside = smooth < 0 ? 0 : smooth > 1 ? 1 : smooth;
        out[i] = (float)(1 / ((1 - inside) / spec->rope_factor + inside));
    }
}

static void rope_scaling_is_found_again_in_its_divisors(void **state)
{
    (void)state;
    static const ModelSpec cases[] = {
        {.head_dim = 128, .rope_theta = 5e5, .rope_factor = 8,  .rope_low = 1, .rope_high = 4, .rope_original = 8192 },
        {.head_dim = 64,  .rope_theta = 5e5, .rope_factor = 32, .rope_low = 1, .rope_high = 4, .rope_original = 8192 },
        {.head_dim = 128, .rope_theta = 1e6, .rope_factor = 16, .rope_low = 1, .rope_high = 8, .rope_original = 32768},
        {.head_dim = 128, .rope_theta = 1e5, .rope_factor = 4,  .rope_low = 2, .rope_high = 8, .rope_original = 16384},
    };
    for (size_t c = 0; c < ARRAY_COUNT(cases); c++) {
        Err err = {0};
        float divisors[64];
        float wanted[64];
        float got[64];
        ModelSpec truth = cases[c];
        ModelSpec found = {.head_dim = truth.head_dim, .rope_theta = truth.rope_theta};
        truth.rope = ROPE_LLAMA3;
        make_divisors(divisors, &truth);
        assert_done(source_rope_from_divisors(&found, divisors, truth.head_dim / 2, "m.gguf", &err));
        assert_int_equal(found.rope, ROPE_LLAMA3);
        spec_rope_frequencies(&truth, wanted);
        spec_rope_frequencies(&found, got);
        for (int i = 0; i < truth.head_dim / 2; i++)
            assert_true(fabsf(got[i] / wanted[i] - 1) < (c < 2 ? 1e-7f : 1e-4f));
        if (c < 2)
            assert_true(found.rope_original == 8192 && found.rope_high == 4 && found.rope_factor == truth.rope_factor);
        divisors[truth.head_dim / 4] *= 1.01f; /* one that does not fit the rest */
        assert_false(source_rope_from_divisors(&found, divisors, truth.head_dim / 2, "m.gguf", &err));
        assert_error(&err, ERR_MODEL, "not llama3 rope scaling");
    }
    Err err = {0};
    ModelSpec found = {.head_dim = 64, .rope_theta = 1e4};
    float ones[32];
    for (int i = 0; i < 32; i++)
        ones[i] = 1;
    assert_done(source_rope_from_divisors(&found, ones, 32, "m.gguf", &err));
    assert_int_equal(found.rope, ROPE_DEFAULT);
    ones[3] = NAN;
    assert_false(source_rope_from_divisors(&found, ones, 32, "m.gguf", &err));
    assert_error(&err, ERR_MODEL, "not llama3");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gguf_files_must_be_llama_models),
        cmocka_unit_test(odd_gguf_tensors_are_refused),
        cmocka_unit_test(rope_scaling_is_found_again_in_its_divisors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
