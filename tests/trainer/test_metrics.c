#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "tests/support/tiny.h"
#include "trainer/metrics.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

typedef struct Place {
    char *folder, *path;
    MetricsLog log;
} Place;

static int setup(void **state)
{
    static Place place;
    Err err = {0};
    place.folder = tiny_temp_folder();
    place.path = path_join(place.folder, "metrics.jsonl", &err);
    *state = &place;
    return place.path && metrics_open(&place.log, place.path, -1, NULL, &err) ? 0 : -1;
}

static int teardown(void **state)
{
    Place *p = *state;
    Err err = {0};
    const bool ok = file_remove_tree(p->folder, &err);
    metrics_close(&p->log);
    mem_free(p->folder);
    mem_free(p->path);
    return ok ? 0 : -1;
}

static UpdateMetrics update(int64_t step)
{
    return (UpdateMetrics){
        .step = step,
        .epoch = (double)step / 3,
        .loss = 0.1 + (double)step,
        .learning_rate = 2e-4 / 3,
        .report = {.grad_norm = 1.0 / 3, .applied = true, .norm_clipped = true, .variance_floored = 7},
        .loss_scale = 32768,
        .overflows = 3,
        .tokens = 512,
        .trained_tokens = 100,
        .seconds = 0.5,
        .peak_memory_bytes = 123456789,
        .host_memory_bytes = 987654321,
    };
}

static json_t *line_of(const char *path, int index)
{
    char *bytes = NULL;
    size_t length = 0;
    Err err = {0};
    json_t *root = NULL;
    assert_true(file_read_all(&bytes, &length, path, 1 << 20, ERR_DISK, &err));
    char *line = bytes;
    for (int i = 0; i < index && line; i++) {
        line = strchr(line, '\n');
        if (line) line++;
    }
    char *end = line ? strchr(line, '\n') : NULL;
    if (end && end > line) assert_true(json_parse(&root, line, (size_t)(end - line), "metrics", ERR_DATA, &err));
    mem_free(bytes);
    return root;
}

static void numbers_come_back_to_the_bit(void **state)
{
    Place *p = *state;
    Err err = {0};
    const UpdateMetrics m = update(3);
    assert_true(metrics_update(&p->log, &m, &err));
    json_t *o = line_of(p->path, 0);
    assert_non_null(o);
    assert_int_equal(json_integer_value(json_object_get(o, "step")), 3);
    assert_true(json_real_value(json_object_get(o, "loss")) == m.loss);
    assert_true(json_real_value(json_object_get(o, "epoch")) == 1.0);
    assert_true(json_real_value(json_object_get(o, "learning_rate")) == m.learning_rate);
    assert_true(json_real_value(json_object_get(o, "grad_norm")) == m.report.grad_norm);
    assert_int_equal(json_integer_value(json_object_get(o, "tokens")), 512);
    assert_true(json_real_value(json_object_get(o, "tokens_per_second")) == 1024);
    assert_int_equal(json_integer_value(json_object_get(o, "peak_memory_bytes")), 123456789);
    assert_int_equal(json_integer_value(json_object_get(o, "host_memory_bytes")), 987654321);
    assert_int_equal(json_integer_value(json_object_get(o, "variance_floored")), 7);
    assert_true(json_is_true(json_object_get(o, "applied")));
    assert_true(json_real_value(json_object_get(o, "loss_scale")) == 32768);
    assert_int_equal(json_integer_value(json_object_get(o, "overflowed_updates")), 3);
    json_decref(o);
}

static void what_is_not_finite_is_null_and_the_line_stays_json(void **state)
{
    Place *p = *state;
    Err err = {0};
    UpdateMetrics m = update(1);
    m.loss = NAN;
    m.report.grad_norm = INFINITY;
    m.report.applied = false;
    assert_true(metrics_update(&p->log, &m, &err));
    json_t *o = line_of(p->path, 0);
    assert_true(json_is_null(json_object_get(o, "loss")));
    assert_true(json_is_null(json_object_get(o, "grad_norm")));
    assert_true(json_is_false(json_object_get(o, "applied")));
    json_decref(o);
}

static void an_evaluation_has_loss_and_perplexity(void **state)
{
    Place *p = *state;
    Err err = {0};
    const EvalMetrics m = {.step = 4, .loss = 1.5, .tokens = 10, .seconds = 1};
    assert_true(metrics_eval(&p->log, &m, &err));
    json_t *o = line_of(p->path, 0);
    assert_true(json_real_value(json_object_get(o, "eval_loss")) == 1.5);
    assert_true(json_real_value(json_object_get(o, "perplexity")) == exp(1.5));
    json_decref(o);
}

static void cutting_keeps_every_step_up_to_the_checkpoint_once(void **state)
{
    Place *p = *state;
    Err err = {0};
    assert_true(metrics_cut(p->path, 3, NULL, &err)); /* nothing there yet */
    for (int64_t step = 1; step <= 5; step++) {
        const UpdateMetrics m = update(step);
        const EvalMetrics e = {.step = step, .loss = 1};
        assert_true(metrics_update(&p->log, &m, &err));
        if (step % 2 == 0) assert_true(metrics_eval(&p->log, &e, &err));
    }
    assert_true(file_append(p->path, "{\"step\": 6, \"lo", 14, &err)); /* the process died here */
    assert_true(metrics_cut(p->path, 4, NULL, &err));
    json_t *last = line_of(p->path, 5), *behind = line_of(p->path, 6);
    assert_int_equal(json_integer_value(json_object_get(last, "step")), 4);
    assert_non_null(json_object_get(last, "eval_loss"));
    assert_null(behind);
    json_decref(last);
    assert_true(metrics_cut(p->path, 4, "eval_loss", &err)); /* evaluated again: once only */
    last = line_of(p->path, 4);
    assert_int_equal(json_integer_value(json_object_get(last, "step")), 4);
    assert_non_null(json_object_get(last, "loss"));
    assert_null(line_of(p->path, 5));
    json_decref(last);
    assert_true(metrics_cut(p->path, -1, NULL, &err));
    assert_null(line_of(p->path, 0));
}

/* Out of memory, the lines of a log must not pass for somebody else's, which are cut off. */
static void a_log_is_never_cut_for_want_of_memory(void **state)
{
    Place *p = *state;
    Err err = {0};
    for (int64_t step = 1; step <= 3; step++) {
        const UpdateMetrics m = update(step);
        assert_true(metrics_update(&p->log, &m, &err));
    }
    bool done = false;
    for (uint64_t nth = 1; !done; nth++) {
        Err fault = {0};
        mem_fail_at(nth, false);
        done = metrics_cut(p->path, 3, NULL, &fault);
        mem_fail_at(0, false);
        assert_true(done || fault.code == ERR_MEMORY);
        json_t *last = line_of(p->path, 2);
        assert_non_null(last);
        json_decref(last);
        assert_true(nth < 500);
    }
}

static void what_follows_the_lines_is_cut_however_long_it_is(void **state)
{
    Place *p = *state;
    Err err = {0};
    const UpdateMetrics m = update(1);
    assert_true(metrics_update(&p->log, &m, &err));
    struct stat before, after;
    assert_int_equal(stat(p->path, &before), 0);
    if (truncate(p->path, (off_t)1 << 42) != 0) skip(); /* a file system for small files */
    assert_true(metrics_cut(p->path, 1, NULL, &err));
    assert_int_equal(stat(p->path, &after), 0);
    assert_int_equal(after.st_size, before.st_size);
}

static void a_line_that_could_not_be_written_goes_first_the_next_time(void **state)
{
    Place *p = *state;
    Err err = {0};
    for (int64_t step = 1; step <= 4; step++) {
        const UpdateMetrics m = update(step);
        Err fault = {0};
        if (step == 2) file_fail_at("any", 2, EIO, true);
        const bool written = metrics_update(&p->log, &m, &fault);
        if (step == 3) file_fail_at(NULL, 0, 0, false);
        assert_int_equal(written, step == 1 || step == 4);
    }
    for (int i = 0; i < 4; i++) {
        json_t *o = line_of(p->path, i);
        assert_int_equal(json_integer_value(json_object_get(o, "step")), i + 1);
        json_decref(o);
    }
    assert_null(line_of(p->path, 4));
    assert_true(metrics_flush(&p->log, &err));
}

static void writing_a_line_allocates_no_buffers(void **state)
{
    Place *p = *state;
    Err err = {0};
    const UpdateMetrics m = update(1);
    assert_true(metrics_update(&p->log, &m, &err));
    const uint64_t before = mem_alloc_count();
    assert_true(metrics_update(&p->log, &m, &err));
    assert_true(mem_alloc_count() - before <= 1); /* the file's name, for messages */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(numbers_come_back_to_the_bit, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_not_finite_is_null_and_the_line_stays_json, setup, teardown),
        cmocka_unit_test_setup_teardown(an_evaluation_has_loss_and_perplexity, setup, teardown),
        cmocka_unit_test_setup_teardown(cutting_keeps_every_step_up_to_the_checkpoint_once, setup, teardown),
        cmocka_unit_test_setup_teardown(a_log_is_never_cut_for_want_of_memory, setup, teardown),
        cmocka_unit_test_setup_teardown(what_follows_the_lines_is_cut_however_long_it_is, setup, teardown),
        cmocka_unit_test_setup_teardown(a_line_that_could_not_be_written_goes_first_the_next_time, setup, teardown),
        cmocka_unit_test_setup_teardown(writing_a_line_allocates_no_buffers, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
