/* 4-bit folders of bitsandbytes: parts anywhere, and every part checked. */
#include "base/text.h"
#include "tests/model/source_rig.h"

#include <math.h>

/* The golden NF4 model once more, with one thing changed. */
typedef struct QuantChange {
    const char *drop, *rename, *new_name;
    const char *state; /* text of the quant_state of q_proj */
    const char *scale; /* part of q_proj that gets this first value */
    float value;
    bool apart; /* the parts of all matrices lie in a shard of their own */
} QuantChange;

#define Q "model.layers.0.self_attn.q_proj.weight"
#define STATE ".quant_state.bitsandbytes__nf4"

static bool goes_to(const QuantChange *c, const char *name, int shard)
{
    if (c->drop && strcmp(name, c->drop) == 0) return false;
    return !c->apart || (strstr(name, ".weight.") != NULL) == (shard == 1);
}

static void write_quantized(Scratch *s, const QuantChange *c)
{
    Err err = {0};
    Safetensors st;
    size_t length;
    Text index = {0};
    char *config = scratch_read("golden/data/source/nf4/config.json", &length);
    scratch_write(scratch_path(s, "config.json"), config, length);
    free(config);
    assert_done(safetensors_open(&st, "golden/data/source/nf4/model.safetensors", &err));
    for (int shard = 0; shard < (c->apart ? 2 : 1); shard++) {
        SafetensorsWriter *w;
        assert_done(safetensors_writer_create(&w, scratch_path(s, shard ? "b.safetensors" : "a.safetensors"), &err));
        for (int pass = 0; pass < 2; pass++) {
            for (int i = 0; i < st.count; i++) {
                const SafetensorsEntry *e = &st.entries[i];
                const bool replaced = c->state && strcmp(e->name, Q STATE) == 0;
                const int64_t size = replaced ? (int64_t)strlen(c->state) : 0;
                char *bytes = malloc(e->bytes + 4);
                if (!goes_to(c, e->name, shard)) {
                    free(bytes);
                    continue;
                }
                assert_done(safetensors_read(&st, e, 0, e->bytes, bytes, &err));
                if (c->scale && strcmp(e->name, c->scale) == 0) memcpy(bytes, &c->value, 4);
                const char *name = c->rename && strcmp(e->name, c->rename) == 0 ? c->new_name : e->name;
                if (pass == 0) {
                    assert_done(safetensors_writer_declare(w, name, e->dtype, replaced ? 1 : e->rank,
                                                           replaced ? &size : e->shape, &err));
                    if (c->apart)
                        assert_done(text_format(&index, &err, ", \"%s\": \"%c.safetensors\"", name, 'a' + shard));
                } else {
                    assert_done(safetensors_writer_data(w, replaced ? c->state : bytes,
                                                        replaced ? (size_t)size : e->bytes, &err));
                }
                free(bytes);
            }
            if (pass == 0) assert_done(safetensors_writer_begin(w, &err));
        }
        assert_done(safetensors_writer_finish(w, &err));
    }
    safetensors_close(&st);
    if (!c->apart) return;
    Text whole = {0};
    assert_done(text_format(&whole, &err, "{\"weight_map\": {%s}}", index.bytes + 2));
    scratch_write(scratch_path(s, "model.safetensors.index.json"), whole.bytes, whole.length);
    text_free(&whole);
    text_free(&index);
}

#define NESTED "\"nested_blocksize\": 256, \"nested_dtype\": \"float32\", \"nested_offset\": 0.05"
#define PLAIN "\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"bfloat16\", \"shape\": [64, 64]"

static void quantized_matrices_must_be_whole_and_consistent(void **state)
{
    (void)state;
    static const struct {
        QuantChange change;
        const char *part;
    } cases[] = {
        {{0},                                                                                                                     NULL                                },
        {{.apart = true},                                                                                                         NULL                                },
        {{.state = "{" PLAIN ", " NESTED "}"},                                                                                    NULL                                },
        {{.drop = Q},                                                                                                             "bitsandbytes 4-bit"                },
        {{.drop = Q ".absmax"},                                                                                                   "lacks its absmax"                  },
        {{.drop = Q ".quant_map"},                                                                                                "lacks its quant_map"               },
        {{.drop = Q ".nested_absmax"},                                                                                            "lacks its nested_absmax"           },
        {{.drop = Q ".nested_quant_map"},                                                                                         "lacks its nested_quant_map"        },
        {{.drop = Q STATE},                                                                                                       "lacks its quant_state"             },
        {{.rename = Q STATE, .new_name = Q ".quant_state.bitsandbytes__fp4"},                                                     "not that of its quant_state's name"},
        {{.rename = Q STATE, .new_name = Q ".quant_state.bitsandbytes__int3"},                                                    "lacks its quant_state"             },
        {{.rename = Q ".absmax", .new_name = Q ".quant_state.bitsandbytes__fp4"},                                                 "both nf4 and fp4"                  },
        {{.scale = Q ".quant_map", .value = -0.9f},                                                                               "quant_map other than"              },
        {{.scale = Q ".quant_map", .value = NAN},                                                                                 "quant_map other than"              },
        {{.state = "{" PLAIN "}"},                                                                                                "absmax of the wrong type or size"  }, /* said not to be nested */
        {{.state = "{" PLAIN ", \"nested_blocksize\": 128, \"nested_dtype\": \"float32\", \"nested_offset\": 0.05}"},
         "nested_blocksize other than 256"                                                                                                                            },
        {{.state = "{" PLAIN ", \"nested_blocksize\": 256, \"nested_dtype\": \"float16\", \"nested_offset\": 0.05}"},
         "nested_dtype other than float32"                                                                                                                            },
        {{.state = "{" PLAIN ", \"nested_blocksize\": 256, \"nested_dtype\": \"float32\"}"},                                      "no finite nested_offset"           },
        {{.state = "{" PLAIN ", \"nested_blocksize\": 256, \"nested_dtype\": \"float32\", \"nested_offset\": \"x\"}"},
         "no finite nested_offset"                                                                                                                                    },
        {{.state = "{" PLAIN ", \"nested_blocksize\": 256, \"nested_dtype\": \"float32\", \"nested_offset\": 1e300}"},
         "no finite nested_offset"                                                                                                                                    },
        {{.state = "{" PLAIN ", \"nested_offset\": 0.05}"},                                                                       "no nested_blocksize"               },
        {{.state = "{" PLAIN ", " NESTED ", \"more\": 1}"},                                                                       "unknown key"                       },
        {{.state = "{\"quant_type\": \"int4\", \"blocksize\": 64, \"dtype\": \"bfloat16\", \"shape\": [64, 64], " NESTED
                   "}"},
         "not that of its quant_state's name"                                                                                                                         },
        {{.state =
              "{\"quant_type\": \"nf4\", \"blocksize\": 0, \"dtype\": \"bfloat16\", \"shape\": [64, 64], " NESTED "}"},
         "blocksize that is no power"                                                                                                                                 },
        {{.state = "{\"quant_type\": \"nf4\", \"blocksize\": -64, \"dtype\": \"bfloat16\", \"shape\": [64, 64], " NESTED
                   "}"},
         "blocksize that is no power"                                                                                                                                 },
        {{.state =
              "{\"quant_type\": \"nf4\", \"blocksize\": 8192, \"dtype\": \"bfloat16\", \"shape\": [64, 64], " NESTED
              "}"},
         "blocksize that is no power"                                                                                                                                 },
        {{.state =
              "{\"quant_type\": \"nf4\", \"blocksize\": 96, \"dtype\": \"bfloat16\", \"shape\": [64, 64], " NESTED "}"},
         "blocksize that is no power"                                                                                                                                 },
        {{.state = "{\"quant_type\": \"nf4\", \"blocksize\": 128, \"dtype\": \"bfloat16\", \"shape\": [64, 64], " NESTED
                   "}"},
         "absmax of the wrong type or size"                                                                                                                           },
        {{.state =
              "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"int8\", \"shape\": [64, 64], " NESTED "}"},
         "unknown dtype"                                                                                                                                              },
        {{.state = "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"shape\": [64, 64], " NESTED "}"},                              "unknown dtype"                     },
        {{.state =
              "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"bfloat16\", \"shape\": [64], " NESTED "}"},
         "two dimensions"                                                                                                                                             },
        {{.state = "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"bfloat16\", \"shape\": [64, -64], " NESTED
                   "}"},
         "no pair of sizes"                                                                                                                                           },
        {{.state =
              "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"bfloat16\", \"shape\": [64, 65], " NESTED "}"},
         "does not fit its bytes"                                                                                                                                     },
        {{.state = "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"bfloat16\", \"shape\": [4294967296, "
                   "4294967296], " NESTED "}"},
         "does not fit its bytes"                                                                                                                                     },
        {{.state = "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"bfloat16\", \"shape\": [32, 128], " NESTED
                   "}"},
         "the configuration asks for 64 x 64"                                                                                                                         },
        {{.state = "{"},                                                                                                          "line 1"                            },
        {{.state = "[]"},                                                                                                         "no object"                         },
        {{.state = "{" PLAIN ", \"nested_offset\": 1, \"nested_offset\": 2}"},                                                    "duplicate object key"              },
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        Scratch s = scratch_make();
        write_quantized(&s, &cases[i].change);
        if (cases[i].part) {
            expect_refused(&s, cases[i].part);
        } else {
            expect_open(&s);
        }
        scratch_remove(&s);
    }
}

static void scales_that_are_not_finite_are_refused_when_read(void **state)
{
    (void)state;
    static const char *const parts[] = {Q ".nested_absmax", Q ".nested_quant_map"};
    for (size_t i = 0; i < 2; i++) {
        Err err = {0};
        Scratch s = scratch_make();
        ModelSource *source;
        QuantMatrix m;
        uint8_t codes[2048];
        uint8_t absmax[64];
        float nested[1];
        QuantHost host = {.codes = codes, .absmax = absmax, .nested_absmax = nested};
        write_quantized(&s, &(QuantChange){.scale = parts[i], .value = INFINITY});
        assert_done(source_open(&source, s.folder, true, &err));
        assert_false(source_read_quantized(source, source_find(source, Q), &m, &host, &err));
        assert_error(&err, ERR_MODEL, "not finite");
        source_close(source);
        scratch_remove(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quantized_matrices_must_be_whole_and_consistent),
        cmocka_unit_test(scales_that_are_not_finite_are_refused_when_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
