#include "model/spec.h"

#include "base/check.h"
#include "base/mem.h"
#include "base/safetensors.h"
#include "tests/support/scratch.h"

#include <math.h>

static bool read_spec(ModelSpec *out, const char *text, Err *err)
{
    json_t *config;
    if (!json_parse(&config, text, strlen(text), "config.json", ERR_MODEL, err)) return false;
    const bool ok = spec_from_config(out, config, "config.json", err);
    json_decref(config);
    return ok;
}

static void a_released_config_is_read(void **state)
{
    (void)state;
    Err err = {0};
    ModelSpec s;
    /* Llama-3.2-1B as published, in the style of transformers 4 */
    assert_done(read_spec(
        &s,
        "{\"architectures\": [\"LlamaForCausalLM\"], \"attention_bias\": false, \"attention_dropout\": 0.0,"
        "\"bos_token_id\": 128000, \"eos_token_id\": [128001, 128008, 128009], \"head_dim\": 64,"
        "\"hidden_act\": \"silu\", \"hidden_size\": 2048, \"initializer_range\": 0.02,"
        "\"intermediate_size\": 8192, \"max_position_embeddings\": 131072, \"mlp_bias\": false,"
        "\"model_type\": \"llama\", \"num_attention_heads\": 32, \"num_hidden_layers\": 16,"
        "\"num_key_value_heads\": 8, \"pretraining_tp\": 1, \"rms_norm_eps\": 1e-05,"
        "\"rope_scaling\": {\"factor\": 32.0, \"high_freq_factor\": 4.0, \"low_freq_factor\": 1.0,"
        "\"original_max_position_embeddings\": 8192, \"rope_type\": \"llama3\"}, \"rope_theta\": 500000.0,"
        "\"tie_word_embeddings\": true, \"torch_dtype\": \"bfloat16\", \"use_cache\": true, \"vocab_size\": 128256}",
        &err));
    assert_string_equal(s.family, "llama");
    assert_int_equal(s.vocab, 128256);
    assert_int_equal(s.hidden, 2048);
    assert_int_equal(s.ffn, 8192);
    assert_int_equal(s.layers, 16);
    assert_int_equal(s.heads, 32);
    assert_int_equal(s.kv_heads, 8);
    assert_int_equal(s.head_dim, 64);
    assert_true(s.norm_eps == 1e-5f);
    assert_true(s.tied && !s.attention_bias && !s.mlp_bias);
    assert_int_equal(s.max_positions, 131072);
    assert_int_equal(s.rope, ROPE_LLAMA3);
    assert_true(s.rope_theta == 5e5 && s.rope_factor == 32 && s.rope_low == 1 && s.rope_high == 4);
    assert_int_equal(s.rope_original, 8192);
}

/* Keys in front of these are: a small complete model. */
#define SMALL                                                                                                          \
    "{\"model_type\": \"llama\", \"vocab_size\": 100, \"hidden_size\": 64, \"intermediate_size\": 96,"                 \
    "\"num_hidden_layers\": 2, \"num_attention_heads\": 4"

static void absent_and_null_keys_take_the_defaults(void **state)
{
    (void)state;
    Err err = {0};
    ModelSpec s;
    assert_done(read_spec(&s, SMALL "}", &err));
    assert_int_equal(s.kv_heads, 4);
    assert_int_equal(s.head_dim, 16);
    assert_int_equal(s.max_positions, 2048);
    assert_true(s.norm_eps == 1e-6f && s.rope_theta == 1e4 && !s.tied);
    assert_int_equal(s.rope, ROPE_DEFAULT);
    assert_done(read_spec(&s,
                          SMALL ", \"num_key_value_heads\": null, \"head_dim\": null, \"rope_scaling\": null,"
                                "\"sliding_window\": null, \"quantization_config\": null, \"hidden_act\": null}",
                          &err));
    assert_int_equal(s.kv_heads, 4);
    assert_int_equal(s.head_dim, 16);
    assert_done(read_spec(
        &s, SMALL ", \"head_dim\": 32, \"num_key_value_heads\": 2, \"attention_bias\": true, \"mlp_bias\": true}",
        &err));
    assert_int_equal(s.head_dim, 32); /* 4 x 32 is not 64, and need not be */
    assert_int_equal(projection_rows(&s, PROJ_Q), 128);
    assert_int_equal(projection_rows(&s, PROJ_K), 64);
    assert_int_equal(projection_rows(&s, PROJ_V), 64);
    assert_int_equal(projection_rows(&s, PROJ_O), 64);
    assert_int_equal(projection_cols(&s, PROJ_O), 128);
    assert_int_equal(projection_cols(&s, PROJ_Q), 64);
    assert_int_equal(projection_rows(&s, PROJ_GATE), 96);
    assert_int_equal(projection_cols(&s, PROJ_UP), 64);
    assert_int_equal(projection_rows(&s, PROJ_DOWN), 64);
    assert_int_equal(projection_cols(&s, PROJ_DOWN), 96);
    assert_string_equal(projection_module(PROJ_GATE), "mlp.gate_proj");
    assert_true(s.attention_bias && s.mlp_bias);
    assert_done(read_spec(&s, "{\"model_type\": \"llama\"}", &err)); /* transformers' LlamaConfig() */
    assert_true(s.vocab == 32000 && s.hidden == 4096 && s.ffn == 11008 && s.layers == 32 && s.heads == 32);
}

static void harmless_variants_are_accepted(void **state)
{
    (void)state;
    static const char *const keys[] = {
        ", \"attention_dropout\": 0}",
        ", \"partial_rotary_factor\": 1.0}",
        ", \"layer_types\": [\"full_attention\", \"full_attention\"]}",
        ", \"architectures\": null}",
        ", \"architectures\": [\"LLaMAForCausalLM\"]}",
        ", \"rope_parameters\": {\"rope_theta\": 5e5, \"rope_type\": \"default\"}}",
        ", \"rope_parameters\": {\"rope_theta\": 500000}}",
        ", \"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}}",
        ", \"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 2.0}}",
        ", \"rope_scaling\": {\"type\": \"su\", \"rope_type\": \"default\"}}", /* the newer key wins */
        ", \"quantization_config\": {\"quant_method\": \"bitsandbytes\", \"load_in_4bit\": true, \"load_in_8bit\": "
        "false}}",
        ", \"pretraining_tp\": 2, \"use_sliding_window\": false, \"auto_map\": {}}",
    };
    for (size_t i = 0; i < ARRAY_COUNT(keys); i++) {
        Err err = {0};
        ModelSpec s;
        char text[1024];
        snprintf(text, sizeof text, "%s%s", SMALL, keys[i]);
        if (!read_spec(&s, text, &err)) fail_msg("%s: %s", keys[i], err.text);
    }
}

static const struct {
    const char *text, *part;
} refused[] = {
    {"[]",                                                                                             "not a JSON object"                    },
    {"{}",                                                                                             "no model_type"                        },
    {"{\"model_type\": 5}",                                                                            "\"model_type\" must be a text"        },
    {"{\"model_type\": \"mamba\"}",                                                                    "model_type \"mamba\" is not supported"},
    {"{\"model_type\": \"qwen2\"}",                                                                    "supported: llama"                     },
    {"{\"model_type\": \"ll\\u001bama\"}",                                                             "ll\\x1Bama"                           },
    {SMALL ", \"architectures\": [\"LlamaForSequenceClassification\"]}",                               "LlamaForSequenceClassification"       },
    {SMALL ", \"hidden_act\": \"gelu\"}",                                                              "hidden_act \"gelu\""                  },
    {SMALL ", \"sliding_window\": 4096}",                                                              "sliding_window = 4096"                },
    {SMALL ", \"partial_rotary_factor\": 0.5}",                                                        "partial_rotary_factor = 0.5"          },
    {SMALL ", \"attention_dropout\": 0.1}",                                                            "attention_dropout = 0.1"              },
    {SMALL ", \"num_local_experts\": 8}",                                                              "num_local_experts = 8"                },
    {SMALL ", \"final_logit_softcapping\": 30.0}",                                                     "final_logit_softcapping = 30"         },
    {SMALL ", \"logits_scaling\": 8}",                                                                 "logits_scaling = 8"                   },
    {SMALL ", \"use_qk_norm\": true}",                                                                 "use_qk_norm = true"                   },
    {SMALL ", \"layer_types\": [\"full_attention\", \"sliding_attention\"]}",                          "layer type \"sliding_attention\""     },
    {SMALL ", \"layer_types\": [5]}",                                                                  "layer type"                           },
    {SMALL ", \"quantization_config\": {\"quant_method\": \"gptq\"}}",                                 "quantization method \"gptq\""         },
    {SMALL ", \"quantization_config\": {}}",                                                           "quantization method \"unknown\""      },
    {SMALL ", \"quantization_config\": \"awq\"}",                                                      "must be an object"                    },
    {SMALL ", \"quantization_config\": {\"quant_method\": \"bitsandbytes\", \"load_in_8bit\": true}}",
     "8-bit bitsandbytes"                                                                                                                     },
    {SMALL ", \"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4.0}}",                          "rope scaling \"yarn\""                },
    {SMALL ", \"rope_scaling\": {\"type\": \"longrope\"}}",                                            "rope scaling \"longrope\""            },
    {SMALL ", \"rope_scaling\": {\"type\": \"linear\"}}",                                              "has no factor"                        },
    {SMALL ", \"rope_scaling\": {\"type\": \"linear\", \"factor\": 0.5}}",                             "factor is 0.5"                        },
    {SMALL ", \"rope_scaling\": {\"type\": \"linear\", \"factor\": -2}}",                              "factor is -2"                         },
    {SMALL ", \"rope_scaling\": {\"type\": \"llama3\", \"factor\": 8.0}}",                             "llama3 rope scaling needs"            },
    {SMALL ", \"rope_scaling\": {\"type\": \"llama3\", \"factor\": 8.0, \"low_freq_factor\": 4, \"high_freq_factor\": "
           "1, \"original_max_position_embeddings\": 8192}}",                                     "larger than low_freq_factor"          },
    {SMALL ", \"rope_scaling\": 5}",                                                                   "must be an object"                    },
    {SMALL ", \"rope_parameters\": {\"full_attention\": {}}}",                                         "by layer type"                        },
    {SMALL ", \"rope_parameters\": {\"partial_rotary_factor\": 0.75}}",                                "partial_rotary_factor = 0.75"         },
    {SMALL ", \"rope_theta\": 0}",                                                                     "rope_theta is 0"                      },
    {SMALL ", \"rope_theta\": -1e4}",                                                                  "rope_theta is -10000"                 },
    {SMALL ", \"rope_theta\": \"1e4\"}",                                                               "\"rope_theta\" must be a number"      },
    {SMALL ", \"rms_norm_eps\": -1e-5}",                                                               "rms_norm_eps is -1e-05"               },
    {SMALL ", \"rms_norm_eps\": 2}",                                                                   "rms_norm_eps is 2"                    },
    {SMALL ", \"num_key_value_heads\": 3}",                                                            "4 heads are not a multiple of 3"      },
    {SMALL ", \"num_key_value_heads\": 8}",                                                            "number of key/value heads is 8"       },
    {SMALL ", \"num_key_value_heads\": 0}",                                                            "\"num_key_value_heads\" is 0"         },
    {SMALL ", \"head_dim\": 15}",                                                                      "head size 15 is odd"                  },
    {SMALL ", \"head_dim\": 0}",                                                                       "\"head_dim\" is 0"                    },
    {SMALL ", \"head_dim\": 258}",                                                                     "\"head_dim\" is 258"                  },
    {"{\"model_type\": \"llama\", \"hidden_size\": 1024, \"num_attention_heads\": 2}",                 "head size is 512"                     },
    {SMALL ", \"head_dim\": 4096}",                                                                    "\"head_dim\" is 4096"                 },
    {SMALL ", \"tie_word_embeddings\": 1}",                                                            "must be true or false"                },
    {SMALL ", \"max_position_embeddings\": 0}",                                                        "\"max_position_embeddings\" is 0"     },
    {"{\"model_type\": \"llama\", \"hidden_size\": 0}",                                                "\"hidden_size\" is 0"                 },
    {"{\"model_type\": \"llama\", \"hidden_size\": -64}",                                              "\"hidden_size\" is -64"               },
    {"{\"model_type\": \"llama\", \"hidden_size\": 2147483648}",                                       "\"hidden_size\" is 2147483648"        },
    {"{\"model_type\": \"llama\", \"hidden_size\": 64.5}",                                             "must be an integer"                   },
    {"{\"model_type\": \"llama\", \"num_hidden_layers\": 1000000}",                                    "\"num_hidden_layers\" is 1000000"     },
    {"{\"model_type\": \"llama\", \"vocab_size\": 4294967296}",                                        "\"vocab_size\" is 4294967296"         },
    {"{\"model_type\": \"llama\", \"hidden_size\": 100, \"num_attention_heads\": 3}",
     "not a multiple of num_attention_heads"                                                                                                  },
};

static void what_is_not_covered_is_refused_by_name(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(refused); i++) {
        Err err = {0};
        ModelSpec s;
        if (read_spec(&s, refused[i].text, &err)) fail_msg("%s was read", refused[i].text);
        if (!strstr(err.text, refused[i].part)) fail_msg("%s: \"%s\"", refused[i].text, err.text);
        assert_error(&err, ERR_MODEL, "config.json");
    }
}

static int ulps(float a, float b)
{
    int32_t x;
    int32_t y;
    memcpy(&x, &a, sizeof x);
    memcpy(&y, &b, sizeof y);
    return abs(x - y);
}

/* Both styles of keys, every scaling. torch's vectorised pow is not correctly rounded, so a unit or two may differ. */
static void frequencies_are_those_of_transformers(void **state)
{
    (void)state;
    Err err = {0};
    Safetensors st;
    assert_done(safetensors_open(&st, "golden/data/source/rope.safetensors", &err));
    assert_int_equal(st.count, 12);
    for (int i = 0; i < st.count; i++) {
        const SafetensorsEntry *e = &st.entries[i];
        float expected[64];
        float got[64];
        ModelSpec s;
        assert_done(read_spec(&s, safetensors_metadata(&st, e->name), &err));
        assert_int_equal(s.head_dim, 2 * e->count);
        assert_done(safetensors_read(&st, e, 0, e->bytes, expected, &err));
        spec_rope_frequencies(&s, got);
        for (int k = 0; k < e->count; k++) {
            if (ulps(got[k], expected[k]) > 2)
                fail_msg("%s, frequency %d: %.9g, not %.9g", e->name, k, (double)got[k], (double)expected[k]);
        }
    }
    safetensors_close(&st);
}

/* Figures from another implementation, in case the generator itself was wrong. */
static void frequencies_have_the_published_values(void **state)
{
    (void)state;
    ModelSpec s = {.head_dim = 128,
                   .rope_theta = 5e5,
                   .rope = ROPE_LLAMA3,
                   .rope_factor = 8,
                   .rope_low = 1,
                   .rope_high = 4,
                   .rope_original = 8192};
    static const struct {
        int i;
        double value;
    } large[] =
        {
            {28, 3.211446e-3},
            {29, 2.166571e-3},
            {30, 1.371894e-3},
            {35, 9.556212e-5},
            {63, 3.068926e-7}
    },
      small[] = {{14, 3.211446e-3}, {15, 1.290548e-3}, {16, 4.295568e-4},
                 {17, 9.708288e-5}, {18, 1.946164e-5}, {31, 9.418307e-8}};
    float got[64];
    spec_rope_frequencies(&s, got);
    for (size_t k = 0; k < ARRAY_COUNT(large); k++)
        assert_true(fabs((double)got[large[k].i] / large[k].value - 1) < 1e-6);
    s.head_dim = 64;
    s.rope_factor = 32;
    spec_rope_frequencies(&s, got);
    for (size_t k = 0; k < ARRAY_COUNT(small); k++)
        assert_true(fabs((double)got[small[k].i] / small[k].value - 1) < 1e-6);
}

static void a_written_config_reads_back_as_the_same_model(void **state)
{
    (void)state;
    Err err = {0};
    static const char *const configs[] = {
        SMALL "}",
        SMALL ", \"tie_word_embeddings\": true, \"attention_bias\": true, \"mlp_bias\": true, \"head_dim\": 32}",
        SMALL ", \"rope_scaling\": {\"type\": \"linear\", \"factor\": 2.5}, \"rope_theta\": 130000.0, "
              "\"rms_norm_eps\": 1e-05}",
        SMALL ", \"rope_scaling\": {\"type\": \"llama3\", \"factor\": 8.0, \"low_freq_factor\": 1, "
              "\"high_freq_factor\": 4, \"original_max_position_embeddings\": 8192}}",
    };
    for (size_t i = 0; i < ARRAY_COUNT(configs); i++) {
        ModelSpec first;
        ModelSpec second;
        memset(&first, 0, sizeof first);
        memset(&second, 0, sizeof second);
        assert_done(read_spec(&first, configs[i], &err));
        json_t *config = spec_to_config(&first, "bfloat16");
        assert_non_null(config);
        assert_string_equal(json_string_value(json_object_get(config, "torch_dtype")), "bfloat16");
        assert_done(spec_from_config(&second, config, "written", &err));
        assert_memory_equal(&first, &second, sizeof first);
        char *text = json_dumps(config, JSON_COMPACT | JSON_REAL_PRECISION(17));
        assert_null(strstr(text, "99999997")); /* 1e-05, not what its f32 is in full */
        mem_free(text);
        json_decref(config);
    }
}

static void memory_that_runs_out_leaks_nothing(void **state)
{
    (void)state;
    const ModelSpec s = {.family = "llama", .rope = ROPE_LLAMA3};
    Err err = {0};
    json_t *warm;
    assert_done(json_parse(&warm, "{}", 2, "x", ERR_MODEL, &err)); /* our allocator is in place from here on */
    json_decref(warm);
    for (uint64_t nth = 1;; nth++) {
        mem_fail_at(nth, false);
        json_t *config = spec_to_config(&s, "float32");
        mem_fail_at(0, false);
        if (!config) continue;
        json_decref(config);
        assert_true(nth > 20);
        break;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_released_config_is_read),
        cmocka_unit_test(absent_and_null_keys_take_the_defaults),
        cmocka_unit_test(harmless_variants_are_accepted),
        cmocka_unit_test(what_is_not_covered_is_refused_by_name),
        cmocka_unit_test(frequencies_are_those_of_transformers),
        cmocka_unit_test(frequencies_have_the_published_values),
        cmocka_unit_test(a_written_config_reads_back_as_the_same_model),
        cmocka_unit_test(memory_that_runs_out_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
