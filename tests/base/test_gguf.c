/* Every kind of number in a GGUF header that once broke a loader is tried here. */
#include "base/gguf.h"

#include "base/mem.h"
#include "tests/support/gguf_file.h"

#include <errno.h>
#include <time.h>

static void every_kind_of_value_is_found(void **state)
{
    (void)state;
    Err err = {0};
    Scratch s = scratch_make();
    GgufFile f = {0};
    gguf_start(&f, 3, 2, 17);
    gguf_key(&f, "u8", G_U8);
    gguf_put(&f, "\xff", 1);
    gguf_key(&f, "i8", G_I8);
    gguf_put(&f, "\xff", 1);
    gguf_key(&f, "u16", G_U16);
    gguf_put(&f, "\xff\xff", 2);
    gguf_key(&f, "i16", G_I16);
    gguf_put(&f, "\xff\xff", 2);
    gguf_key_u32(&f, "u32", UINT32_MAX);
    gguf_key(&f, "i32", G_I32);
    gguf_put_u32(&f, UINT32_MAX);
    gguf_key_f32(&f, "f32", 1.5f);
    gguf_key(&f, "yes", G_BOOL);
    gguf_put(&f, "\1", 1);
    gguf_key_text(&f, "text", "gr\xC3\xBC\xC3\x9F");
    gguf_key(&f, "u64", G_U64);
    gguf_put_u64(&f, INT64_MAX);
    gguf_key(&f, "huge", G_U64);
    gguf_put_u64(&f, UINT64_MAX);
    gguf_key(&f, "i64", G_I64);
    gguf_put_u64(&f, UINT64_MAX);
    gguf_key(&f, "f64", G_F64);
    const double half = 0.5;
    gguf_put(&f, &half, sizeof half);
    gguf_key_array(&f, "ints", G_I32, 2);
    gguf_put_u32(&f, 7);
    gguf_put_u32(&f, UINT32_MAX);
    gguf_key_array(&f, "texts", G_TEXT, 3);
    gguf_put_text(&f, "a");
    gguf_put_text(&f, "");
    gguf_put_text(&f, "ccc");
    gguf_key_array(&f, "none", G_F32, 0);
    gguf_key_array(&f, "scores", G_F32, 1);
    const float score = -2.25f;
    gguf_put(&f, &score, sizeof score);
    gguf_tensor_info(&f, "m", 3, 64, 8, 0); /* Q8_0: 6 blocks of 34 bytes */
    gguf_tensor_info(&f, "v", 5, 0, 0, 224);
    gguf_pad(&f, 32);
    const uint64_t start = f.bytes.length;
    gguf_zeros(&f, 224 + 20);
    const char *path = scratch_path(&s, "m.gguf");
    gguf_save(&f, path);

    Gguf *g;
    assert_done(gguf_open(&g, path, &err));
    int64_t i;
    double r;
    bool b = false;
    const char *text;
    size_t length;
    static const struct {
        const char *key;
        int64_t value;
    } whole[] = {
        {"u8",  255       },
        {"i8",  -1        },
        {"u16", 65535     },
        {"i16", -1        },
        {"u32", UINT32_MAX},
        {"i32", -1        },
        {"u64", INT64_MAX },
        {"i64", -1        },
    };
    for (size_t k = 0; k < ARRAY_COUNT(whole); k++) {
        assert_true(gguf_int(g, whole[k].key, &i) && i == whole[k].value);
        assert_true(gguf_real(g, whole[k].key, &r) && r == (double)whole[k].value);
    }
    assert_false(gguf_int(g, "huge", &i));
    assert_false(gguf_int(g, "f32", &i));
    assert_false(gguf_int(g, "yes", &i));
    assert_false(gguf_int(g, "text", &i));
    assert_false(gguf_int(g, "ints", &i));
    assert_false(gguf_int(g, "absent", &i));
    assert_true(gguf_real(g, "f32", &r) && r == 1.5);
    assert_true(gguf_real(g, "f64", &r) && r == 0.5);
    assert_true(gguf_bool(g, "yes", &b) && b);
    assert_false(gguf_bool(g, "u8", &b));
    assert_true(gguf_text(g, "text", &text, &length) && length == 6 && memcmp(text, "gr\xC3\xBC\xC3\x9F", 6) == 0);
    assert_false(gguf_text(g, "texts", &text, &length));
    assert_int_equal(gguf_array_count(g, "texts"), 3);
    assert_int_equal(gguf_array_count(g, "none"), 0);
    assert_int_equal(gguf_array_count(g, "text"), -1);
    assert_int_equal(gguf_array_count(g, "absent"), -1);
    assert_true(gguf_array_text(g, "texts", 2, &text, &length) && length == 3 && memcmp(text, "ccc", 3) == 0);
    assert_true(gguf_array_text(g, "texts", 1, &text, &length) && length == 0);
    assert_false(gguf_array_text(g, "texts", 3, &text, &length));
    assert_false(gguf_array_text(g, "texts", -1, &text, &length));
    assert_false(gguf_array_text(g, "ints", 0, &text, &length));
    assert_true(gguf_array_int(g, "ints", 1, &i) && i == -1);
    assert_false(gguf_array_int(g, "texts", 0, &i)); /* declared as one type, asked for as another */
    assert_false(gguf_array_int(g, "scores", 0, &i));
    assert_true(gguf_array_real(g, "scores", 0, &r) && r == -2.25);
    assert_false(gguf_array_real(g, "none", 0, &r));

    assert_int_equal(gguf_tensor_count(g), 2);
    const GgufTensor *m = gguf_find(g, "m");
    assert_ptr_equal(m, gguf_tensor(g, 0));
    assert_string_equal(m->type_name, "Q8_0");
    assert_int_equal(m->rank, 2);
    assert_int_equal(m->shape[0], 3);
    assert_int_equal(m->shape[1], 64);
    assert_int_equal(m->bytes, 204);
    assert_int_equal(m->offset, start);
    assert_int_equal(gguf_find(g, "v")->offset, start + 224);
    assert_null(gguf_find(g, "w"));
    gguf_close(g);
    scratch_remove(&s);
}

/* Starts a file with one kv pair whose value is what the case writes, or one tensor. */
typedef void Fill(GgufFile *f);

static void magic(GgufFile *f)
{
    gguf_put(f, "GGML", 4);
    gguf_zeros(f, 60);
}
static void version_1(GgufFile *f)
{
    gguf_start(f, 1, 0, 0);
}
static void version_4(GgufFile *f)
{
    gguf_start(f, 4, 0, 0);
}
static void big_endian(GgufFile *f)
{
    gguf_start(f, 3u << 24, 0, 0);
}
static void too_many_tensors(GgufFile *f)
{
    gguf_start(f, 3, UINT64_MAX, 0);
}
static void too_many_pairs(GgufFile *f) /* CVE-2024-23605: count x struct size wraps */
{
    gguf_start(f, 3, 0, UINT64_MAX / 32 + 1);
}
static void missing_pairs(GgufFile *f)
{
    gguf_start(f, 3, 0, 60000);
}
static void missing_tensors(GgufFile *f)
{
    gguf_start(f, 3, 150000, 0);
}
static void key_length_wraps(GgufFile *f) /* CVE-2024-23496: length + 1 wraps */
{
    gguf_start(f, 3, 0, 1);
    gguf_put_u64(f, UINT64_MAX);
    gguf_zeros(f, 64);
}
static void key_beyond_file(GgufFile *f)
{
    gguf_start(f, 3, 0, 1);
    gguf_put_u64(f, 1000);
    gguf_put(f, "key", 3);
}
static void empty_key(GgufFile *f)
{
    gguf_start(f, 3, 0, 1);
    gguf_key_u32(f, "", 1);
}
static void key_with_nul(GgufFile *f)
{
    gguf_start(f, 3, 0, 1);
    gguf_put_u64(f, 3);
    gguf_put(f, "a\0b", 3);
    gguf_zeros(f, 20);
}
static void key_not_utf8(GgufFile *f)
{
    gguf_start(f, 3, 0, 1);
    gguf_key_u32(f, "a\xff", 1);
}
static void same_key_twice(GgufFile *f)
{
    gguf_start(f, 3, 0, 2);
    gguf_key_u32(f, "same", 1);
    gguf_key_u32(f, "same", 2);
}
static void unknown_value_type(GgufFile *f)
{
    gguf_start(f, 3, 0, 1);
    gguf_key(f, "k", 13);
    gguf_zeros(f, 64);
}
static void text_length_wraps(GgufFile *f)
{
    gguf_start(f, 3, 0, 1);
    gguf_key(f, "k", G_TEXT);
    gguf_put_u64(f, UINT64_MAX - 3);
    gguf_zeros(f, 64);
}
static void array_bytes_wrap(GgufFile *f) /* CVE-2024-21825: length x element size wraps */
{
    gguf_start(f, 3, 0, 1);
    gguf_key_array(f, "k", G_U64, (1ull << 61) + 1);
    gguf_zeros(f, 64);
}
static void array_of_2_40(GgufFile *f) /* a loop for ever over 100 bytes */
{
    gguf_start(f, 3, 0, 1);
    gguf_key_array(f, "k", G_U8, 1ull << 40);
    gguf_zeros(f, 64);
}
static void text_array_of_2_40(GgufFile *f)
{
    gguf_start(f, 3, 0, 1);
    gguf_key_array(f, "k", G_TEXT, 1ull << 40);
    gguf_zeros(f, 64);
}
static void text_array_wraps(GgufFile *f)
{
    gguf_start(f, 3, 0, 1);
    gguf_key_array(f, "k", G_TEXT, 1ull << 61);
    gguf_zeros(f, 64);
}
static void text_array_cut(GgufFile *f)
{
    gguf_start(f, 3, 0, 1);
    gguf_key_array(f, "k", G_TEXT, 3);
    gguf_put_text(f, "one");
    gguf_put_u64(f, 100);
    gguf_zeros(f, 30);
}
static void array_count_above_int64(GgufFile *f)
{
    gguf_start(f, 3, 0, 1);
    gguf_key_array(f, "k", G_U8, UINT64_MAX);
    gguf_zeros(f, 64);
}
static void nested_array(GgufFile *f)
{
    gguf_start(f, 3, 0, 1);
    gguf_key_array(f, "k", G_ARRAY, 1);
    for (int i = 0; i < 100; i++) {
        gguf_put_u32(f, G_ARRAY);
        gguf_put_u64(f, 1);
    }
}
static void bool_of_2(GgufFile *f)
{
    gguf_start(f, 3, 0, 1);
    gguf_key(f, "k", G_BOOL);
    gguf_put(f, "\2", 1);
}
static void alignment_0(GgufFile *f)
{
    gguf_start(f, 3, 0, 1);
    gguf_key_u32(f, "general.alignment", 0);
}
static void alignment_48(GgufFile *f)
{
    gguf_start(f, 3, 0, 1);
    gguf_key_u32(f, "general.alignment", 48);
}
static void alignment_2_31(GgufFile *f) /* a power of two without upper bound */
{
    gguf_start(f, 3, 0, 1);
    gguf_key_u32(f, "general.alignment", 1u << 31);
}
static void alignment_2_63(GgufFile *f) /* llama.cpp PR 24759: rounding up to it wraps to 0 */
{
    gguf_start(f, 3, 1, 1);
    gguf_key(f, "general.alignment", G_I64);
    gguf_put_u64(f, 1ull << 63);
    gguf_tensor_info(f, "t", 8, 0, 0, 0);
    gguf_zeros(f, 64);
}

static void one_tensor(GgufFile *f, uint64_t rows, uint64_t cols, uint32_t type, uint64_t offset)
{
    gguf_start(f, 3, 1, 0);
    gguf_tensor_info(f, "t", rows, cols, type, offset);
    gguf_pad(f, 32);
    gguf_zeros(f, 256);
}
static void no_dimensions(GgufFile *f)
{
    gguf_start(f, 3, 1, 0);
    gguf_put_text(f, "t");
    gguf_put_u32(f, 0);
    gguf_zeros(f, 64);
}
static void five_dimensions(GgufFile *f) /* CVE-2024-21802 */
{
    gguf_start(f, 3, 1, 0);
    gguf_put_text(f, "t");
    gguf_put_u32(f, 5);
    for (int i = 0; i < 5; i++)
        gguf_put_u64(f, 1);
    gguf_zeros(f, 64);
}
static void two_billion_dimensions(GgufFile *f)
{
    gguf_start(f, 3, 1, 0);
    gguf_put_text(f, "t");
    gguf_put_u32(f, UINT32_MAX);
    gguf_zeros(f, 64);
}
static void empty_dimension(GgufFile *f)
{
    one_tensor(f, 4, 1ull << 0, 0, 0);
    memset(f->bytes.bytes + 4 + 4 + 16 + 9 + 4, 0, 8);
}
static void negative_dimension(GgufFile *f)
{
    one_tensor(f, UINT64_MAX, 0, 0, 0);
}
static void dimensions_wrap(GgufFile *f) /* llama.cpp issue 27203: (INT64_MAX, 2) */
{
    one_tensor(f, INT64_MAX, 2, 0, 0);
}
static void dimensions_wrap_to_small(GgufFile *f)
{
    one_tensor(f, 1ull << 32, 1ull << 32, 0, 0);
}
static void bytes_wrap(GgufFile *f) /* CVE-2026-33298: the count fits, the bytes do not */
{
    one_tensor(f, 1ull << 62, 0, 0, 0);
}
static void larger_than_file(GgufFile *f)
{
    one_tensor(f, 1000, 0, 0, 0);
}
static void ends_beyond_file(GgufFile *f)
{
    one_tensor(f, 65, 0, 0, 0);
}
static void half_a_block(GgufFile *f)
{
    one_tensor(f, 2, 48, 2, 0);
}
static void half_a_superblock(GgufFile *f)
{
    one_tensor(f, 1, 128, 12, 0);
}
static void unknown_type(GgufFile *f)
{
    one_tensor(f, 32, 0, 11, 0);
}
static void type_out_of_range(GgufFile *f)
{
    one_tensor(f, 32, 0, UINT32_MAX, 0);
}
static void offset_not_0(GgufFile *f)
{
    one_tensor(f, 32, 0, 0, 32);
}
static void offset_wraps(GgufFile *f)
{
    one_tensor(f, 32, 0, 0, UINT64_MAX - 31);
}
static void two_tensors(GgufFile *f, const char *second, uint64_t offset)
{
    gguf_start(f, 3, 2, 0);
    gguf_tensor_info(f, "t", 10, 0, 0, 0);
    gguf_tensor_info(f, second, 8, 0, 0, offset);
    gguf_pad(f, 32);
    gguf_zeros(f, 256);
}
static void overlap(GgufFile *f)
{
    two_tensors(f, "u", 32);
}
static void hole(GgufFile *f)
{
    two_tensors(f, "u", 96);
}
static void same_name(GgufFile *f)
{
    two_tensors(f, "t", 64);
}
static void long_name(GgufFile *f)
{
    two_tensors(f, "a name of sixty-four bytes is one too long for ggml's own struct", 64);
}

static const struct {
    Fill *fill;
    const char *part;
} bad_files[] = {
    {magic,                    "is no GGUF file"                  },
    {version_1,                "version 1"                        },
    {version_4,                "version 4"                        },
    {big_endian,               "big-endian"                       },
    {too_many_tensors,         "more than 200000 tensors"         },
    {too_many_pairs,           "more than 65536 keys"             },
    {missing_pairs,            "was it cut"                       },
    {missing_tensors,          "was it cut"                       },
    {key_length_wraps,         "empty or too long"                },
    {key_beyond_file,          "was it cut"                       },
    {empty_key,                "empty or too long"                },
    {key_with_nul,             "control character"                },
    {key_not_utf8,             "not UTF-8"                        },
    {same_key_twice,           "\"same\" stands there twice"      },
    {unknown_value_type,       "unknown type"                     },
    {text_length_wraps,        "was it cut"                       },
    {array_bytes_wrap,         "longer than the file"             },
    {array_of_2_40,            "was it cut"                       },
    {text_array_of_2_40,       "was it cut"                       },
    {text_array_wraps,         "longer than the file"             },
    {text_array_cut,           "was it cut"                       },
    {array_count_above_int64,  "longer than the file"             },
    {nested_array,             "list of lists"                    },
    {bool_of_2,                "not 0 or 1"                       },
    {alignment_0,              "general.alignment is 0"           },
    {alignment_48,             "general.alignment is 48"          },
    {alignment_2_31,           "general.alignment is 2147483648"  },
    {alignment_2_63,           "general.alignment is -"           },
    {no_dimensions,            "one to four dimensions"           },
    {five_dimensions,          "one to four dimensions"           },
    {two_billion_dimensions,   "one to four dimensions"           },
    {empty_dimension,          "empty dimension"                  },
    {negative_dimension,       "shape overflows"                  },
    {dimensions_wrap,          "shape overflows"                  },
    {dimensions_wrap_to_small, "shape overflows"                  },
    {bytes_wrap,               "larger than the file"             },
    {larger_than_file,         "larger than the file"             },
    {ends_beyond_file,         "beyond the end"                   },
    {half_a_block,             "no whole blocks"                  },
    {half_a_superblock,        "no whole blocks"                  },
    {unknown_type,             "Q3_K (11), which is not supported"},
    {type_out_of_range,        "unknown (4294967295)"             },
    {offset_not_0,             "does not start where"             },
    {offset_wraps,             "does not start where"             },
    {overlap,                  "does not start where"             },
    {hole,                     "does not start where"             },
    {same_name,                "\"t\" stands there twice"         },
    {long_name,                "empty or too long"                },
};

static void bad_files_are_refused(void **state)
{
    (void)state;
    Scratch s = scratch_make();
    const char *path = scratch_path(&s, "bad.gguf");
    for (size_t i = 0; i < ARRAY_COUNT(bad_files); i++) {
        Err err = {0};
        Gguf *g;
        GgufFile f = {0};
        bad_files[i].fill(&f);
        gguf_save(&f, path);
        if (gguf_open(&g, path, &err)) fail_msg("case %zu (\"%s\") was read", i, bad_files[i].part);
        assert_error(&err, ERR_MODEL, bad_files[i].part);
    }
    scratch_remove(&s);
}

static void small_model(GgufFile *f)
{
    gguf_start(f, 3, 2, 4);
    gguf_key_text(f, "general.architecture", "llama");
    gguf_key_u32(f, "general.alignment", 64);
    gguf_key_array(f, "tokens", G_TEXT, 2);
    gguf_put_text(f, "a");
    gguf_put_text(f, "bc");
    gguf_key_array(f, "types", G_I32, 2);
    gguf_put_u64(f, 1);
    gguf_tensor_info(f, "m", 2, 32, 2, 0);
    gguf_tensor_info(f, "v", 4, 0, 0, 64);
    gguf_pad(f, 64);
    gguf_zeros(f, 80);
}

static void damaged_files_do_no_harm(void **state)
{
    (void)state;
    Scratch s = scratch_make();
    const char *path = scratch_path(&s, "m.gguf");
    GgufFile f = {0};
    small_model(&f);
    gguf_save(&f, path);
    size_t size;
    char *bytes = scratch_read(path, &size);
    Err err = {0};
    Gguf *g;
    assert_done(gguf_open(&g, path, &err));
    gguf_close(g);
    for (size_t cut = 0; cut < size; cut++) {
        scratch_write(path, bytes, cut);
        assert_false(gguf_open(&g, path, &err));
        assert_error(&err, ERR_MODEL, "");
    }
    int read = 0;
    for (size_t bit = 0; bit < 8 * (size - 80); bit++) {
        bytes[bit / 8] = (char)(bytes[bit / 8] ^ 1 << bit % 8);
        scratch_write(path, bytes, size);
        if (gguf_open(&g, path, &err)) {
            char all[256];
            for (int i = 0; i < gguf_tensor_count(g); i++)
                assert_done(file_read_at(gguf_file(g), gguf_tensor(g, i)->offset, all, gguf_tensor(g, i)->bytes, &err));
            gguf_close(g);
            read++;
        } else {
            assert_error(&err, ERR_MODEL, "");
        }
        bytes[bit / 8] = (char)(bytes[bit / 8] ^ 1 << bit % 8);
    }
    assert_true(read > 0);
    free(bytes);
    scratch_remove(&s);
}

static void opening_fails_cleanly_whichever_call_fails(void **state)
{
    (void)state;
    Err err = {0};
    Scratch s = scratch_make();
    const char *path = scratch_path(&s, "m.gguf");
    GgufFile f = {0};
    small_model(&f);
    gguf_save(&f, path);
    for (int memory = 0; memory < 2; memory++) {
        for (uint64_t nth = 1;; nth++) {
            Gguf *g;
            if (memory) {
                mem_fail_at(nth, false);
            } else {
                file_fail_at("any", nth, EIO, false);
            }
            const bool ok = gguf_open(&g, path, &err);
            file_fail_at(NULL, 0, 0, false);
            mem_fail_at(0, false);
            if (ok) {
                gguf_close(g);
                break;
            }
            assert_error(&err, memory ? ERR_MEMORY : ERR_MODEL, "");
        }
    }
    scratch_remove(&s);
}

/* A limit that slows honest files down would not be kept: a million tokens, as large vocabularies have with merges. */
static void large_vocabularies_open_quickly(void **state)
{
    (void)state;
    Err err = {0};
    Scratch s = scratch_make();
    const char *path = scratch_path(&s, "m.gguf");
    GgufFile f = {0};
    gguf_start(&f, 3, 0, 1);
    gguf_key_array(&f, "tokens", G_TEXT, 1000000);
    for (int i = 0; i < 1000000; i++) {
        char token[16];
        snprintf(token, sizeof token, "t%d", i);
        gguf_put_text(&f, token);
    }
    gguf_save(&f, path);
    struct timespec before;
    struct timespec after;
    Gguf *g;
    clock_gettime(CLOCK_MONOTONIC, &before);
    assert_done(gguf_open(&g, path, &err));
    clock_gettime(CLOCK_MONOTONIC, &after);
    assert_true(after.tv_sec - before.tv_sec < 5);
    const char *text;
    size_t length;
    assert_true(gguf_array_text(g, "tokens", 999999, &text, &length) && length == 7 && memcmp(text, "t999999", 7) == 0);
    gguf_close(g);
    scratch_remove(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_of_value_is_found),    cmocka_unit_test(bad_files_are_refused),
        cmocka_unit_test(damaged_files_do_no_harm),        cmocka_unit_test(opening_fails_cleanly_whichever_call_fails),
        cmocka_unit_test(large_vocabularies_open_quickly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
