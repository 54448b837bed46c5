/*
 * Saved states: an exact round trip in memory and in pages, hostile files, and every failing file operation.
 */
#include "tests/optim/rig.h"

#include "base/mem.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>

static const int64_t shapes[3][2] = {
    {64, 96 },
    {16, 40 },
    {50, 100}
};
enum { SHAPES = 3 };

static const char *path, *page_path;

static AdamwOptions options_of(bool eight_bit, bool paged)
{
    AdamwOptions o = rig_options(eight_bit);
    o.paged = paged;
    o.page_path = page_path;
    o.max_grad_norm = 0.3;
    o.grad_clip_percentile = 70;
    return o;
}

static void create(Rig *r, const AdamwOptions *options)
{
    rig_create(r, shapes, SHAPES, options, 2);
    rig_start(r);
    rig_fill(r, &r->weights, 0, rig_noise);
}

static void steps(Rig *r, uint32_t first, uint32_t last)
{
    for (uint32_t t = first; t <= last; t++)
        assert_true(rig_step(r, t, 1e-3).applied);
}

static void save(Rig *r)
{
    Err err = {0};
    if (!adamw_save(r->opt, path, &err)) fail_msg("%s", err.text);
}

static char *saved_bytes(size_t *length)
{
    char *bytes = NULL;
    Err err = {0};
    assert_true(file_read_all(&bytes, length, path, 1 << 24, ERR_CHECKPOINT, &err));
    return bytes;
}

static void assert_saves(Rig *r, const char *expected, size_t expected_length)
{
    size_t length;
    save(r);
    char *bytes = saved_bytes(&length);
    assert_int_equal(length, expected_length);
    assert_memory_equal(bytes, expected, length);
    mem_free(bytes);
}

/* --- round trips --- */

/* mode: bit 0 eight bits, bit 1 paged before, bit 2 paged after */
static void saved_states_go_on_to_the_bit(void **state)
{
    (void)state;
    for (int mode = 0; mode < 8; mode++) {
        const AdamwOptions before = options_of(mode & 1, mode & 2), after = options_of(mode & 1, mode & 4);
        Err err = {0};
        Rig a, b;
        create(&a, &before);
        steps(&a, 1, 7);
        save(&a);
        float *middle = rig_weights(&a);
        steps(&a, 8, 14);
        create(&b, &after);
        backend_upload(b.be, &b.weights, middle);
        if (!adamw_load(b.opt, path, &err)) fail_msg("%s", err.text);
        assert_int_equal(adamw_updates(b.opt), 7);
        steps(&b, 8, 14);
        float *x = rig_weights(&a), *y = rig_weights(&b);
        assert_memory_equal(x, y, (size_t)a.table.total * sizeof *x);
        size_t length;
        save(&a);
        char *bytes = saved_bytes(&length);
        assert_saves(&b, bytes, length);
        mem_free(bytes);
        free(x);
        free(y);
        free(middle);
        rig_free(&a);
        rig_free(&b);
    }
    remove(path);
}

/* --- hostile files --- */

typedef enum Harm {
    HARM_NONE,
    HARM_MISSING,
    HARM_EXTRA,
    HARM_NAME,
    HARM_SHAPE,
    HARM_DTYPE,
    HARM_NAN_MOMENT,
    HARM_NEGATIVE_VARIANCE,
    HARM_INFINITE_SCALE,
    HARM_NEGATIVE_SCALE,
    HARM_HISTORY,
    HARM_UPDATES_NEGATIVE,
    HARM_UPDATES_TEXT,
    HARM_UPDATES_HUGE,
    HARM_UPDATES_MISSING,
    HARM_VERSION,
    HARM_FORMAT,
    HARM_EIGHT_BIT,
    HARM_BETA,
    HARM_COUNT
} Harm;

static const char *const complaints[HARM_COUNT] = {
    [HARM_MISSING] = "\"absmax2.p2\" is missing",
    [HARM_EXTRA] = "1 tensors belong to no parameter",
    [HARM_NAME] = "\"state1.p1\" is missing",
    [HARM_SHAPE] = "\"state2.p0\" has another type or shape",
    [HARM_DTYPE] = "\"state1.p1\" has another type or shape",
    [HARM_NAN_MOMENT] = "\"state1.p1\" holds a value",
    [HARM_NEGATIVE_VARIANCE] = "\"state2.p1\" holds a value",
    [HARM_INFINITE_SCALE] = "\"absmax1.p0\" holds a value",
    [HARM_NEGATIVE_SCALE] = "\"absmax2.p0\" holds a value",
    [HARM_HISTORY] = "\"clip_history\" holds a value",
    [HARM_UPDATES_NEGATIVE] = "number of updates \"-3\"",
    [HARM_UPDATES_TEXT] = "number of updates \"7x\"",
    [HARM_UPDATES_HUGE] = "number of updates \"99999999999999999999\"",
    [HARM_UPDATES_MISSING] = "number of updates \"missing\"",
    [HARM_VERSION] = "version is \"2\"",
    [HARM_FORMAT] = "format is \"pt\"",
    [HARM_EIGHT_BIT] = "eight_bit is \"false\"",
    [HARM_BETA] = "beta1 is \"0.5\"",
};

static const char *harmed_value(const char *key, const char *value, Harm harm)
{
    if (strcmp(key, "updates") == 0) {
        if (harm == HARM_UPDATES_NEGATIVE) return "-3";
        if (harm == HARM_UPDATES_TEXT) return "7x";
        if (harm == HARM_UPDATES_HUGE) return "99999999999999999999";
        if (harm == HARM_UPDATES_MISSING) return NULL;
    }
    if (harm == HARM_VERSION && strcmp(key, "version") == 0) return "2";
    if (harm == HARM_FORMAT && strcmp(key, "format") == 0) return "pt";
    if (harm == HARM_EIGHT_BIT && strcmp(key, "eight_bit") == 0) return "false";
    if (harm == HARM_BETA && strcmp(key, "beta1") == 0) return "0.5";
    return value;
}

static SafetensorsEntry harmed_entry(const SafetensorsEntry *e, Harm harm)
{
    static char wrong[] = "state1.px";
    SafetensorsEntry out = *e;
    if (harm == HARM_NAME && strcmp(e->name, "state1.p1") == 0) out.name = wrong;
    if (harm == HARM_SHAPE && strcmp(e->name, "state2.p0") == 0) {
        out.shape[0] = e->shape[1];
        out.shape[1] = e->shape[0];
    }
    if (harm == HARM_DTYPE && strcmp(e->name, "state1.p1") == 0) out.dtype = DTYPE_I32;
    return out;
}

static void harm_bytes(const SafetensorsEntry *e, char *bytes, Harm harm)
{
    static const struct Poison {
        Harm harm;
        const char *name;
        float value;
    } poisons[] = {
        {HARM_NAN_MOMENT,        "state1.p1",  (float)NAN},
        {HARM_NEGATIVE_VARIANCE, "state2.p1",  -1e-9f    },
        {HARM_INFINITE_SCALE,    "absmax1.p0", INFINITY  },
        {HARM_NEGATIVE_SCALE,    "absmax2.p0", -1.0f     },
    };
    const double negative = -1.0;
    for (size_t i = 0; i < ARRAY_COUNT(poisons); i++) {
        if (poisons[i].harm == harm && strcmp(e->name, poisons[i].name) == 0)
            memcpy(bytes + e->bytes - sizeof(float), &poisons[i].value, sizeof(float));
    }
    if (harm == HARM_HISTORY && strcmp(e->name, "clip_history") == 0) memcpy(bytes + 80, &negative, sizeof negative);
}

static void declare_harmed(SafetensorsWriter *w, const Safetensors *st, Harm harm)
{
    const int64_t one = 1;
    Err err = {0};
    for (int i = 0; i < st->metadata_count; i++) {
        const char *key = st->metadata[2 * i], *value = harmed_value(key, st->metadata[2 * i + 1], harm);
        if (value) assert_true(safetensors_writer_metadata(w, key, value, &err));
    }
    for (int i = 0; i < st->count; i++) {
        if (harm == HARM_MISSING && strcmp(st->entries[i].name, "absmax2.p2") == 0) continue;
        const SafetensorsEntry e = harmed_entry(&st->entries[i], harm);
        assert_true(safetensors_writer_declare(w, e.name, e.dtype, e.rank, e.shape, &err));
    }
    if (harm == HARM_EXTRA) assert_true(safetensors_writer_declare(w, "state1.more", DTYPE_U8, 1, &one, &err));
    assert_true(safetensors_writer_begin(w, &err));
}

/* A copy of the saved file with one thing wrong. */
static void write_harmed(const char *to, Harm harm)
{
    Safetensors st;
    SafetensorsWriter *w;
    Err err = {0};
    assert_true(safetensors_open(&st, path, &err));
    assert_true(safetensors_writer_create(&w, to, &err));
    declare_harmed(w, &st, harm);
    for (int i = 0; i < st.count; i++) {
        const SafetensorsEntry *e = &st.entries[i];
        if (harm == HARM_MISSING && strcmp(e->name, "absmax2.p2") == 0) continue;
        char *bytes = malloc(e->bytes);
        assert_true(safetensors_read(&st, e, 0, e->bytes, bytes, &err));
        harm_bytes(e, bytes, harm);
        assert_true(safetensors_writer_data(w, bytes, e->bytes, &err));
        free(bytes);
    }
    if (harm == HARM_EXTRA) assert_true(safetensors_writer_data(w, "x", 1, &err));
    assert_true(safetensors_writer_finish(w, &err));
    safetensors_close(&st);
}

static void a_file_with_anything_wrong_is_refused_and_changes_nothing(void **state)
{
    const char *const harmed = rig_file("test_state_file.harmed");
    const AdamwOptions options = options_of(true, false);
    Rig r;
    (void)state;
    create(&r, &options);
    steps(&r, 1, 4);
    save(&r);
    for (int harm = HARM_NONE; harm < HARM_COUNT; harm++) {
        Err err = {0};
        Rig other;
        size_t length;
        create(&other, &options);
        steps(&other, 21, 23);
        write_harmed(harmed, (Harm)harm);
        save(&r);
        char *good = saved_bytes(&length);
        const bool loaded = adamw_load(other.opt, harmed, &err);
        if (harm == HARM_NONE) {
            assert_true(loaded);
            assert_saves(&other, good, length);
        } else {
            assert_false(loaded);
            assert_int_equal(err.code, ERR_CHECKPOINT);
            if (!strstr(err.text, complaints[harm])) fail_msg("\"%s\" is not in: %s", complaints[harm], err.text);
            assert_int_equal(adamw_updates(other.opt), 3);
            Rig same;
            create(&same, &options);
            steps(&same, 21, 23);
            size_t untouched_length;
            save(&same);
            char *untouched = saved_bytes(&untouched_length);
            assert_saves(&other, untouched, untouched_length);
            mem_free(untouched);
            rig_free(&same);
            save(&r);
        }
        mem_free(good);
        rig_free(&other);
    }
    rig_free(&r);
    remove(harmed);
    remove(path);
}

/* --- failing files and memory --- */

static void every_failing_operation_of_a_save_or_load_is_reported(void **state)
{
    const AdamwOptions options = options_of(true, true);
    Rig r;
    (void)state;
    create(&r, &options);
    steps(&r, 1, 3);
    for (int loading = 0; loading < 2; loading++) {
        bool done = false;
        for (uint64_t nth = 1; !done; nth++) {
            Err err = {0};
            file_fail_at("any", nth, EIO, true);
            done = loading ? adamw_load(r.opt, path, &err) : adamw_save(r.opt, path, &err);
            file_fail_at(NULL, 0, 0, false);
            assert_true(done || err.text[0] != '\0');
            assert_true(nth < 10000);
        }
    }
    rig_free(&r);
    remove(path);
}

static void every_failing_allocation_is_reported(void **state)
{
    const AdamwOptions options = options_of(true, false);
    Rig r;
    (void)state;
    create(&r, &options);
    steps(&r, 1, 2);
    bool done = false;
    for (uint64_t nth = 1; !done; nth++) {
        Adamw *opt = NULL;
        Err err = {0};
        mem_fail_at(nth, true);
        done = adamw_create(&opt, r.be, &r.table, &options, &err) && adamw_save(r.opt, path, &err) &&
               adamw_load(r.opt, path, &err);
        mem_fail_at(0, false);
        assert_true(done || err.code == ERR_MEMORY);
        adamw_free(opt);
    }
    rig_free(&r);
    remove(path);
}

#if !QLORA_TEST_CUDA /* pages of a device lie in memory */

static void a_page_file_that_cannot_be_made_is_one_error(void **state)
{
    AdamwOptions options = options_of(true, true);
    Err err = {0};
    Rig r;
    (void)state;
    rig_create(&r, shapes, SHAPES, &options, 1);
    for (uint64_t nth = 1; nth <= 3; nth++) {
        err_clear(&err);
        file_fail_at("write", nth, ENOSPC, true);
        const bool started = adamw_start(r.opt, &err);
        file_fail_at(NULL, 0, 0, false);
        if (started) break; /* there were no more writes */
        assert_int_equal(err.code, ERR_DISK);
        assert_non_null(strstr(err.text, "page file of the optimizer"));
        assert_false(file_exists(page_path));
    }
    rig_free(&r);
}

/* After a page was lost nothing may be saved or updated: parameters and states no longer belong together. */
static void a_page_that_cannot_be_moved_stops_the_optimizer(void **state)
{
    static const char *const operations[] = {"read", "write"};
    const AdamwOptions options = options_of(true, true);
    (void)state;
    for (int i = 0; i < 2; i++) {
        Err err = {0};
        Rig r;
        create(&r, &options);
        steps(&r, 1, 2);
        assert_true(adamw_check(r.opt, &err));
        file_fail_at(operations[i], 2, EIO, false);
        assert_false(rig_step(&r, 3, 1e-3).applied);
        file_fail_at(NULL, 0, 0, false);
        assert_false(adamw_check(r.opt, &err));
        assert_int_equal(err.code, ERR_DISK);
        assert_false(rig_step(&r, 4, 1e-3).applied);
        err_clear(&err);
        assert_false(adamw_save(r.opt, path, &err));
        assert_int_equal(adamw_updates(r.opt), 2);
        rig_free(&r);
    }
}

#else

static void pinned_memory_that_is_not_there_is_one_error(void **state)
{
    const AdamwOptions options = options_of(true, true);
    Err err = {0};
    Rig r;
    (void)state;
    if (!emulation_fault) skip();
    rig_create(&r, shapes, SHAPES, &options, 1);
    emulation_fault("cudaMallocHost:1:2:once");
    const bool started = adamw_start(r.opt, &err);
    emulation_fault(NULL);
    assert_false(started);
    assert_int_equal(err.code, ERR_MEMORY);
    assert_non_null(strstr(err.text, "the paged state of the optimizer"));
    rig_start(&r);
    assert_true(rig_step(&r, 1, 1e-3).applied);
    rig_free(&r);
}

/* Nothing that a failed device gave is taken for gradients or states. Closing it afterwards gives nothing back. */
static void a_failed_device_applies_and_saves_nothing(void **state)
{
    static const char *const faults[] = {"launch:1:719", "cudaMemcpy2DAsync:1:719", "launch:2:719", "launch:3:719"};
    (void)state;
    if (!emulation_fault) skip();
    for (size_t i = 0; i < 2 * ARRAY_COUNT(faults); i++) {
        AdamwOptions options = options_of(true, i % 2);
        Err err = {0};
        Rig r;
        options.update_clip_rms = 0.5;
        create(&r, &options);
        steps(&r, 1, 2);
        rig_fill(&r, &r.grads, 3, rig_gradient);
        emulation_fault(faults[i / 2]);
        const AdamwReport report = adamw_step(r.opt, &r.weights, &r.grads, 1e-3);
        assert_false(report.applied);
        assert_true(isnan(report.grad_norm) && report.first_bad_param == -1);
        assert_int_equal(adamw_updates(r.opt), 2);
        assert_false(adamw_save(r.opt, path, &err));
        assert_int_equal(err.code, ERR_DEVICE);
        emulation_fault(NULL);
        rig_free(&r);
    }
}

/* The norms or the measure are lost and the device goes on: parameters and states keep every bit. */
static void what_is_decided_from_lost_numbers_is_not_applied(void **state)
{
    static const char *const faults[] = {"launch:1:719:once", "launch:2:719:once"};
    (void)state;
    if (!emulation_fault) skip();
    for (size_t i = 0; i < ARRAY_COUNT(faults); i++) {
        AdamwOptions options = options_of(true, false);
        Err err = {0};
        Rig r;
        options.update_clip_rms = i ? 0.5 : 0.0;
        create(&r, &options);
        steps(&r, 1, 2);
        save(&r);
        size_t length;
        char *states = saved_bytes(&length);
        float *before = rig_weights(&r);
        emulation_fault(faults[i]);
        assert_false(rig_step(&r, 3, 1e-3).applied);
        emulation_fault(NULL);
        assert_false(backend_sync(r.be, &err));
        float *after = rig_weights(&r);
        assert_memory_equal(before, after, (size_t)r.table.total * sizeof *before);
        assert_saves(&r, states, length);
        mem_free(states);
        free(before);
        free(after);
        rig_free(&r);
    }
    remove(path);
}

static void a_failed_device_loads_nothing(void **state)
{
    (void)state;
    if (!emulation_fault) skip();
    for (int paged = 0; paged < 2; paged++) {
        const AdamwOptions options = options_of(true, paged == 1);
        Err err = {0};
        Rig r;
        create(&r, &options);
        steps(&r, 1, 2);
        save(&r);
        steps(&r, 3, 3);
        emulation_fault("cudaMemcpy2DAsync:1:719");
        assert_false(adamw_load(r.opt, path, &err));
        assert_int_equal(err.code, ERR_DEVICE);
        assert_int_equal(adamw_updates(r.opt), 3);
        emulation_fault(NULL);
        rig_free(&r);
    }
    remove(path);
}

#endif

int main(void)
{
    path = rig_file("test_state_file.safetensors");
    page_path = rig_file("test_state_file.pages");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(saved_states_go_on_to_the_bit),
        cmocka_unit_test(a_file_with_anything_wrong_is_refused_and_changes_nothing),
        cmocka_unit_test(every_failing_operation_of_a_save_or_load_is_reported),
        cmocka_unit_test(every_failing_allocation_is_reported),
#if QLORA_TEST_CUDA
        cmocka_unit_test(pinned_memory_that_is_not_there_is_one_error),
        cmocka_unit_test(a_failed_device_applies_and_saves_nothing),
        cmocka_unit_test(what_is_decided_from_lost_numbers_is_not_applied),
        cmocka_unit_test(a_failed_device_loads_nothing),
#else
        cmocka_unit_test(a_page_file_that_cannot_be_made_is_one_error),
        cmocka_unit_test(a_page_that_cannot_be_moved_stops_the_optimizer),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
