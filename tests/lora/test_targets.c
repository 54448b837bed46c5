/* Which modules get an adapter, with which rank and scale: as PEFT decides (golden/adapters.py). */
#include "tests/lora/rig.h"

static json_t *golden(void)
{
    json_t *root = NULL;
    MUST(json_parse_file(&root, "golden/data/adapters/targets.json", 1 << 20, ERR_DATA, &rig_err));
    return root;
}

static void write_config(const char *folder, const json_t *config)
{
    char *text = json_dumps(config, 0);
    assert_non_null(text);
    rig_write(folder, "adapter_config.json", text, strlen(text));
    free(text);
}

static void compare(const Lora *l, const json_t *modules, size_t number)
{
    if ((size_t)l->count != json_object_size(modules))
        fail_msg("case %zu: %d adapters, PEFT has %zu", number, l->count, json_object_size(modules));
    for (int i = 0; i < l->count; i++) {
        const LoraAdapter *ad = &l->adapters[i];
        const json_t *expected = json_object_get(modules, rig_modules[ad->module].path);
        if (!expected) fail_msg("case %zu: PEFT leaves %s alone", number, rig_modules[ad->module].path);
        assert_int_equal(ad->r, json_integer_value(json_array_get(expected, 0)));
        const float scale = (float)json_number_value(json_array_get(expected, 1));
        if (ad->scale != scale) fail_msg("case %zu: scale %g, PEFT %g", number, (double)ad->scale, (double)scale);
    }
}

static void modules_ranks_and_scales_are_those_of_peft(void **state)
{
    (void)state;
    rig_make_modules();
    json_t *root = golden();
    char *folder = rig_folder();
    assert_true(json_array_size(root) >= 16);
    for (size_t i = 0; i < json_array_size(root); i++) {
        const json_t *item = json_array_get(root, i);
        LoraConfigFile file;
        Lora l;
        write_config(folder, json_object_get(item, "config"));
        MUST(lora_config_read(&file, folder, &rig_err));
        MUST(lora_create(&l, rig_modules, RIG_MODULES, &file.options, &rig_err));
        compare(&l, json_object_get(item, "modules"), i);
        lora_free(&l);
        lora_config_free(&file);
    }
    rig_remove(folder);
    json_decref(root);
}

static void adapters_of_one_input_lie_side_by_side(void **state)
{
    (void)state;
    static const LoraPattern ranks[] = {
        {"q_proj", 4}
    };
    Lora l;
    rig_make_modules();
    const LoraOptions options = {.r = 16, .alpha = 16, .rank_pattern = ranks, .rank_pattern_count = 1};
    MUST(lora_create(&l, rig_modules, RIG_MODULES, &options, &rig_err));
    int64_t at = 0;
    for (int i = 0; i < l.count; i += 7) {
        static const int order[] = {0,  1, 2, -1, -2, -3, 3,
                                    -4, 4, 5, -5, -6, 6,  -7}; /* n: A of module n; -n - 1: its B */
        for (size_t k = 0; k < ARRAY_COUNT(order); k++) {
            const LoraAdapter *ad = &l.adapters[i + (order[k] >= 0 ? order[k] : -order[k] - 1)];
            const Param *p = &l.table.items[order[k] >= 0 ? ad->a : ad->b];
            assert_int_equal(p->offset, at);
            at += (p->rows * p->cols + PARAM_ALIGN - 1) / PARAM_ALIGN * PARAM_ALIGN;
        }
    }
    assert_int_equal(at, l.table.total);
    lora_free(&l);
}

/* What we write has to mean the same modules again, for us and so for PEFT, whose rules these are. */
static void a_saved_config_means_the_same_modules(void **state)
{
    (void)state;
    json_t *root = golden();
    char *folder = rig_folder();
    for (size_t i = 0; i < json_array_size(root); i++) {
        const json_t *item = json_array_get(root, i);
        LoraConfigFile file, again;
        Lora l;
        write_config(folder, json_object_get(item, "config"));
        MUST(lora_config_read(&file, folder, &rig_err));
        Rig r = rig_open(&file.options);
        rig_fill(&r);
        MUST(lora_save(&r.lora, rig_modules, r.be, &r.params, folder, "org/base", &rig_err));
        MUST(lora_config_read(&again, folder, &rig_err));
        MUST(lora_create(&l, rig_modules, RIG_MODULES, &again.options, &rig_err));
        compare(&l, json_object_get(item, "modules"), i);
        lora_free(&l);
        lora_config_free(&again);
        rig_close(&r);
        lora_config_free(&file);
    }
    rig_remove(folder);
    json_decref(root);
}

static void create_fails(LoraOptions options, const char *what)
{
    Lora l;
    rig_make_modules();
    EXPECT_FAILURE(lora_create(&l, rig_modules, RIG_MODULES, &options, &rig_err), ERR_CONFIG, what);
}

static void a_target_that_matches_nothing_is_an_error(void **state)
{
    (void)state;
    static const char *const misspelt[] = {"q_proj", "proj"};
    static const char *const all[] = {"self_attn", "mlp"};
    static const char *const everything[] = {".*"};
    static const int layers[] = {1}, no_layers[] = {9};
    const LoraOptions o = {.r = 4, .alpha = 4};
    LoraOptions bad = o;
    bad.targets = misspelt;
    bad.target_count = 2;
    create_fails(bad, "\"proj\" matches no linear layer");
    bad.targets = all;
    create_fails(bad, "\"self_attn\"");
    bad = o;
    bad.target_regex = "q_proj"; /* has to match the whole path */
    create_fails(bad, "\"q_proj\" is one text, so a regular expression");
    bad.target_regex = "(q_proj";
    create_fails(bad, "is no regular expression");
    bad.target_regex = ".*q_proj";
    bad.layers = layers;
    bad.layer_count = 1;
    create_fails(bad, "layers_to_transform");
    bad = o;
    bad.exclude = everything;
    bad.exclude_count = 1;
    create_fails(bad, "leaves no module to train");
    bad = o;
    bad.layers = no_layers;
    bad.layer_count = 1;
    create_fails(bad, "there is no layer 9; this model has layers 0 to 2");
}

static void unused(LoraOptions options, const char *what)
{
    Lora l;
    MUST(lora_create(&l, rig_modules, RIG_MODULES, &options, &rig_err));
    EXPECT_FAILURE(lora_check_used(&l, rig_modules, &rig_err), ERR_CONFIG, what);
    lora_free(&l);
}

static void what_means_no_module_is_noticed(void **state)
{
    (void)state;
    static const LoraPattern foo[] = {
        {"foo", 3}
    };
    static const LoraPattern kq[] = {
        {"[kq]_proj", 3}
    };
    static const char *const nope[] = {"nope"}, *const two[] = {"lm_head", "nope"}, *const regex[] = {".*q_proj"};
    const LoraOptions o = {.r = 4, .alpha = 4};
    LoraOptions good = o, bad = o;
    rig_make_modules();
    bad.rank_pattern = foo;
    bad.rank_pattern_count = 1;
    unused(bad, "lora_rank_pattern: \"foo\"");
    bad = o;
    bad.alpha_pattern = foo;
    bad.alpha_pattern_count = 1;
    unused(bad, "lora_alpha_pattern: \"foo\"");
    bad = o;
    bad.exclude = nope;
    bad.exclude_count = 1;
    unused(bad, "lora_exclude_modules: \"nope\"");
    bad.exclude = two;
    bad.exclude_count = 2;
    unused(bad, "lora_exclude_modules: \"nope\"");
    Lora l;
    good.rank_pattern = kq;
    good.rank_pattern_count = 1;
    good.exclude = regex;
    good.exclude_count = 1;
    MUST(lora_create(&l, rig_modules, RIG_MODULES, &good, &rig_err));
    MUST(lora_check_used(&l, rig_modules, &rig_err));
    lora_free(&l);
}

static int adapters_of(const char *folder, const char *config)
{
    LoraConfigFile file;
    Lora l;
    rig_write(folder, "adapter_config.json", config, strlen(config));
    MUST(lora_config_read(&file, folder, &rig_err));
    MUST(lora_create(&l, rig_modules, RIG_MODULES, &file.options, &rig_err));
    const int count = l.count;
    for (int i = 0; i < count; i++)
        assert_int_equal(rig_modules[l.adapters[i].module].layer, 1);
    lora_free(&l);
    lora_config_free(&file);
    return count;
}

#define ONE_LAYER "{\"peft_type\": \"LORA\", \"target_modules\": [\"q_proj\"], \"layers_to_transform\": [1]"

static void a_pattern_that_names_our_list_of_layers_changes_nothing(void **state)
{
    (void)state;
    rig_make_modules();
    char *folder = rig_folder();
    assert_int_equal(adapters_of(folder, ONE_LAYER "}"), 1);
    assert_int_equal(adapters_of(folder, ONE_LAYER ", \"layers_pattern\": \"\"}"), 1);
    assert_int_equal(adapters_of(folder, ONE_LAYER ", \"layers_pattern\": \"layers\"}"), 1);
    assert_int_equal(adapters_of(folder, ONE_LAYER ", \"layers_pattern\": [\"h\", \"layers\"]}"), 1);
    static const char *const others[] = {ONE_LAYER ", \"layers_pattern\": \"h\"}",
                                         ONE_LAYER ", \"layers_pattern\": [\"h\", 3]}",
                                         ONE_LAYER ", \"layers_pattern\": 3}"};
    for (int i = 0; i < 3; i++) {
        LoraConfigFile file;
        rig_write(folder, "adapter_config.json", others[i], strlen(others[i]));
        EXPECT_FAILURE(lora_config_read(&file, folder, &rig_err), ERR_MODEL, "does not name \"layers\"");
    }
    rig_remove(folder);
}

static void options_out_of_range_are_named(void **state)
{
    (void)state;
    static const LoraPattern half[] =
        {
            {"q_proj", 2.5}
    },
                             broken[] = {{"q_proj[", 2}};
    const LoraOptions o = {.r = 4, .alpha = 4};
    LoraOptions bad = o;
    bad.r = 0;
    create_fails(bad, "lora_r");
    bad = o;
    bad.alpha = (double)NAN;
    create_fails(bad, "lora_alpha");
    bad = o;
    bad.dropout = 1;
    create_fails(bad, "lora_dropout");
    bad = o;
    bad.loraplus_lr_ratio = 0.5;
    create_fails(bad, "loraplus_lr_ratio");
    bad = o;
    bad.rank_pattern = half;
    bad.rank_pattern_count = 1;
    create_fails(bad, "whole number");
    bad.rank_pattern = broken;
    create_fails(bad, "lora_rank_pattern");
}

static void loraplus_speeds_up_b_only(void **state)
{
    (void)state;
    const LoraOptions o = {.r = 4, .alpha = 4, .loraplus_lr_ratio = 16};
    Rig r = rig_open(&o);
    for (int i = 0; i < r.lora.count; i++) {
        assert_true(r.lora.table.items[r.lora.adapters[i].a].lr_scale == 1.0f);
        assert_true(r.lora.table.items[r.lora.adapters[i].b].lr_scale == 16.0f);
    }
    rig_close(&r);
}

static void parameters_do_not_share_blocks(void **state)
{
    (void)state;
    const LoraOptions o = {.r = 5, .alpha = 5};
    Rig r = rig_open(&o);
    const ParamTable *t = &r.lora.table;
    int64_t end = 0, elements = 0;
    for (int i = 0; i < t->count; i++) {
        assert_int_equal(t->items[i].offset % PARAM_ALIGN, 0);
        assert_true(t->items[i].offset >= end);
        end = t->items[i].offset + t->items[i].rows * t->items[i].cols;
        elements += t->items[i].rows * t->items[i].cols;
    }
    assert_true(end <= t->total);
    assert_int_equal(elements, t->trainable);
    rig_close(&r);
}

static void fresh_a_is_uniform_and_b_is_zero(void **state)
{
    (void)state;
    const LoraOptions o = {.r = 16, .alpha = 16};
    Rig r = rig_open(&o);
    MUST(lora_initialize(&r.lora, r.be, &r.params, 3, &rig_err));
    float *values = rig_values(&r);
    for (int i = 0; i < r.lora.count; i++) {
        const Param *a = &r.lora.table.items[r.lora.adapters[i].a], *b = &r.lora.table.items[r.lora.adapters[i].b];
        const int64_t n = a->rows * a->cols;
        const double bound = 1 / sqrt((double)a->cols);
        double sum = 0, squares = 0, most = 0;
        for (int64_t j = 0; j < n; j++) {
            const double v = (double)values[a->offset + j];
            sum += v;
            squares += v * v;
            most = fmax(most, fabs(v));
        }
        assert_true(most <= bound && most > 0.9 * bound);
        assert_true(fabs(sum / (double)n) < 5 * bound / sqrt(3.0 * (double)n)); /* five standard errors */
        assert_true(fabs(squares / (double)n / (bound * bound / 3) - 1) < 0.3);
        for (int64_t j = 0; j < b->rows * b->cols; j++)
            assert_true(values[b->offset + j] == 0.0f);
    }
    free(values);
    rig_close(&r);
}

static void gaussian_a_has_deviation_one_over_r(void **state)
{
    (void)state;
    const LoraOptions o = {.r = 16, .alpha = 16, .init = LORA_INIT_GAUSSIAN};
    Rig r = rig_open(&o);
    MUST(lora_initialize(&r.lora, r.be, &r.params, 3, &rig_err));
    float *values = rig_values(&r);
    double squares = 0, n = 0;
    for (int i = 0; i < r.lora.count; i++) {
        const Param *a = &r.lora.table.items[r.lora.adapters[i].a];
        for (int64_t j = 0; j < a->rows * a->cols; j++, n++)
            squares += (double)values[a->offset + j] * (double)values[a->offset + j];
    }
    assert_true(fabs(sqrt(squares / n) * 16 - 1) < 0.05);
    free(values);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_means_no_module_is_noticed),
        cmocka_unit_test(adapters_of_one_input_lie_side_by_side),
        cmocka_unit_test(modules_ranks_and_scales_are_those_of_peft),
        cmocka_unit_test(a_saved_config_means_the_same_modules),
        cmocka_unit_test(a_target_that_matches_nothing_is_an_error),
        cmocka_unit_test(a_pattern_that_names_our_list_of_layers_changes_nothing),
        cmocka_unit_test(options_out_of_range_are_named),
        cmocka_unit_test(loraplus_speeds_up_b_only),
        cmocka_unit_test(parameters_do_not_share_blocks),
        cmocka_unit_test(fresh_a_is_uniform_and_b_is_zero),
        cmocka_unit_test(gaussian_a_has_deviation_one_over_r),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
