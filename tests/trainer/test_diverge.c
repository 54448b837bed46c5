#include "base/file.h"
#include "base/mem.h"
#include "base/safetensors.h"
#include "tests/support/workspace.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static Workspace workspace;

static int setup(void **state)
{
    (void)state;
    workspace_make(&workspace, 9);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    workspace_free(&workspace);
    return 0;
}

/* The first update with a rate makes adapters whose product overflows, so every loss after it is not finite. */
#define EXPLODES                                                                                                       \
    "learning_rate: 1\nlora_alpha: 1e6\nlr_scheduler: constant\nweight_decay: 0\nmax_grad_norm: 0\nwarmup_steps: 1\n"  \
    "adam_epsilon: 1e-30\ninit_lora_weights: gaussian\n"

static void assert_finite(const char *path)
{
    Safetensors st = {0};
    Err err = {0};
    assert_true(safetensors_open(&st, path, &err));
    for (int i = 0; i < st.count; i++) {
        float *values = mem_alloc((size_t)st.entries[i].count, sizeof *values, &err);
        assert_true(safetensors_read(&st, &st.entries[i], 0, st.entries[i].bytes, values, &err));
        for (int64_t k = 0; k < st.entries[i].count; k++)
            assert_true(isfinite(values[k]));
        mem_free(values);
    }
    safetensors_close(&st);
}

static void a_loss_that_is_not_finite_stops_the_run_and_reaches_no_weight(void **state)
{
    (void)state;
    Err err = {0};
    RunReport report;
    double loss[64], norm[64];
    assert_false(workspace_train("a", EXPLODES "max_steps: 30\nsave_steps: 1\n", NULL, &report, &err));
    assert_int_equal(err.code, ERR_DIVERGED);
    assert_int_equal(err_exit_status(err.code), 7);
    assert_non_null(strstr(err.text, " was withheld: loss "));
    assert_non_null(strstr(err.text, ", the first from train.jsonl:"));
    assert_true(report.withheld >= 3);
    const int n = workspace_curve("a", "loss", loss, 64);
    workspace_curve("a", "grad_norm", norm, 64);
    assert_int_equal(n, report.last_step);
    assert_true(!isfinite(loss[n - 1]) || !isfinite(norm[n - 1]));
    char path[128];
    snprintf(path, sizeof path, "a/checkpoint-%08d/adapter_model.safetensors", n);
    assert_finite(path);
    Err again = {0};
    assert_false(workspace_train("a", EXPLODES "max_steps: 30\nsave_steps: 1\n", NULL, &report, &again));
    assert_int_equal(again.code, ERR_DIVERGED); /* the checkpoint remembers what the watchdog saw */
    assert_int_equal(report.last_step, n + 1);
}

static void skipping_goes_on_to_the_end_without_bad_updates(void **state)
{
    (void)state;
    double applied[64];
    RunReport report;
    Err err = {0};
    /* Losses of the tiny model lie above 1: every update is bad and none is applied. */
    const char *more = "max_steps: 8\nloss_watchdog: {threshold: 0.001, patience: 3, action: skip}\n";
    if (!workspace_train("a", more, NULL, &report, &err)) fail_msg("%s", err.text);
    assert_int_equal(report.withheld, 8);
    assert_int_equal(workspace_curve("a", "step", applied, 64), 8);
    assert_false(workspace_train("b", "max_steps: 40\nloss_watchdog: {threshold: 0.001, patience: 3, action: skip}\n",
                                 NULL, &report, &err));
    assert_int_equal(err.code, ERR_DIVERGED);
    assert_int_equal(report.last_step, 30);
}

/* Losses of the untrained model lie between 27 and 32, so a threshold close above the first one soon meets a bad update;
 * the weights of before it come back, and the data go on behind it. */
static void rolling_back_restores_weights_of_before_and_goes_on_behind_the_data(void **state)
{
    (void)state;
    double step[64], first[64];
    RunReport report;
    Err err = {0};
    assert_true(workspace_train("plain", "max_steps: 1\n", NULL, &report, &err));
    workspace_curve("plain", "loss", first, 64);
    char more[256];
    snprintf(more, sizeof more,
             "max_steps: 12\nsave_steps: 1\nsave_total_limit: 20\nwarmup_ratio: 0\nlearning_rate: 1e-9\n"
             "loss_watchdog: {threshold: %g, patience: 1, action: rollback}\n",
             first[0] + 1);
    assert_false(workspace_train("a", more, NULL, &report, &err));
    assert_int_equal(err.code, ERR_DIVERGED); /* it rolled back as often as it may */
    assert_non_null(strstr(err.text, "3 rollbacks"));
    const int n = workspace_curve("a", "step", step, 64);
    for (int i = 0; i < n; i++)
        assert_int_equal((int)step[i], i + 1); /* no step twice */
    /* Update 2 was bad: what was saved after it is what was saved before it. */
    assert_true(workspace_same("a/checkpoint-00000001/adapter_model.safetensors",
                               "a/checkpoint-00000002/adapter_model.safetensors"));
    assert_true(
        workspace_same("a/checkpoint-00000001/optimizer.safetensors", "a/checkpoint-00000002/optimizer.safetensors"));
}

static void without_a_checkpoint_to_roll_back_to_the_bad_updates_are_counted(void **state)
{
    (void)state;
    Err err = {0};
    const char *more = "save_steps: 0\nloss_watchdog: {threshold: 0.001, patience: 2, action: rollback}\n";
    assert_false(workspace_train("a", more, NULL, NULL, &err));
    assert_int_equal(err.code, ERR_DIVERGED);
    assert_non_null(strstr(err.text, "stopped at update 2: 2 bad updates in a row, 2 in all, 0 rollbacks"));
}

static void a_set_without_a_target_is_refused_before_weights_load(void **state)
{
    (void)state;
    Err err = {0}, fault = {0};
    const char *rows = "{\"input_ids\": [1, 2, 3], \"labels\": [-100, -100, -100]}\n";
    assert_true(file_replace("empty.jsonl", rows, strlen(rows), &err));
    assert_false(workspace_train("a", "datasets: [{path: empty.jsonl}]\n", NULL, NULL, &fault));
    assert_int_equal(fault.code, ERR_DATA);
    assert_false(file_exists("a/metrics.jsonl"));
}

static void an_adapter_with_non_finite_values_is_refused(void **state)
{
    (void)state;
    Err err = {0}, fault = {0};
    if (!workspace_train("a", "max_steps: 1\n", NULL, NULL, &err)) fail_msg("%s", err.text);
    FILE *f = fopen("a/adapter_model.safetensors", "r+b");
    const unsigned char nan[4] = {0, 0, 0xc0, 0x7f};
    fseek(f, -4, SEEK_END);
    fwrite(nan, 1, 4, f);
    fclose(f);
    assert_false(workspace_train("b", "adapter_path: a\n", NULL, NULL, &fault));
    assert_int_equal(fault.code, ERR_MODEL);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_loss_that_is_not_finite_stops_the_run_and_reaches_no_weight),
        TEST(skipping_goes_on_to_the_end_without_bad_updates),
        TEST(rolling_back_restores_weights_of_before_and_goes_on_behind_the_data),
        TEST(without_a_checkpoint_to_roll_back_to_the_bad_updates_are_counted),
        TEST(a_set_without_a_target_is_refused_before_weights_load),
        TEST(an_adapter_with_non_finite_values_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
