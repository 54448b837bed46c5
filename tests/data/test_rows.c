#include "base/json.h"
#include "data/rows.h"
#include "data/sources.h"
#include "fixture.h"

/* Only the folder of a fixture is needed here. */
static Fixture folder(void)
{
    Fixture f = {.folder = "/tmp/qlora_rows_XXXXXX"};
    assert_non_null(mkdtemp(f.folder));
    return f;
}

static void remove_folder(const Fixture *f)
{
    MUST(file_remove_tree(f->folder, &must_err));
}

/* All records of a file as "LINE:COLUMN text|...", or the error. */
static bool read_all(const char *path, Text *out, Err *err)
{
    RowReader *r = NULL;
    Row row;
    bool end = false;
    bool good = row_reader_open(&r, path, err);
    while (good && (good = row_reader_next(r, &row, &end, err)) && !end) {
        good = text_format(out, err, "%d:%d ", (int)row.line, (int)row.column) &&
               text_add(out, row.bytes, row.length, err) && text_add(out, "|", 1, err);
    }
    row_reader_close(r);
    return good;
}

typedef struct FileCase {
    const char *content, *rows; /* rows null: an error that holds `fault` */
    const char *fault;
} FileCase;

static const FileCase files[] = {
    {"",                                "",                              NULL                               },
    {" \n\t\r\n\n",                     "",                              NULL                               },
    {"{\"a\":1}",                       "1:1 {\"a\":1}|",                NULL                               },
    {"{\"a\":1}\n{\"b\":2}\n",          "1:1 {\"a\":1}|2:1 {\"b\":2}|",  NULL                               },
    {"{}\r\n\r\n  {} \r\n{}",           "1:1 {}|3:3 {}|4:1 {}|",         NULL                               },
    {"\xEF\xBB\xBF{}\n",                "1:1 {}|",                       NULL                               },
    {"\xEF\xBB\xBF[{},{}]",             "1:2 {}|1:5 {}|",                NULL                               },
    {"[]",                              "",                              NULL                               },
    {" [ \n {} ,\n{\"a\":[1,{}]}\n]\n", "2:2 {} |3:1 {\"a\":[1,{}]}\n|", NULL                               },
    {"[\"a,]\\\"],\", 5]",              "1:2 \"a,]\\\"],\"|1:13 5|",     NULL                               },
    {"[{},",                            NULL,                            ":1:5: the JSON list is not closed"},
    {"[{}",                             NULL,                            ":1:2: the file ends inside"       },
    {"[\"ab\\",                         NULL,                            ":1:2: the file ends inside"       },
    {"[{},]",                           NULL,                            ":1:5: expected a record"          },
    {"[,{}]",                           NULL,                            ":1:2: expected a record"          },
    {"[{},,{}]",                        NULL,                            ":1:5: expected a record"          },
    {"[{}]\n\nx",                       NULL,                            ":3:1: there is something after"   },
    {"[",                               NULL,                            "not closed"                       },
    {"\xEF\xBB",                        "1:1 \xEF\xBB|",                 NULL                               },
};

static void records_are_cut_out_of_every_kind_of_file(void **state)
{
    (void)state;
    const Fixture f = folder();
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        const char *content = files[i].content;
        char packed[4096];
        const size_t n = fixture_gzip(packed, sizeof packed, content, strlen(content));
        const char *const paths[] = {fixture_text(&f, "plain", content), fixture_write(&f, "packed", packed, n)};
        for (int k = 0; k < 2; k++) {
            Text rows = {0};
            Err err = {0};
            const bool good = read_all(paths[k], &rows, &err);
            if (files[i].rows) {
                if (!good) fail_msg("%s: %s", content, err.text);
                assert_string_equal(rows.bytes ? rows.bytes : "", files[i].rows);
            } else {
                assert_false(good);
                assert_int_equal(err.code, ERR_DATA);
                assert_true(err.located);
                if (!strstr(err.text, files[i].fault)) fail_msg("%s: %s", content, err.text);
            }
            text_free(&rows);
        }
    }
    remove_folder(&f);
}

static void long_records_cross_read_buffers_and_very_long_ones_are_refused(void **state)
{
    (void)state;
    const Fixture f = folder();
    const size_t most = ROW_BYTES_MAX + (1 << 20);
    char *bytes = malloc(most);
    assert_non_null(bytes);
    memset(bytes, 'x', most);
    static const size_t lengths[] = {(1 << 18) - 1, 1 << 18, (1 << 18) + 1, 3 << 18, ROW_BYTES_MAX};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        RowReader *r = NULL;
        Row row;
        bool end = false;
        bytes[lengths[i]] = '\n';
        const char *path = fixture_write(&f, "long", bytes, lengths[i] + 3);
        bytes[lengths[i]] = 'x';
        MUST(row_reader_open(&r, path, &must_err));
        MUST(row_reader_next(r, &row, &end, &must_err));
        assert_int_equal(row.length, lengths[i]);
        MUST(row_reader_next(r, &row, &end, &must_err));
        assert_int_equal(row.length, 2);
        assert_int_equal(row.line, 2);
        MUST(row_reader_next(r, &row, &end, &must_err));
        assert_true(end);
        row_reader_close(r);
    }
    for (int array = 0; array < 2; array++) {
        Text rows = {0};
        Err err = {0};
        bytes[0] = array ? '[' : '{';
        bytes[1] = '"';
        assert_false(read_all(fixture_write(&f, "long", bytes, most), &rows, &err));
        assert_int_equal(err.code, ERR_DATA);
        assert_non_null(strstr(err.text, "longer than 16 MB"));
        text_free(&rows);
    }
    free(bytes);
    remove_folder(&f);
}

static void faults_of_json_are_placed(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t length; /* 0: strlen */
        const char *place;
    } bad[] = {
        {"{\"a\": }",                    0,  "F:7:10:"},
        {"{\"a\":1,\"a\":2}",            0,  "F:7:"   },
        {"{\"a\":\n\"\xff\"}",           0,  "F:8:"   },
        {"{\"a\":\"\xED\xA0\x80\"}",     0,  "F:7:"   }, /* a surrogate in UTF-8 */
        {"{\"a\":\"\xC0\x80\"}",         0,  "F:7:"   }, /* overlong */
        {"{\"a\":\"\\ud83d\"}",          0,  "F:7:"   },
        {"{\"a\":\"\\udc00x\"}",         0,  "F:7:"   },
        {"{\"a\":1e999}",                0,  "F:7:"   },
        {"{\"a\":99999999999999999999}", 0,  "F:7:"   },
        {"{\"a\":1} x",                  0,  "F:7:"   },
        {"{\"a\":\"tab\there\"}",        0,  "F:7:"   },
        {"{\"a\":\"nul\0here\"}",        16, "F:7:"   },
        {"\xEF\xBB",                     0,  "F:7:"   },
        {"nan",                          0,  "F:7:"   },
        {"{'a':1}",                      0,  "F:7:"   },
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        Err err = {0};
        json_t *value = NULL;
        const size_t length = bad[i].length ? bad[i].length : strlen(bad[i].bytes);
        const Row row = {bad[i].bytes, length, 7, 4};
        if (row_parse(&value, &row, "F", &err)) fail_msg("accepted: %s", bad[i].bytes);
        assert_int_equal(err.code, ERR_DATA);
        assert_true(err.located);
        if (strncmp(err.text, bad[i].place, strlen(bad[i].place))) fail_msg("%s: %s", bad[i].bytes, err.text);
    }
    char deep[400];
    memset(deep, '[', sizeof deep);
    Err err = {0};
    json_t *value = NULL;
    const Row row = {deep, sizeof deep, 2, 1};
    assert_false(row_parse(&value, &row, "F", &err));
    assert_non_null(strstr(err.text, "F:2:1: the record is nested more than 64 levels deep"));
    /* NUL, as an escape, is an ordinary character of a text. */
    const char *nul = "{\"a\":\"\\u0000\"}";
    const Row good = {nul, strlen(nul), 1, 1};
    MUST(row_parse(&value, &good, "F", &must_err));
    assert_int_equal(json_string_length(json_object_get(value, "a")), 1);
    json_decref(value);
}

/* 64 KB of text, twice: gzip members one behind the other are one stream. */
static void gzip_damage_is_found(void **state)
{
    (void)state;
    const Fixture f = folder();
    enum { LENGTH = 1 << 16 };
    static char text[LENGTH];
    static char packed[2 * LENGTH];
    for (size_t i = 0; i < LENGTH; i++)
        text[i] = i % 64 == 63 ? '\n' : (char)('a' + (i * i / 7) % 26);
    size_t n = fixture_gzip(packed, LENGTH, text, LENGTH);
    n += fixture_gzip(packed + n, LENGTH, text, LENGTH);
    memset(packed + n, 0, 16); /* padding of a tape block */
    Text rows = {0};
    MUST(read_all(fixture_write(&f, "two.gz", packed, n + 16), &rows, &must_err));
    size_t count = 0;
    for (size_t i = 0; i < rows.length; i++)
        count += rows.bytes[i] == '|';
    assert_int_equal(count, 2 * LENGTH / 64);
    static const size_t cuts[] = {2, 3, 9, 10, 11, 100, 1000};
    for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++) {
        Err err = {0};
        assert_false(read_all(fixture_write(&f, "cut.gz", packed, cuts[i]), &rows, &err));
        assert_int_equal(err.code, ERR_DATA);
    }
    for (size_t at = 12; at < n; at += 97) {
        Err err = {0};
        packed[at] = (char)(packed[at] ^ 0x5A);
        if (!read_all(fixture_write(&f, "damaged.gz", packed, n), &rows, &err)) {
            assert_int_equal(err.code, ERR_DATA);
        } else {
            fail_msg("byte %zu was changed and nobody saw it", at);
        }
        packed[at] = (char)(packed[at] ^ 0x5A);
    }
    text_free(&rows);
    remove_folder(&f);
}

static void a_gzip_bomb_is_refused(void **state)
{
    (void)state;
    const Fixture f = folder();
    enum { LENGTH = 100 << 20 };
    char *zeros = calloc(1, LENGTH);
    char *packed = malloc(1 << 20);
    assert_true(zeros && packed);
    memset(zeros, '\n', LENGTH);
    const size_t n = fixture_gzip(packed, 1 << 20, zeros, LENGTH);
    Text rows = {0};
    Err err = {0};
    assert_false(read_all(fixture_write(&f, "bomb.gz", packed, n), &rows, &err));
    assert_int_equal(err.code, ERR_DATA);
    assert_non_null(strstr(err.text, "200 times"));
    free(zeros);
    free(packed);
    text_free(&rows);
    remove_folder(&f);
}

static void every_failed_call_is_reported(void **state)
{
    (void)state;
    const Fixture f = folder();
    char packed[256];
    const char *text = "[{\"a\":1},{\"b\":2}]";
    const size_t n = fixture_gzip(packed, sizeof packed, text, strlen(text));
    const char *const paths[] = {fixture_text(&f, "plain", text), fixture_write(&f, "packed", packed, n)};
    for (int k = 0; k < 2; k++) {
        for (int what = 0; what < 2; what++) {
            bool done = false;
            for (uint64_t nth = 1; !done; nth++) {
                Text rows = {0};
                Err err = {0};
                if (what)
                    file_fail_at("any", nth, 5, false);
                else
                    mem_fail_at(nth, false);
                done = read_all(paths[k], &rows, &err);
                file_fail_at(NULL, 0, 0, false);
                mem_fail_at(0, false);
                if (!done) assert_true(err.code == (what ? ERR_DATA : ERR_MEMORY));
                text_free(&rows);
            }
        }
    }
    remove_folder(&f);
}

static void sources_are_files_folders_and_globs(void **state)
{
    (void)state;
    const Fixture f = folder();
    static const char *const names[] = {"b.jsonl", "a.json", "c.jsonl.gz", "notes.txt", ".hidden.json"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        fixture_text(&f, names[i], "{}");
    MUST(file_make_folders(fixture_path(&f, "d.jsonl"), &must_err));
    static const struct {
        const char *path;
        int count;
        const char *first;
    } cases[] = {
        {"",         4, "/a.json"  }, /* the folder d.jsonl is found and refused when it is opened */
        {"a.json",   1, "/a.json"  },
        {"*.jsonl",  1, "/b.jsonl" },
        {"?.json*",  3, "/a.json"  },
        {"[bc].*",   2, "/b.jsonl" },
        {"gone.txt", 1, "/gone.txt"}
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        SourceFiles found = {0};
        MUST(source_files_find(&found, fixture_path(&f, cases[i].path), &must_err));
        assert_int_equal(found.count, cases[i].count);
        assert_non_null(strstr(found.paths[0], cases[i].first));
        source_files_free(&found);
    }
    Err err = {0};
    SourceFiles found = {0};
    assert_false(source_files_find(&found, fixture_path(&f, "*.csv"), &err));
    assert_int_equal(err.code, ERR_DATA);
    err = (Err){0};
    assert_false(source_files_find(&found, fixture_path(&f, "d.jsonl"), &err));
    assert_int_equal(err.code, ERR_DATA);
    remove_folder(&f);
}

static void slices_are_those_of_hugging_face(void **state)
{
    (void)state;
    static const struct {
        const char *split;
        int64_t rows, first, last;
    } good[] = {
        {NULL,             10,  0, 10},
        {"train",          10,  0, 10},
        {"train[:3]",      10,  0, 3 },
        {"train[3:]",      10,  3, 10},
        {"train[2:5]",     10,  2, 5 },
        {"train[5:2]",     10,  5, 5 },
        {"train[:100]",    10,  0, 10},
        {"train[-3:]",     10,  7, 10},
        {"train[:-3]",     10,  0, 7 },
        {"train[-99:]",    10,  0, 10},
        {"train[:10%]",    10,  0, 1 },
        {"train[10%:]",    10,  1, 10},
        {"train[-10%:]",   10,  9, 10},
        {"train[33%:67%]", 10,  3, 7 },
        {"train[:1%]",     199, 0, 2 },
        {"train[:1%]",     149, 0, 1 },
        {"train[:100%]",   7,   0, 7 },
        {"train[:]",       7,   0, 7 }
    };
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        SourceSlice slice;
        int64_t first;
        int64_t last;
        MUST(source_slice_parse(&slice, good[i].split, &must_err));
        source_slice_range(&slice, good[i].rows, &first, &last);
        if (first != good[i].first || last != good[i].last) {
            fail_msg("%s of %d: %d to %d", good[i].split, (int)good[i].rows, (int)first, (int)last);
        }
        if (source_slice_needs_count(&slice)) continue;
        source_slice_range(&slice, INT64_MAX, &first, &last);
        assert_int_equal(first, good[i].split && !strcmp(good[i].split, "train[5:2]") ? 5 : good[i].first);
    }
    static const char *const bad[] = {"test",        "train[",         "train[]",
                                      "train[3]",    "train[:3",       "train[:3]x",
                                      "train[a:]",   "train[:101%]",   "train[:99999999999999999999]",
                                      "train[:3%%]", "validation[:3]", ""};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        SourceSlice slice;
        Err err = {0};
        if (source_slice_parse(&slice, bad[i], &err)) fail_msg("accepted: %s", bad[i]);
        assert_int_equal(err.code, ERR_CONFIG);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(records_are_cut_out_of_every_kind_of_file),
        cmocka_unit_test(long_records_cross_read_buffers_and_very_long_ones_are_refused),
        cmocka_unit_test(faults_of_json_are_placed),
        cmocka_unit_test(gzip_damage_is_found),
        cmocka_unit_test(a_gzip_bomb_is_refused),
        cmocka_unit_test(every_failed_call_is_reported),
        cmocka_unit_test(sources_are_files_folders_and_globs),
        cmocka_unit_test(slices_are_those_of_hugging_face),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
