/* The reader refuses every header that could mislead it; the files of the writer are whole or absent. */
#include "base/safetensors.h"

#include "base/mem.h"
#include "tests/support/scratch.h"

#include <errno.h>
#include <time.h>

static void put_u64(char *to, uint64_t value)
{
    for (int i = 0; i < 8; i++)
        to[i] = (char)(value >> (8 * i));
}

/* length field, header, `data` bytes of zeros */
static void write_parts(const char *path, uint64_t length, const char *header, size_t header_bytes, size_t data)
{
    char *bytes = calloc(1, 8 + header_bytes + data);
    assert_non_null(bytes);
    put_u64(bytes, length);
    memcpy(bytes + 8, header, header_bytes);
    scratch_write(path, bytes, 8 + header_bytes + data);
    free(bytes);
}

static bool open_header(Safetensors *st, Scratch *s, const char *header, size_t data, Err *err)
{
    const char *path = scratch_path(s, "f.safetensors");
    write_parts(path, strlen(header), header, strlen(header), data);
    return safetensors_open(st, path, err);
}

#define T(dtype, shape, begin, end) "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}"

static void good_headers_are_read(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        size_t data;
        int count;
    } cases[] = {
        {"{}",                                 0,                                                    0                                 },
        {                                                                              "{}      ",                                                                                                                         0,                                                                                                                                                                                                                                                                                                                              0                                                               },
        {                                                                           "{\"a\":" T("F32",                                                                                                                         "[2,3]",                                                                                                                                                                                                                                                                                                                                                                "0", "24") "}", 24, 1},
        { "{ \"a\" : {\"shape\" : [ 2 , 3 ] ,\n\"data_offsets\":[0,24],\t\"dtype\":\"F32\"} }\r\n",                                                                                                 24,                                                                                                                                                                                                                                             1                                 },
        {                                                              "{\"__metadata__\":{\"format\":\"pt\"},\"a\":" T("U8",                                                                                                                                                                                                "[5]",                                                                                                                                                                                                                                                                                                                                                                                                    "0",                                                 "5") "}", 5, 1},
        {                                                                                                          "{\"a\":" T("F64",                                                                                                                                                                                                                                            "[]",                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                            "0",                    "8") "}", 8, 1}, /* a scalar */
        {                             "{\"b\":" T("BF16",                                                                                                                                                       "[4]",                                                                                                                                                                                                                                                                                                                                                                                                                                                                                   "4",                                                                  "12") ",\"a\":" T("F16", "[2]", "0", "4") "}", 12, 2},
        {                                                                    "{\"a\":" T("F32",                                   "[0]",                                                                                                                                                                                                                                                                                                                                                                 "0",                                                                                        "0") "}", 0, 1},
        {                                                                                                     "{\"a\":" T("U8",                "[4]",                                                                                                                                                                                                                                                                                                                                      "0",                                                                                             "4") ",\"e\":" T("F32", "[0,7]", "4", "4") ",\"b\":" T("U8", "[4]", "4",
         "8") "}",
         8, 3},
        {                                                                                                                                                                                                      "{\"a\":" T("I64",                                                                                                                                                                                                                                                                                                                                                 "[1,1,1,1]",                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                              "0",                                "8") "}", 8, 1},
        {"{\"\\u0061\\ud83d\\ude42\":" T("I8","[1]","0",                                "1") "}", 1, 1},
    };
    Scratch s = scratch_make();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Err err = {0};
        Safetensors st;
        if (!open_header(&st, &s, cases[i].header, cases[i].data, &err)) fail_msg("%s: %s", cases[i].header, err.text);
        assert_int_equal(st.count, cases[i].count);
        safetensors_close(&st);
    }
    scratch_remove(&s);
}

static void entries_say_what_the_header_says(void **state)
{
    (void)state;
    Err err = {0};
    Scratch s = scratch_make();
    Safetensors st;
    const char *header =
        "{\"__metadata__\":{\"z\":\"\",\"format\":\"p\\nt\"},\"b\":" T("BF16", "[2,3]", "4", "16") ",\"a\":" T(
            "F32", "[]", "0", "4") ",\"\\u00e9\\ud83d\\ude42\":" T("U8", "[0]", "16", "16") "}";
    assert_done(open_header(&st, &s, header, 16, &err));
    assert_int_equal(st.count, 3);
    assert_string_equal(st.entries[0].name, "a"); /* sorted */
    assert_string_equal(st.entries[2].name, "\xC3\xA9\xF0\x9F\x99\x82");
    const SafetensorsEntry *b = safetensors_find(&st, "b");
    assert_non_null(b);
    assert_int_equal(b->dtype, DTYPE_BF16);
    assert_int_equal(b->rank, 2);
    assert_int_equal(b->shape[0], 2);
    assert_int_equal(b->shape[1], 3);
    assert_int_equal(b->count, 6);
    assert_int_equal(b->bytes, 12);
    assert_int_equal(b->offset, 8 + strlen(header) + 4);
    assert_null(safetensors_find(&st, "c"));
    assert_string_equal(safetensors_metadata(&st, "format"), "p\nt");
    assert_string_equal(safetensors_metadata(&st, "z"), "");
    assert_null(safetensors_metadata(&st, "a"));
    char two[2];
    assert_done(safetensors_read(&st, b, 10, 2, two, &err));
    safetensors_close(&st);
    scratch_remove(&s);
}

/* {header, bytes of data, part of the message} */
static const struct Bad {
    const char *header;
    size_t data;
    const char *part;
} bad_headers[] = {
    {"",                                                           0,                               "does not start with '{'"},
    {" {}",                                                        0,                               "does not start with '{'"},
    {"[]",                                                         0,                               "does not start with '{'"},
    {"{",                                                          0,                               "expected '\"'"},
    {"{}x",                                                        0,                               "something follows"},
    {"{}{}",                                                       0,                               "something follows"},
    {"{,}",                                                        0,                               "expected '\"'"},
    {"{\"a\":" T("F32",                                            "[1]",                           "0","4") ",}", 4, "expected '\"'"},
    {"{\"a\":" T("F32",                                                           "[1]",                                                                           "0","4"), 4, "expected '}'"},
    {"{\"a\":1}",0,"expected '{'"},
    {"{\"a\":{}}",                                              0,                                                                             "expected '\"'"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}",                                              4,                                                                                                                               "lacks dtype, shape or data_offsets"                                                                                                                                },
    {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",                                             4,"stands there twice"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"more\":1}}",                        4,"a key other than"},
    {"{\"a\":" T("F32",                                        "[1]",                                                                        "0","4") ",\"a\":" T("F32", "[1]", "4", "8") "}", 8, "\"a\" stands there twice"},
    {"{\"a\":" T("F32",                                          "[1]",                                                                                                                                                 "0",                                                                                                                                                                                                                                                                                                                                                                                                                            "4") ",\"\\u0061\":" T("F32", "[1]", "4", "8") "}", 8, "\"a\" stands there twice"},
    {"{\"__metadata__\":{\"a\":\"b\",\"\\u0061\":\"c\"}}",                                                         0,"key of __metadata__ stands there twice"},
    {"{\"__metadata__\":{},\"__metadata__\":{}}",                                                    0,                                                                                  "__metadata__ stands there twice"},
    {"{\"__metadata__\":{\"a\":1}}",                                            0,                             "expected '\"'"},
    {"{\"a\":" T("F8_E4M3",                                                       "[1]",                                                                                   "0","1") "}", 1, "\"F8_E4M3\", which is not supported"},
    {"{\"a\":" T("f32",                                  "[1]",                                                                 "0","4") "}", 4, "not supported"},
    {"{\"a\":{\"dtype\":5,\"shape\":[1],\"data_offsets\":[0,4]}}",                    4,                                                         "expected '\"'"              },
    {"{\"a\":" T("F32",                           "[-1]","0","4") "}", 4, "not negative"},
    {"{\"a\":" T("F32",                                             "[1.0]",                                                "0",                                                                                                                                                   "4") "}", 4, "not written as a whole number"},
    {"{\"a\":" T("U8",                                                         "[1e3]","0","1000") "}", 1000, "not written as a whole number"},
    {"{\"a\":" T("F32",                                                            "[01]",                                                                           "0","4") "}", 4, "starts with 0"},
    {"{\"a\":" T("F32",                                                    "[00]",                                                                                  "0",                                                      "0") "}", 0, "starts with 0"},
    {"{\"a\":" T("F32", "[9223372036854775808]",            "0","4") "}", 4, "too large"},
    {"{\"a\":" T("F32",                                            "[99999999999999999999999999]",                                           "0","4") "}", 4, "too large"},
    {"{\"a\":" T("F32",                                                           "[\"1\"]",                                                                            "0","4") "}", 4, "expected a whole number"},
    {"{\"a\":" T("F32",         "[1,]","0","4") "}", 4, "expected a whole number"},
    {"{\"a\":" T("F32",                             "[1,1,1,1,1]",                                                            "0","4") "}", 4, "more than four dimensions"},
    {"{\"a\":" T("F32",                                                         "[1,1,1,1,1,1,1,1,1]",                                                                                "0",                                       "4") "}", 4, "more than four dimensions"},
    {"{\"a\":" T("F32",                                                            "[4194305,4194305,211106198978564]",                                                                           "0","16") "}", 16, "shape overflows"}, /* wraps to 4 */
    {"{\"a\":" T("F32",                                                    "[4611686018427387904]",                                                                                  "0",                               "0") "}", 0, "shape overflows"}, /* 2^62 x 4 bytes wraps to 0 */
    {"{\"a\":" T("U8",                                            "[9223372036854775807,2]",                  "0","1") "}", 1, "shape overflows"},
    {"{\"a\":" T("F32",                                                           "[2]",                                                                           "0","4") "}", 4, "do not fit"},
    {"{\"a\":" T("F32",                                     "[1]",                                                      "0",                                                                                                          "8") "}", 8, "do not fit"},
    {"{\"a\":" T("F32",                                                 "[]",                                                                                "0","0") "}", 0, "do not fit"},
    {"{\"a\":" T("F32",                                                         "[1]",                                      "4","0") "}", 4, "ends before it begins"},
    {"{\"a\":" T("F32",                                                            "[1]",                                                                           "0","18446744073709551616") "}", 4, "too large"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}",                                                    4,                                                                                  "needs two numbers"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}",                                            4,                                                             "more than two numbers"},
    {"{\"a\":" T("F32",                                                           "[1]",                                                                 "4","8") "}", 8, "leaves a hole"},
    {"{\"a\":" T("F32",                   "[1]","0","4") ",\"b\":" T("F32", "[1]", "8", "12") "}", 12, "leaves a hole"},
    {"{\"a\":" T("F32",                                 "[2]",                                                                "0","8") ",\"b\":" T("F32", "[1]", "4", "8") "}", 8, "overlaps"},
    {"{\"a\":" T("F32",                                                         "[1]", "0","4") ",\"b\":" T("F32", "[1]", "0", "4") "}", 4, "overlaps"},
    {"{\"a\":" T("F32",                                                            "[1]",                                                                           "0","4") ",\"e\":" T("F32", "[0]", "2", "2") "}", 4, "overlaps"},
    {"{\"a\":" T("F32",                                                   "[1]",                                                                                "0",                                                      "4") ",\"e\":" T("F32", "[0]", "9", "9") "}", 4, "leaves a hole"},
    {"{\"a\":" T("F32",                                            "[1]", "0","4") "}", 3, "beyond the end of the file"},
    {"{\"a\":" T("F32",                                                           "[1]",                                                                         "0","4") "}", 5, "1 bytes follow the last tensor"},
    {"{}",1,   "1 bytes follow the last tensor"                                                             },
    {"{\"a\":" T("U8",                                           "[9223372036854775807]",                                                                          "0","9223372036854775807") "}", 4, "beyond the end of the file"},
    {"{\"a\":" T("U8",                                                         "[9223372036854775807]",      "0","9223372036854775807") ",\"b\":" T(
         "U8", "[9223372036854775807]", "9223372036854775807", "18446744073709551614") "}",
     4, "too large"},
    {"{\"\":" T("F32",                                                            "[1]",                                                                           "0","4") "}", 4, "has no name"},
    {"{\"a\\n\":" T("F32",                                                    "[1]",                                                                                  "0","4") "}", 4, "control character"},
    {"{\"a\\u007f\":" T("F32",                                            "[1]",                       "0","4") "}", 4, "control character"},
    {"{\"a\\u0000\":" T("F32",                                                           "[1]",                                                                              "0","4") "}", 4, "NUL"},
    {"{\"a\n\":" T("F32","[1]","0","4") "}", 4, "control character"},
    {"{\"a\\q\":" T("F32",                                     "[1]",                                                                    "0","4") "}", 4, "unknown escape"},
    {"{\"a\\u12g4\":" T("F32",                                                         "[1]","0","4") "}", 4, "four hexadecimal digits"},
    {"{\"a\\ud800\":" T("F32",                                                            "[1]",                            "0","4") "}", 4, "lone surrogate"},
    {"{\"a\\udc00\":" T("F32",                                                            "[1]",                        "0","4") "}", 4, "lone surrogate"},
    {"{\"a\\ud800\\u0041\":" T("F32",                                                            "[1]",                                                                           "0","4") "}", 4, "lone surrogate"},
    {"{\"a\xff\":" T("F32",                                                    "[1]",                                                                                  "0",   "4") "}", 4, "not UTF-8"},
    {"{\"a\xc0\x80\":" T("F32",                                            "[1]",                                                    "0","4") "}", 4, "not UTF-8"},
    {"{\"a",                                                       0,                                                                                   "does not end"},
    {"{\"a\\",                                             0,                                                                            "unknown escape"},
    {"{\"a\":{\"dtype\":\"F32",                                                         0,   "does not end"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[",                                                    0,                                                                                  "expected a whole number"},
};

static void bad_headers_are_refused(void **state)
{
    (void)state;
    Scratch s = scratch_make();
    for (size_t i = 0; i < sizeof bad_headers / sizeof bad_headers[0]; i++) {
        Err err = {0};
        Safetensors st;
        const struct Bad *b = &bad_headers[i];
        if (open_header(&st, &s, b->header, b->data, &err)) fail_msg("%s was read", b->header);
        if (!strstr(err.text, b->part)) fail_msg("%s: \"%s\" does not say \"%s\"", b->header, err.text, b->part);
        assert_error(&err, ERR_MODEL, "f.safetensors");
    }
    scratch_remove(&s);
}

static void bad_lengths_are_refused(void **state)
{
    (void)state;
    static const uint64_t lengths[] = {0, 1, 3, 100, (32ull << 20) + 1, 1ull << 63, UINT64_MAX - 7, UINT64_MAX};
    Scratch s = scratch_make();
    Safetensors st;
    Err err = {0};
    const char *path = scratch_path(&s, "f.safetensors");
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        write_parts(path, lengths[i], "{}", 2, 0);
        assert_false(safetensors_open(&st, path, &err));
        assert_error(&err, ERR_MODEL, "f.safetensors");
    }
    for (size_t size = 0; size < 8; size++) {
        scratch_write(path, "\2\0\0\0\0\0\0", size);
        assert_false(safetensors_open(&st, path, &err));
        assert_error(&err, ERR_MODEL, "is no safetensors file");
    }
    scratch_write(path, "\2\0\0\0\0\0\0\0{\0", 10);
    assert_false(safetensors_open(&st, path, &err));
    assert_error(&err, ERR_MODEL, "header, byte 1");
    scratch_remove(&s);
}

static void a_name_has_at_most_1024_bytes(void **state)
{
    (void)state;
    Scratch s = scratch_make();
    Safetensors st;
    for (int length = 1024; length <= 1025; length++) {
        Err err = {0};
        char name[1026] = {0};
        char header[1200];
        memset(name, 'n', (size_t)length);
        snprintf(header, sizeof header, "{\"%s\":%s}", name, T("F32", "[1]", "0", "4"));
        assert_int_equal(open_header(&st, &s, header, 4, &err), length == 1024);
        if (length == 1024) {
            safetensors_close(&st);
        } else {
            assert_error(&err, ERR_MODEL, "longer than 1024 bytes");
        }
    }
    scratch_remove(&s);
}

/* Every truncation and every flipped bit of a small file: refused, or read without harm. */
static void damaged_files_do_no_harm(void **state)
{
    (void)state;
    Scratch s = scratch_make();
    const char *path = scratch_path(&s, "f.safetensors");
    const char *header =
        "{\"__metadata__\":{\"k\":\"v\"},\"a\":" T("F32", "[2,3]", "0", "24") ",\"b\":" T("U8", "[3]", "24", "27") "}";
    write_parts(path, strlen(header), header, strlen(header), 27);
    size_t size;
    char *bytes = scratch_read(path, &size);
    for (size_t cut = 0; cut < size; cut++) {
        Err err = {0};
        Safetensors st;
        scratch_write(path, bytes, cut);
        assert_false(safetensors_open(&st, path, &err));
        assert_error(&err, ERR_MODEL, "");
    }
    int read = 0;
    for (size_t bit = 0; bit < 8 * (size - 27); bit++) {
        Err err = {0};
        Safetensors st;
        bytes[bit / 8] = (char)(bytes[bit / 8] ^ 1 << bit % 8);
        scratch_write(path, bytes, size);
        if (safetensors_open(&st, path, &err)) {
            char all[64];
            for (int i = 0; i < st.count; i++)
                assert_done(safetensors_read(&st, &st.entries[i], 0, st.entries[i].bytes, all, &err));
            safetensors_close(&st);
            read++;
        }
        bytes[bit / 8] = (char)(bytes[bit / 8] ^ 1 << bit % 8);
    }
    assert_true(read > 0); /* names and metadata may change */
    free(bytes);
    scratch_remove(&s);
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void many_tensors_are_read_quickly_up_to_a_limit(void **state)
{
    (void)state;
    Scratch s = scratch_make();
    for (int count = 200000; count <= 200001; count++) {
        Err err = {0};
        Safetensors st;
        char *header = malloc((size_t)count * 120);
        assert_non_null(header);
        size_t at = (size_t)sprintf(header, "{");
        for (int i = 0; i < count; i++) { /* names in an order that sorting has to mend */
            at += (size_t)sprintf(header + at,
                                  "%s\"layer.%u.weight\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%d,%d]}",
                                  i ? "," : "", (unsigned)i * 2654435761u, i, i + 1);
        }
        at += (size_t)sprintf(header + at, "}");
        const double start = seconds();
        const bool ok = open_header(&st, &s, header, (size_t)count, &err);
        assert_true(seconds() - start < 10);
        assert_int_equal(ok, count == 200000);
        if (ok) {
            assert_non_null(safetensors_find(&st, "layer.2654435761.weight"));
            safetensors_close(&st);
        } else {
            assert_error(&err, ERR_MODEL, "more than 200000 tensors");
        }
        free(header);
    }
    scratch_remove(&s);
}

static const float values[6] = {1, 2, 3, 4, 5, 6};

static bool write_model(const char *path, Err *err)
{
    static const int64_t matrix[2] = {2, 3};
    static const int64_t empty[1] = {0};
    static const int64_t bytes[1] = {5};
    SafetensorsWriter *w;
    if (!safetensors_writer_create(&w, path, err)) return false;
    bool ok = safetensors_writer_metadata(w, "format", "pt", err) &&
              safetensors_writer_metadata(w, "quo\"te", "tab\there\\", err) &&
              safetensors_writer_declare(w, "codes", DTYPE_U8, 1, bytes, err) &&
              safetensors_writer_declare(w, "none", DTYPE_F32, 1, empty, err) &&
              safetensors_writer_declare(w, "matrix", DTYPE_F32, 2, matrix, err) &&
              safetensors_writer_declare(w, "scalar", DTYPE_F64, 0, NULL, err) && safetensors_writer_begin(w, err);
    const double scalar = 0.5;
    ok = ok && safetensors_writer_data(w, "AB", 2, err) && safetensors_writer_data(w, "CDE", 3, err) &&
         safetensors_writer_data(w, values, sizeof values, err) && safetensors_writer_data(w, &scalar, 8, err);
    if (!ok) {
        safetensors_writer_discard(w);
        return false;
    }
    return safetensors_writer_finish(w, err);
}

static void check_model(const char *path)
{
    Err err = {0};
    Safetensors st;
    assert_done(safetensors_open(&st, path, &err));
    assert_int_equal(st.count, 4);
    assert_string_equal(safetensors_metadata(&st, "quo\"te"), "tab\there\\");
    float read[6];
    char codes[5];
    double scalar;
    const SafetensorsEntry *matrix = safetensors_find(&st, "matrix");
    assert_int_equal(matrix->offset % 4, 0);
    assert_done(safetensors_read(&st, matrix, 0, sizeof read, read, &err));
    assert_memory_equal(read, values, sizeof read);
    assert_done(safetensors_read(&st, safetensors_find(&st, "codes"), 0, 5, codes, &err));
    assert_memory_equal(codes, "ABCDE", 5);
    assert_done(safetensors_read(&st, safetensors_find(&st, "scalar"), 0, 8, &scalar, &err));
    assert_true(scalar == 0.5);
    safetensors_close(&st);
}

static void what_is_written_can_be_read(void **state)
{
    (void)state;
    Err err = {0};
    Scratch s = scratch_make();
    const char *path = scratch_path(&s, "m.safetensors");
    assert_done(write_model(path, &err));
    check_model(path);
    assert_done(write_model(path, &err)); /* over the old one */
    check_model(path);
    assert_int_equal(access(scratch_path(&s, "m.safetensors.tmp"), F_OK), -1);
    scratch_remove(&s);
}

/* The bytes of save_file of safetensors 0.8 for Python. */
static void files_are_those_that_hugging_face_writes(void **state)
{
    (void)state;
    Err err = {0};
    Scratch s = scratch_make();
    const char *path = scratch_path(&s, "m.safetensors");
    static const int64_t two[1] = {2};
    static const int64_t one[1] = {1};
    SafetensorsWriter *w;
    assert_done(safetensors_writer_create(&w, path, &err));
    assert_done(safetensors_writer_metadata(w, "format", "pt", &err));
    assert_done(safetensors_writer_declare(w, "b", DTYPE_U8, 1, one, &err));
    assert_done(safetensors_writer_declare(w, "z", DTYPE_F32, 1, two, &err));
    assert_done(safetensors_writer_declare(w, "a", DTYPE_F32, 1, one, &err));
    assert_done(safetensors_writer_begin(w, &err));
    assert_done(safetensors_writer_data(w, "\7\1\1\1\1\2\2\2\2\3\3\3\3", 13, &err));
    assert_done(safetensors_writer_finish(w, &err));
    static const char expected[] =
        "\xc8\0\0\0\0\0\0\0{\"__metadata__\":{\"format\":\"pt\"},\"a\":{\"dtype\":\"F32\",\"shape\":[1],"
        "\"data_offsets\":[0,4]},\"z\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]},\"b\":{\"dtype\":"
        "\"U8\","
        "\"shape\":[1],\"data_offsets\":[12,13]}}       \3\3\3\3\1\1\1\1\2\2\2\2\7";
    size_t size;
    char *bytes = scratch_read(path, &size);
    assert_int_equal(size, sizeof expected - 1);
    assert_memory_equal(bytes, expected, size);
    free(bytes);
    scratch_remove(&s);
}

static void a_file_is_whole_or_absent_whichever_call_fails(void **state)
{
    (void)state;
    Scratch s = scratch_make();
    const char *path = scratch_path(&s, "m.safetensors");
    int failures = 0;
    for (int kind = 0; kind < 3; kind++) {
        for (uint64_t nth = 1;; nth++) {
            Err err = {0};
            if (kind < 2) {
                file_fail_at("any", nth, ENOSPC, kind == 1);
            } else {
                mem_fail_at(nth, false);
            }
            const bool ok = write_model(path, &err);
            file_fail_at(NULL, 0, 0, false);
            mem_fail_at(0, false);
            if (!ok) assert_error(&err, kind < 2 ? ERR_DISK : ERR_MEMORY, "");
            if (ok || access(path, F_OK) == 0) check_model(path);
            unlink(path);
            if (kind != 1) assert_int_equal(access(scratch_path(&s, "m.safetensors.tmp"), F_OK), -1);
            if (ok) break;
            failures++;
        }
    }
    assert_true(failures > 40);
    scratch_remove(&s);
}

static void a_full_disk_at_any_byte_leaves_nothing(void **state)
{
    (void)state;
    Scratch s = scratch_make();
    const char *path = scratch_path(&s, "m.safetensors");
    for (uint64_t room = 0;; room++) {
        Err err = {0};
        file_fail_after_bytes(room);
        const bool ok = write_model(path, &err);
        file_fail_after_bytes(UINT64_MAX);
        if (ok) break;
        assert_error(&err, ERR_DISK, "no space left");
        assert_int_equal(access(path, F_OK), -1);
        assert_int_equal(access(scratch_path(&s, "m.safetensors.tmp"), F_OK), -1);
    }
    check_model(path);
    scratch_remove(&s);
}

static void missing_bytes_are_an_error(void **state)
{
    (void)state;
    Err err = {0};
    Scratch s = scratch_make();
    const char *path = scratch_path(&s, "m.safetensors");
    static const int64_t shape[1] = {4};
    SafetensorsWriter *w;
    assert_done(safetensors_writer_create(&w, path, &err));
    assert_done(safetensors_writer_declare(w, "a", DTYPE_U8, 1, shape, &err));
    assert_done(safetensors_writer_begin(w, &err));
    assert_done(safetensors_writer_data(w, "abc", 3, &err));
    assert_false(safetensors_writer_finish(w, &err));
    assert_error(&err, ERR_DISK, "not all tensors were written");
    assert_int_equal(access(path, F_OK), -1);
    safetensors_writer_discard(NULL);
    scratch_remove(&s);
}

static void reading_fails_cleanly_whichever_call_fails(void **state)
{
    (void)state;
    Err err = {0};
    Scratch s = scratch_make();
    const char *path = scratch_path(&s, "m.safetensors");
    assert_done(write_model(path, &err));
    for (int memory = 0; memory < 2; memory++) {
        for (uint64_t nth = 1;; nth++) {
            Safetensors st = {0};
            if (memory) {
                mem_fail_at(nth, false);
            } else {
                file_fail_at("any", nth, EIO, false);
            }
            float read[6];
            const bool ok = safetensors_open(&st, path, &err) &&
                            safetensors_read(&st, safetensors_find(&st, "matrix"), 0, sizeof read, read, &err);
            file_fail_at(NULL, 0, 0, false);
            mem_fail_at(0, false);
            if (!ok) assert_error(&err, memory ? ERR_MEMORY : ERR_MODEL, "");
            safetensors_close(&st);
            if (ok) break;
        }
    }
    scratch_remove(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_headers_are_read),
        cmocka_unit_test(entries_say_what_the_header_says),
        cmocka_unit_test(bad_headers_are_refused),
        cmocka_unit_test(bad_lengths_are_refused),
        cmocka_unit_test(a_name_has_at_most_1024_bytes),
        cmocka_unit_test(damaged_files_do_no_harm),
        cmocka_unit_test(many_tensors_are_read_quickly_up_to_a_limit),
        cmocka_unit_test(what_is_written_can_be_read),
        cmocka_unit_test(files_are_those_that_hugging_face_writes),
        cmocka_unit_test(a_file_is_whole_or_absent_whichever_call_fails),
        cmocka_unit_test(a_full_disk_at_any_byte_leaves_nothing),
        cmocka_unit_test(missing_bytes_are_an_error),
        cmocka_unit_test(reading_fails_cleanly_whichever_call_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
