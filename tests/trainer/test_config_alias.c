/* Keys and words of other programs: each rule of the table does what it says, and no misspelling passes. */
#include "tests/trainer/rig_config.h"

#include "trainer/config_alias.h"
#include "trainer/config_table.h"

#include <ctype.h>

/* A value that a key accepts and that is not its default. */
static const char *sample(const ConfigField *f, char *out, size_t size)
{
    switch (f->type) {
    case CONFIG_TEXT: return strcmp(f->name, "chat_template") == 0 ? "chatml" : "some_text";
    case CONFIG_INT:
    case CONFIG_WORD_INT: snprintf(out, size, "%d", f->low > 0 ? (int)f->low + 1 : 3); return out;
    case CONFIG_REAL: return f->high < 1 ? "0.25" : "0.5";
    case CONFIG_SHARE: return "5";
    case CONFIG_SIZE: return "2GiB";
    case CONFIG_MINUTES: return "20";
    case CONFIG_BOOL: return strcmp(f->initial, "true") == 0 ? "false" : "true";
    case CONFIG_CHOICE: return config_choice(f, 1, out, size);
    case CONFIG_TEXTS: return "[a, b]";
    case CONFIG_LAYERS: return "[1, 2]";
    case CONFIG_PATTERNS: return "{a: 4}";
    case CONFIG_PAIRS: return "{a: b}";
    case CONFIG_ROLES: return "{a: [b]}";
    case CONFIG_DATASETS: return "[{path: d}]";
    }
    return "";
}

/* A smallest valid text with evaluation data, without the key that the caller adds. */
static Config *parse_beside(const char *target, const char *lines)
{
    char text[2000];
    snprintf(text, sizeof text, "%s%s%s%s", strcmp(target, "base_model") == 0 ? "" : "base_model: m\n",
             strcmp(target, "datasets") == 0 ? "" : "datasets: [{path: d}]\n",
             strcmp(target, "val_set_size") == 0 ? "" : "val_set_size: 7\n", lines);
    return rig_parse(text);
}

static Config *must_parse_beside(const char *target, const char *lines)
{
    Config *c = parse_beside(target, lines);
    if (!c) fail_msg("%s: %s", lines, rig_err.text);
    return c;
}

static void expect_equal(const Config *a, const Config *b, const char *what)
{
    ConfigChanges changes;
    assert_true(config_diff(&changes, a, b, &rig_err));
    if (changes.count) {
        fail_msg("%s: %s is %s, not %s", what, changes.items[0].key, changes.items[0].before, changes.items[0].after);
    }
    config_changes_free(&changes);
}

static bool is_same(const AliasRule *rule)
{
    return rule->kind == ALIAS_SAME || rule->kind == ALIAS_BUT;
}

static void every_other_spelling_is_the_same_key(void **state)
{
    (void)state;
    for (int i = 0; i < alias_rule_count; i++) {
        const AliasRule *rule = &alias_rules[i];
        if (!is_same(rule)) continue;
        const ConfigField *f = &config_fields[config_field_find(rule->key)];
        char value[60];
        char ours[200];
        char theirs[200];
        char both[400];
        char note[200];
        snprintf(ours, sizeof ours, "%s: %s\n", f->name, sample(f, value, sizeof value));
        snprintf(theirs, sizeof theirs, "%s: %s\n", rule->name, sample(f, value, sizeof value));
        snprintf(both, sizeof both, "%s%s", ours, theirs);
        Config *a = must_parse_beside(f->name, theirs);
        Config *b = must_parse_beside(f->name, ours);
        expect_equal(a, b, theirs);
        assert_true(config_is_set(a, f->name));
        snprintf(note, sizeof note, "%s read as %s\n", rule->name, f->name);
        if (!strchr(f->name, '.')) assert_non_null(strstr(rig_notices(a), note));
        assert_null(strstr(rig_notices(b), " read as "));
        config_free(a);
        config_free(b);
        assert_null(parse_beside(f->name, both));
        snprintf(note, sizeof note, ": %s and %s are one key, and line ", rule->name, f->name);
        if (!strstr(rig_err.text, note)) fail_msg("%s: %s", both, rig_err.text);
    }
}

/* The first of "a|b", as a value. */
static const char *first_word(const char *values, char *out, size_t size)
{
    if (!values || strcmp(values, "*") == 0) return "something";
    snprintf(out, size, "%.*s", (int)strcspn(values, "|"), values);
    return out;
}

static void every_rule_does_what_it_says(void **state)
{
    (void)state;
    int refused = 0;
    for (int i = 0; i < alias_rule_count; i++) {
        const AliasRule *rule = &alias_rules[i];
        if (is_same(rule) || rule->kind == ALIAS_FRIEND || strchr(rule->name, '[')) continue;
        char word[80];
        char name[80];
        char line[200];
        char ours[200];
        snprintf(name, sizeof name, "%s", rule->name);
        if (name[strlen(name) - 1] == '*') snprintf(name + strlen(name) - 1, 4, "xyz");
        const char *value = rule->kind == ALIAS_INVERSE ? "true" : first_word(rule->values, word, sizeof word);
        snprintf(line, sizeof line, "%s: %s\n", name, value);
        if (rule->kind == ALIAS_REFUSE) {
            char expected[400];
            assert_null(parse_beside("", line));
            snprintf(expected, sizeof expected, "f.yaml:4:1: %s is not supported: %s", name, rule->text);
            assert_string_equal(rig_err.text, expected);
            snprintf(line, sizeof line, "%s:\n", name);
            refused++;
        }
        Config *c = must_parse_beside("", line);
        const bool noted = rule->kind == ALIAS_NOTICE;
        if (noted != (strstr(rig_notices(c), "has no effect") != NULL)) fail_msg("%s: %s", line, rig_notices(c));
        ours[0] = '\0';
        if (rule->kind == ALIAS_MEANS || rule->kind == ALIAS_WEAK || rule->kind == ALIAS_REFINES) {
            snprintf(ours, sizeof ours, "%s: %s\n", rule->key, rule->text);
        } else if (rule->kind == ALIAS_INVERSE) {
            snprintf(ours, sizeof ours, "%s: false\n", rule->key);
        }
        Config *same = must_parse_beside("", ours);
        expect_equal(c, same, line);
        config_free(c);
        config_free(same);
    }
    assert_true(refused > 50);
}

/* Axolotl's activation_offloading stands beside gradient_checkpointing: true, which it makes more precise. */
static void a_kind_of_checkpointing_refines_true_and_contradicts_false(void **state)
{
    (void)state;
    static const struct {
        const char *lines;
        CheckpointingKind kind;
    } cases[] = {
        {"gradient_checkpointing: true\nactivation_offloading: true\n",    CHECKPOINTING_OFFLOAD},
        {"activation_offloading: legacy\ngradient_checkpointing: True\n",  CHECKPOINTING_OFFLOAD},
        {"activation_offloading: true\nuse_unsloth_gc: true\n",            CHECKPOINTING_OFFLOAD},
        {"gradient_checkpointing: true\nactivation_offloading: false\n",   CHECKPOINTING_TRUE   },
        {"gradient_checkpointing: offload\nactivation_offloading: true\n", CHECKPOINTING_OFFLOAD},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        Config *c = must_parse_beside("", cases[i].lines);
        if (c->gradient_checkpointing != cases[i].kind) fail_msg("%s: %d", cases[i].lines, c->gradient_checkpointing);
        config_free(c);
    }
    assert_null(parse_beside("", "gradient_checkpointing: false\nactivation_offloading: true\n"));
    assert_non_null(strstr(rig_err.text, "activation_offloading says gradient_checkpointing: offload, but line 4 says "
                                         "false; keep one of them"));
}

static void implied_settings_agree_or_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *lines, *fault; /* null: fine */
        ComputeKind compute;
    } cases[] = {
        {"bf16: true\nfp16: false\n",                                                                          NULL,                                                                    COMPUTE_BF16},
        {"bf16: true\nbnb_4bit_compute_dtype: bfloat16\n",                                                     NULL,                                                                    COMPUTE_BF16},
        {"bnb_4bit_compute_dtype: fp32\nbf16: false\n",                                                        NULL,                                                                    COMPUTE_FP32},
        {"bf16: false\nfp16: true\n",                                                                          NULL,                                                                    COMPUTE_FP16},
        {"bf16: auto\nbnb_4bit_compute_dtype: fp32\n",                                                         NULL,                                                                    COMPUTE_FP32},
        {"bf16: true\nbnb_4bit_compute_dtype:\n",                                                              NULL,                                                                    COMPUTE_BF16},
        {"bf16: auto\n",                                                                                       NULL,                                                                    COMPUTE_AUTO},
        {"bf16: false\n",                                                                                      NULL,                                                                    COMPUTE_FP32},
        {"bf16: true\nbnb_4bit_compute_dtype: fp32\n",
         "f.yaml:3:7: bf16 says bnb_4bit_compute_dtype: bf16, but line 4 says fp32; keep one of them",                                                                                  COMPUTE_AUTO},
        {"bf16: true\nfp16: true\n",
         "f.yaml:4:7: fp16 says bnb_4bit_compute_dtype: fp16, but line 3 says bf16; keep one of them",                                                                                  COMPUTE_AUTO},
        {"lora_target_linear: true\nlora_target_modules: [q_proj]\n",
         "f.yaml:3:21: lora_target_linear says lora_target_modules: all-linear, but line 4 says [q_proj]; keep one of "
         "them",                                                                                                                                                                        COMPUTE_AUTO},
        {"torch_dtype: int8\n",
         "f.yaml:3:14: torch_dtype: \"int8\" is not a value that has a meaning here; see configs/REFERENCE.md",                                                                         COMPUTE_AUTO},
        {"plugins:\n- axolotl.integrations.liger.LigerPlugin\n- axolotl.integrations.kernels.KernelsPlugin\n", NULL,
         COMPUTE_AUTO                                                                                                                                                                               },
        {"plugins:\n- axolotl.integrations.liger.LigerPlugin\n- my.Plugin\n",
         "f.yaml:3:1: plugins is not supported: there are no plug-ins; the chunked loss and fused kernels that some "
         "bring are built in",                                                                                                                                                          COMPUTE_AUTO},
        {"disable_shuffling: perhaps\n",                                                                       "f.yaml:3:20: disable_shuffling: \"perhaps\" is neither true nor false",
         COMPUTE_AUTO                                                                                                                                                                               },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Config *c = rig_more(cases[i].lines);
        if (cases[i].fault) {
            expect_faults(c, cases[i].lines, cases[i].fault);
            continue;
        }
        if (!c) fail_msg("%s: %s", cases[i].lines, rig_err.text);
        assert_int_equal(c->bnb_4bit_compute_dtype, cases[i].compute);
        config_free(c);
    }
}

static void a_recipe_in_the_style_of_axolotl_loads(void **state)
{
    (void)state;
    Config *c =
        rig_good("base_model: NousResearch/Llama-3.2-1B\n\nload_in_8bit: false\nload_in_4bit: true\n"
                 "datasets:\n  - path: teknium/GPT4.jsonl\n    type: alpaca\n    ds_type: json\n"
                 "dataset_prepared_path: last_run_prepared\nval_set_size: 0.0\noutput_dir: ./outputs/qlora-out\n"
                 "adapter: qlora\nlora_model_dir:\n\nsequence_len: 2048\nsample_packing: true\n"
                 "eval_sample_packing: true\npad_to_sequence_len: true\nlora_r: 32\nlora_alpha: 16\n"
                 "lora_dropout: 0.05\nlora_target_modules:\nlora_target_linear: true\nlora_fan_in_fan_out:\n"
                 "wandb_project:\nwandb_entity:\ngradient_accumulation_steps: 4\nmicro_batch_size: 2\n"
                 "num_epochs: 1\noptimizer: adamw_bnb_8bit\nlr_scheduler: cosine\nlearning_rate: 2e-4\n"
                 "bf16: auto\ntf32: false\ngradient_checkpointing: true\nresume_from_checkpoint:\n"
                 "logging_steps: 1\nflash_attention: true\nwarmup_ratio: 0.1\nevals_per_epoch: 4\n"
                 "saves_per_epoch: 1\nweight_decay: 0.0\nspecial_tokens:\n  pad_token: \"<|end_of_text|>\"\n");
    assert_int_equal(c->optimizer, OPTIMIZER_ADAMW_8BIT);
    assert_string_equal(c->lora_target_modules.items[0], "all-linear");
    assert_string_equal(rig_notices(c), "evals_per_epoch has no effect: there is no evaluation data\n");
    config_free(c);
}

static void a_recipe_in_the_style_of_llama_factory_loads(void **state)
{
    (void)state;
    Config *c = rig_good("model_name_or_path: m\nstage: sft\ndo_train: true\nfinetuning_type: lora\nlora_target: all\n"
                         "quantization_bit: 4\nquantization_method: bnb\nlora_rank: 8\ndatasets: [{path: d}]\n"
                         "template: llama3\ncutoff_len: 2048\noverwrite_cache: true\npreprocessing_num_workers: 16\n"
                         "logging_steps: 10\nsave_steps: 500\nplot_loss: true\noverwrite_output_dir: true\n"
                         "report_to: none\nper_device_train_batch_size: 1\ngradient_accumulation_steps: 8\n"
                         "learning_rate: 1.0e-4\nnum_train_epochs: 3.0\nlr_scheduler_type: cosine\nwarmup_ratio: 0.1\n"
                         "bf16: true\nddp_timeout: 180000000\nval_size: 0.1\nper_device_eval_batch_size: 1\n"
                         "eval_strategy: steps\neval_steps: 500\n");
    assert_int_equal(c->adapter, ADAPTER_QLORA);
    assert_int_equal(c->lora_r, 8);
    assert_string_equal(c->chat_template, "llama3");
    config_free(c);
}

static void mistaken_names_are_answered_with_the_right_one(void **state)
{
    (void)state;
    for (int i = 0; i < alias_rule_count; i++) {
        const AliasRule *rule = &alias_rules[i];
        char text[300];
        char expected[200];
        if (rule->kind != ALIAS_FRIEND) continue;
        const bool data = strncmp(rule->name, "datasets[].", 11) == 0;
        const char *name = data ? rule->name + 11 : rule->name;
        snprintf(text, sizeof text, data ? "test_datasets: [{path: d, %s: 1}]\n" : "%s: 1\n", name);
        assert_null(rig_more(text));
        snprintf(expected, sizeof expected, "unknown key \"%s\"; did you mean %s", name, rule->key);
        if (!strstr(rig_err.text, expected)) fail_msg("%s: %s", text, rig_err.text);
    }
    /* The nearest comes first, whatever the order of the table. */
    expect_faults(rig_more("adam_beta2x: 1\n"), "two near names",
                  "f.yaml:3:1: unknown key \"adam_beta2x\"; did you mean adam_beta2 or adam_beta1?");
    expect_faults(rig_more("nothing_like_it: 1\n"), "no near name", "f.yaml:3:1: unknown key \"nothing_like_it\"");
}

/* Parses BASE and "name: 1", which has to be refused with the right name among the suggestions. */
static void expect_suggestion(const char *name, const char *right)
{
    char line[120];
    /* A letter away from one name may be another one of the table, which has an answer of its own. */
    if (config_field_find(name) >= 0 || config_is_group(name) || alias_is_known(name)) return;
    snprintf(line, sizeof line, "%s: 1\n", name);
    assert_null(rig_more(line));
    if (!strstr(rig_err.text, right)) fail_msg("%s, for %s: %s", name, right, rig_err.text);
}

static void no_slip_of_the_hand_passes(void **state)
{
    (void)state;
    for (int i = 0; i < CONFIG_KEY_COUNT; i++) {
        const char *key = config_fields[i].name;
        const size_t n = strlen(key);
        if (strchr(key, '.')) continue;
        for (size_t at = 0; at < n; at++) {
            char name[80];
            snprintf(name, sizeof name, "%.*s%s", (int)at, key, key + at + 1); /* a letter is missing */
            expect_suggestion(name, key);
            snprintf(name, sizeof name, "%.*s%c%s", (int)at, key, key[at], key + at); /* doubled */
            expect_suggestion(name, key);
            if (at + 1 == n || key[at] == key[at + 1]) continue;
            snprintf(name, sizeof name, "%.*s%c%c%s", (int)at, key, key[at + 1], key[at], key + at + 2); /* swapped */
            expect_suggestion(name, key);
        }
        char upper[80];
        snprintf(upper, sizeof upper, "%s", key);
        upper[0] = (char)toupper((unsigned char)upper[0]);
        expect_suggestion(upper, key);
    }
}

static void the_rules_fit_the_table(void **state)
{
    (void)state;
    for (int i = 0; i < alias_rule_count; i++) {
        const AliasRule *rule = &alias_rules[i];
        const bool data = strncmp(rule->name, "datasets[].", 11) == 0;
        if (config_field_find(rule->name) >= 0 || config_is_group(rule->name)) fail_msg("%s is ours", rule->name);
        if (data && dataset_field_find(rule->name + 11) >= 0) fail_msg("%s is ours", rule->name);
        if (!rule->key) continue;
        const bool known =
            data ? dataset_field_find(rule->key) >= 0 : config_field_find(rule->key) >= 0 || config_is_group(rule->key);
        if (!known) fail_msg("%s leads to %s, which is no key", rule->name, rule->key);
    }
    for (int i = 0; i < alias_value_count; i++) {
        const AliasValue *v = &alias_values[i];
        const int key = config_field_find(v->key);
        const ConfigField *f = key >= 0 ? &config_fields[key] : &dataset_fields[dataset_field_find(v->key)];
        char choice[60];
        bool found = f->type != CONFIG_CHOICE || v->wrong;
        for (int k = 0; !found && config_choice(f, k, choice, sizeof choice); k++)
            found = strcmp(choice, v->to) == 0;
        if (!found) fail_msg("%s: %s becomes %s, which is no value", v->key, v->word, v->to);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_other_spelling_is_the_same_key),
        cmocka_unit_test(every_rule_does_what_it_says),
        cmocka_unit_test(a_kind_of_checkpointing_refines_true_and_contradicts_false),
        cmocka_unit_test(implied_settings_agree_or_are_refused),
        cmocka_unit_test(a_recipe_in_the_style_of_axolotl_loads),
        cmocka_unit_test(a_recipe_in_the_style_of_llama_factory_loads),
        cmocka_unit_test(mistaken_names_are_answered_with_the_right_one),
        cmocka_unit_test(no_slip_of_the_hand_passes),
        cmocka_unit_test(the_rules_fit_the_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
