#include "fixture.h"

#include <math.h>

static void expect_refusal(const Fixture *f, const DataOptions *options, ErrCode code, const char *text)
{
    Dataset *d = NULL;
    Err err = {0};
    if (dataset_open(&d, options, f->tokenizer, f->chat, &err)) fail_msg("opened, expected: %s", text);
    assert_int_equal(err.code, code);
    if (!strstr(err.text, text)) fail_msg("%s\nexpected %s", err.text, text);
}

static void samples_stand_in_file_order_and_know_where_they_came_from(void **state)
{
    (void)state;
    Fixture f;
    DataSource source;
    fixture_open(&f, CHATML_TEMPLATE, NULL);
    fixture_text(&f, "b.jsonl", "{\"input_ids\":[1,2,3]}\n\n{\"input_ids\":[1,2,4]}\n");
    fixture_text(&f, "a.json", "[{\"text\":\"x\"},\n{\"text\":\"y\"}]");
    const char *glob = fixture_path(&f, "[ab].json*");
    const DataOptions options = options_for(&source, glob);
    Dataset *d = open_data(&f, &options);
    static const struct {
        const char *path;
        int line;
    } places[] = {
        {"/a.json",  1},
        {"/a.json",  2},
        {"/b.jsonl", 1},
        {"/b.jsonl", 3}
    };
    assert_int_equal(dataset_samples(d), 4);
    assert_int_equal(dataset_stats(d)->rows_read, 4);
    for (int i = 0; i < 4; i++) {
        const SamplePlace place = dataset_sample_place(d, i);
        assert_non_null(strstr(place.path, places[i].path));
        assert_int_equal(place.line, places[i].line);
    }
    assert_int_equal(dataset_sample(d, 3).ids[2], 4);
    assert_int_equal(dataset_count_lengths(d, 0, 4), 4);
    assert_int_equal(dataset_count_lengths(d, 4, 1000), 0);
    dataset_close(d);
    fixture_close(&f);
}

static void what_is_too_long_is_dropped_cut_split_or_refused(void **state)
{
    (void)state;
    Fixture f;
    DataSource source;
    Text rows = {0};
    fixture_open(&f, CHATML_TEMPLATE, NULL);
    static const int letters[] = {3, 10, 6, 13}; /* 5, 12, 8 and 15 tokens */
    for (int i = 0; i < 4; i++)
        add_text_row(&rows, i, letters[i]);
    DataOptions options = options_for(&source, fixture_write(&f, "x.jsonl", rows.bytes, rows.length));
    options.sequence_len = 8;

    options.excess = EXCESS_DROP;
    Dataset *d = open_data(&f, &options);
    assert_int_equal(dataset_samples(d), 2);
    assert_int_equal(dataset_stats(d)->too_long, 2);
    assert_int_equal(dataset_stats(d)->longest, 15);
    dataset_close(d);

    options.excess = EXCESS_TRUNCATE;
    d = open_data(&f, &options);
    assert_int_equal(dataset_samples(d), 4);
    assert_int_equal(dataset_stats(d)->truncated, 2);
    assert_int_equal(dataset_sample(d, 1).tokens, 8);
    dataset_close(d);

    options.excess = EXCESS_SPLIT;
    d = open_data(&f, &options);
    assert_int_equal(dataset_stats(d)->split, 2);
    assert_int_equal(dataset_samples(d), 6); /* 5, 8+4, 8, 8+7 */
    assert_int_equal(dataset_stats(d)->tokens, 5 + 12 + 8 + 15);
    assert_int_equal(dataset_stats(d)->trained_tokens, 4 + 7 + 3 + 7 + 7 + 6);
    for (int64_t i = 0; i < 6; i++)
        assert_int_equal(dataset_sample(d, i).labels[0], TARGET_NONE);
    dataset_close(d);

    options.excess = EXCESS_ERROR;
    expect_refusal(&f, &options, ERR_DATA, "x.jsonl:2:1: the sample has 12 tokens, more than sequence_len = 8");
    text_free(&rows);
    fixture_close(&f);
}

static void a_sample_without_a_target_is_dropped_and_counted(void **state)
{
    (void)state;
    Fixture f;
    DataSource source;
    fixture_open(&f, CHATML_TEMPLATE, NULL);
    const DataOptions options = options_for(
        &source,
        fixture_text(&f, "x.jsonl",
                     "{\"input_ids\":[1,2],\"labels\":[1,-100]}\n{\"input_ids\":[5]}\n{\"input_ids\":[]}\n"
                     "{\"input_ids\":[1,2],\"labels\":[-100,-100]}\n{\"input_ids\":[1,2],\"labels\":[-100,2]}\n"));
    Dataset *d = open_data(&f, &options);
    assert_int_equal(dataset_samples(d), 1);
    assert_int_equal(dataset_stats(d)->without_target, 4);
    assert_int_equal(dataset_stats(d)->trained_tokens, 1);
    dataset_close(d);
    fixture_close(&f);
}

static void a_set_with_nothing_to_learn_says_why_and_what_to_do(void **state)
{
    (void)state;
    Fixture f;
    DataSource source;
    fixture_open(&f, CHATML_TEMPLATE, NULL);
    DataOptions options = options_for(
        &source,
        fixture_text(&f, "x.jsonl",
                     "{\"messages\":[{\"role\":\"user\",\"content\":\"only a question\"}]}\n{\"messages\":["
                     "{\"role\":\"assistant\",\"content\":\"an answer that is too long, too long by far\"}]}"));
    options.sequence_len = 32;
    expect_refusal(&f, &options, ERR_DATA, "nothing to learn");
    expect_refusal(&f, &options, ERR_DATA, "of 2 records 1 have no trained token");
    expect_refusal(&f, &options, ERR_DATA, "roles_to_train");
    expect_refusal(&f, &options, ERR_DATA, "raise sequence_len");
    options.sources = &(DataSource){.path = fixture_text(&f, "empty.jsonl", "\n \n"), .weight = 1.0};
    expect_refusal(&f, &options, ERR_DATA, "empty.jsonl has no records");
    fixture_close(&f);
}

static void equal_samples_are_dropped_on_request(void **state)
{
    (void)state;
    Fixture f;
    DataSource source;
    Text rows = {0};
    fixture_open(&f, CHATML_TEMPLATE, NULL);
    for (int i = 0; i < 3000; i++)
        MUST(text_format(&rows, &must_err, "{\"input_ids\":[1,%d,%d]}\n", i % 1000 / 50, i % 50));
    MUST(text_add_z(&rows, "{\"input_ids\":[1,2,3],\"labels\":[-100,-100,3]}\n", &must_err));
    DataOptions options = options_for(&source, fixture_write(&f, "x.jsonl", rows.bytes, rows.length));
    options.dedupe = true;
    Dataset *d = open_data(&f, &options);
    assert_int_equal(dataset_samples(d), 1001); /* other labels make another sample */
    assert_int_equal(dataset_stats(d)->duplicates, 2000);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(dataset_sample_place(d, i).line, i + 1);
    dataset_close(d);
    text_free(&rows);
    fixture_close(&f);
}

static void sources_are_cut_limited_and_mixed_by_weight(void **state)
{
    (void)state;
    Fixture f;
    Text rows = {0};
    fixture_open(&f, CHATML_TEMPLATE, NULL);
    for (int i = 0; i < 100; i++)
        MUST(text_format(&rows, &must_err, "{\"input_ids\":[1,%d]}\n", i));
    const char *path = fixture_write(&f, "x.jsonl", rows.bytes, rows.length);
    const DataSource sources[] = {
        {.path = path, .weight = 2.0,  .split = "train[10%:20%]"},
        {.path = path, .weight = 0.5,  .split = "train[-40:]"   },
        {.path = path, .weight = 1.25, .max_samples = 4         },
    };
    const DataOptions options = {.sources = sources, .source_count = 3, .sequence_len = 8, .seed = 5, .threads = 2};
    Dataset *d = open_data(&f, &options);
    assert_int_equal(dataset_samples(d), 20 + 20 + 5);
    assert_int_equal(dataset_stats(d)->samples, 45);
    for (int i = 0; i < 20; i++)
        assert_int_equal(dataset_sample(d, i).ids[1], 10 + i % 10);
    for (int i = 20; i < 40; i++) {
        assert_true(dataset_sample(d, i).ids[1] >= 60);
        if (i > 20) assert_true(dataset_sample(d, i).ids[1] > dataset_sample(d, i - 1).ids[1]);
    }
    for (int i = 40; i < 44; i++)
        assert_int_equal(dataset_sample(d, i).ids[1], i - 40);
    assert_true(dataset_sample(d, 44).ids[1] < 4);
    dataset_close(d);
    text_free(&rows);
    fixture_close(&f);
}

static void the_number_of_threads_changes_nothing(void **state)
{
    (void)state;
    Fixture f;
    DataSource source;
    fixture_open(&f, CHATML_TEMPLATE, NULL);
    DataOptions options = options_for(&source, many_rows(&f, 9000));
    options.sequence_len = 40;
    options.packing = options.shuffle = true;
    Dataset *one = open_data(&f, &options);
    assert_int_equal(dataset_stats(one)->rows_read, 9000);
    for (int threads = 2; threads <= 5; threads += 3) {
        options.threads = threads;
        Dataset *many = open_data(&f, &options);
        samples_equal(one, many);
        assert_memory_equal(dataset_stats(one), dataset_stats(many), sizeof(DatasetStats));
        dataset_close(many);
    }
    dataset_close(one);
    fixture_close(&f);
}

static void the_first_bad_row_is_reported_whatever_the_threads(void **state)
{
    (void)state;
    Fixture f;
    DataSource source;
    Text rows = {0};
    fixture_open(&f, CHATML_TEMPLATE, NULL);
    for (int i = 0; i < 6000; i++)
        MUST(text_add_z(&rows, i > 3000 && i % 50 == 7 ? "{\"text\":7}\n" : "{\"text\":\"x\"}\n", &must_err));
    DataOptions options = options_for(&source, fixture_write(&f, "x.jsonl", rows.bytes, rows.length));
    for (options.threads = 1; options.threads < 8; options.threads += 3)
        expect_refusal(&f, &options, ERR_DATA, "x.jsonl:3008:1: column \"text\" is a number");
    text_free(&rows);
    fixture_close(&f);
}

static void check_fault(const Err *err, bool file)
{
    if (err->code != ERR_MEMORY && !(file && err->code == ERR_DATA)) fail_msg("%d: %s", (int)err->code, err->text);
}

/* The n-th allocation (file operation) fails, for every n: an error, or the set as it should be. */
static void opening_survives_every_fault(void **state)
{
    (void)state;
    Fixture f;
    DataSource source;
    fixture_open(&f, CHATML_TEMPLATE, NULL);
    fixture_text(&f, "many.jsonl",
                 "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"assistant\",\"content\":[\"y\"]}]}\n"
                 "{\"messages\":[{\"role\":\"assistant\",\"content\":\"z\"}]}\n");
    DataOptions options = options_for(&source, fixture_path(&f, "*.jsonl"));
    options.packing = options.shuffle = options.dedupe = true;
    options.cache_folder = fixture_path(&f, "cache");
    for (int cached = 0; cached < 2; cached++) {
        for (int what = 0; what < 2; what++) {
            bool clean = false;
            for (uint64_t nth = 1; !clean; nth++) {
                Dataset *d = NULL;
                Err err = {0};
                if (!cached && file_exists(options.cache_folder))
                    MUST(file_remove_tree(options.cache_folder, &must_err));
                const uint64_t before = what ? file_operation_count() : mem_alloc_count();
                if (what)
                    file_fail_at("any", nth, 5, false);
                else
                    mem_fail_at(nth, false);
                const bool opened = dataset_open(&d, &options, f.tokenizer, f.chat, &err);
                clean = (what ? file_operation_count() : mem_alloc_count()) - before < nth;
                file_fail_at(NULL, 0, 0, false);
                mem_fail_at(0, false);
                if (opened)
                    assert_int_equal(dataset_samples(d), 2);
                else
                    check_fault(&err, what == 1);
                if (clean) assert_true(opened);
                dataset_close(d);
            }
        }
    }
    fixture_close(&f);
}

static void a_split_is_drawn_by_the_seed_and_keeps_file_order(void **state)
{
    (void)state;
    Fixture f;
    DataSource source;
    Text rows = {0};
    fixture_open(&f, CHATML_TEMPLATE, NULL);
    for (int i = 0; i < 50; i++)
        MUST(text_format(&rows, &must_err, "{\"input_ids\":[1,%d]}\n", i));
    DataOptions options = options_for(&source, fixture_write(&f, "x.jsonl", rows.bytes, rows.length));
    source.weight = 2.0; /* a sample that stands twice in training must not stand on both sides */
    static const struct {
        double size;
        int count;
    } sizes[] = {
        {0.1,  5 },
        {0.25, 13},
        {7.0,  7 },
        {1.0,  1 },
        {49.0, 49}
    };
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        int seen[50] = {0};
        Dataset *d = open_data(&f, &options);
        Dataset *v = NULL;
        MUST(dataset_split(d, &v, sizes[i].size, &must_err));
        assert_int_equal(dataset_samples(v), sizes[i].count);
        assert_int_equal(dataset_samples(d), 2 * (50 - sizes[i].count));
        assert_int_equal(dataset_stats(v)->tokens, 2 * sizes[i].count);
        for (int64_t k = 0; k < dataset_samples(v); k++) {
            seen[dataset_sample(v, k).ids[1]] += 2;
            if (k > 0) assert_true(dataset_sample(v, k).ids[1] > dataset_sample(v, k - 1).ids[1]);
        }
        for (int64_t k = 0; k < dataset_samples(d); k++)
            seen[dataset_sample(d, k).ids[1]]++;
        for (int k = 0; k < 50; k++)
            assert_int_equal(seen[k], 2);
        assert_string_not_equal(dataset_fingerprint(d), dataset_fingerprint(v));
        dataset_close(v);
        dataset_close(d);
    }
    static const double bad[] = {0.0, 0.001, 0.999, 50.0, 51.0, -1.0, (double)NAN, 1e30};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        Err err = {0};
        Dataset *d = open_data(&f, &options);
        Dataset *v = NULL;
        assert_false(dataset_split(d, &v, bad[i], &err));
        assert_int_equal(err.code, ERR_DATA);
        assert_int_equal(dataset_samples(d), 100);
        dataset_close(d);
    }
    text_free(&rows);
    fixture_close(&f);
}

static void a_type_is_taken_at_its_word_and_detected_per_file_otherwise(void **state)
{
    (void)state;
    Fixture f;
    DataSource source;
    fixture_open(&f, CHATML_TEMPLATE, NULL);
    const DataOptions options =
        options_for(&source, fixture_text(&f, "x.jsonl", "{\"text\":\"abc\",\"prompt\":\"p\",\"completion\":\"c\"}"));
    static const struct {
        const char *type, *shown;
    } types[] = {
        {NULL,         "<|begin_of_text|>p[c<|endoftext|>]" },
        {"text",       "<|begin_of_text|>[abc<|endoftext|>]"},
        {"completion", "<|begin_of_text|>p[c<|endoftext|>]" }
    };
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        source.type = types[i].type;
        Dataset *d = open_data(&f, &options);
        char *shown = fixture_show(&f, dataset_sample(d, 0));
        assert_string_equal(shown, types[i].shown);
        mem_free(shown);
        dataset_close(d);
    }
    /* Axolotl's completion is a text. */
    fixture_text(&f, "x.jsonl", "{\"text\":\"abc\"}");
    Dataset *d = open_data(&f, &options);
    char *shown = fixture_show(&f, dataset_sample(d, 0));
    assert_string_equal(shown, "<|begin_of_text|>[abc<|endoftext|>]");
    mem_free(shown);
    dataset_close(d);
    source.type = "alpaca";
    expect_refusal(&f, &options, ERR_DATA, "x.jsonl:1:1: column \"instruction\" is missing");
    fixture_close(&f);
}

static void options_out_of_range_are_config_errors(void **state)
{
    (void)state;
    Fixture f;
    DataSource source;
    fixture_open(&f, CHATML_TEMPLATE, NULL);
    const DataOptions good = options_for(&source, fixture_text(&f, "x.jsonl", "{\"text\":\"x\"}"));
    DataOptions bad = good;
    bad.sequence_len = 1;
    expect_refusal(&f, &bad, ERR_CONFIG, "sequence_len = 1");
    bad = good;
    bad.source_count = 0;
    expect_refusal(&f, &bad, ERR_CONFIG, "no data set");
    source.type = "wrong";
    expect_refusal(&f, &good, ERR_CONFIG, "wrong");
    source.type = NULL;
    source.split = "test";
    expect_refusal(&f, &good, ERR_CONFIG, "\"test\"");
    source.split = NULL;
    source.weight = -1.0;
    expect_refusal(&f, &good, ERR_CONFIG, "weight -1");
    source.weight = (double)NAN;
    expect_refusal(&f, &good, ERR_CONFIG, "weight");
    source.weight = 0.1;
    expect_refusal(&f, &good, ERR_DATA, "weights leave no sample");
    source.weight = 1.0;
    source.path = fixture_path(&f, "gone.jsonl");
    expect_refusal(&f, &good, ERR_DATA, "gone.jsonl");
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(samples_stand_in_file_order_and_know_where_they_came_from),
        cmocka_unit_test(what_is_too_long_is_dropped_cut_split_or_refused),
        cmocka_unit_test(a_sample_without_a_target_is_dropped_and_counted),
        cmocka_unit_test(a_set_with_nothing_to_learn_says_why_and_what_to_do),
        cmocka_unit_test(equal_samples_are_dropped_on_request),
        cmocka_unit_test(sources_are_cut_limited_and_mixed_by_weight),
        cmocka_unit_test(the_number_of_threads_changes_nothing),
        cmocka_unit_test(the_first_bad_row_is_reported_whatever_the_threads),
        cmocka_unit_test(opening_survives_every_fault),
        cmocka_unit_test(a_split_is_drawn_by_the_seed_and_keeps_file_order),
        cmocka_unit_test(a_type_is_taken_at_its_word_and_detected_per_file_otherwise),
        cmocka_unit_test(options_out_of_range_are_config_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
