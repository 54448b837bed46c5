/* The YAML that a configuration may be written in, and what is refused, each at its place. */
#include "tests/trainer/rig_config.h"

#include "base/mem.h"
#include "trainer/yaml.h"

#include <time.h>

static const struct Case {
    const char *text; /* after BASE */
    const char *fault;
} refused[] = {
    {"lora_r: &x 4\n",                        "f.yaml:3:9: anchors (&name) are not supported; write the value out where it is used"                    },
    {"lora_r: *x\n",                          "f.yaml:3:9: aliases (*name) are not supported; write the value out"                                     },
    {"lora_r: !!int 4\n",                     "f.yaml:3:9: tags (!name) are not supported; remove it"                                                  },
    {"lora_r: !mine 4\n",                     "f.yaml:3:9: tags (!name) are not supported; remove it"                                                  },
    {"lora_rank_pattern: {<<: {q: 1}}\n",     "f.yaml:3:21: merge keys (<<) are not supported; write the keys out\n"
                                          "f.yaml:3:25: lora_rank_pattern: a map stands where a number should"},
    {"---\nseed: 1\n",                        "f.yaml:3:1: a second document; a file holds one configuration"                                          },
    {"seed: 1\nseed: 2\n",                    "f.yaml:4:1: \"seed\" stands here a second time; line 3 has it already"                                  },
    {"seed: 1\n\"seed\": 1\n",                "f.yaml:4:1: \"seed\" stands here a second time; line 3 has it already"                                  },
    {"lora_rank_pattern: {q: 1, q: 2}\n",     "f.yaml:3:27: \"q\" stands here a second time; line 3 has it already"                                    },
    {"\tseed: 1\n",                           "f.yaml:3:1: a tab; indent and separate with spaces"                                                     },
    {"seed:\t1\n",                            "f.yaml:3:6: a tab; indent and separate with spaces"                                                     },
    {"seed: 1\t# x\n",                        "f.yaml:3:8: a tab; indent and separate with spaces"                                                     },
    {"lora_target_modules: [a,\tb]\n",        "f.yaml:3:25: a tab; indent and separate with spaces"                                                    },
    {"output_dir: a\tb\n",                    "f.yaml:3:14: a tab; indent and separate with spaces"                                                    },
    {"? [a]\n: 1\n",                          "f.yaml:3:3: a list cannot be a key; write key: value"                                                   },
    {"{a: 1}: 1\n",                           "f.yaml:3:1: a map cannot be a key; write key: value"                                                    },
    {"output_dir: \"a\\0b\"\n",
     "f.yaml:3:13: a text with the character U+0000 in it; no value of a configuration has one"                                                        },
    {"seed: 1\x01\n",                         "f.yaml:3:8: control character U+0001; in double quotes it can be written as \"\\u0001\""                },
    {"# \xC2\x85\n",                          "f.yaml:3:3: control character U+0085; in double quotes it can be written as \"\\u0085\""                },
    {"# \xE2\x80\xA8\n",                      "f.yaml:3:3: control character U+2028; in double quotes it can be written as \"\\u2028\""                },
    {"# \xE9\xE9 \xFF\n",                     "f.yaml:3:3: byte 0xE9 is not UTF-8; save the file as UTF-8"                                             },
    {"# \xC3\xA9\xC3\xA9 \xFF\n",             "f.yaml:3:6: byte 0xFF is not UTF-8; save the file as UTF-8"                                             },
    {"# \xED\xA0\x80\n",                      "f.yaml:3:3: byte 0xED is not UTF-8; save the file as UTF-8"                                             },
    {"output_dir: \"x\n",                     "f.yaml:4:1: not YAML (found unexpected end of stream): a quote is not closed"                           },
    {"output_dir: a: b\n",                    "f.yaml:3:14: not YAML (mapping values are not allowed in this context): a second \": \" in "
                           "one line, or a wrong indentation; put texts that contain \": \" in quotes"                       },
    {"lora_target_modules: [a, b\nseed: 1\n", "f.yaml:4:5: not YAML (did not find expected ',' or ']'): a list that "
                                              "starts with [ needs commas and a ]"                        },
    {"output_dir: @x\n",                      "f.yaml:3:13: not YAML (found character that cannot start any token): put the text in quotes"            },
    {"output_dir: \"\\q\"\n",
     "f.yaml:3:14: not YAML (found unknown escape character): write \\\\ for a backslash, or use "
     "single quotes"                                                                                                                                   },
    {"just words\n",
     "f.yaml:4:1: not YAML (could not find expected ':'): a line without \": \", or a wrong indentation"                                               },
};

static void every_refusal_names_its_place(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        Config *c = rig_more(refused[i].text);
        expect_faults(c, refused[i].text, refused[i].fault);
        assert_true(rig_err.located);
    }
    expect_faults(rig_parse("%YAML 1.1\n---\n" BASE), "a directive",
                  "f.yaml:1:1: directives (%) are not supported; remove the line");
    expect_faults(rig_parse("- a\n"), "a list",
                  "f.yaml:1:1: a configuration is a map of key: value lines\n"
                  "f.yaml:1:1: base_model is missing; name a Hugging Face folder or a GGUF file\n"
                  "f.yaml:1:1: datasets is missing or empty; write an entry - path: FILE below it");
}

static void a_nul_byte_is_refused(void **state)
{
    (void)state;
    static const char text[] = BASE "seed: 1\n\0seed: 2\n";
    expect_faults(rig_parse_with(text, sizeof text - 1, NULL, 0), "a NUL",
                  "f.yaml:4:1: control character U+0000; in double quotes it can be written as \"\\u0000\"");
}

/* What stands before a broken line is checked too, but nothing is said to be missing. */
static void faults_before_a_broken_line_are_reported_with_it(void **state)
{
    (void)state;
    expect_faults(rig_parse("lora_rr: 4\nseed: x\nfoo\nbar: 1\n"), "a broken text",
                  "f.yaml:1:1: unknown key \"lora_rr\"; did you mean lora_r?\n"
                  "f.yaml:2:7: seed: \"x\" is not a whole number\n"
                  "f.yaml:4:1: not YAML (could not find expected ':'): a line without \": \", or a wrong indentation");
}

static void the_ways_to_write_one_thing_are_equal(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "base_model: m\ndatasets:\n  - path: d\n    roles:\n      user: [a, b]\noutput_dir: \"x y\"\nseed: 7\n",
        "base_model: m\ndatasets:\n- {path: d, roles: {user: [a, b]}}\noutput_dir: 'x y'\nseed: 7\n",
        "\xEF\xBB\xBF"
        "base_model: m\r\ndatasets:\r\n- path: d\r\n  roles:\r\n    user:\r\n    - a\r\n    - b\r\n"
        "output_dir: x y # a comment\r\nseed: 7\r\n",
        "--- # a start mark is fine\n{base_model: m, \"datasets\": [{path: d, roles: {user: [a, 'b']}}], output_dir: x "
        "y,\n"
        "\n  seed: 7}\n...\n",
        "# tabs\tin comments are fine\nbase_model: m\ndatasets:\n  - path: d\n    roles: {user: [a, b]}\noutput_dir: "
        ">-\n"
        "  x\n  y\nseed: 7\nlora_r:\ntokenizer: null\nrevision: ~\n",
    };
    char *first = NULL;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        Config *c = rig_good(texts[i]);
        char *text = rig_text(c);
        if (first) assert_string_equal(text, first);
        if (first) mem_free(text);
        if (!first) first = text;
        config_free(c);
    }
    mem_free(first);
}

static void texts_keep_every_character(void **state)
{
    (void)state;
    Config *c = rig_more("generate_samples:\n  every: 5\n  prompts:\n  - \"a\\tb\\n\\\"c\\\\ \\u00e9 \\U0001F600\"\n"
                         "  - 'it''s \xC3\xBC'\n  - |\n    two\n    lines\n  - \"tab\tinside\"\n");
    assert_non_null(c);
    const ConfigTexts *prompts = &c->generate_samples.prompts;
    assert_int_equal(prompts->count, 4);
    assert_false(prompts->scalar);
    assert_string_equal(prompts->items[0], "a\tb\n\"c\\ \xC3\xA9 \xF0\x9F\x98\x80");
    assert_string_equal(prompts->items[1], "it's \xC3\xBC");
    assert_string_equal(prompts->items[2], "two\nlines\n");
    assert_string_equal(prompts->items[3], "tab\tinside");
    config_free(c);
}

static char *repeat(const char *lead, const char *piece, size_t bytes)
{
    const size_t n = strlen(piece);
    const size_t head = strlen(lead);
    char *text = mem_alloc(head + bytes + n + 1, 1, &rig_err);
    memcpy(text, lead, head);
    for (size_t at = 0; at < bytes; at += n)
        memcpy(text + head + at, piece, n);
    return text;
}

static void nesting_stops_at_its_limit(void **state)
{
    (void)state;
    /* The root map is the first level. */
    expect_faults(rig_more("lora_target_modules: [[[[[[[[[[[[[[[x]]]]]]]]]]]]]]]\n"), "16 levels",
                  "f.yaml:3:23: lora_target_modules: a list stands where a text should");
    expect_faults(rig_more("lora_target_modules: [[[[[[[[[[[[[[[[x]]]]]]]]]]]]]]]]\n"), "17 levels",
                  "f.yaml:3:23: lora_target_modules: a list stands where a text should\n"
                  "f.yaml:3:37: lists and maps inside one another more than 16 deep");
}

/* libyaml has no limit of its own: time and memory must not grow with what hostile texts nest or repeat. */
static void hostile_texts_are_refused_quickly(void **state)
{
    (void)state;
    static const struct {
        const char *lead, *piece;
    } texts[] = {
        {"a: ",     "["        },
        {"a: ",     "{"        },
        {"a: ",     "[a: "     },
        {"",        "- "       },
        {"",        "? "       },
        {"a: ",     "[\n "     },
        {"",        "a: {"     },
        {"a: ",     "&a "      },
        {"a: [",    "1,"       },
        {"a: [",    "{a: 1},"  },
        {"a: \"",   "x\n "     },
        {"a: |\n",  " \n"      },
        {"",        "#"        },
        {"",        "\n"       },
        {"wandb_a", "\nwandb_b"},
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        char *text = repeat(texts[i].lead, texts[i].piece, YAML_BYTES_MAX - 20);
        const clock_t start = clock();
        assert_null(rig_parse(text));
        const double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
        if (seconds > 2) fail_msg("%.1f s for \"%s\" again and again", seconds, texts[i].piece);
        mem_free(text);
    }
}

static void size_and_number_of_values_are_limited(void **state)
{
    (void)state;
    char *big = repeat("# ", "x", YAML_BYTES_MAX);
    expect_faults(rig_parse(big), "a large text", "f.yaml:1:1: 262146 bytes; a configuration has at most 262144");
    mem_free(big);
    /* BASE is 7 values; the map of the root, key and value of this line, and its items make the rest. */
    char *many = repeat(BASE "lora_target_modules: [", "a, ", 3 * (YAML_NODES_MAX - 10));
    char text[YAML_BYTES_MAX];
    snprintf(text, sizeof text, "%s]\n", many);
    Config *c = rig_parse(text);
    assert_non_null(c);
    assert_int_equal(c->lora_target_modules.count, YAML_NODES_MAX - 10);
    config_free(c);
    snprintf(text, sizeof text, "%sb]\n", many);
    assert_null(rig_parse(text));
    assert_non_null(strstr(rig_err.text, "more than 10000 values; a configuration is smaller"));
    mem_free(many);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_refusal_names_its_place),
        cmocka_unit_test(a_nul_byte_is_refused),
        cmocka_unit_test(faults_before_a_broken_line_are_reported_with_it),
        cmocka_unit_test(the_ways_to_write_one_thing_are_equal),
        cmocka_unit_test(texts_keep_every_character),
        cmocka_unit_test(nesting_stops_at_its_limit),
        cmocka_unit_test(hostile_texts_are_refused_quickly),
        cmocka_unit_test(size_and_number_of_values_are_limited),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
