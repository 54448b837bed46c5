#include "base/rng.h"
#include "data/pack.h"
#include "fixture.h"

/* Pre-tokenized rows of many lengths: sample i is i, i + 1, ... with every third label off. */
static const char *numbered_rows(const Fixture *f, int count, int longest)
{
    Text rows = {0};
    for (int i = 0; i < count; i++) {
        const int tokens = 2 + (int)(rng_u32((RngKey){.purpose = RNG_TEST}, (uint64_t)i) % (uint32_t)(longest - 1));
        Text labels = {0};
        MUST(text_add_z(&rows, "{\"input_ids\":[", &must_err));
        for (int k = 0; k < tokens; k++) {
            MUST(text_format(&rows, &must_err, "%s%d", k ? "," : "", i + k));
            MUST(text_format(&labels, &must_err, "%s%d", k ? "," : "", k % 3 ? i + k : TARGET_NONE));
        }
        MUST(text_format(&rows, &must_err, "],\"labels\":[%s]}\n", labels.bytes));
        text_free(&labels);
    }
    const char *path = fixture_write(f, "rows.jsonl", rows.bytes, rows.length);
    text_free(&rows);
    return path;
}

typedef struct Opened {
    Fixture f;
    DataSource source;
    DataOptions options;
    Dataset *data;
} Opened;

static void open_numbered(Opened *o, int count, bool packing, bool shuffle)
{
    fixture_open(&o->f, NULL, NULL);
    o->source = (DataSource){.path = numbered_rows(&o->f, count, 60), .weight = 1.0};
    o->options = (DataOptions){.sources = &o->source,
                               .source_count = 1,
                               .sequence_len = 100,
                               .packing = packing,
                               .shuffle = shuffle,
                               .seed = 11};
    MUST(dataset_open(&o->data, &o->options, o->f.tokenizer, o->f.chat, &must_err));
}

static void close_numbered(Opened *o)
{
    dataset_close(o->data);
    fixture_close(&o->f);
}

/* What a segment must hold: ids and positions of one sample, targets shifted by one, nothing after its last token. */
static void check_segment(const Batch *b, int segment, Sample s)
{
    const int32_t at = b->starts[segment];
    assert_int_equal(b->starts[segment + 1] - at, s.tokens);
    for (int64_t k = 0; k < s.tokens; k++) {
        assert_int_equal(b->ids[at + k], s.ids[k]);
        assert_int_equal(b->positions[at + k], k);
        assert_int_equal(b->targets[at + k], k + 1 < s.tokens ? s.labels[k + 1] : TARGET_NONE);
    }
}

static void check_counts(const Batch *b)
{
    int64_t trained = 0;
    for (int64_t k = 0; k < b->tokens; k++)
        trained += b->targets[k] != TARGET_NONE;
    assert_int_equal(b->trained_tokens, trained);
    assert_int_equal(b->starts[0], 0);
    assert_int_equal(b->starts[b->segments], b->tokens);
}

static void unpacked_and_unshuffled_rows_are_the_samples_in_file_order(void **state)
{
    (void)state;
    Opened o;
    BatchCursor *c = NULL;
    open_numbered(&o, 40, false, false);
    MUST(batch_cursor_create(&c, o.data, 1, &must_err));
    assert_int_equal(dataset_rows(o.data), 40);
    for (int64_t row = 0; row < 3 * 40; row++) {
        Batch b;
        batch_cursor_get(c, row, 1, &b);
        assert_int_equal(b.segments, 1);
        check_segment(&b, 0, dataset_sample(o.data, row % 40));
        check_counts(&b);
        assert_int_equal(b.trained_tokens, dataset_row_trained(o.data, row / 40, row % 40));
        assert_int_equal(dataset_sample_place(o.data, row % 40).line, row % 40 + 1);
    }
    batch_cursor_free(c);
    close_numbered(&o);
}

/* The sample a segment shows: its first id is its number. */
static void mark_segments(const Dataset *d, const Batch *b, int *seen)
{
    for (int s = 0; s < b->segments; s++) {
        const int32_t sample = b->ids[b->starts[s]];
        check_segment(b, s, dataset_sample(d, sample));
        seen[sample]++;
    }
}

static void every_epoch_shows_every_sample_once(void **state)
{
    (void)state;
    enum { SAMPLES = 500 };
    for (int way = 0; way < 4; way++) {
        Opened o;
        BatchCursor *c = NULL;
        open_numbered(&o, SAMPLES, way & 1, way & 2);
        MUST(batch_cursor_create(&c, o.data, 1, &must_err));
        const int64_t rows = dataset_rows(o.data);
        for (int64_t epoch = 0; epoch < 3; epoch++) {
            int seen[SAMPLES] = {0};
            int64_t trained = 0;
            for (int64_t row = 0; row < rows; row++) {
                Batch b;
                batch_cursor_get(c, epoch * rows + row, 1, &b);
                assert_true(b.tokens <= batch_cursor_capacity(c));
                if (way & 1)
                    assert_true(b.tokens <= 100);
                else
                    assert_int_equal(b.segments, 1);
                check_counts(&b);
                assert_int_equal(b.trained_tokens, dataset_row_trained(o.data, epoch, row));
                mark_segments(o.data, &b, seen);
                trained += b.trained_tokens;
            }
            for (int i = 0; i < SAMPLES; i++)
                assert_int_equal(seen[i], 1);
            assert_int_equal(trained, dataset_stats(o.data)->trained_tokens);
        }
        batch_cursor_free(c);
        close_numbered(&o);
    }
}

static uint64_t first_ids(BatchCursor *c, int64_t first, int64_t rows)
{
    uint64_t hash = 0;
    for (int64_t row = first; row < first + rows; row++) {
        Batch b;
        batch_cursor_get(c, row, 1, &b);
        hash = hash * 1000003 + (uint64_t)(uint32_t)b.ids[0];
    }
    return hash;
}

static void the_order_is_a_function_of_seed_and_epoch(void **state)
{
    (void)state;
    for (int packing = 0; packing < 2; packing++) {
        Opened o;
        BatchCursor *c = NULL;
        uint64_t orders[4];
        open_numbered(&o, 200, packing, true);
        MUST(batch_cursor_create(&c, o.data, 1, &must_err));
        const int64_t rows = dataset_rows(o.data);
        orders[0] = first_ids(c, 0, rows);
        orders[1] = first_ids(c, rows, rows);
        assert_true(orders[0] != orders[1]);
        assert_true(orders[0] == first_ids(c, 0, rows));
        batch_cursor_free(c);
        for (int k = 0; k < 2; k++) {
            Dataset *again = NULL;
            o.options.seed = k ? 12 : 11;
            o.options.threads = 3;
            MUST(dataset_open(&again, &o.options, o.f.tokenizer, o.f.chat, &must_err));
            MUST(batch_cursor_create(&c, again, 1, &must_err));
            orders[2 + k] = first_ids(c, 0, dataset_rows(again));
            batch_cursor_free(c);
            dataset_close(again);
        }
        assert_true(orders[0] == orders[2]);
        assert_true(orders[0] != orders[3]);
        close_numbered(&o);
    }
}

/* Any start, any count: the batch is the rows one by one. */
static void a_cursor_at_any_row_equals_going_there_step_by_step(void **state)
{
    (void)state;
    for (int way = 0; way < 4; way++) {
        Opened o;
        BatchCursor *one = NULL;
        BatchCursor *many = NULL;
        open_numbered(&o, 60, way & 1, way & 2);
        MUST(batch_cursor_create(&one, o.data, 1, &must_err));
        MUST(batch_cursor_create(&many, o.data, 5, &must_err));
        const uint64_t allocations = mem_alloc_count();
        const int64_t rows = dataset_rows(o.data);
        for (int64_t first = 0; first < 2 * rows + 3; first += 3) {
            for (int64_t count = 1; count <= 5; count++) {
                Batch b;
                batch_cursor_get(many, first, count, &b);
                check_counts(&b);
                int64_t token = 0;
                int segment = 0;
                for (int64_t row = first; row < first + count; row++) {
                    Batch s;
                    batch_cursor_get(one, row, 1, &s);
                    assert_memory_equal(b.ids + token, s.ids, (size_t)s.tokens * 4);
                    assert_memory_equal(b.targets + token, s.targets, (size_t)s.tokens * 4);
                    assert_memory_equal(b.positions + token, s.positions, (size_t)s.tokens * 4);
                    for (int k = 0; k < s.segments; k++)
                        assert_int_equal(b.starts[segment + k], token + s.starts[k]);
                    token += s.tokens;
                    segment += s.segments;
                }
                assert_int_equal(b.tokens, token);
                assert_int_equal(b.segments, segment);
            }
        }
        assert_int_equal(mem_alloc_count(), allocations); /* nothing is allocated while training */
        batch_cursor_free(one);
        batch_cursor_free(many);
        close_numbered(&o);
    }
}

static void the_samples_of_a_row_are_those_that_a_batch_holds(void **state)
{
    (void)state;
    for (int packing = 0; packing < 2; packing++) {
        Opened o;
        BatchCursor *c = NULL;
        open_numbered(&o, 40, packing, true);
        MUST(batch_cursor_create(&c, o.data, 1, &must_err));
        const int64_t rows = dataset_rows(o.data);
        for (int64_t i = 0; i < 2 * rows; i++) {
            Batch b;
            batch_cursor_get(c, i, 1, &b);
            for (int k = 0; k < b.segments; k++) {
                const int64_t sample = dataset_row_sample(o.data, i / rows, i % rows, k);
                assert_true(sample >= 0);
                check_segment(&b, k, dataset_sample(o.data, sample));
            }
            assert_int_equal(dataset_row_sample(o.data, i / rows, i % rows, b.segments), -1);
        }
        batch_cursor_free(c);
        close_numbered(&o);
    }
}

static void a_far_row_is_reached_at_once(void **state)
{
    (void)state;
    Opened o;
    BatchCursor *c = NULL;
    Batch b;
    open_numbered(&o, 60, true, true);
    MUST(batch_cursor_create(&c, o.data, 2, &must_err));
    batch_cursor_get(c, INT64_C(1) << 60, 2, &b);
    check_counts(&b);
    batch_cursor_free(c);
    Err err = {0};
    assert_false(batch_cursor_create(&c, o.data, INT64_C(1) << 40, &err));
    assert_int_equal(err.code, ERR_CONFIG);
    close_numbered(&o);
}

static void both_parts_of_a_split_have_rows_of_their_own(void **state)
{
    (void)state;
    enum { SAMPLES = 120 };
    Opened o;
    Dataset *v = NULL;
    int seen[SAMPLES] = {0};
    open_numbered(&o, SAMPLES, true, true);
    MUST(dataset_split(o.data, &v, 0.25, &must_err));
    Dataset *const parts[] = {o.data, v};
    for (int p = 0; p < 2; p++) {
        BatchCursor *c = NULL;
        MUST(batch_cursor_create(&c, parts[p], 1, &must_err));
        for (int64_t row = 0; row < dataset_rows(parts[p]); row++) {
            Batch b;
            batch_cursor_get(c, row, 1, &b);
            check_counts(&b);
            for (int s = 0; s < b.segments; s++)
                seen[b.ids[b.starts[s]]]++;
        }
        batch_cursor_free(c);
    }
    for (int i = 0; i < SAMPLES; i++)
        assert_int_equal(seen[i], 1);
    dataset_close(v);
    close_numbered(&o);
}

static void packing_fills_rows(void **state)
{
    (void)state;
    enum { COUNT = 20000, SIZE = 2048 };
    static int64_t lengths[COUNT];
    int64_t total = 0;
    for (int i = 0; i < COUNT; i++) {
        const float u = rng_uniform((RngKey){.purpose = RNG_TEST}, (uint64_t)i);
        lengths[i] = 1 + (int64_t)(u * u * u * (float)(SIZE - 1)); /* many short, few long */
        total += lengths[i];
    }
    PackedRows p = {0};
    MUST(packed_rows_make(&p, lengths, NULL, COUNT, SIZE, &must_err));
    assert_int_equal(p.starts[0], 0);
    assert_int_equal(p.starts[p.rows], COUNT);
    const double full = (double)total / ((double)p.rows * SIZE);
    if (full < 0.97) fail_msg("rows are only %.1f %% full", 100.0 * full);
    packed_rows_free(&p);
}

static void packing_survives_failed_allocations(void **state)
{
    (void)state;
    static const int64_t lengths[] = {5, 5, 1, 9, 10};
    static const int64_t order[] = {4, 2, 0, 1, 3};
    bool done = false;
    for (uint64_t nth = 1; !done; nth++) {
        PackedRows p = {0};
        Err err = {0};
        mem_fail_at(nth, false);
        done = packed_rows_make(&p, lengths, order, 5, 10, &err);
        mem_fail_at(0, false);
        if (!done) {
            assert_int_equal(err.code, ERR_MEMORY);
            continue;
        }
        static const int64_t items[] = {4, 2, 0, 1, 3}; /* 10 | 1 + 5 | 5 | 9 */
        static const int64_t starts[] = {0, 1, 3, 4, 5};
        assert_int_equal(p.rows, 4);
        assert_memory_equal(p.items, items, sizeof items);
        assert_memory_equal(p.starts, starts, sizeof starts);
        packed_rows_free(&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unpacked_and_unshuffled_rows_are_the_samples_in_file_order),
        cmocka_unit_test(every_epoch_shows_every_sample_once),
        cmocka_unit_test(the_order_is_a_function_of_seed_and_epoch),
        cmocka_unit_test(a_cursor_at_any_row_equals_going_there_step_by_step),
        cmocka_unit_test(the_samples_of_a_row_are_those_that_a_batch_holds),
        cmocka_unit_test(a_far_row_is_reached_at_once),
        cmocka_unit_test(both_parts_of_a_split_have_rows_of_their_own),
        cmocka_unit_test(packing_fills_rows),
        cmocka_unit_test(packing_survives_failed_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
