/* Faults of a configuration at their places, derived values, overrides, and what is written back. */
#include "tests/trainer/rig_config.h"

#include <math.h>

static const struct Case {
    const char *lines; /* after BASE */
    const char *faults;
} values[] = {
  /* whole numbers */
    {"lora_r: abc\n",                                               "f.yaml:3:9: lora_r: \"abc\" is not a whole number"                               },
    {"lora_r: 1.5\n",                                               "f.yaml:3:9: lora_r: \"1.5\" is not a whole number"                               },
    {"lora_r: 0\n",                                                 "f.yaml:3:9: lora_r: \"0\" is outside 1..1024"                                    },
    {"lora_r: 1025\n",                                              "f.yaml:3:9: lora_r: \"1025\" is outside 1..1024"                                 },
    {"lora_r: -4\n",                                                "f.yaml:3:9: lora_r: \"-4\" is outside 1..1024"                                   },
    {"lora_r: 0x10\n",                                              "f.yaml:3:9: lora_r: \"0x10\" is not a whole number"                              },
    {"lora_r: 1_6\n",                                               "f.yaml:3:9: lora_r: \"1_6\" is not a whole number"                               },
    {"lora_r: 010\n",
     "f.yaml:3:9: lora_r: \"010\" has a leading zero, which some YAML readers take for octal; remove it"                                              },
    {"lora_r: 16 # fine\nlora_alpha:   -1\n",                       "f.yaml:4:15: lora_alpha: \"-1\" is outside 1e-06..1000000"                       },
    {"lora_r: [8]\n",                                               "f.yaml:3:9: lora_r takes one value, not a list"                                  },
    {"lora_r: {a: 8}\n",                                            "f.yaml:3:9: lora_r takes one value, not a map"                                   },
    {"lora_r: true\n",                                              "f.yaml:3:9: lora_r: \"true\" is not a whole number"                              },
    {"lora_r: 99999999999999999999\n",                              "f.yaml:3:9: lora_r: \"99999999999999999999\" is outside 1..1024"                 },
    {"seed: 9223372036854775808\n",                                 "f.yaml:3:7: seed: \"9223372036854775808\" is outside 0..9223372036854775807"     },
    {"seed: -9999999999999999999\n",                                "f.yaml:3:7: seed: \"-9999999999999999999\" is outside 0..9223372036854775807"    },
    {"seed: 1e300\n",                                               "f.yaml:3:7: seed: \"1e300\" is outside 0..9223372036854775807"                   },
    {"threads: -1\n",                                               "f.yaml:3:10: threads: \"-1\" is outside 1..4096; the word for it is auto"        },
    {"threads: all\n",                                              "f.yaml:3:10: threads: \"all\" is not a whole number; the word for it is auto"    },
 /* numbers */
    {"learning_rate: fast\n",                                       "f.yaml:3:16: learning_rate: \"fast\" is not a number"                            },
    {"learning_rate: 2e\n",                                         "f.yaml:3:16: learning_rate: \"2e\" is not a number"                              },
    {"learning_rate: 2e-4x\n",                                      "f.yaml:3:16: learning_rate: \"2e-4x\" is not a number"                           },
    {"learning_rate: 2,5\n",                                        "f.yaml:3:16: learning_rate: \"2,5\" is not a number"                             },
    {"learning_rate: .nan\n",                                       "f.yaml:3:16: learning_rate: \".nan\" is not a finite number"                     },
    {"learning_rate: NaN\n",                                        "f.yaml:3:16: learning_rate: \"NaN\" is not a finite number"                      },
    {"learning_rate: .inf\n",                                       "f.yaml:3:16: learning_rate: \".inf\" is not a finite number"                     },
    {"learning_rate: -Infinity\n",                                  "f.yaml:3:16: learning_rate: \"-Infinity\" is not a finite number"                },
    {"learning_rate: 1e999\n",                                      "f.yaml:3:16: learning_rate: \"1e999\" is too large for a number"                 },
    {"learning_rate: 0\n",                                          "f.yaml:3:16: learning_rate: \"0\" is outside 1e-12..1"                           },
    {"learning_rate: 2\n",                                          "f.yaml:3:16: learning_rate: \"2\" is outside 1e-12..1"                           },
    {"lora_dropout: 1\n",                                           "f.yaml:3:15: lora_dropout: \"1\" is outside 0..0.999"                            },
 /* bools */
    {"shuffle: yes\n",                                              "f.yaml:3:10: shuffle: \"yes\" is neither true nor false; write true"             },
    {"shuffle: Off\n",                                              "f.yaml:3:10: shuffle: \"Off\" is neither true nor false; write false"            },
    {"shuffle: 1\n",                                                "f.yaml:3:10: shuffle: \"1\" is neither true nor false; write true"               },
    {"shuffle: maybe\n",                                            "f.yaml:3:10: shuffle: \"maybe\" is neither true nor false"                       },
 /* choices */
    {"lr_scheduler: cosin\n",                                       "f.yaml:3:15: lr_scheduler: \"cosin\" is not one of cosine, linear, constant, wsd"},
    {"optimizer: lion_8bit\n",                                      "f.yaml:3:12: optimizer: \"lion_8bit\" is not supported; use adamw_8bit"          },
    {"init_lora_weights: pissa\n",
     "f.yaml:3:20: init_lora_weights: \"pissa\" is not supported; use kaiming or gaussian"                                                            },
    {"device: tpu\n",                                               "f.yaml:3:1: device: \"tpu\" is none of auto, cpu, cuda and cuda:N"               },
    {"chat_template: mistral\n",
     "f.yaml:3:1: chat_template: \"mistral\" is not one of tokenizer (the model's own), chatml, llama3, plain"                                        },
 /* shares, sizes, durations */
    {"val_set_size: 1.5\n",                                         "f.yaml:3:15: val_set_size: \"1.5\" is neither a share below 1 nor a whole number"},
    {"val_set_size: -1\n",                                          "f.yaml:3:15: val_set_size: \"-1\" is outside 0..1000000000"                      },
    {"memory_budget: 8\n",                                          "f.yaml:3:16: memory_budget: \"8\" is less than 1MiB; write a unit, such as 4GiB" },
    {"memory_budget: 8 Gigs\n",
     "f.yaml:3:16: memory_budget: \"8 Gigs\" has an unknown unit; known: KiB, MiB, GiB, TiB, KB, MB, GB, TB"                                          },
    {"memory_budget: much\n",
     "f.yaml:3:16: memory_budget: \"much\" is not a size; write auto, or a number with a unit such as 4GiB"                                           },
    {"memory_budget: 1e300GiB\n",                                   "f.yaml:3:16: memory_budget: \"1e300GiB\" is too large for a size"                },
    {"save_minutes: 5d\n",                                          "f.yaml:3:15: save_minutes: \"5d\" has an unknown unit; known: s, m, h"           },
    {"save_minutes: soon\n",                                        "f.yaml:3:15: save_minutes: \"soon\" is not a duration; write 15, 90s, 15m or 2h" },
    {"save_minutes: -1m\n",                                         "f.yaml:3:15: save_minutes: \"-1m\" is outside 0..525600 minutes"                 },
 /* texts and lists */
    {"output_dir: \"\"\n",                                          "f.yaml:3:13: output_dir: \"\" is empty; remove the quotes to leave the key unset"},
    {"output_dir: [a]\n",                                           "f.yaml:3:13: output_dir takes one value, not a list"                             },
    {"lora_target_modules: {a: b}\n",                               "f.yaml:3:22: lora_target_modules takes a text or a list of texts, not a map"     },
    {"lora_target_modules: [a, ]\nlora_exclude_modules: [a, '']\n",
     "f.yaml:4:27: lora_exclude_modules: an empty item; remove it or give it a value"                                                                 },
    {"lora_target_modules: []\n",                                   "f.yaml:3:1: lora_target_modules names no module; write all-linear or some names" },
    {"lora_layers: 16\n",
     "f.yaml:3:14: lora_layers: \"16\" could be a layer or a number of layers; write [N] for layer "
     "N, or a range such as \"16-31\""                                                                                                                },
    {"lora_layers: 5-3\n",                                          "f.yaml:3:14: lora_layers: \"5-3\" is not a list of layers; write all, \"16-31\", "
                           "\"0,2,8-11\" or [0, 1, 2]"                                                                      },
    {"lora_layers: [1, -2]\n",                                      "f.yaml:3:18: lora_layers: \"-2\" is not a list of layers; write all, \"16-31\", "
                               "\"0,2,8-11\" or [0, 1, 2]"                                                              },
    {"lora_layers: [99999]\n",                                      "f.yaml:3:15: lora_layers: \"99999\" is not a list of layers; write all, \"16-31\", "
                               "\"0,2,8-11\" or [0, 1, 2]"                                                              },
    {"lora_layers: []\n",                                           "f.yaml:3:14: lora_layers: a list names no layer; write all, or name some"        },
    {"lora_rank_pattern: {q_proj: big}\n",                          "f.yaml:3:29: lora_rank_pattern: \"big\" is not a number"                         },
    {"lora_rank_pattern: {q_proj: 2000}\n",                         "f.yaml:3:29: lora_rank_pattern: \"2000\" is outside 1..1024"                     },
    {"lora_rank_pattern: {q_proj: 2.5}\n",                          "f.yaml:3:1: lora_rank_pattern: 2.5 is not a whole number"                        },
    {"lora_rank_pattern: [q_proj]\n",                               "f.yaml:3:20: lora_rank_pattern takes a map of name to number, not a list"        },
    {"variance_clamp: 3\n",                                         "f.yaml:3:17: variance_clamp takes a map such as {key: value}, not \"3\""         },
    {"variance_clamp: {low: 1}\n",                                  "f.yaml:3:18: variance_clamp: unknown key \"low\""                                },
    {"loss_watchdog: {treshold: 1}\n",                              "f.yaml:3:17: loss_watchdog: unknown key \"treshold\"; did you mean threshold?"   },
    {"quant_block_size: 96\n",                                      "f.yaml:3:1: quant_block_size: 96 is not a power of two"                          },
};

static const struct Case relations[] = {
    {"adapter: lora\nload_in_4bit: true\n",
     "f.yaml:4:1: load_in_4bit: true contradicts adapter: lora; remove one of them"                                                         },
    {"adapter: qlora\nload_in_4bit: false\n",
     "f.yaml:4:1: load_in_4bit: false contradicts adapter: qlora; remove one of them"                                                       },
    {"lora_target_modules: .*q_proj\nlora_layers: 0-3\n",
     "f.yaml:4:1: lora_layers cannot narrow a regular expression; put the layers into lora_target_modules, or list "
     "names there"                                                                                                                          },
    {"val_set_size: 0.1\ntest_datasets: [{path: e}]\n",
     "f.yaml:3:1: val_set_size and test_datasets both name evaluation data; keep one of them"                                               },
    {"mask_history: true\ntrain_on_inputs: true\n",
     "f.yaml:3:1: mask_history and train_on_inputs contradict each other; keep one of them"                                                 },
    {"micro_batch_size: 3\nglobal_batch_size: 8\n",
     "f.yaml:4:1: global_batch_size: 8 is not a multiple of micro_batch_size, which is 3"                                                   },
    {"micro_batch_size: 2\nglobal_batch_size: 8\ngradient_accumulation_steps: 3\n",
     "f.yaml:4:1: global_batch_size: 8 is not micro_batch_size * gradient_accumulation_steps, which is 6; remove one "
     "of "
     "the three"                                                                                                                            },
    {"warmup_steps: 5\nwarmup_ratio: 0.1\n",
     "f.yaml:3:1: warmup_steps and warmup_ratio say the same thing; keep one of them"                                                       },
    {"warmup_steps: 11\nmax_steps: 10\n",                                           "f.yaml:3:1: warmup_steps: the run has only 10 steps"   },
    {"lr_scheduler: wsd\nwarmup_ratio: 0.6\nlr_decay_ratio: 0.5\n",
     "f.yaml:5:1: warmup_ratio and lr_decay_ratio together are more than the whole run"                                                     },
    {"variance_clamp: {min: 2, max: 1}\n",                                          "f.yaml:3:18: variance_clamp: min 2 is above max 1"     },
    {"save_only_model: true\nloss_watchdog:\n  action: rollback\n",
     "f.yaml:5:3: loss_watchdog: rollback needs checkpoints that can be resumed; remove save_only_model"                                    },
    {"val_set_size: 5\neval_steps: 5\nevals_per_epoch: 2\n",
     "f.yaml:5:1: evals_per_epoch and eval_steps say the same thing; keep one of them"                                                      },
    {"load_best_model_at_end: true\n",
     "f.yaml:3:1: load_best_model_at_end needs evaluation data; set val_set_size or test_datasets"                                          },
    {"early_stopping_patience: 2\n",
     "f.yaml:3:1: early_stopping_patience needs evaluation data; set val_set_size or test_datasets"                                         },
    {"val_set_size: 5\nevals_per_epoch: 0\nearly_stopping_patience: 2\n",
     "f.yaml:5:1: early_stopping_patience needs evaluations; set evals_per_epoch or eval_steps"                                             },
    {"generate_samples: {prompts: p.txt}\n",
     "f.yaml:3:20: generate_samples: there are no evaluations; set every to a number of updates"                                            },
    {"save_steps: 5\nsaves_per_epoch: 2\n",
     "f.yaml:4:1: saves_per_epoch and save_steps say the same thing; keep one of them"                                                      },
 /* A value that is a fault of its own is not judged further. */
    {"micro_batch_size: 2\nglobal_batch_size: 8\ngradient_accumulation_steps: x\n",
     "f.yaml:5:30: gradient_accumulation_steps: \"x\" is not a whole number"                                                                },
    {"val_set_size: many\nearly_stopping_patience: 2\n",                            "f.yaml:3:15: val_set_size: \"many\" is not a number"   },
    {"variance_clamp: {min: 2, max: x}\n",                                          "f.yaml:3:31: variance_clamp.max: \"x\" is not a number"},
};

static const struct Case data[] = {
    {"test_datasets: d.jsonl\n",                                               "f.yaml:3:16: test_datasets takes a list of maps; write - path: FILE below it"},
    {"test_datasets: [d.jsonl]\n",                                             "f.yaml:3:17: test_datasets[0] takes a map; write - path: FILE"               },
    {"test_datasets:\n  - path: a\n  - type: chat\n",
     "f.yaml:5:5: test_datasets[1] has no path; write path: FILE, a glob or a folder"                                                                        },
    {"test_datasets:\n  - path: a\n    typ: chat\n",
     "f.yaml:5:5: test_datasets[0]: unknown key \"typ\"; did you mean type?"                                                                                 },
    {"test_datasets:\n  - path: a\n    file: chat\n",
     "f.yaml:5:5: test_datasets[0]: unknown key \"file\"; did you mean path?"                                                                                },
    {"test_datasets:\n  - path: a\n    sequence_len: 5\n",
     "f.yaml:5:5: test_datasets[0]: \"sequence_len\" is a key of the file, not of a data source; move it to the left "
     "margin"                                                                                                                                                },
    {"test_datasets:\n  - path: a\n    type: chatt\n",                         "f.yaml:5:11: test_datasets[0].type: \"chatt\" is not one of "
                                                       "auto, chat, sharegpt, alpaca, prompt_completion, text, "
                                                       "pretokenized"                                  },
    {"test_datasets:\n  - path: a\n    weight: 0\n",
     "f.yaml:5:13: test_datasets[0].weight: \"0\" is outside 1e-06..1000000"                                                                                 },
    {"test_datasets:\n  - path: a\n    roles: {user: a, assistant: [b, a]}\n",
     "f.yaml:5:37: test_datasets[0].roles: \"a\" is a name of two roles, or twice of one"                                                                    },
    {"test_datasets:\n  - path: a\n    roles: {user: {a: b}}\n",
     "f.yaml:5:19: test_datasets[0].roles: a map stands where a list of names should"                                                                        },
    {"test_datasets:\n  - path: a\n    ds_type: parquet\n",
     "f.yaml:5:5: test_datasets[0].ds_type is not supported: only JSONL and JSON files are read; convert the file"                                           },
    {"train_on_eos: all\n",                                                    "f.yaml:3:1: train_on_eos stands in an entry of datasets, not at the top"     },
};

static void expect_each(const struct Case *cases, size_t count)
{
    for (size_t i = 0; i < count; i++)
        expect_faults(rig_more(cases[i].lines), cases[i].lines, cases[i].faults);
}

static void a_wrong_value_is_named_with_its_place_and_range(void **state)
{
    (void)state;
    expect_each(values, sizeof values / sizeof values[0]);
}

static void a_combination_that_cannot_be_is_refused(void **state)
{
    (void)state;
    expect_each(relations, sizeof relations / sizeof relations[0]);
}

static void a_data_source_is_checked_like_the_rest(void **state)
{
    (void)state;
    expect_each(data, sizeof data / sizeof data[0]);
}

static void missing_keys_are_named(void **state)
{
    (void)state;
    static const char both[] = "f.yaml:1:1: base_model is missing; name a Hugging Face folder or a GGUF file\n"
                               "f.yaml:1:1: datasets is missing or empty; write an entry - path: FILE below it";
    expect_faults(rig_parse(""), "nothing", both);
    expect_faults(rig_parse("# only a comment\n"), "a comment", both);
    expect_faults(rig_parse("null\n"), "null", both);
    expect_faults(rig_parse("base_model: [m]\ndatasets: [{path: d}]\n"), "a list",
                  "f.yaml:1:13: base_model takes one value, not a list");
    expect_faults(rig_parse("datasets: []\nbase_model:\n"), "empty values",
                  "f.yaml:1:1: datasets is missing or empty; write an entry - path: FILE below it\n"
                  "f.yaml:2:1: base_model is missing; name a Hugging Face folder or a GGUF file");
}

static void all_faults_come_at_once_in_the_order_of_the_file(void **state)
{
    (void)state;
    const char *lines = "lora_r: abc\nshufle: true\nlr: 1e-4\nlora_rank: 8\nadam_epsilion: 1e-8\nseed: 1\nseed: 2\n"
                        "early_stopping_patience: 2\ndeepspeed: ds.json\nlearning_rate: 5\n";
    const char *set = "max_grad_norm=big";
    Config *c = rig_set(lines, set);
    expect_faults(
        c, lines,
        "f.yaml:3:9: lora_r: \"abc\" is not a whole number\n"
        "f.yaml:4:1: unknown key \"shufle\"; did you mean shuffle?\n"
        "f.yaml:5:1: unknown key \"lr\"; did you mean learning_rate?\n"
        "f.yaml:6:1: lora_rank and lora_r are one key, and line 3 sets it already; keep one of them\n"
        "f.yaml:7:1: unknown key \"adam_epsilion\"; did you mean adam_epsilon?\n"
        "f.yaml:9:1: \"seed\" stands here a second time; line 8 has it already\n"
        "f.yaml:10:1: early_stopping_patience needs evaluation data; set val_set_size or test_datasets\n"
        "f.yaml:11:1: deepspeed is not supported: one process trains on one device; adapter: qlora and optimizer: "
        "paged_adamw_8bit save the memory that sharding would\n"
        "f.yaml:12:16: learning_rate: \"5\" is outside 1e-12..1\n"
        "qlora: --set max_grad_norm=big: max_grad_norm: \"big\" is not a number");
    assert_true(rig_err.located);
}

static void too_many_faults_are_cut_at_a_line(void **state)
{
    (void)state;
    char lines[8000] = "";
    for (int i = 0; i < 150; i++)
        snprintf(lines + strlen(lines), sizeof lines - strlen(lines), "no_such_key_%03d: 1\n", i);
    assert_null(rig_more(lines));
    assert_true(strlen(rig_err.text) < ERR_TEXT_MAX);
    const char *last = strrchr(rig_err.text, '\n');
    int shown = 0;
    for (const char *at = rig_err.text; (at = strchr(at, '\n')); at++)
        shown++;
    char expected[60];
    snprintf(expected, sizeof expected, "\nqlora: and %d more faults", 150 - shown);
    assert_string_equal(last, expected);
    assert_true(shown > 40);
}

static void hostile_texts_are_shown_escaped_and_short(void **state)
{
    (void)state;
    expect_faults(rig_more("\"\\e[31mred\\n\": 1\n"), "an escape", "f.yaml:3:1: unknown key \"\\x1B[31mred\\x0A\"");
    assert_null(
        rig_more("lora_r: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
                 "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n"));
    assert_true(strlen(rig_err.text) < 150);
    assert_non_null(strstr(rig_err.text, "...\" is not a whole number"));
}

static void numbers_are_read_as_people_write_them(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        double value;
    } rates[] = {
        {"2e-5",     2e-5},
        {"2E-5",     2e-5},
        {"1.e-4",    1e-4},
        {".5",       0.5 },
        {"+1e-3",    1e-3},
        {"\"2e-4\"", 2e-4},
        {"0.00020",  2e-4},
        {"1",        1   },
        {"2.0e-05",  2e-5}
    };
    for (size_t i = 0; i < sizeof rates / sizeof rates[0]; i++) {
        char line[80];
        snprintf(line, sizeof line, "learning_rate: %s\nmax_steps: 1e3\nseed: 9223372036854775807\n", rates[i].text);
        Config *c = rig_more(line);
        assert_non_null(c);
        assert_true(fabs(c->learning_rate - rates[i].value) <= 0);
        assert_int_equal(c->max_steps, 1000);
        assert_true(c->seed == INT64_MAX);
        config_free(c);
    }
    Config *c = rig_more("memory_budget: 1.5 GiB\nmax_gpu_memory: 11GB\nsave_minutes: 90s\nwarmup_steps: 0.1\n");
    assert_int_equal(c->memory_budget, 1610612736);
    assert_int_equal(c->max_gpu_memory, 11000000000);
    assert_true(fabs(c->save_minutes - 1.5) <= 0);
    assert_true(fabs(c->warmup_steps - 0.1) <= 0);
    config_free(c);
}

static void unset_keys_get_what_follows_from_the_others(void **state)
{
    (void)state;
    Config *c = rig_good(BASE);
    assert_int_equal(c->adapter, ADAPTER_QLORA);
    assert_true(c->load_in_4bit);
    assert_int_equal(c->bnb_4bit_quant_type, QUANT_NF4);
    assert_int_equal(c->lora_r, 16);
    assert_true(fabs(c->lora_alpha - 32) <= 0);
    assert_string_equal(c->lora_target_modules.items[0], "all-linear");
    assert_int_equal(c->gradient_accumulation_steps, 8);
    assert_int_equal(c->global_batch_size, 8);
    assert_int_equal(c->optimizer, OPTIMIZER_PAGED_ADAMW_8BIT);
    assert_int_equal(c->saves_per_epoch, 1);
    assert_int_equal(c->evals_per_epoch, 0);
    assert_false(c->eval_on_start);
    assert_false(c->load_best_model_at_end);
    assert_int_equal(c->loss_watchdog.action, WATCHDOG_STOP);
    assert_null(c->tokenizer);
    assert_false(config_is_set(c, "lora_r"));
    assert_true(config_is_set(c, "datasets"));
    assert_false(config_is_set(c, "variance_clamp"));
    assert_false(config_has_evaluation(c));
    assert_int_equal(config_notice_count(c), 0);
    config_free(c);

    c = rig_more("load_in_4bit: false\nlora_r: 8\nmicro_batch_size: 2\nglobal_batch_size: 12\nval_set_size: 0.1\n"
                 "save_steps: 50\nsample_packing: false\nmax_steps: 0\nvariance_clamp: {max: 3}\nwarmup_steps: 7\n");
    assert_int_equal(c->adapter, ADAPTER_LORA);
    assert_true(fabs(c->lora_alpha - 16) <= 0);
    assert_int_equal(c->gradient_accumulation_steps, 6);
    assert_int_equal(c->evals_per_epoch, 1);
    assert_true(c->eval_on_start && c->load_best_model_at_end && config_has_evaluation(c));
    assert_int_equal(c->saves_per_epoch, 0);
    assert_false(c->eval_sample_packing);
    assert_int_equal(c->max_steps, -1);
    assert_true(fabs(c->warmup_ratio) <= 0);
    assert_true(config_is_set(c, "variance_clamp") && config_is_set(c, "variance_clamp.max"));
    assert_false(config_is_set(c, "variance_clamp.min"));
    config_free(c);
}

static void the_usual_warmup_is_for_rates_that_fall_and_where_nothing_else_is_said(void **state)
{
    (void)state;
    static const struct {
        const char *yaml;
        double ratio;
    } cases[] = {
        {"lr_scheduler: cosine\n",                                       0.03},
        {"lr_scheduler: linear\nmax_steps: 9\n",                         0.03},
        {"lr_scheduler: constant\n",                                     0   },
        {"lr_scheduler: constant\nwarmup_ratio: 0.1\n",                  0.1 },
        {"lr_scheduler_type: constant_with_warmup\nwarmup_ratio: 0.2\n", 0.2 },
        {"warmup_steps: 0\n",                                            0   },
        {"warmup_steps: 0\nwarmup_ratio: 0.1\n",                         0.1 },
        {"warmup_steps: 3\n",                                            0   },
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        Config *c = rig_more(cases[i].yaml);
        if (!(fabs(c->warmup_ratio - cases[i].ratio) <= 0)) fail_msg("%s: %g", cases[i].yaml, c->warmup_ratio);
        config_free(c);
    }
}

static void an_empty_value_is_unset(void **state)
{
    (void)state;
    Config *c = rig_more("lora_r:\nlora_alpha: ~\nlora_target_modules:\nshuffle: null\nvariance_clamp:\nval_set_size:\n"
                         "wandb_project:\nspecial_tokens:\ndeepspeed:\nlora_rank: 8\n");
    assert_int_equal(c->lora_r, 8);
    assert_true(c->shuffle);
    assert_false(config_is_set(c, "shuffle"));
    assert_string_equal(rig_notices(c), "lora_rank read as lora_r\n");
    config_free(c);
}

/* The enums of the modules and the words of the table have to stand in one order. */
static void words_mean_their_enum_values(void **state)
{
    (void)state;
#define WORD(key, word, value)                                                                                         \
    do {                                                                                                               \
        Config *c = rig_more(#key ": " word "\n");                                                                     \
        assert_non_null(c);                                                                                            \
        assert_int_equal(c->key, value);                                                                               \
        config_free(c);                                                                                                \
    } while (0)
    WORD(adapter, "qlora", ADAPTER_QLORA);
    WORD(adapter, "lora", ADAPTER_LORA);
    WORD(bnb_4bit_quant_type, "nf4", QUANT_NF4);
    WORD(bnb_4bit_quant_type, "fp4", QUANT_FP4);
    WORD(bnb_4bit_compute_dtype, "auto", COMPUTE_AUTO);
    WORD(bnb_4bit_compute_dtype, "bf16", COMPUTE_BF16);
    WORD(bnb_4bit_compute_dtype, "bfloat16", COMPUTE_BF16);
    WORD(bnb_4bit_compute_dtype, "fp16", COMPUTE_FP16);
    WORD(bnb_4bit_compute_dtype, "float16", COMPUTE_FP16);
    WORD(bnb_4bit_compute_dtype, "fp32", COMPUTE_FP32);
    WORD(bnb_4bit_compute_dtype, "float32", COMPUTE_FP32);
    WORD(init_lora_weights, "kaiming", LORA_INIT_KAIMING);
    WORD(init_lora_weights, "true", LORA_INIT_KAIMING);
    WORD(init_lora_weights, "gaussian", LORA_INIT_GAUSSIAN);
    WORD(excess_length_strategy, "drop", EXCESS_DROP);
    WORD(excess_length_strategy, "truncate", EXCESS_TRUNCATE);
    WORD(excess_length_strategy, "split", EXCESS_SPLIT);
    WORD(excess_length_strategy, "error", EXCESS_ERROR);
    WORD(lr_scheduler, "cosine", SCHEDULE_COSINE);
    WORD(lr_scheduler, "linear", SCHEDULE_LINEAR);
    WORD(lr_scheduler, "constant", SCHEDULE_CONSTANT);
    WORD(lr_scheduler, "constant_with_warmup", SCHEDULE_CONSTANT);
    WORD(lr_scheduler, "wsd", SCHEDULE_WSD);
    WORD(lr_scheduler, "warmup_stable_decay", SCHEDULE_WSD);
    WORD(optimizer, "adamw", OPTIMIZER_ADAMW);
    WORD(optimizer, "adamw_torch_fused", OPTIMIZER_ADAMW);
    WORD(optimizer, "adamw_8bit", OPTIMIZER_ADAMW_8BIT);
    WORD(optimizer, "adamw_bnb_8bit", OPTIMIZER_ADAMW_8BIT);
    WORD(optimizer, "paged_adamw_8bit", OPTIMIZER_PAGED_ADAMW_8BIT);
    WORD(optimizer, "paged_adamw_32bit", OPTIMIZER_PAGED_ADAMW_32BIT);
    WORD(gradient_checkpointing, "auto", CHECKPOINTING_AUTO);
    WORD(gradient_checkpointing, "True", CHECKPOINTING_TRUE);
    WORD(gradient_checkpointing, "false", CHECKPOINTING_FALSE);
    WORD(gradient_checkpointing, "offload", CHECKPOINTING_OFFLOAD);
    WORD(gradient_checkpointing, "unsloth", CHECKPOINTING_OFFLOAD);
#undef WORD
    static const struct {
        const char *word;
        WatchdogAction action;
    } actions[] = {
        {"stop",     WATCHDOG_STOP    },
        {"skip",     WATCHDOG_SKIP    },
        {"rollback", WATCHDOG_ROLLBACK}
    };
    for (int i = 0; i < 3; i++) {
        char line[80];
        snprintf(line, sizeof line, "loss_watchdog: {action: %s}\n", actions[i].word);
        Config *c = rig_more(line);
        assert_int_equal(c->loss_watchdog.action, actions[i].action);
        config_free(c);
    }
}

static void a_data_source_reaches_the_data_module_whole(void **state)
{
    (void)state;
    Config *c =
        rig_good("base_model: m\ndatasets:\n"
                 "  - path: a.jsonl\n    type: chat_template\n    split: train[:5%]\n    field_messages: turns\n"
                 "    message_property_mappings: {role: from, content: value}\n"
                 "    roles: {user: [human, me], assistant: gpt}\n    roles_to_train: [assistant, tool]\n"
                 "    train_on_eos: last\n    weight: 0.5\n    max_samples: 9\n"
                 "  - path: b\n");
    assert_int_equal(c->datasets.count, 2);
    const DataSource a = dataset_config_source(&c->datasets.items[0]);
    assert_string_equal(a.path, "a.jsonl");
    assert_string_equal(a.type, "chat");
    assert_string_equal(a.split, "train[:5%]");
    assert_string_equal(a.field_messages, "turns");
    assert_int_equal(a.property_count, 2);
    assert_string_equal(a.properties[1].key, "content");
    assert_string_equal(a.properties[1].value, "value");
    assert_int_equal(a.role_count, 3);
    assert_string_equal(a.roles[1].key, "me");
    assert_string_equal(a.roles[1].value, "user");
    assert_string_equal(a.roles[2].key, "gpt");
    assert_string_equal(a.roles[2].value, "assistant");
    assert_int_equal(a.roles_to_train_count, 2);
    assert_string_equal(a.roles_to_train[1], "tool");
    assert_int_equal(a.train_on_eos, TRAIN_EOS_LAST);
    assert_true(fabs(a.weight - 0.5) <= 0);
    assert_int_equal(a.max_samples, 9);
    const DataSource b = dataset_config_source(&c->datasets.items[1]);
    assert_null(b.type);
    assert_null(b.field_messages);
    assert_string_equal(b.roles_to_train[0], "assistant");
    assert_int_equal(b.train_on_eos, TRAIN_EOS_TURN);
    assert_int_equal(b.role_count, 0);
    config_free(c);
}

static void targets_and_layers_take_every_documented_form(void **state)
{
    (void)state;
    Config *c = rig_more("lora_target: q_proj, v_proj\nlora_layers: \"0, 2,8-10\"\nlora_exclude_modules: .*lm.*\n");
    assert_int_equal(c->lora_target_modules.count, 2);
    assert_false(c->lora_target_modules.scalar);
    assert_string_equal(c->lora_target_modules.items[1], "v_proj");
    static const int layers[] = {0, 2, 8, 9, 10};
    assert_int_equal(c->lora_layers.count, 5);
    assert_memory_equal(c->lora_layers.items, layers, sizeof layers);
    assert_true(c->lora_exclude_modules.scalar);
    config_free(c);
    c = rig_more("lora_target_modules: (.*q_proj|.*v{1,2}_proj)\nlora_layers: all\nquant_skip_modules: []\n");
    assert_true(c->lora_target_modules.scalar);
    assert_int_equal(c->lora_layers.count, 0);
    assert_int_equal(c->quant_skip_modules.count, 0);
    config_free(c);
    c = rig_more("lora_target: all\nlora_layers: [3, 1, 3, 5-6]\n");
    assert_string_equal(c->lora_target_modules.items[0], "all-linear");
    static const int sorted[] = {1, 3, 5, 6};
    assert_int_equal(c->lora_layers.count, 4);
    assert_memory_equal(c->lora_layers.items, sorted, sizeof sorted);
    config_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_wrong_value_is_named_with_its_place_and_range),
        cmocka_unit_test(a_combination_that_cannot_be_is_refused),
        cmocka_unit_test(a_data_source_is_checked_like_the_rest),
        cmocka_unit_test(missing_keys_are_named),
        cmocka_unit_test(all_faults_come_at_once_in_the_order_of_the_file),
        cmocka_unit_test(too_many_faults_are_cut_at_a_line),
        cmocka_unit_test(hostile_texts_are_shown_escaped_and_short),
        cmocka_unit_test(numbers_are_read_as_people_write_them),
        cmocka_unit_test(unset_keys_get_what_follows_from_the_others),
        cmocka_unit_test(the_usual_warmup_is_for_rates_that_fall_and_where_nothing_else_is_said),
        cmocka_unit_test(an_empty_value_is_unset),
        cmocka_unit_test(words_mean_their_enum_values),
        cmocka_unit_test(a_data_source_reaches_the_data_module_whole),
        cmocka_unit_test(targets_and_layers_take_every_documented_form),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
