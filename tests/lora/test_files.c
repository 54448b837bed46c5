/* Adapter folders: what is written can be read, by us to the bit; what does not fit is named. */
#include "tests/lora/rig.h"

#include "base/hash.h"
#include "base/safetensors.h"

static const LoraOptions plain = {.r = 4, .alpha = 6.5, .dropout = 0.1};

static void expect_same_file(const char *a, const char *b, const char *name)
{
    size_t na = 0, nb = 0;
    char *first = rig_read(a, name, &na), *second = rig_read(b, name, &nb);
    assert_int_equal(na, nb);
    assert_memory_equal(first, second, na);
    mem_free(first);
    mem_free(second);
}

static void save_load_save_gives_the_same_bytes(void **state)
{
    (void)state;
    static const LoraPattern ranks[] =
        {
            {"mlp\\.(up|down)_proj", 7},
            {"q_proj",               1}
    },
                             alphas[] = {{"k_proj", 3}};
    LoraOptions options = plain;
    options.use_rslora = true;
    options.rank_pattern = ranks;
    options.rank_pattern_count = 2;
    options.alpha_pattern = alphas;
    options.alpha_pattern_count = 1;
    char *first = rig_folder(), *second = rig_folder();
    Rig a = rig_open(&options);
    rig_fill(&a);
    MUST(lora_save(&a.lora, rig_modules, a.be, &a.params, first, "org/base", &rig_err));
    LoraConfigFile file;
    MUST(lora_config_read(&file, first, &rig_err));
    Rig b = rig_open(&file.options);
    MUST(lora_load(&b.lora, b.be, &b.params, first, &rig_err));
    float *saved = rig_values(&a), *loaded = rig_values(&b);
    assert_int_equal(a.lora.table.total, b.lora.table.total);
    assert_memory_equal(saved, loaded, (size_t)a.lora.table.total * sizeof(float));
    MUST(lora_save(&b.lora, rig_modules, b.be, &b.params, second, "org/base", &rig_err));
    expect_same_file(first, second, "adapter_model.safetensors");
    expect_same_file(first, second, "adapter_config.json");
    free(saved);
    free(loaded);
    rig_close(&a);
    rig_close(&b);
    lora_config_free(&file);
    rig_remove(first);
    rig_remove(second);
}

static void the_file_is_what_peft_writes(void **state)
{
    (void)state;
    char *folder = rig_folder();
    Rig r = rig_open(&plain);
    rig_fill(&r);
    MUST(lora_save(&r.lora, rig_modules, r.be, &r.params, folder, "org/base", &rig_err));
    char path[512];
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", folder);
    Safetensors st;
    MUST(safetensors_open(&st, path, &rig_err));
    assert_string_equal(safetensors_metadata(&st, "format"), "pt");
    assert_int_equal(st.count, 2 * RIG_MODULES);
    uint64_t offset = 0;
    for (int i = 0; i < st.count; i++) { /* sorted by name: so lie their bytes */
        assert_int_equal(st.entries[i].dtype, DTYPE_F32);
        assert_true(st.entries[i].offset > offset);
        offset = st.entries[i].offset;
    }
    const SafetensorsEntry *e = safetensors_find(&st, "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight");
    assert_non_null(e);
    assert_true(e->shape[0] == 16 && e->shape[1] == 4);
    safetensors_close(&st);
    size_t length = 0;
    char *config = rig_read(folder, "adapter_config.json", &length);
    static const char *const lines[] = {
        "  \"base_model_name_or_path\": \"org/base\",",
        "  \"lora_alpha\": 6.5,",
        "  \"peft_type\": \"LORA\",",
        "  \"task_type\": \"CAUSAL_LM\",",
        "  \"use_rslora\": false\n",
        "    \"down_proj\",\n    \"gate_proj\",",
    };
    for (size_t i = 0; i < ARRAY_COUNT(lines); i++) {
        if (!strstr(config, lines[i])) fail_msg("%s is not in\n%s", lines[i], config);
    }
    mem_free(config);
    rig_close(&r);
    rig_remove(folder);
}

/* ---- foreign files ---- */

typedef struct Change {
    DType dtype;         /* of every tensor */
    const char *drop;    /* name of a parameter that is left out */
    const char *rename;  /* this parameter goes by "stranger" */
    const char *reshape; /* this one gets one column more */
    const char *poison;  /* this one holds an infinity */
    bool extra;          /* one tensor nobody knows */
} Change;

static void write_values(SafetensorsWriter *w, DType dtype, const float *values, int64_t n, bool poison)
{
    for (int64_t i = 0; i < n; i++) {
        const float v = poison && i == n / 2 ? INFINITY : values[i];
        const uint16_t half = dtype == DTYPE_F16 ? f16_from_f32(v) : bf16_from_f32(v);
        MUST(safetensors_writer_data(w, dtype == DTYPE_F32 ? (const void *)&v : &half, dtype_bytes(dtype), &rig_err));
    }
}

static bool is(const char *name, const Param *p)
{
    return name && strcmp(name, p->name) == 0;
}

static void write_adapter(const char *folder, const Rig *r, const Change *c)
{
    char path[512];
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", folder);
    SafetensorsWriter *w;
    MUST(safetensors_writer_create(&w, path, &rig_err));
    for (int i = 0; i < r->lora.table.count; i++) {
        const Param *p = &r->lora.table.items[i];
        const int64_t shape[2] = {p->rows, p->cols + is(c->reshape, p)};
        char name[256];
        snprintf(name, sizeof name, "base_model.model.%s", is(c->rename, p) ? "stranger" : p->name);
        if (!is(c->drop, p)) MUST(safetensors_writer_declare(w, name, c->dtype, 2, shape, &rig_err));
    }
    const int64_t one[1] = {1};
    if (c->extra) MUST(safetensors_writer_declare(w, "base_model.model.lm_head.weight", DTYPE_F32, 1, one, &rig_err));
    MUST(safetensors_writer_begin(w, &rig_err));
    float *values = rig_values(r);
    for (int i = 0; i < r->lora.table.count; i++) {
        const Param *p = &r->lora.table.items[i];
        if (is(c->drop, p)) continue;
        write_values(w, c->dtype, values + p->offset, p->rows * p->cols, is(c->poison, p));
        const float more[64] = {0};
        if (is(c->reshape, p)) write_values(w, c->dtype, more, p->rows, false);
    }
    if (c->extra) write_values(w, DTYPE_F32, values, 1, false);
    free(values);
    MUST(safetensors_writer_finish(w, &rig_err));
}

static void sixteen_bit_adapters_load(void **state)
{
    (void)state;
    char *folder = rig_folder();
    Rig r = rig_open(&plain);
    rig_fill(&r);
    MUST(lora_save(&r.lora, rig_modules, r.be, &r.params, folder, NULL, &rig_err)); /* its config stays */
    float *before = rig_values(&r);
    static const DType dtypes[] = {DTYPE_F16, DTYPE_BF16};
    for (size_t d = 0; d < ARRAY_COUNT(dtypes); d++) {
        backend_upload(r.be, &r.params, before);
        write_adapter(folder, &r, &(Change){.dtype = dtypes[d]});
        MUST(lora_load(&r.lora, r.be, &r.params, folder, &rig_err));
        float *after = rig_values(&r);
        for (int64_t i = 0; i < r.lora.table.total; i++) {
            const float rounded =
                dtypes[d] == DTYPE_F16 ? f16_to_f32(f16_from_f32(before[i])) : bf16_to_f32(bf16_from_f32(before[i]));
            assert_true(after[i] == rounded);
        }
        free(after);
    }
    free(before);
    rig_close(&r);
    rig_remove(folder);
}

static void a_file_that_does_not_fit_is_refused_by_name(void **state)
{
    (void)state;
    static const char name[] = "model.layers.1.self_attn.v_proj.lora_A.weight";
    const struct {
        Change change;
        const char *text;
    } faults[] = {
        {{.dtype = DTYPE_F32, .drop = name},    "v_proj.lora_A.weight is missing"     },
        {{.dtype = DTYPE_F32, .rename = name},  "v_proj.lora_A.weight is missing"     },
        {{.dtype = DTYPE_F32, .reshape = name}, "has shape (4, 17)"                   },
        {{.dtype = DTYPE_F32, .poison = name},  "not finite at element 32"            },
        {{.dtype = DTYPE_BF16, .poison = name}, "not finite at element 32"            },
        {{.dtype = DTYPE_F32, .extra = true},   "lm_head.weight belongs to no adapter"},
    };
    char *folder = rig_folder();
    Rig r = rig_open(&plain);
    rig_fill(&r);
    MUST(lora_save(&r.lora, rig_modules, r.be, &r.params, folder, NULL, &rig_err));
    for (size_t i = 0; i < ARRAY_COUNT(faults); i++) {
        write_adapter(folder, &r, &faults[i].change);
        EXPECT_FAILURE(lora_load(&r.lora, r.be, &r.params, folder, &rig_err), ERR_MODEL, faults[i].text);
        rig_fill(&r);
    }
    char path[512];
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", folder);
    MUST(file_remove(path, &rig_err));
    EXPECT_FAILURE(lora_load(&r.lora, r.be, &r.params, folder, &rig_err), ERR_MODEL,
                   "has no adapter_model.safetensors");
    rig_close(&r);
    rig_remove(folder);
}

static void a_wrong_scale_or_rank_is_refused(void **state)
{
    (void)state;
    char *folder = rig_folder();
    Rig r = rig_open(&plain);
    rig_fill(&r);
    MUST(lora_save(&r.lora, rig_modules, r.be, &r.params, folder, NULL, &rig_err));
    rig_close(&r);
    LoraOptions other = plain;
    other.alpha = 7;
    r = rig_open(&other);
    EXPECT_FAILURE(lora_load(&r.lora, r.be, &r.params, folder, &rig_err), ERR_MODEL, "scales by 1.625");
    rig_close(&r);
    other = plain;
    other.r = 5;
    r = rig_open(&other);
    EXPECT_FAILURE(lora_load(&r.lora, r.be, &r.params, folder, &rig_err), ERR_MODEL, "has rank 4");
    rig_close(&r);
    rig_remove(folder);
}

static void configs_of_other_methods_are_refused_by_name(void **state)
{
    (void)state;
    static const char *const faults[][2] = {
        {"{\"peft_type\": \"LORA\", \"target_modules\": [\"q_proj\"], \"use_dora\": true}",                 "use_dora"        },
        {"{\"peft_type\": \"LORA\", \"target_modules\": [\"q_proj\"], \"modules_to_save\": [\"lm_head\"]}",
         "modules_to_save"                                                                                                    },
        {"{\"peft_type\": \"LORA\", \"target_modules\": [\"q_proj\"], \"bias\": \"all\"}",                  "bias is \"all\"" },
        {"{\"peft_type\": \"LORA\", \"target_modules\": [\"q_proj\"], \"lora_bias\": true}",                "lora_bias"       },
        {"{\"peft_type\": \"LORA\", \"target_modules\": [\"q_proj\"], \"init_lora_weights\": \"pissa\"}",
         "init_lora_weights"                                                                                                  },
        {"{\"peft_type\": \"LORA\", \"target_modules\": [\"q_proj\"], \"trainable_token_indices\": [1]}",
         "trainable_token"                                                                                                    },
        {"{\"peft_type\": \"LORA\", \"target_modules\": [\"q_proj\"], \"r\": 0}",                           "\"r\""           },
        {"{\"peft_type\": \"LORA\", \"target_modules\": [\"q_proj\"], \"r\": \"x\"}",                       "\"r\""           },
        {"{\"peft_type\": \"LORA\", \"target_modules\": [1]}",                                              "target_modules"  },
        {"{\"peft_type\": \"LORA\", \"target_modules\": []}",                                               "target_modules"  },
        {"{\"peft_type\": \"LORA\"}",                                                                       "target_modules"  },
        {"{\"peft_type\": \"LORA\", \"target_modules\": [\"q_proj\"], \"rank_pattern\": {\"a\": \"b\"}}",
         "rank_pattern"                                                                                                       },
        {"{\"peft_type\": \"LORA\", \"target_modules\": [\"q_proj\"], \"layers_to_transform\": [-1]}",      "layers_to"       },
        {"{\"peft_type\": \"IA3\", \"target_modules\": [\"q_proj\"]}",                                      "peft_type is IA3"},
        {"[1]",                                                                                             "no JSON object"  },
        {"{",                                                                                               "adapter_config"  },
    };
    char *folder = rig_folder();
    LoraConfigFile file;
    for (size_t i = 0; i < ARRAY_COUNT(faults); i++) {
        rig_write(folder, "adapter_config.json", faults[i][0], strlen(faults[i][0]));
        EXPECT_FAILURE(lora_config_read(&file, folder, &rig_err), ERR_MODEL, faults[i][1]);
    }
    rig_remove(folder);
}

static void missing_rank_and_alpha_are_pefts_eight(void **state)
{
    (void)state;
    static const char text[] = "{\"peft_type\": \"LORA\", \"target_modules\": [\"q_proj\"], \"unheard_of\": 1}";
    char *folder = rig_folder();
    LoraConfigFile file;
    rig_write(folder, "adapter_config.json", text, sizeof text - 1);
    MUST(lora_config_read(&file, folder, &rig_err));
    assert_int_equal(file.options.r, 8);
    assert_true(file.options.alpha == 8);
    lora_config_free(&file);
    rig_remove(folder);
}

/* ---- failing memory and disk ---- */

static void every_failed_allocation_is_reported(void **state)
{
    (void)state;
    char *folder = rig_folder();
    Rig r = rig_open(&plain);
    rig_fill(&r);
    MUST(lora_save(&r.lora, rig_modules, r.be, &r.params, folder, NULL, &rig_err));
    char whole[HASH_TEXT], now[HASH_TEXT];
    char *config = path_join(folder, "adapter_config.json", &rig_err);
    MUST(config && hash_file(config, ERR_DISK, whole, &rig_err));
    uint64_t nth = 0, end = 0;
    do {
        Lora l = {0};
        err_clear(&rig_err);
        const uint64_t before = mem_alloc_count();
        mem_fail_at(++nth, false);
        const bool done = lora_create(&l, rig_modules, RIG_MODULES, &plain, &rig_err) &&
                          lora_save(&r.lora, rig_modules, r.be, &r.params, folder, NULL, &rig_err) &&
                          lora_load(&r.lora, r.be, &r.params, folder, &rig_err);
        mem_fail_at(0, false);
        end = mem_alloc_count() - before;
        if (!done) assert_int_equal(rig_err.code, ERR_MEMORY);
        lora_free(&l);
        err_clear(&rig_err);
        MUST(!done || hash_file(config, ERR_DISK, now, &rig_err)); /* nothing of it was left out */
        if (done) assert_string_equal(now, whole);
    } while (nth <= end);
    mem_free(config);
    rig_close(&r);
    rig_remove(folder);
}

static void every_failed_file_operation_is_reported(void **state)
{
    (void)state;
    char *folder = rig_folder();
    Rig r = rig_open(&plain);
    rig_fill(&r);
    bool done = false;
    for (uint64_t nth = 1; !done; nth++) {
        err_clear(&rig_err);
        file_fail_at("any", nth, 5, false); /* EIO */
        done = lora_save(&r.lora, rig_modules, r.be, &r.params, folder, NULL, &rig_err) &&
               lora_load(&r.lora, r.be, &r.params, folder, &rig_err);
        file_fail_at(NULL, 0, 0, false);
        if (!done) assert_true(rig_err.code == ERR_DISK || rig_err.code == ERR_MODEL);
    }
    rig_close(&r);
    rig_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(save_load_save_gives_the_same_bytes),
        cmocka_unit_test(the_file_is_what_peft_writes),
        cmocka_unit_test(sixteen_bit_adapters_load),
        cmocka_unit_test(a_file_that_does_not_fit_is_refused_by_name),
        cmocka_unit_test(a_wrong_scale_or_rank_is_refused),
        cmocka_unit_test(configs_of_other_methods_are_refused_by_name),
        cmocka_unit_test(missing_rank_and_alpha_are_pefts_eight),
        cmocka_unit_test(every_failed_allocation_is_reported),
        cmocka_unit_test(every_failed_file_operation_is_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
