/* Hugging Face folders that are wrong, cut, or made to do harm: one clear sentence each. */
#include "base/text.h"
#include "tests/model/source_rig.h"

#include <sys/stat.h>

/* One layer, hidden 32, 2 heads of 16, 1 key/value head, feed-forward 64, vocabulary 10. */
static const char small_config[] =
    "{\"model_type\": \"llama\", \"vocab_size\": 10, \"hidden_size\": 32, \"intermediate_size\": 64,"
    "\"num_hidden_layers\": 1, \"num_attention_heads\": 2, \"num_key_value_heads\": 1%s}";

typedef struct Plain {
    const char *name;
    int64_t rows, cols;
} Plain;

static const Plain small_tensors[] = {
    {"lm_head.weight",                                 10, 32},
    {"model.embed_tokens.weight",                      10, 32},
    {"model.layers.0.input_layernorm.weight",          32, 0 },
    {"model.layers.0.mlp.down_proj.weight",            32, 64},
    {"model.layers.0.mlp.gate_proj.weight",            64, 32},
    {"model.layers.0.mlp.up_proj.weight",              64, 32},
    {"model.layers.0.post_attention_layernorm.weight", 32, 0 },
    {"model.layers.0.self_attn.k_proj.weight",         16, 32},
    {"model.layers.0.self_attn.o_proj.weight",         32, 32},
    {"model.layers.0.self_attn.q_proj.weight",         32, 32},
    {"model.layers.0.self_attn.v_proj.weight",         16, 32},
    {"model.norm.weight",                              32, 0 },
};

/* What is done to the small model before it is written. */
typedef struct Change {
    const char *drop;   /* tensor left out */
    const char *resize; /* tensor with one row more */
    const char *add;    /* tensor of 4 elements beside them */
    DType dtype;        /* of the added one */
    int rank;           /* of the added one; 0 means 1 */
    const char *keys;   /* further keys of config.json */
} Change;

static void write_tensors(const char *path, size_t first, size_t count, const Change *c)
{
    Err err = {0};
    SafetensorsWriter *w;
    size_t total = 0;
    assert_done(safetensors_writer_create(&w, path, &err));
    for (size_t i = first; i < first + count; i++) {
        const Plain *p = &small_tensors[i];
        if (c->drop && strcmp(c->drop, p->name) == 0) continue;
        const int64_t shape[2] = {p->rows + (c->resize && strcmp(c->resize, p->name) == 0), p->cols};
        assert_done(safetensors_writer_declare(w, p->name, DTYPE_F32, p->cols ? 2 : 1, shape, &err));
        total += (size_t)(shape[0] * (p->cols ? p->cols : 1)) * 4;
    }
    if (c->add && first == 0) {
        const int64_t shape[3] = {4, 1, 1};
        assert_done(safetensors_writer_declare(w, c->add, c->dtype, c->rank ? c->rank : 1, shape, &err));
        total += 4 * dtype_bytes(c->dtype);
    }
    char *zeros = calloc(1, total);
    assert_non_null(zeros);
    assert_done(safetensors_writer_begin(w, &err));
    assert_done(safetensors_writer_data(w, zeros, total, &err));
    assert_done(safetensors_writer_finish(w, &err));
    free(zeros);
}

static void write_config(Scratch *s, const char *keys)
{
    char text[1024];
    const int length = snprintf(text, sizeof text, small_config, keys ? keys : "");
    scratch_write(scratch_path(s, "config.json"), text, (size_t)length);
}

static void write_small(Scratch *s, const Change *c)
{
    write_config(s, c->keys);
    write_tensors(scratch_path(s, "model.safetensors"), 0, ARRAY_COUNT(small_tensors), c);
}

static void tensors_must_be_those_of_the_configuration(void **state)
{
    (void)state;
    static const struct {
        Change change;
        const char *part; /* null: opens */
    } cases[] = {
        {{0},                                                                   NULL                                                },
        {{.drop = "lm_head.weight"},                                            "\"lm_head.weight\" is missing"                     },
        {{.drop = "lm_head.weight", .keys = ", \"tie_word_embeddings\": true"}, NULL                                                },
        {{.keys = ", \"tie_word_embeddings\": true"},                           NULL                                                }, /* a stored copy is ignored */
        {{.drop = "model.layers.0.mlp.up_proj.weight"},                         "\"model.layers.0.mlp.up_proj.weight\" is missing"  },
        {{.drop = "model.norm.weight"},                                         "\"model.norm.weight\" is missing"                  },
        {{.resize = "model.embed_tokens.weight"},                               "is 11 x 32, but the configuration asks for 10 x 32"},
        {{.resize = "model.norm.weight"},                                       "is 33 x 1, but the configuration asks for 32 x 1"  },
        {{.resize = "model.layers.0.self_attn.k_proj.weight"},                  "is 17 x 32"                                        },
        {{.keys = ", \"num_hidden_layers\": 2"},                                "twice"                                             }, /* the key stands in small_config already */
        {{.keys = ", \"attention_bias\": true"},                                "q_proj.bias\" is missing"                          },
        {{.keys = ", \"mlp_bias\": true"},                                      "gate_proj.bias\" is missing"                       },
        {{.keys = ", \"head_dim\": 8"},                                         "the configuration asks for 16 x 32"                },
        {{.add = "model.layers.1.mlp.up_proj.weight"},                          "has no place in a llama model of 1 layers"         },
        {{.add = "model.layers.00.mlp.up_proj.weight"},                         "has no place"                                      },
        {{.add = "model.layers.-1.mlp.up_proj.weight"},                         "has no place"                                      },
        {{.add = "model.layers.18446744073709551616.mlp.up_proj.weight"},       "has no place"                                      },
        {{.add = "model.layers.0.self_attn.q_proj.bias"},                       "without such biases"                               },
        {{.add = "model.layers.0.self_attn.q_norm.weight"},                     "has no place"                                      },
        {{.add = "vision_tower.weight"},                                        "has no place"                                      },
        {{.add = "lm_head.bias"},                                               "has no place"                                      },
        {{.add = "model.layers.0.self_attn.rotary_emb.inv_freq"},               NULL                                                },
        {{.add = "model.layers.0.attn.masked_bias", .dtype = DTYPE_U8},         NULL                                                },
        {{.add = "extra", .dtype = DTYPE_I64},                                  "is I64; weights must be"                           },
        {{.add = "extra", .rank = 3},                                           "has 3 dimensions"                                  },
        {{.add = "model.layers.0.mlp.up_proj.SCB"},                             "has no place"                                      }, /* 8-bit bitsandbytes */
        {{.add = "model.layers.0.mlp.up_proj.weight.absmax"},                   "lacks its quant_state"                             },
        {{.add = "model.layers.9.mlp.up_proj.weight.absmax"},                   "has no place"                                      },
        {{.add = "model.layers.0.mlp.up_proj.weight.other"},                    "has no place"                                      },
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        Scratch s = scratch_make();
        write_small(&s, &cases[i].change);
        if (!cases[i].part) {
            expect_open(&s);
        } else if (strcmp(cases[i].part, "twice") == 0) {
            expect_refused(&s, "duplicate object key");
        } else {
            expect_refused(&s, cases[i].part);
        }
        scratch_remove(&s);
    }
}

static void weights_are_found_under_their_usual_names(void **state)
{
    (void)state;
    Scratch s = scratch_make();
    const Change none = {0};
    expect_refused(&s, "has no config.json");
    write_config(&s, NULL);
    expect_refused(&s, "has no weights: no model.safetensors and no index");
    scratch_write(scratch_path(&s, "pytorch_model.bin"), "x", 1);
    expect_refused(&s, ".bin files are not read");
    write_tensors(scratch_path(&s, "consolidated.safetensors"), 0, ARRAY_COUNT(small_tensors), &none);
    write_tensors(scratch_path(&s, "adapter_model.safetensors"), 0, 1, &none);
    expect_open(&s);
    ModelSource *source;
    Err err = {0};
    assert_false(source_open(&source, scratch_path(&s, "consolidated.safetensors"), true, &err));
    assert_error(&err, ERR_MODEL, "give the folder");
    write_tensors(scratch_path(&s, "other.safetensors"), 0, 1, &none);
    expect_refused(&s, "several safetensors files");
    write_tensors(scratch_path(&s, "model.safetensors"), 0, ARRAY_COUNT(small_tensors), &none);
    expect_open(&s);
    scratch_remove(&s);
}

static void only_regular_files_of_the_folder_are_opened(void **state)
{
    (void)state;
    Scratch s = scratch_make();
    Scratch outside = scratch_make();
    const Change none = {0};
    alarm(30); /* a FIFO must not hold us */
    assert_int_equal(mkfifo(scratch_path(&s, "config.json"), 0600), 0);
    expect_refused(&s, "is a pipe, not a file");
    unlink(scratch_path(&s, "config.json"));
    assert_int_equal(symlink("/dev/zero", scratch_path(&s, "config.json")), 0);
    expect_refused(&s, "outside of the model's folder");
    unlink(scratch_path(&s, "config.json"));
    write_config(&s, NULL);
    assert_int_equal(mkfifo(scratch_path(&s, "model.safetensors"), 0600), 0);
    expect_refused(&s, "is a pipe, not a file");
    unlink(scratch_path(&s, "model.safetensors"));
    assert_int_equal(mkdir(scratch_path(&s, "model.safetensors"), 0700), 0);
    expect_refused(&s, "is a folder, not a file");
    rmdir(scratch_path(&s, "model.safetensors"));
    const char *target = scratch_path(&outside, "w.safetensors");
    write_tensors(target, 0, ARRAY_COUNT(small_tensors), &none);
    assert_int_equal(symlink(target, scratch_path(&s, "model.safetensors")), 0);
    expect_refused(&s, "outside of the model's folder");
    alarm(0);
    scratch_remove(&outside);
    scratch_remove(&s);
}

/* weight_map that puts tensor i of the small model into the shard that `text` has for it: first half a, rest b */
static void write_index(Scratch *s, const char *a, const char *b, const char *more)
{
    Text t = {0};
    Err err = {0};
    assert_done(text_add_z(&t, "{\"metadata\": {\"total_size\": 1}, \"weight_map\": {", &err));
    for (size_t i = 0; i < ARRAY_COUNT(small_tensors); i++)
        assert_done(text_format(&t, &err, "%s\"%s\": %s", i ? ", " : "", small_tensors[i].name, i < 6 ? a : b));
    assert_done(text_format(&t, &err, "%s}}", more));
    scratch_write(scratch_path(s, "model.safetensors.index.json"), t.bytes, t.length);
    text_free(&t);
}

static void shards_are_plain_files_that_agree_with_the_index(void **state)
{
    (void)state;
    Scratch s = scratch_make();
    const Change none = {0};
    char name[400];
    write_config(&s, NULL);
    write_tensors(scratch_path(&s, "a.safetensors"), 0, 6, &none);
    write_tensors(scratch_path(&s, "b.safetensors"), 6, 6, &none);
    write_index(&s, "\"a.safetensors\"", "\"b.safetensors\"", "");
    expect_open(&s); /* a wrong total_size is only worth a warning */
    static const char *const bad[] = {
        "\"../a.safetensors\"",
        "\"/etc/a.safetensors\"",
        "\"sub/a.safetensors\"",
        "\"sub\\\\a.safetensors\"",
        "\"\"",
        "\".\"",
        "\"..\"",
        "\".a.safetensors\"",
        "\"a.safetensors\\u0000\"",
        "\"a.bin\"",
        "\"safetensors\"",
    };
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        write_index(&s, bad[i], "\"b.safetensors\"", "");
        expect_refused(&s, "is not the plain name of a safetensors file");
    }
    memset(name, 'x', sizeof name);
    memcpy(name, "\"", 1);
    memcpy(name + 300, ".safetensors\"", 14);
    write_index(&s, name, "\"b.safetensors\"", "");
    expect_refused(&s, "is not the plain name");
    write_index(&s, "7", "\"b.safetensors\"", "");
    expect_refused(&s, "weight_map must map names to names");
    write_index(&s, "\"none.safetensors\"", "\"b.safetensors\"", "");
    expect_refused(&s, "none.safetensors: it does not exist");
    write_index(&s, "\"b.safetensors\"", "\"a.safetensors\"", "");
    expect_refused(&s, "is not in b.safetensors but in");
    write_index(&s, "\"a.safetensors\"", "\"b.safetensors\"", ", \"ghost\": \"a.safetensors\"");
    expect_refused(&s, "\"ghost\" is in no shard");
    write_tensors(scratch_path(&s, "a.safetensors"), 0, 7, &none); /* one of them is in b as well */
    write_index(&s, "\"a.safetensors\"", "\"b.safetensors\"", "");
    expect_refused(&s, "is in two shards");
    write_tensors(scratch_path(&s, "a.safetensors"), 0, 6, &(Change){.add = "extra"});
    expect_refused(&s, "does not list the tensor \"extra\"");
    static const char *const texts[] = {"{}",
                                        "[]",
                                        "{\"weight_map\": []}",
                                        "{\"weight_map\": {}}",
                                        "{\"weight_map\": {\"a\": \"a.safetensors\", \"a\": \"b.safetensors\"}}",
                                        "",
                                        "{"};
    static const char *const parts[] = {"has no weight_map", "has no weight_map",    "has no weight_map",
                                        "names 0 shards",    "duplicate object key", "index.json",
                                        "index.json"};
    for (size_t i = 0; i < ARRAY_COUNT(texts); i++) {
        scratch_write(scratch_path(&s, "model.safetensors.index.json"), texts[i], strlen(texts[i]));
        expect_refused(&s, parts[i]);
    }
    Text many = {0};
    Err err = {0};
    assert_done(text_add_z(&many, "{\"weight_map\": {", &err));
    for (int i = 0; i < 1001; i++)
        assert_done(text_format(&many, &err, "%s\"t%d\": \"s%d.safetensors\"", i ? "," : "", i, i));
    assert_done(text_add_z(&many, "}}", &err));
    scratch_write(scratch_path(&s, "model.safetensors.index.json"), many.bytes, many.length);
    text_free(&many);
    expect_refused(&s, "names 1001 shards");
    scratch_remove(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tensors_must_be_those_of_the_configuration),
        cmocka_unit_test(weights_are_found_under_their_usual_names),
        cmocka_unit_test(only_regular_files_of_the_folder_are_opened),
        cmocka_unit_test(shards_are_plain_files_that_agree_with_the_index),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
