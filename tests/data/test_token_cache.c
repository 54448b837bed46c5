#include "data/token_cache.h"
#include "fixture.h"

static const char *cache_file(const Fixture *f)
{
    static char path[400];
    FileList list = {0};
    MUST(file_list(&list, fixture_path(f, "cache"), ERR_DATA, &must_err));
    assert_int_equal(list.count, 1);
    snprintf(path, sizeof path, "%s/cache/%s", f->folder, list.names[0]);
    file_list_free(&list);
    return path;
}

static void a_cached_set_equals_a_fresh_one(void **state)
{
    (void)state;
    Fixture f;
    DataSource source;
    fixture_open(&f, CHATML_TEMPLATE, NULL);
    DataOptions options = options_for(&source, many_rows(&f, 300));
    options.sequence_len = 40;
    Dataset *fresh = open_data(&f, &options);
    options.cache_folder = fixture_path(&f, "cache");
    for (int run = 0; run < 3; run++) {
        Dataset *cached = open_data(&f, &options);
        assert_int_equal(dataset_stats(cached)->from_cache, run > 0);
        assert_int_equal(dataset_stats(cached)->too_long, dataset_stats(fresh)->too_long);
        assert_int_equal(dataset_stats(cached)->longest, 52);
        samples_equal(fresh, cached);
        dataset_close(cached);
    }
    /* The content counts, not the path. */
    MUST(file_copy(fixture_path(&f, "moved.jsonl"), fixture_path(&f, "many.jsonl"), &must_err));
    source.path = fixture_path(&f, "moved.jsonl");
    Dataset *moved = open_data(&f, &options);
    assert_true(dataset_stats(moved)->from_cache);
    assert_non_null(strstr(dataset_sample_place(moved, 0).path, "moved.jsonl"));
    dataset_close(moved);
    dataset_close(fresh);
    fixture_close(&f);
}

static void a_damaged_cache_is_built_again(void **state)
{
    (void)state;
    Fixture f;
    DataSource source;
    fixture_open(&f, CHATML_TEMPLATE, NULL);
    DataOptions options = options_for(&source, many_rows(&f, 20));
    options.cache_folder = fixture_path(&f, "cache");
    dataset_close(open_data(&f, &options));
    char *bytes = NULL;
    size_t length = 0;
    MUST(file_read_all(&bytes, &length, cache_file(&f), 1 << 20, ERR_DATA, &must_err));
    for (size_t at = 0; at < length; at += at < 200 ? 1 : 61) {
        bytes[at] = (char)(bytes[at] ^ 0x10);
        MUST(file_replace(cache_file(&f), bytes, length, &must_err));
        bytes[at] = (char)(bytes[at] ^ 0x10);
        Dataset *d = open_data(&f, &options);
        if (dataset_stats(d)->from_cache) fail_msg("byte %zu was changed and nobody saw it", at);
        assert_int_equal(dataset_samples(d), 20);
        dataset_close(d);
    }
    for (size_t cut = 0; cut < length; cut += cut < 200 ? 13 : 331) {
        MUST(file_replace(cache_file(&f), bytes, cut, &must_err));
        Dataset *d = open_data(&f, &options);
        assert_false(dataset_stats(d)->from_cache);
        dataset_close(d);
    }
    Dataset *d = open_data(&f, &options);
    assert_true(dataset_stats(d)->from_cache);
    dataset_close(d);
    mem_free(bytes);
    fixture_close(&f);
}

static void a_cache_of_other_data_is_not_taken(void **state)
{
    (void)state;
    Fixture f;
    DataSource source;
    char other[400];
    fixture_open(&f, CHATML_TEMPLATE, NULL);
    DataOptions options = options_for(&source, fixture_text(&f, "x.jsonl", "{\"text\":\"one\"}"));
    options.cache_folder = fixture_path(&f, "cache");
    dataset_close(open_data(&f, &options));
    MUST(file_copy(fixture_path(&f, "kept"), cache_file(&f), &must_err));
    MUST(file_remove_tree(options.cache_folder, &must_err));
    fixture_text(&f, "x.jsonl", "{\"text\":\"two\"}");
    dataset_close(open_data(&f, &options));
    snprintf(other, sizeof other, "%s", cache_file(&f));
    MUST(file_remove(other, &must_err));
    MUST(file_copy(other, fixture_path(&f, "kept"), &must_err));
    Dataset *d = open_data(&f, &options);
    assert_false(dataset_stats(d)->from_cache);
    dataset_close(d);
    fixture_close(&f);
}

/* Whatever changes tokens must change the key. */
static void every_option_that_changes_tokens_asks_for_another_cache(void **state)
{
    (void)state;
    Fixture f;
    DataSource source;
    static const DataPair pair[] = {
        {"human", "user"}
    };
    static const char *const roles[] = {"user"};
    fixture_open(&f, CHATML_TEMPLATE, NULL);
    DataOptions options = options_for(&source, many_rows(&f, 20));
    options.cache_folder = fixture_path(&f, "cache");
    const DataOptions plain_options = options;
    const DataSource plain_source = source;
    for (int change = 0; change < 14; change++) {
        options = plain_options;
        source = plain_source;
        switch (change) {
        case 0: break; /* the first start builds */
        case 1: options.sequence_len = 63; break;
        case 2: options.excess = EXCESS_TRUNCATE; break;
        case 3: options.train_on_inputs = true; break;
        case 4: options.mask_history = true; break;
        case 5: options.dedupe = true; break;
        case 6: options.vocab_size = 1000; break;
        case 7: source.type = "text"; break;
        case 8: source.split = "train[:15]"; break;
        case 9: source.max_samples = 15; break;
        case 10: source.train_on_eos = TRAIN_EOS_NONE; break;
        case 11: source.roles = pair, source.role_count = 1; break;
        case 12: source.roles_to_train = roles, source.roles_to_train_count = 1; break;
        case 13: source.properties = pair, source.property_count = 1; break;
        default: break;
        }
        Dataset *d = open_data(&f, &options);
        if (dataset_stats(d)->from_cache) fail_msg("change %d went unseen", change);
        dataset_close(d);
    }
    /* These only choose among samples that are there. */
    options = plain_options;
    source = plain_source;
    options.seed = 9;
    options.shuffle = options.packing = true;
    options.threads = 2;
    source.weight = 0.5;
    Dataset *d = open_data(&f, &options);
    assert_true(dataset_stats(d)->from_cache);
    dataset_close(d);
    fixture_text(&f, "many.jsonl", "{\"text\":\"other\"}\n");
    d = open_data(&f, &options);
    assert_false(dataset_stats(d)->from_cache);
    dataset_close(d);
    fixture_close(&f);
}

static void a_cache_that_cannot_be_written_does_not_end_the_run(void **state)
{
    (void)state;
    Fixture f;
    DataSource source;
    fixture_open(&f, CHATML_TEMPLATE, NULL);
    DataOptions options = options_for(&source, many_rows(&f, 20));
    options.cache_folder = fixture_path(&f, "cache");
    static const char *const operations[] = {"write", "fsync", "rename", "mkdir"};
    for (size_t i = 0; i < 4; i++) {
        file_fail_at(operations[i], 1, 28, true);
        Dataset *d = open_data(&f, &options);
        file_fail_at(NULL, 0, 0, false);
        assert_false(dataset_stats(d)->from_cache);
        assert_int_equal(dataset_samples(d), 20);
        dataset_close(d);
        MUST(file_remove_tree(options.cache_folder, &must_err) || !file_exists(options.cache_folder));
    }
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_cached_set_equals_a_fresh_one),
        cmocka_unit_test(a_damaged_cache_is_built_again),
        cmocka_unit_test(a_cache_of_other_data_is_not_taken),
        cmocka_unit_test(every_option_that_changes_tokens_asks_for_another_cache),
        cmocka_unit_test(a_cache_that_cannot_be_written_does_not_end_the_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
