/* Base models that transformers, bitsandbytes and llama.cpp's tools wrote are read as they meant them. */
#include "model/source.h"

#include "base/hash.h"
#include "base/mem.h"
#include "model/gguf_decode.h"
#include "tests/support/scratch.h"

#include <errno.h>
#include <math.h>

#define GOLDEN "golden/data/source/"

/* The f32 values of a tensor in a plain safetensors file; the caller frees them. */
static float *golden_values(const Safetensors *st, const char *name, int64_t *count)
{
    Err err = {0};
    const SafetensorsEntry *e = safetensors_find(st, name);
    if (!e) return NULL;
    assert_int_equal(e->dtype, DTYPE_F32);
    float *values = malloc(e->bytes);
    assert_non_null(values);
    assert_done(safetensors_read(st, e, 0, e->bytes, values, &err));
    *count = e->count;
    return values;
}

static int64_t count_of(const SourceTensor *t)
{
    return t->shape[0] * (t->rank == 2 ? t->shape[1] : 1);
}

static float *read_tensor(const ModelSource *s, const SourceTensor *t)
{
    Err err = {0};
    float *values = malloc((size_t)count_of(t) * sizeof *values);
    assert_non_null(values);
    assert_done(source_read(s, t, 0, t->shape[0], values, &err));
    return values;
}

static void blocks_decode_as_gguf_py_decodes_them(void **state)
{
    (void)state;
    static const struct {
        GgufType type;
        const char *name;
    } types[] = {
        {GGUF_Q4_0, "Q4_0"},
        {GGUF_Q4_1, "Q4_1"},
        {GGUF_Q5_0, "Q5_0"},
        {GGUF_Q5_1, "Q5_1"},
        {GGUF_Q8_0, "Q8_0"},
        {GGUF_Q4_K, "Q4_K"},
        {GGUF_Q5_K, "Q5_K"},
        {GGUF_Q6_K, "Q6_K"},
    };
    Err err = {0};
    Safetensors st;
    assert_done(safetensors_open(&st, GOLDEN "blocks.safetensors", &err));
    for (size_t i = 0; i < ARRAY_COUNT(types); i++) {
        char name[32];
        int64_t count = 0;
        snprintf(name, sizeof name, "%s.raw", types[i].name);
        const SafetensorsEntry *e = safetensors_find(&st, name);
        assert_non_null(e);
        char *raw = malloc(e->bytes + 1);
        assert_non_null(raw);
        assert_done(safetensors_read(&st, e, 0, e->bytes, raw + 1, &err)); /* + 1: not aligned */
        snprintf(name, sizeof name, "%s.values", types[i].name);
        float *expected = golden_values(&st, name, &count);
        assert_int_equal(count, 1024);
        assert_int_equal(e->bytes,
                         (size_t)(count / gguf_block_elements(types[i].type)) * gguf_block_bytes(types[i].type));
        float got[1024 + 1];
        got[1024] = 12345;
        gguf_decode(got, raw + 1, types[i].type, count);
        for (int k = 0; k < 1024; k++) {
            if (memcmp(&got[k], &expected[k], 4) != 0 && !(got[k] == 0 && expected[k] == 0)) {
                fail_msg("%s, element %d: %.9g, not %.9g", types[i].name, k, (double)got[k], (double)expected[k]);
            }
        }
        assert_true(got[1024] == 12345);
        free(expected);
        free(raw);
    }
    safetensors_close(&st);
}

/* The vector code for 16-bit types against the plain conversions of base/tensor.h, for every value and every length. */
static void sixteen_bit_types_decode_as_they_are_defined(void **state)
{
    (void)state;
    static uint16_t bits[65536];
    static float got[65536];
    for (int i = 0; i < 65536; i++)
        bits[i] = (uint16_t)i;
    gguf_decode(got, bits, GGUF_F16, 65536);
    for (int i = 0; i < 65536; i++) {
        const float expected = f16_to_f32((uint16_t)i);
        assert_true(isnan(expected) ? isnan(got[i]) : memcmp(&got[i], &expected, 4) == 0);
    }
    gguf_decode(got, bits, GGUF_BF16, 65536);
    for (int i = 0; i < 65536; i++) {
        const float expected = bf16_to_f32((uint16_t)i);
        assert_memory_equal(&got[i], &expected, 4);
    }
    for (int length = 0; length < 40; length++) {
        got[length] = 12345;
        gguf_decode(got, bits + 0x3c00, GGUF_F16, length);
        assert_true(got[length] == 12345 &&
                    (length == 0 || got[length - 1] == f16_to_f32((uint16_t)(0x3c00 + length - 1))));
    }
}

static void a_sharded_folder_is_read_as_its_files_say(void **state)
{
    (void)state;
    Err err = {0};
    ModelSource *s;
    assert_done(source_open(&s, GOLDEN "tiny", true, &err));
    assert_false(source_is_gguf(s));
    assert_string_equal(source_path(s), GOLDEN "tiny");
    const ModelSpec *spec = source_spec(s);
    assert_true(spec->layers == 2 && spec->heads == 4 && spec->kv_heads == 2 && spec->head_dim == 32 && !spec->tied);
    assert_true(spec->attention_bias && spec->mlp_bias && spec->rope == ROPE_LLAMA3);
    assert_int_equal(source_count(s), 3 + 2 * (2 + 7 + 7));
    int seen = 0;
    for (int i = 1; i <= 3; i++) {
        char path[128];
        Safetensors st;
        snprintf(path, sizeof path, GOLDEN "tiny/model-0000%d-of-00003.safetensors", i);
        assert_done(safetensors_open(&st, path, &err));
        for (int k = 0; k < st.count; k++, seen++) {
            int64_t count = 0;
            const SourceTensor *t = source_find(s, st.entries[k].name);
            assert_non_null(t);
            assert_string_equal(t->stored, "F32");
            float *expected = golden_values(&st, t->name, &count);
            float *got = read_tensor(s, t);
            assert_int_equal(count, count_of(t));
            assert_memory_equal(got, expected, (size_t)count * 4);
            free(got);
            free(expected);
        }
        safetensors_close(&st);
    }
    assert_int_equal(seen, source_count(s));
    assert_null(source_find(s, "model.layers.2.mlp.up_proj.weight"));
    source_close(s);
    source_close(NULL);
}

/* Biases, norms and unquantized matrices equal those of the folder; quantized ones what gguf-py decodes them to. */
static void a_gguf_file_holds_the_model_that_it_was_made_from(void **state)
{
    (void)state;
    Err err = {0};
    ModelSource *g;
    ModelSource *h;
    Safetensors decoded;
    assert_done(source_open(&g, GOLDEN "tiny.gguf", true, &err));
    assert_done(source_open(&h, GOLDEN "tiny", true, &err));
    assert_done(safetensors_open(&decoded, GOLDEN "tiny_gguf.safetensors", &err));
    assert_true(source_is_gguf(g));
    assert_memory_equal(source_spec(g), source_spec(h), sizeof(ModelSpec)); /* rope scaling included */
    assert_int_equal(source_count(g), source_count(h));
    int quantized = 0;
    for (int i = 0; i < source_count(g); i++) {
        int64_t count = 0;
        const SourceTensor *t = source_tensor(g, i);
        const SourceTensor *u = source_find(h, t->name);
        assert_non_null(u);
        assert_int_equal(t->rank, u->rank);
        assert_memory_equal(t->shape, u->shape, sizeof t->shape);
        float *got = read_tensor(g, t);
        float *expected = golden_values(&decoded, t->name, &count);
        if (expected) quantized++;
        if (!expected) expected = read_tensor(h, u);
        assert_memory_equal(got, expected, (size_t)count_of(t) * 4);
        free(got);
        free(expected);
    }
    assert_int_equal(quantized, 7);
    assert_string_equal(source_find(g, "model.layers.0.self_attn.k_proj.weight")->stored, "Q4_1");
    assert_int_equal(source_find(g, "model.layers.0.self_attn.k_proj.weight")->dtype, DTYPE_F32);
    assert_int_equal(source_find(g, "model.layers.1.self_attn.k_proj.weight")->dtype, DTYPE_BF16);
    safetensors_close(&decoded);
    source_close(g);
    source_close(h);
}

/* Streaming reads any run of rows; rows of q and k that llama.cpp interleaved come from all over a head. */
static void any_run_of_rows_equals_those_of_the_whole(void **state)
{
    (void)state;
    Err err = {0};
    static const char *const paths[] = {GOLDEN "tiny", GOLDEN "tiny.gguf"};
    static const char *const names[] = {
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.self_attn.k_proj.bias",
        "model.layers.1.self_attn.k_proj.weight",
        "model.layers.1.mlp.down_proj.weight",
        "model.norm.weight",
    };
    for (size_t p = 0; p < 2; p++) {
        ModelSource *s;
        assert_done(source_open(&s, paths[p], true, &err));
        for (size_t n = 0; n < ARRAY_COUNT(names); n++) {
            const SourceTensor *t = source_find(s, names[n]);
            const int64_t cols = t->rank == 2 ? t->shape[1] : 1;
            float *whole = read_tensor(s, t);
            float *part = malloc((size_t)count_of(t) * 4 + 4);
            assert_non_null(part);
            for (int64_t first = 0; first < t->shape[0]; first += 5) {
                for (int64_t count = 0; first + count <= t->shape[0]; count += 7) {
                    part[count * cols] = 12345;
                    assert_done(source_read(s, t, first, count, part, &err));
                    assert_memory_equal(part, whole + first * cols, (size_t)(count * cols) * 4);
                    assert_true(part[count * cols] == 12345);
                }
            }
            free(part);
            free(whole);
        }
        source_close(s);
    }
}

typedef struct Arrays {
    QuantHost host;
    QuantMatrix m;
} Arrays;

static Arrays read_quantized(const ModelSource *s, const SourceTensor *t)
{
    Err err = {0};
    Arrays a = {0};
    assert_done(source_read_quantized(s, t, &a.m, NULL, &err));
    const int64_t count = t->shape[0] * t->shape[1];
    const int64_t blocks = ceil_div(count, a.m.options.block);
    a.host.codes = malloc((size_t)ceil_div(count, 2));
    a.host.absmax = malloc((size_t)blocks * (a.m.options.double_quant ? 1 : 4));
    if (a.m.options.double_quant) a.host.nested_absmax = malloc((size_t)ceil_div(blocks, 256) * 4);
    assert_done(source_read_quantized(s, t, &a.m, &a.host, &err));
    return a;
}

static void free_arrays(Arrays *a)
{
    free(a->host.codes);
    free(a->host.absmax);
    free(a->host.nested_absmax);
}

/* Decoded here by the formulas of quant/nf4.h, in f32. */
static float decode_one(const Arrays *a, int64_t i)
{
    const uint8_t byte = a->host.codes[i / 2];
    const int code = i % 2 ? byte & 15 : byte >> 4;
    const int64_t block = i / a->m.options.block;
    float absmax;
    if (a->m.options.double_quant) {
        const float inner = a->m.map[((const uint8_t *)a->host.absmax)[block]] * a->host.nested_absmax[block / 256];
        absmax = inner + a->m.offset;
    } else {
        absmax = ((const float *)a->host.absmax)[block];
    }
    return quant_levels[a->m.options.type][code] * absmax;
}

static void bitsandbytes_folders_are_read_without_decoding(void **state)
{
    (void)state;
    static const struct {
        const char *folder, *values, *stored;
        QuantType type;
        bool nested;
    } cases[] = {
        {GOLDEN "nf4", GOLDEN "nf4.safetensors", "NF4", QUANT_NF4, true },
        {GOLDEN "fp4", GOLDEN "fp4.safetensors", "FP4", QUANT_FP4, false}, /* codes stored as bfloat16 */
    };
    for (size_t c = 0; c < 2; c++) {
        Err err = {0};
        ModelSource *s;
        Safetensors st;
        assert_done(source_open(&s, cases[c].folder, true, &err));
        assert_done(safetensors_open(&st, cases[c].values, &err));
        assert_int_equal(source_count(s), 2 + 2 + 7); /* the parts of a matrix are not tensors of the model */
        assert_int_equal(st.count, 2);
        for (int i = 0; i < st.count; i++) {
            const SourceTensor *t = source_find(s, st.entries[i].name);
            assert_true(t->prequantized && t->rank == 2);
            assert_string_equal(t->stored, cases[c].stored);
            assert_int_equal(t->shape[0], st.entries[i].shape[0]);
            assert_int_equal(t->shape[1], st.entries[i].shape[1]);
            Arrays a = read_quantized(s, t);
            assert_int_equal(a.m.options.type, cases[c].type);
            assert_int_equal(a.m.options.block, 64);
            assert_int_equal(a.m.options.double_quant, cases[c].nested);
            assert_int_equal(a.m.source_dtype, DTYPE_BF16);
            assert_true(a.m.rows == t->shape[0] && a.m.cols == t->shape[1]);
            int64_t count = 0;
            float *expected = golden_values(&st, t->name, &count);
            for (int64_t k = 0; k < count; k++) {
                const float got = decode_one(&a, k);
                if (!(fabsf(got - expected[k]) <= 2e-7f * fabsf(expected[k])))
                    fail_msg("%s, element %d: %.9g, not %.9g", t->name, (int)k, (double)got, (double)expected[k]);
            }
            free(expected);
            free_arrays(&a);
        }
        const SourceTensor *norm = source_find(s, "model.norm.weight");
        assert_true(!norm->prequantized && norm->dtype == DTYPE_BF16);
        float *ones = read_tensor(s, norm);
        assert_true(ones[0] == 1 && ones[63] == 1);
        free(ones);
        safetensors_close(&st);
        source_close(s);
    }
}

static void a_plan_needs_only_the_configuration(void **state)
{
    (void)state;
    Err err = {0};
    Scratch s = scratch_make();
    size_t length;
    char *config = scratch_read(GOLDEN "tiny/config.json", &length);
    scratch_write(scratch_path(&s, "config.json"), config, length);
    free(config);
    ModelSource *source;
    assert_done(source_open(&source, s.folder, false, &err));
    assert_int_equal(source_spec(source)->layers, 2);
    assert_int_equal(source_count(source), 0);
    assert_null(source_find(source, "model.norm.weight"));
    char text[33];
    assert_done(source_fingerprint(source, text, &err));
    source_close(source);
    assert_false(source_open(&source, s.folder, true, &err));
    assert_error(&err, ERR_MODEL, "has no weights");
    assert_done(source_open(&source, GOLDEN "tiny.gguf", false, &err));
    assert_int_equal(source_spec(source)->layers, 2);
    source_close(source);
    scratch_remove(&s);
}

static void copy_tiny(Scratch *s)
{
    static const char *const names[] = {"config.json", "model.safetensors.index.json",
                                        "model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors",
                                        "model-00003-of-00003.safetensors"};
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        char from[256];
        size_t length;
        snprintf(from, sizeof from, GOLDEN "tiny/%s", names[i]);
        char *bytes = scratch_read(from, &length);
        scratch_write(scratch_path(s, names[i]), bytes, length);
        free(bytes);
    }
}

static void a_fingerprint_changes_with_the_weights(void **state)
{
    (void)state;
    Err err = {0};
    char first[33];
    char second[33];
    ModelSource *s;
    Scratch scratch = scratch_make();
    copy_tiny(&scratch);
    assert_done(source_open(&s, GOLDEN "tiny", true, &err));
    assert_done(source_fingerprint(s, first, &err));
    source_close(s);
    assert_done(source_open(&s, scratch.folder, true, &err));
    assert_done(source_fingerprint(s, second, &err));
    source_close(s);
    assert_string_equal(first, second); /* wherever it lies */
    const char *shard = scratch_path(&scratch, "model-00002-of-00003.safetensors");
    size_t length;
    char *bytes = scratch_read(shard, &length);
    bytes[length - 1] = (char)(bytes[length - 1] ^ 1);
    scratch_write(shard, bytes, length);
    free(bytes);
    assert_done(source_open(&s, scratch.folder, true, &err));
    assert_done(source_fingerprint(s, second, &err));
    source_close(s);
    assert_string_not_equal(first, second);
    scratch_remove(&scratch);
}

static void opening_fails_cleanly_whichever_call_fails(void **state)
{
    (void)state;
    static const char *const paths[] = {GOLDEN "tiny", GOLDEN "tiny.gguf", GOLDEN "nf4"};
    static const char *const names[] = {"model.layers.0.self_attn.q_proj.weight",
                                        "model.layers.0.self_attn.q_proj.weight", "model.norm.weight"};
    for (size_t p = 0; p < 3; p++) {
        for (int memory = 0; memory < 2; memory++) {
            for (uint64_t nth = 1;; nth++) {
                Err err = {0};
                ModelSource *s = NULL;
                char text[33];
                float values[128 * 64];
                if (memory) {
                    mem_fail_at(nth, false);
                } else {
                    file_fail_at("any", nth, EIO, false);
                }
                const bool ok = source_open(&s, paths[p], true, &err) &&
                                source_read(s, source_find(s, names[p]), 0, 64, values, &err) &&
                                source_fingerprint(s, text, &err);
                mem_fail_at(0, false);
                file_fail_at(NULL, 0, 0, false);
                source_close(s);
                if (ok) break;
                if (err.code != (memory ? ERR_MEMORY : ERR_MODEL))
                    fail_msg("%s, call %d: %s", paths[p], (int)nth, err.text);
                err_clear(&err);
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_decode_as_gguf_py_decodes_them),
        cmocka_unit_test(sixteen_bit_types_decode_as_they_are_defined),
        cmocka_unit_test(a_sharded_folder_is_read_as_its_files_say),
        cmocka_unit_test(a_gguf_file_holds_the_model_that_it_was_made_from),
        cmocka_unit_test(any_run_of_rows_equals_those_of_the_whole),
        cmocka_unit_test(bitsandbytes_folders_are_read_without_decoding),
        cmocka_unit_test(a_plan_needs_only_the_configuration),
        cmocka_unit_test(a_fingerprint_changes_with_the_weights),
        cmocka_unit_test(opening_fails_cleanly_whichever_call_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
