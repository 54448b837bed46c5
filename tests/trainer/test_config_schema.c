/* The table as documentation: complete, consistent, and equal to what is committed. */
#include "tests/trainer/rig_config.h"

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "trainer/config_alias.h"
#include "trainer/config_schema.h"
#include "trainer/config_table.h"

static void the_committed_reference_is_the_generated_one(void **state)
{
    (void)state;
    Text text = {0};
    char *file = NULL;
    size_t length = 0;
    assert_true(config_schema_markdown(&text, &rig_err));
    assert_true(file_read_all(&file, &length, "../configs/REFERENCE.md", 1 << 20, ERR_DISK, &rig_err));
    if (strcmp(file, text.bytes) != 0) fail_msg("run: qlora schema --markdown > configs/REFERENCE.md");
    mem_free(file);
    text_free(&text);
}

static void every_key_is_in_every_form_of_the_schema(void **state)
{
    (void)state;
    Text forms[3] = {{0}};
    assert_true(config_schema_text(&forms[0], &rig_err));
    assert_true(config_schema_json(&forms[1], &rig_err));
    assert_true(config_schema_markdown(&forms[2], &rig_err));
    for (int form = 0; form < 3; form++) {
        for (int i = 0; i < CONFIG_KEY_COUNT; i++) {
            if (!strstr(forms[form].bytes, config_fields[i].name)) fail_msg("%s is missing", config_fields[i].name);
        }
        for (int i = 0; i < dataset_field_count; i++) {
            char name[80];
            snprintf(name, sizeof name, "datasets[].%s", dataset_fields[i].name);
            if (!strstr(forms[form].bytes, name)) fail_msg("%s is missing", name);
        }
        text_free(&forms[form]);
    }
}

static void the_json_form_can_be_used(void **state)
{
    (void)state;
    Text text = {0};
    assert_true(config_schema_json(&text, &rig_err));
    assert_int_equal(text.bytes[text.length - 1], '\n');
    assert_null(memchr(text.bytes, '\n', text.length - 1));
    json_t *root = json_loads(text.bytes, JSON_REJECT_DUPLICATES, NULL);
    const json_t *keys = json_object_get(root, "keys");
    assert_int_equal(json_array_size(keys), CONFIG_KEY_COUNT + dataset_field_count);
    bool found = false;
    for (size_t i = 0; i < json_array_size(keys); i++) {
        const json_t *key = json_array_get(keys, i);
        if (strcmp(json_string_value(json_object_get(key, "key")), "lora_r") != 0) continue;
        found = true;
        assert_string_equal(json_string_value(json_object_get(key, "default")), "16");
        assert_true(json_real_value(json_object_get(key, "maximum")) > 1023);
        assert_string_equal(json_string_value(json_array_get(json_object_get(key, "aliases"), 0)), "lora_rank");
    }
    assert_true(found);
    json_decref(root);
    text_free(&text);
}

static void every_name_can_be_explained(void **state)
{
    (void)state;
    static const char *const names[] = {"lora_r",        "cutoff_len",        "bf16",   "deepspeed",
                                        "loss_watchdog", "datasets[].weight", "weight", "variance_clamp.min",
                                        "wandb_*",       "datasets"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        Text text = {0};
        assert_true(config_explain(&text, names[i], &rig_err));
        assert_true(text.length > 20);
        text_free(&text);
    }
    for (int i = 0; i < alias_rule_count; i++) {
        Text text = {0};
        if (alias_rules[i].kind == ALIAS_FRIEND) continue;
        if (!config_explain(&text, alias_rules[i].name, &rig_err)) fail_msg("%s", rig_err.text);
        assert_true(text.length > 0);
        text_free(&text);
    }
    Text text = {0};
    assert_true(config_explain(&text, "wandb_project", &rig_err));
    assert_string_equal(text.bytes, "wandb_project: accepted, without effect: nothing is sent anywhere; metrics go to "
                                    "metrics.jsonl\n");
    text_clear(&text);
    assert_true(config_explain(&text, "lora_rank", &rig_err));
    assert_string_equal(text.bytes, "lora_rank: is lora_r\nlora_r: rank of every adapter\n  takes    whole number\n"
                                    "  range    1..1024\n  default  16\n"
                                    "  resume   cannot change when a run is resumed\n"
                                    "Other programs' keys:\n  lora_rank: is lora_r\n  r: is lora_r\n");
    text_clear(&text);
    assert_false(config_explain(&text, "lr", &rig_err));
    assert_string_equal(rig_err.text, "there is no key \"lr\"; did you mean learning_rate?");
    assert_int_equal(rig_err.code, ERR_ARG);
    text_free(&text);
}

/* What the table says about itself: names are unique, ranges are ranges, and every help line says something. */
static void the_table_is_consistent(void **state)
{
    (void)state;
    for (int i = 0; i < CONFIG_KEY_COUNT; i++) {
        const ConfigField *f = &config_fields[i];
        assert_int_equal(config_field_find(f->name), i);
        if (f->low > f->high) fail_msg("%s: range", f->name);
        if (strlen(f->help) < 5) fail_msg("%s: help", f->name);
        if (f->help[strlen(f->help) - 1] == '.') fail_msg("%s: help ends in a full stop", f->name);
    }
    for (int i = 0; i < dataset_field_count; i++)
        assert_int_equal(dataset_field_find(dataset_fields[i].name), i);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_committed_reference_is_the_generated_one),
        cmocka_unit_test(every_key_is_in_every_form_of_the_schema),
        cmocka_unit_test(the_json_form_can_be_used),
        cmocka_unit_test(every_name_can_be_explained),
        cmocka_unit_test(the_table_is_consistent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
