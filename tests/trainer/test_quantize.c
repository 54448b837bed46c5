/*
 * Writing a base model in 4 bits: what the folder holds, how it reads back, what is refused, and what failures leave.
 */
#include "trainer/quantize_parts.h"

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "tests/support/tiny.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static char *root, *model, *out;

static char *under_root(const char *name)
{
    Err err = {0};
    char *path = path_join(root, name, &err);
    assert_non_null(path);
    return path;
}

static int make_root(void **state)
{
    (void)state;
    log_set_quiet(true);
    root = tiny_temp_folder();
    model = under_root("model");
    out = under_root("out");
    return 0;
}

static int remove_root(void **state)
{
    Err err = {0};
    (void)state;
    assert_true(file_remove_tree(root, &err));
    mem_free(out);
    mem_free(model);
    mem_free(root);
    return 0;
}

static void write_model(const TinyOptions *options)
{
    Err err = {0};
    if (file_exists(model)) assert_true(file_remove_tree(model, &err));
    if (file_exists(out)) assert_true(file_remove_tree(out, &err));
    char *old = under_root("out.qlora-old"); /* where a failing clean-up left it */
    if (file_exists(old)) assert_true(file_remove_tree(old, &err));
    mem_free(old);
    assert_true(tiny_model_write(model, options, &err));
}

static const QuantOptions usual = {QUANT_NF4, 64, true};

static void quantize_to(const char *from, const char *to, const QuantOptions *options)
{
    Err err = {0};
    if (!quantize_folder(from, NULL, to, options, NULL, 0, &err)) fail_msg("%s", err.text);
}

static void assert_refused(const char *from, const char *to, const QuantOptions *options, const char *const *skip,
                           int skip_count, ErrCode code, const char *part)
{
    Err err = {0};
    assert_false(quantize_folder(from, NULL, to, options, skip, skip_count, &err));
    assert_int_equal(err.code, code);
    if (!strstr(err.text, part)) fail_msg("\"%s\" is not in: %s", part, err.text);
}

static bool same_files(const char *a, const char *b, const char *name)
{
    Err err = {0};
    char *x = path_join(a, name, &err), *y = path_join(b, name, &err), *first = NULL, *second = NULL;
    size_t n = 0, m = 0;
    assert_true(file_read_all(&first, &n, x, 1 << 24, ERR_MODEL, &err));
    assert_true(file_read_all(&second, &m, y, 1 << 24, ERR_MODEL, &err));
    const bool same = n == m && memcmp(first, second, n) == 0;
    mem_free(first);
    mem_free(second);
    mem_free(x);
    mem_free(y);
    return same;
}

/* --- contents --- */

static QuantHost host_arrays(int64_t count, int64_t blocks)
{
    return (QuantHost){
        .codes = calloc((size_t)ceil_div(count, 2), 1),
        .absmax = calloc((size_t)blocks, sizeof(float)),
        .nested_absmax = calloc((size_t)ceil_div(blocks, 256), sizeof(float)),
        .scratch_absmax = calloc((size_t)blocks, sizeof(float)),
    };
}

static void free_arrays(QuantHost *h)
{
    free(h->codes);
    free(h->absmax);
    free(h->nested_absmax);
    free(h->scratch_absmax);
}

/* A matrix read back holds the bytes that encoding the source gives. */
static void check_matrix(const ModelSource *before, const SourceTensor *plain, const ModelSource *after,
                         const QuantOptions *options)
{
    Err err = {0};
    QuantMatrix m = {0};
    const SourceTensor *t = source_find(after, plain->name);
    const int64_t count = plain->shape[0] * plain->shape[1], blocks = ceil_div(count, options->block);
    QuantHost expected = host_arrays(count, blocks), found = host_arrays(count, blocks);
    float *values = malloc((size_t)count * sizeof *values);
    assert_true(t && t->prequantized);
    assert_true(source_read(before, plain, 0, plain->shape[0], values, &err));
    assert_true(quant_encode(&expected, values, count, options, &err));
    assert_true(source_read_quantized(after, t, &m, &found, &err));
    assert_int_equal(m.options.type, options->type);
    assert_int_equal(m.options.block, options->block);
    assert_int_equal(m.options.double_quant, options->double_quant);
    assert_int_equal(m.source_dtype, plain->dtype);
    assert_memory_equal(&m.offset, &expected.offset, sizeof m.offset);
    assert_memory_equal(found.codes, expected.codes, (size_t)ceil_div(count, 2));
    assert_memory_equal(found.absmax, expected.absmax, (size_t)blocks * (options->double_quant ? 1 : 4));
    assert_memory_equal(found.nested_absmax, expected.nested_absmax, (size_t)ceil_div(blocks, 256) * 4);
    free(values);
    free_arrays(&expected);
    free_arrays(&found);
}

static void check_kept(const ModelSource *before, const SourceTensor *plain, const ModelSource *after)
{
    Err err = {0};
    const SourceTensor *t = source_find(after, plain->name);
    const int64_t count = plain->shape[0] * (plain->rank == 2 ? plain->shape[1] : 1);
    float *a = malloc((size_t)count * sizeof *a), *b = malloc((size_t)count * sizeof *b);
    assert_true(t && !t->prequantized && t->dtype == plain->dtype);
    assert_true(source_read(before, plain, 0, plain->shape[0], a, &err));
    assert_true(source_read(after, t, 0, t->shape[0], b, &err));
    assert_memory_equal(a, b, (size_t)count * sizeof *a);
    free(a);
    free(b);
}

static bool is_linear(const char *name)
{
    return strstr(name, "_proj.weight") != NULL;
}

/* Returns how many were quantized. `kept` (or null): an end of names that keep their type. */
static int check_folder(const char *folder, const QuantOptions *options, const char *kept)
{
    Err err = {0};
    ModelSource *before = NULL, *after = NULL;
    int quantized = 0;
    assert_true(source_open(&before, model, true, &err));
    if (!source_open(&after, folder, true, &err)) fail_msg("%s", err.text);
    assert_int_equal(source_count(before), source_count(after));
    for (int i = 0; i < source_count(before); i++) {
        const SourceTensor *t = source_tensor(before, i);
        if (is_linear(t->name) && !(kept && strstr(t->name, kept))) {
            check_matrix(before, t, after, options);
            quantized++;
        } else {
            check_kept(before, t, after);
        }
    }
    source_close(before);
    source_close(after);
    return quantized;
}

static void what_is_written_reads_back_as_what_was_encoded(void **state)
{
    static const TinyOptions models[] = {
        {.tied = true, .seed = 1},
        {            .bf16 = true,   .seed = 2         },
        { .bias = true,   .llama3 = true,            .seed = 3}
    };
    static const QuantOptions options[] = {
        {QUANT_NF4, 64,   true },
        {QUANT_FP4, 32,   false},
        {QUANT_NF4, 1024, true },
        {QUANT_FP4, 4096, true }
    };
    (void)state;
    for (size_t m = 0; m < ARRAY_COUNT(models); m++) {
        write_model(&models[m]);
        for (size_t o = 0; o < ARRAY_COUNT(options); o++) {
            quantize_to(model, out, &options[o]);
            assert_int_equal(check_folder(out, &options[o], NULL), 7 * TINY_LAYERS);
            assert_true(same_files(model, out, "tokenizer.json"));
        }
    }
}

static json_t *config_of(const char *folder)
{
    Err err = {0};
    json_t *config = NULL;
    char *path = path_join(folder, "config.json", &err);
    assert_true(json_parse_file(&config, path, 1 << 20, ERR_MODEL, &err));
    mem_free(path);
    return config;
}

static void the_configuration_is_the_models_with_one_member_more(void **state)
{
    (void)state;
    write_model(&(TinyOptions){.bf16 = true, .seed = 4});
    quantize_to(model, out, &usual);
    json_t *before = config_of(model), *after = config_of(out);
    json_t *q = json_incref(json_object_get(after, "quantization_config"));
    assert_string_equal(json_string_value(json_object_get(q, "quant_method")), "bitsandbytes");
    assert_string_equal(json_string_value(json_object_get(q, "bnb_4bit_quant_type")), "nf4");
    assert_true(json_is_true(json_object_get(q, "load_in_4bit")));
    assert_true(json_is_true(json_object_get(q, "bnb_4bit_use_double_quant")));
    assert_true(json_is_null(json_object_get(q, "llm_int8_skip_modules")));
    json_object_del(after, "quantization_config");
    assert_true(json_equal(before, after));
    json_decref(q);
    json_decref(before);
    json_decref(after);
}

static void skipped_modules_keep_their_type_and_are_listed(void **state)
{
    static const char *const skip[] = {"lm_head", "up_proj"};
    Err err = {0};
    (void)state;
    write_model(&(TinyOptions){.seed = 5});
    assert_true(quantize_folder(model, NULL, out, &usual, skip, 2, &err));
    assert_int_equal(check_folder(out, &usual, "up_proj"), 6 * TINY_LAYERS);
    json_t *config = config_of(out);
    const json_t *list = json_object_get(json_object_get(config, "quantization_config"), "llm_int8_skip_modules");
    assert_int_equal(json_array_size(list), 1 + TINY_LAYERS);
    assert_string_equal(json_string_value(json_array_get(list, 0)), "lm_head");
    assert_string_equal(json_string_value(json_array_get(list, 1)), "model.layers.0.mlp.up_proj");
    json_decref(config);
}

static void small_shards_hold_the_same_tensors(void **state)
{
    Err err = {0};
    char *whole = under_root("whole"), *index = NULL;
    (void)state;
    write_model(&(TinyOptions){.seed = 6});
    quantize_to(model, whole, &usual);
    quantize_shard_bytes = 20000;
    quantize_to(model, out, &usual);
    quantize_shard_bytes = 5000000000;
    index = path_join(out, "model.safetensors.index.json", &err);
    assert_true(file_exists(index));
    assert_int_equal(check_folder(out, &usual, NULL), 7 * TINY_LAYERS);
    assert_true(file_remove_tree(whole, &err));
    mem_free(index);
    mem_free(whole);
}

static void the_quant_state_is_written_as_python_writes_it(void **state)
{
    static const struct Case {
        float offset;
        const char *end;
    } cases[] = {
        {0.0245361328125f, "\"nested_offset\": 0.0245361328125}"      },
        {0.82033378f,      "\"nested_offset\": 0.8203337788581848}"   },
        {1.5f,             "\"nested_offset\": 1.5}"                  },
        {3.0f,             "\"nested_offset\": 3.0}"                  },
        {1000000.0f,       "\"nested_offset\": 1000000.0}"            },
        {0.0f,             "\"nested_offset\": 0.0}"                  },
        {1e-5f,            "\"nested_offset\": 9.999999747378752e-06}"},
        {1.0f / 65536.0f,  "\"nested_offset\": 1.52587890625e-05}"    },
    };
    static const char *const begin = "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"bfloat16\", "
                                     "\"shape\": [4096, 11008], \"nested_blocksize\": 256, \"nested_dtype\": "
                                     "\"float32\", ";
    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        const QuantMatrix m = {
            .options = usual, .rows = 4096, .cols = 11008, .source_dtype = DTYPE_BF16, .offset = cases[i].offset};
        Text text = {0};
        Err err = {0};
        assert_true(quantize_state_text(&text, &m, &err));
        assert_memory_equal(text.bytes, begin, strlen(begin));
        assert_string_equal(text.bytes + strlen(begin), cases[i].end);
        text_free(&text);
    }
}

/* --- again, and elsewhere --- */

static void a_folder_in_4_bits_is_copied_or_refused(void **state)
{
    char *again = under_root("again");
    Err err = {0};
    (void)state;
    write_model(&(TinyOptions){.bf16 = true, .seed = 7});
    quantize_to(model, out, &usual);
    quantize_to(out, again, &usual);
    assert_true(same_files(out, again, "model.safetensors"));
    assert_true(same_files(out, again, "config.json"));
    const QuantOptions others[] = {
        {QUANT_FP4, 64,  true },
        {QUANT_NF4, 128, true },
        {QUANT_NF4, 64,  false}
    };
    for (size_t i = 0; i < ARRAY_COUNT(others); i++)
        assert_refused(out, again, &others[i], NULL, 0, ERR_MODEL, "already in 4 bits (nf4, block 64, double");
    const char *const skip[1] = {"v_proj"};
    assert_refused(out, again, &usual, skip, 1, ERR_ARG, "v_proj in 4 bits already");
    assert_refused(out, out, &usual, NULL, 0, ERR_ARG, "is the model itself");
    assert_true(file_remove_tree(again, &err));
    mem_free(again);
}

static void a_folder_of_someone_else_is_left_alone(void **state)
{
    char *theirs = under_root("theirs"), *note = NULL, *empty = under_root("empty/");
    Err err = {0};
    (void)state;
    write_model(&(TinyOptions){.seed = 8});
    assert_true(file_make_folders(theirs, &err));
    note = path_join(theirs, "note.txt", &err);
    assert_true(file_replace(note, "mine", 4, &err));
    assert_refused(model, theirs, &usual, NULL, 0, ERR_ARG, "is not empty and was not written by this command");
    assert_refused(model, note, &usual, NULL, 0, ERR_ARG, "is no folder");
    assert_refused(model, model, &usual, NULL, 0, ERR_ARG, "is the model itself");
    assert_true(file_exists(note));
    assert_true(file_make_folders(empty, &err));
    quantize_to(model, empty, &usual);
    quantize_to(model, empty, &(QuantOptions){QUANT_FP4, 64, false}); /* ours may be replaced */
    assert_int_equal(check_folder(empty, &(QuantOptions){QUANT_FP4, 64, false}, NULL), 7 * TINY_LAYERS);
    assert_true(file_remove_tree(theirs, &err));
    mem_free(theirs);
    mem_free(note);
    mem_free(empty);
}

static void slips_in_names_are_refused(void **state)
{
    static const char *const unknown[] = {"lm_head", "upproj"};
    static const char *const all[] = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"};
    char *nowhere = under_root("nowhere");
    (void)state;
    write_model(&(TinyOptions){.seed = 9});
    assert_refused(model, out, &usual, unknown, 2, ERR_ARG, "no module is named \"upproj\"");
    assert_refused(model, out, &usual, all, 7, ERR_ARG, "no module is left to quantize");
    assert_refused(nowhere, out, &usual, NULL, 0, ERR_MODEL, "nowhere");
    assert_false(file_exists(out));
    mem_free(nowhere);
}

/* --- failures --- */

static void assert_nothing_left(const char *folder_was)
{
    Err err = {0};
    FileList list;
    char *kept = path_join(folder_was, "config.json", &err);
    assert_true(file_list(&list, root, ERR_MODEL, &err));
    for (size_t i = 0; i < list.count; i++)
        assert_null(strstr(list.names[i], ".qlora-partial"));
    assert_true(file_exists(kept));
    file_list_free(&list);
    mem_free(kept);
}

/* Whatever fails, the earlier result still stands and is whole. */
static void every_failing_file_operation_leaves_the_old_folder(void **state)
{
    const QuantOptions other = {QUANT_FP4, 64, true};
    bool done = false;
    (void)state;
    write_model(&(TinyOptions){.tied = true, .seed = 10});
    quantize_to(model, out, &usual);
    for (uint64_t nth = 1; !done; nth++) {
        Err err = {0};
        file_fail_at("any", nth, EIO, false);
        done = quantize_folder(model, NULL, out, &other, NULL, 0, &err);
        const bool last = done;
        file_fail_at(NULL, 0, 0, false);
        if (last) break; /* what failed, if anything, was only cleaning up */
        assert_true(err.text[0] != '\0');
        assert_nothing_left(out);
        assert_int_equal(check_folder(out, &usual, NULL), 7 * TINY_LAYERS);
        assert_true(nth < 100000);
    }
    assert_int_equal(check_folder(out, &other, NULL), 7 * TINY_LAYERS);
}

static void every_failing_allocation_is_reported(void **state)
{
    bool done = false;
    (void)state;
    write_model(&(TinyOptions){.tied = true, .seed = 11});
    for (uint64_t nth = 1; !done; nth++) {
        Err err = {0};
        mem_fail_at(nth, false);
        done = quantize_folder(model, NULL, out, &usual, NULL, 0, &err);
        mem_fail_at(0, false);
        assert_true(done || err.code == ERR_MEMORY);
        if (!done && file_exists(out)) fail_msg("allocation %llu: %s", (unsigned long long)nth, err.text);
    }
    assert_int_equal(check_folder(out, &usual, NULL), 7 * TINY_LAYERS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_reads_back_as_what_was_encoded),
        cmocka_unit_test(the_configuration_is_the_models_with_one_member_more),
        cmocka_unit_test(skipped_modules_keep_their_type_and_are_listed),
        cmocka_unit_test(small_shards_hold_the_same_tensors),
        cmocka_unit_test(the_quant_state_is_written_as_python_writes_it),
        cmocka_unit_test(a_folder_in_4_bits_is_copied_or_refused),
        cmocka_unit_test(a_folder_of_someone_else_is_left_alone),
        cmocka_unit_test(slips_in_names_are_refused),
        cmocka_unit_test(every_failing_file_operation_leaves_the_old_folder),
        cmocka_unit_test(every_failing_allocation_is_reported),
    };
    return cmocka_run_group_tests(tests, make_root, remove_root);
}
