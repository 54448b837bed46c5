/* What becomes of a configuration after it was read: overrides, the resolved text, changes, unread keys, failures. */
#include "tests/trainer/rig_config.h"

#include "base/mem.h"
#include "trainer/config_table.h"

#include <glob.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

/* One text that sets nearly every key to something else than its default. */
static const char everything[] =
    "base_model: \"models/a b: c\"\nrevision: main\ntokenizer: '#tok'\nadapter: lora\nbnb_4bit_quant_type: fp4\n"
    "bnb_4bit_use_double_quant: false\nbnb_4bit_compute_dtype: fp32\nquant_block_size: 128\n"
    "quant_skip_modules: [lm_head, down_proj]\nthreads: 3\nmemory_budget: 4GiB\nmax_gpu_memory: 11GB\nlora_r: 8\n"
    "lora_alpha: 0.1\nlora_dropout: 0.3333333333333333\nlora_target_modules: [q_proj, 'v proj', \"no\", \"1\"]\n"
    "lora_exclude_modules: .*\\.0\\..*\nlora_layers: 3-5\nlora_rank_pattern: {q_proj: 4, '.*\"k\\d': 2}\n"
    "lora_alpha_pattern: {q_proj: 0.5}\nuse_rslora: true\nloraplus_lr_ratio: 16\ninit_lora_weights: gaussian\n"
    "adapter_path: out/old\n"
    "datasets:\n  - path: \"a\\tb.jsonl\"\n    type: alpaca\n    split: train[:10]\n    field_messages: turns\n"
    "    message_property_mappings: {role: from}\n    roles: {user: [a, b], assistant: c, tool: [d]}\n"
    "    roles_to_train: [assistant, user]\n    train_on_eos: none\n    weight: 2.5\n    max_samples: 10\n"
    "  - path: \xC3\xBC.jsonl\n"
    "test_datasets:\n  - path: e\nchat_template: chatml\ntrain_on_inputs: true\nsequence_len: 77\n"
    "excess_length_strategy: split\nsample_packing: false\neval_sample_packing: true\ndataset_prepared_path: none\n"
    "shuffle: false\ndedupe: true\ndataset_num_proc: 2\nmicro_batch_size: 2\nglobal_batch_size: 6\nnum_epochs: 2.5\n"
    "max_steps: 100\nlearning_rate: 1.2345678901234567e-05\nlr_scheduler: wsd\nmin_lr_ratio: 0.1\nwarmup_steps: 0.25\n"
    "lr_decay_ratio: 0.2\noptimizer: adamw_8bit\nweight_decay: 0.01\nadam_beta1: 0.8\nadam_beta2: 0.95\n"
    "adam_epsilon: 1e-10\nmax_grad_norm: 0.3\ngrad_clip_value: 5\ngrad_clip_percentile: 95\n"
    "variance_clamp: {min: 1e-20, max: 1e3}\nupdate_clip_rms: 1\ngradient_checkpointing: true\nneftune_noise_alpha: 5\n"
    "label_smoothing: 0.1\nseed: 9223372036854775807\nloss_watchdog: {threshold: 5, patience: 2, action: rollback}\n"
    "output_dir: /tmp/x\nlogging_steps: 10\neval_steps: 0.5\neval_on_start: false\n"
    "generate_samples: {prompts: [\"a\\nb\", 'null', \"\\x1b\"], every: 5, max_new_tokens: 7}\n"
    "early_stopping_patience: 2\nload_best_model_at_end: false\nsave_steps: 7\nsave_minutes: 90s\nsave_total_limit: 1\n"
    "resume_from_checkpoint: none\nuse_tensorboard: true\n";

static void expect_no_changes(const Config *a, const Config *b)
{
    ConfigChanges changes;
    assert_true(config_diff(&changes, a, b, &rig_err));
    if (changes.count) {
        fail_msg("%s: %s became %s", changes.items[0].key, changes.items[0].before, changes.items[0].after);
    }
    config_changes_free(&changes);
}

/* The resolved text reads back to the same values and to the same text, without remarks. */
static void expect_round_trip(const Config *c)
{
    char *text = rig_text(c);
    Config *again = rig_good(text);
    char *second = rig_text(again);
    assert_string_equal(text, second);
    expect_no_changes(c, again);
    assert_int_equal(config_notice_count(again), 0);
    char a[HASH_TEXT];
    char b[HASH_TEXT];
    assert_true(config_hash(c, a, &rig_err) && config_hash(again, b, &rig_err));
    assert_string_equal(a, b);
    config_free(again);
    mem_free(second);
    mem_free(text);
}

static void the_resolved_text_is_a_valid_and_equal_input(void **state)
{
    (void)state;
    Config *c = rig_good(BASE);
    expect_round_trip(c);
    config_free(c);
    c = rig_good(everything);
    expect_round_trip(c);
    assert_true(fabs(c->learning_rate - 1.2345678901234567e-05) <= 0);
    /* Every key of the table stands in the text. */
    char *text = rig_text(c);
    for (int i = 0; i < CONFIG_KEY_COUNT; i++) {
        char line[80];
        const char *dot = strchr(config_fields[i].name, '.');
        snprintf(line, sizeof line, "\n%s%s:", dot ? "  " : "", dot ? dot + 1 : config_fields[i].name);
        assert_non_null(strstr(text, line));
    }
    mem_free(text);
    config_free(c);
}

static void a_written_file_loads(void **state)
{
    (void)state;
    char path[] = "/tmp/test_config_XXXXXX";
    close(mkstemp(path));
    Config *c = rig_good(everything);
    assert_true(config_write(c, path, &rig_err));
    Config *again = NULL;
    const char *set = "seed=5";
    assert_true(config_load(&again, path, NULL, 0, &rig_err));
    expect_no_changes(c, again);
    config_free(again);
    assert_true(config_load(&again, path, &set, 1, &rig_err));
    assert_int_equal(again->seed, 5);
    config_free(again);
    config_free(c);
    unlink(path);
    assert_false(config_load(&again, path, NULL, 0, &rig_err));
    assert_int_equal(rig_err.code, ERR_CONFIG);
    assert_non_null(strstr(rig_err.text, path));
    err_clear(&rig_err);
    assert_false(config_load(&again, "/tmp", NULL, 0, &rig_err));
    assert_int_equal(rig_err.code, ERR_CONFIG);
}

static void every_example_loads_and_survives_the_round_trip(void **state)
{
    (void)state;
    glob_t found = {0};
    assert_int_equal(glob("../configs/*.yaml", 0, NULL, &found), 0);
    assert_int_equal(glob("../configs/*/*.yaml", GLOB_APPEND, NULL, &found), 0);
    assert_true(found.gl_pathc >= 6);
    for (size_t i = 0; i < found.gl_pathc; i++) {
        Config *c = NULL;
        err_clear(&rig_err);
        if (!config_load(&c, found.gl_pathv[i], NULL, 0, &rig_err)) fail_msg("%s", rig_err.text);
        if (config_notice_count(c)) fail_msg("%s: %s", found.gl_pathv[i], config_notice(c, 0));
        expect_round_trip(c);
        config_free(c);
    }
    globfree(&found);
}

static void overrides_replace_what_the_file_says(void **state)
{
    (void)state;
    static const char *const sets[] = {"lora_rank=4",
                                       "lora_r=32",
                                       "learning_rate=2e-5",
                                       "lora_target_modules=[q_proj, v_proj]",
                                       "variance_clamp.min=1e-12",
                                       "loss_watchdog={action: skip}",
                                       "save_steps=7",
                                       "max_steps=",
                                       "bnb_4bit_compute_dtype=float32",
                                       "global_batch_size=4",
                                       "output_dir=a=b",
                                       "datasets.0.path=other.jsonl",
                                       "datasets.0.type=text"};
    const char *text =
        "base_model: m\ndatasets:\n- path: d\n  weight: 2\nlora_rank: 8\nlearning_rate: 1\nmax_steps: 5\n"
        "variance_clamp: {max: 4}\nloss_watchdog: {patience: 9}\nsaves_per_epoch: 2\nbf16: true\n"
        "gradient_accumulation_steps: 3\n";
    Config *c = rig_parse_with(text, strlen(text), sets, sizeof sets / sizeof sets[0]);
    if (!c) fail_msg("%s", rig_err.text);
    assert_int_equal(c->lora_r, 32);
    assert_true(fabs(c->learning_rate - 2e-5) <= 0);
    assert_int_equal(c->lora_target_modules.count, 2);
    assert_true(fabs(c->variance_clamp.min - 1e-12) <= 0 && fabs(c->variance_clamp.max - 4) <= 0);
    assert_int_equal(c->loss_watchdog.action, WATCHDOG_SKIP);
    assert_int_equal(c->loss_watchdog.patience, 9);
    assert_true(fabs(c->save_steps - 7) <= 0);
    assert_int_equal(c->saves_per_epoch, 0);
    assert_int_equal(c->max_steps, -1);
    assert_int_equal(c->bnb_4bit_compute_dtype, COMPUTE_FP32);
    assert_int_equal(c->gradient_accumulation_steps, 4);
    assert_string_equal(c->output_dir, "a=b");
    assert_string_equal(c->datasets.items[0].path, "other.jsonl");
    assert_int_equal(c->datasets.items[0].type, DATASET_TEXT);
    assert_true(fabs(c->datasets.items[0].weight - 2) <= 0);
    config_free(c);
}

static void a_group_can_be_switched_off(void **state)
{
    (void)state;
    static const char *const sets[] = {"variance_clamp=", "variance_clamp=false"};
    for (int i = 0; i < 2; i++) {
        Config *c = rig_set("variance_clamp: {min: 1e-9, max: 4}\ngenerate_samples: false\n", sets[i]);
        if (!c) fail_msg("%s", rig_err.text);
        assert_true(c->variance_clamp.min <= 0 && c->variance_clamp.max <= 0);
        assert_false(config_is_set(c, "variance_clamp"));
        config_free(c);
    }
}

static void an_override_of_one_way_drops_the_other_way(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {
        {"saves_per_epoch: 2\n",             "save_steps=5"                 },
        {"save_steps: 2\n",                  "saves_per_epoch=5"            },
        {"warmup_ratio: 0.1\n",              "warmup_steps=5"               },
        {"val_set_size: 0.1\n",              "test_datasets=[{path: e}]"    },
        {"gradient_accumulation_steps: 3\n", "global_batch_size=8"          },
        {"adapter: qlora\n",                 "load_in_4bit=false"           },
        {"global_batch_size: 12\n",          "gradient_accumulation_steps=5"},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        Config *c = rig_set(pairs[i][0], pairs[i][1]);
        if (!c) fail_msg("%s and --set %s: %s", pairs[i][0], pairs[i][1], rig_err.text);
        config_free(c);
    }
}

static void faults_of_overrides_name_the_override(void **state)
{
    (void)state;
    static const struct {
        const char *set, *fault;
    } cases[] = {
        {"lora_r=x",                  "--set lora_r=x: lora_r: \"x\" is not a whole number"                                },
        {"lora_r",                    "--set lora_r: write --set KEY=VALUE"                                                },
        {"=5",                        "--set =5: write --set KEY=VALUE"                                                    },
        {"lora_rr=5",                 "--set lora_rr=5: unknown key \"lora_rr\"; did you mean lora_r?"                     },
        {"variance_clamp.mim=5",
         "--set variance_clamp.mim=5: variance_clamp: unknown key \"mim\"; did you mean min or max?"                       },
        {"lora_target_modules=[a",    "--set lora_target_modules=[a: not YAML (did not find expected ',' or ']'): a list "
                                   "that starts with [ needs commas and a ]"             },
        {"base_model=",               "--set base_model=: base_model is missing; name a Hugging Face folder or a GGUF file"},
        {"datasets.1.path=e",
         "--set datasets.1.path=e: there is no such entry; write datasets.0.path=FILE for the first one"                   },
        {"datasets.0.pth=e",          "--set datasets.0.pth=e: datasets[0]: unknown key \"pth\"; did you mean path?"       },
        {"datasets.0.weight=-1",      "--set datasets.0.weight=-1: datasets[0].weight: \"-1\" is outside 1e-06..1000000"   },
        {"deepspeed=x",
         "--set deepspeed=x: deepspeed is not supported: one process trains on one device; adapter: qlora "
         "and optimizer: paged_adamw_8bit save the memory that sharding would"                                             },
        {"early_stopping_patience=2", "--set early_stopping_patience=2: early_stopping_patience needs evaluation data; "
                                      "set val_set_size or test_datasets"             },
        {"seed=\x1b[31m",             "--set seed=\\x1B[31m: control character U+001B; in double quotes it can be written as "
                          "\"\\u001B\""                                                           },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        expect_faults(rig_set("", cases[i].set), cases[i].set, cases[i].fault);
}

static void a_key_that_nothing_read_is_refused(void **state)
{
    (void)state;
    Config *c = rig_more("max_grad_norm: 0.3\nlora_r: 8\nvariance_clamp: {min: 1e-9}\nweight_decay: 0\n");
    err_clear(&rig_err);
    (void)CONFIG_GET(c, base_model);
    assert_int_equal(CONFIG_GET(c, datasets).count, 1);
    assert_false(config_check_consumed(c, &rig_err));
    /* weight_decay holds its default, so that nobody reads it changes nothing. */
    expect_faults(NULL, "unread keys",
                  "f.yaml:3:1: max_grad_norm is set, but nothing in this run uses it; remove it\n"
                  "f.yaml:4:1: lora_r is set, but nothing in this run uses it; remove it\n"
                  "f.yaml:5:18: variance_clamp.min is set, but nothing in this run uses it; remove it");
    err_clear(&rig_err);
    assert_int_equal(CONFIG_GET(c, lora_r), 8);
    assert_true(CONFIG_GET(c, max_grad_norm) > 0 && CONFIG_GET_IN(c, variance_clamp, min) > 0);
    assert_true(config_check_consumed(c, &rig_err));
    config_free(c);
}

static void changes_are_listed_with_what_they_mean_for_a_resume(void **state)
{
    (void)state;
    static const struct {
        const char *before, *after, *key;
        ConfigChangeKind kind;
    } cases[] = {
        {"logging_steps: 1\n",             "logging_steps: 5\n",                      "logging_steps",          CONFIG_CHANGE_HARMLESS  },
        {"gradient_checkpointing: true\n", "gradient_checkpointing: false\n",         "gradient_checkpointing",
         CONFIG_CHANGE_HARMLESS                                                                                                         },
        {"learning_rate: 1e-4\n",          "learning_rate: 2e-4\n",                   "learning_rate",          CONFIG_CHANGE_RESULT    },
        {"variance_clamp: {min: 1}\n",     "variance_clamp: {min: 2}\n",              "variance_clamp.min",     CONFIG_CHANGE_RESULT    },
        {"optimizer: adamw_8bit\n",        "optimizer: paged_adamw_8bit\n",           "optimizer",              CONFIG_CHANGE_HARMLESS  },
        {"optimizer: adamw\n",             "optimizer: paged_adamw_32bit\n",          "optimizer",              CONFIG_CHANGE_HARMLESS  },
        {"optimizer: adamw\n",             "optimizer: adamw_8bit\n",                 "optimizer",              CONFIG_CHANGE_IMPOSSIBLE},
        {"lora_target_modules: [a]\n",     "lora_target_modules: [b]\n",              "lora_target_modules",    CONFIG_CHANGE_IMPOSSIBLE},
        {"lora_r: 8\nlora_alpha: 1\n",     "lora_r: 4\nlora_alpha: 1\n",              "lora_r",                 CONFIG_CHANGE_IMPOSSIBLE},
        {"test_datasets: [{path: a}]\n",   "test_datasets: [{path: a, weight: 2}]\n", "test_datasets",
         CONFIG_CHANGE_RESULT                                                                                                           },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Config *before = rig_more(cases[i].before);
        Config *after = rig_more(cases[i].after);
        ConfigChanges changes;
        assert_true(config_diff(&changes, before, after, &rig_err));
        assert_int_equal(changes.count, 1);
        assert_string_equal(changes.items[0].key, cases[i].key);
        assert_string_not_equal(changes.items[0].before, changes.items[0].after);
        assert_int_equal(changes.items[0].kind, cases[i].kind);
        config_changes_free(&changes);
        config_free(before);
        config_free(after);
    }
}

static void shares_become_updates(void **state)
{
    (void)state;
    assert_int_equal(config_share(0, 100), 0);
    assert_int_equal(config_share(0.1, 100), 10);
    assert_int_equal(config_share(0.101, 100), 11);
    assert_int_equal(config_share(0.001, 100), 1);
    assert_int_equal(config_share(1, 100), 1);
    assert_int_equal(config_share(250, 100), 250);
}

/* The n-th allocation fails, for every n: one clear error, and the sanitizer sees no leak. */
static void every_failing_allocation_is_reported(void **state)
{
    (void)state;
    const char *set = "lora_alpha=4";
    bool done = false;
    uint64_t nth = 0;
    while (!done) {
        mem_fail_at(++nth, false);
        Config *c = rig_parse_with(everything, sizeof everything - 1, &set, 1);
        mem_fail_at(0, false);
        if (!c) {
            assert_int_equal(rig_err.code, ERR_MEMORY);
            continue;
        }
        done = true;
        config_free(c);
    }
    assert_true(nth > 100);
    Config *c = rig_good(everything);
    for (nth = 1, done = false; !done; nth++) {
        ConfigChanges changes = {0};
        Text text = {0};
        err_clear(&rig_err);
        mem_fail_at(nth, false);
        done = config_to_text(c, &text, &rig_err) && config_diff(&changes, c, c, &rig_err) &&
               (config_check_consumed(c, &rig_err) || rig_err.code == ERR_CONFIG);
        mem_fail_at(0, false);
        if (!done) assert_int_equal(rig_err.code, ERR_MEMORY);
        config_changes_free(&changes);
        text_free(&text);
    }
    config_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_resolved_text_is_a_valid_and_equal_input),
        cmocka_unit_test(a_written_file_loads),
        cmocka_unit_test(every_example_loads_and_survives_the_round_trip),
        cmocka_unit_test(overrides_replace_what_the_file_says),
        cmocka_unit_test(a_group_can_be_switched_off),
        cmocka_unit_test(an_override_of_one_way_drops_the_other_way),
        cmocka_unit_test(faults_of_overrides_name_the_override),
        cmocka_unit_test(a_key_that_nothing_read_is_refused),
        cmocka_unit_test(changes_are_listed_with_what_they_mean_for_a_resume),
        cmocka_unit_test(shares_become_updates),
        cmocka_unit_test(every_failing_allocation_is_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
