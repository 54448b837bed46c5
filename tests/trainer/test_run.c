#include "base/file.h"
#include "base/mem.h"
#include "tests/support/guard.h"
#include "tests/support/workspace.h"
#include "trainer/checkpoint.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static Workspace workspace;

static int setup(void **state)
{
    (void)state;
    workspace_make(&workspace, 9); /* with 2 rows an update, epochs end inside updates */
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    workspace_free(&workspace);
    return 0;
}

#define TRAIN(output, more, options, report)                                                                           \
    do {                                                                                                               \
        Err fault_ = {0};                                                                                              \
        if (!workspace_train((output), (more), (options), (report), &fault_)) fail_msg("%s", fault_.text);             \
    } while (0)

static void assert_same_curves(const char *a, const char *b)
{
    static const char *const keys[] = {"loss", "grad_norm", "learning_rate", "epoch", "step"};
    for (int k = 0; k < 5; k++) {
        double x[256], y[256];
        const int n = workspace_curve(a, keys[k], x, 256), m = workspace_curve(b, keys[k], y, 256);
        assert_int_equal(n, m);
        for (int i = 0; i < n; i++) {
            if (x[i] != y[i]) fail_msg("%s of update %d: %.17g and %.17g", keys[k], i + 1, x[i], y[i]);
        }
    }
}

static void assert_same_run(const char *a, const char *b, const char *last)
{
    char name[128];
    assert_true(workspace_same_in(a, b, "adapter_model.safetensors"));
    snprintf(name, sizeof name, "%s/optimizer.safetensors", last);
    assert_true(workspace_same_in(a, b, name));
    assert_same_curves(a, b);
}

static void a_run_learns_and_leaves_an_adapter(void **state)
{
    (void)state;
    double loss[64];
    RunReport report;
    TRAIN("a", "max_steps: 40\n", NULL, &report);
    assert_int_equal(workspace_curve("a", "loss", loss, 64), 40);
    assert_true(loss[39] < 0.7 * loss[0]);
    assert_int_equal(report.last_step, 40);
    assert_int_equal(report.failed_saves, 0);
    static const char *const files[] = {"adapter_model.safetensors",
                                        "adapter_config.json",
                                        "tokenizer.json",
                                        "tokenizer_config.json",
                                        "run.yaml",
                                        "metrics.jsonl"};
    for (int i = 0; i < 6; i++) {
        Err err = {0};
        char *path = path_join("a", files[i], &err);
        if (!file_exists(path)) fail_msg("%s is missing", path);
        mem_free(path);
    }
}

static void nothing_is_allocated_after_the_first_update(void **state)
{
    (void)state;
    RunReport report;
    TRAIN("a", "max_steps: 12\nsample_packing: true\n", NULL, &report);
    assert_int_equal(report.allocations_in_steps, 0);
}

static void two_runs_give_equal_files(void **state)
{
    (void)state;
    const char *more = "lora_dropout: 0.1\nneftune_noise_alpha: 5\n";
    TRAIN("a", more, NULL, NULL);
    TRAIN("b", more, NULL, NULL);
    assert_same_run("a", "b", "checkpoint-00000006");
}

/* Interrupted after every possible number of micro-batches, also inside an update, and gone on from there. */
static void a_run_may_stop_anywhere_and_goes_on_to_the_bit(void **state)
{
    (void)state;
    const char *more = "lora_dropout: 0.1\nneftune_noise_alpha: 5\nsave_steps: 0\nsaves_per_epoch: 0\n"
                       "test_datasets: [{path: test.jsonl}]\neval_steps: 2\n";
    TRAIN("whole", more, NULL, NULL);
    for (int64_t after = 1; after < 12; after++) {
        const RunOptions options = {.no_signals = true, .interrupt_after = after};
        Err err = {0}, ignored = {0};
        RunReport report;
        assert_false(workspace_train("parts", more, &options, &report, &err));
        if (err.code != ERR_INTERRUPTED) fail_msg("%s", err.text);
        assert_int_equal(err_exit_status(err.code), 75);
        assert_int_equal(report.last_step, after / 2);
        TRAIN("parts", more, NULL, &report);
        assert_int_equal(report.first_step, after / 2);
        assert_same_run("whole", "parts", "checkpoint-00000006");
        assert_true(file_remove_tree("parts", &ignored));
    }
}

static void an_evaluation_that_was_interrupted_is_made_up_for(void **state)
{
    (void)state;
    const char *more = "test_datasets: [{path: test.jsonl}]\neval_steps: 1\nearly_stopping_patience: 50\n";
    TRAIN("whole", more, NULL, NULL);
    const RunOptions options = {.no_signals = true, .interrupt_after = 4}; /* at the end of update 2 */
    Err err = {0};
    assert_false(workspace_train("parts", more, &options, NULL, &err));
    assert_int_equal(err.code, ERR_INTERRUPTED);
    static const char evaluated[] =
        "{\"step\": 2, \"eval_loss\": 9.5}\n"; /* a run that was killed after it, before a save */
    Err append = {0};
    assert_true(file_append("parts/metrics.jsonl", evaluated, strlen(evaluated), &append));
    TRAIN("parts", more, NULL, NULL);
    assert_same_run("whole", "parts", "checkpoint-00000006");
    char *bytes = NULL;
    size_t length = 0;
    int evaluations = 0;
    Err read = {0};
    assert_true(file_read_all(&bytes, &length, "parts/metrics.jsonl", 1 << 20, ERR_DATA, &read));
    for (char *at = bytes; at && (at = strstr(at, "eval_loss")); at++)
        evaluations++;
    assert_int_equal(evaluations, 7); /* before the first update and after each of the six */
    mem_free(bytes);
}

static void keeping_and_recomputing_activations_give_the_same_bits(void **state)
{
    (void)state;
    TRAIN("keep", "gradient_checkpointing: false\nlora_dropout: 0.1\n", NULL, NULL);
    TRAIN("recompute", "gradient_checkpointing: true\nlora_dropout: 0.1\n", NULL, NULL);
    assert_same_run("keep", "recompute", "checkpoint-00000006");
}

static void paged_and_resident_states_give_the_same_bits(void **state)
{
    (void)state;
    TRAIN("paged", "optimizer: paged_adamw_8bit\n", NULL, NULL);
    TRAIN("resident", "optimizer: adamw_8bit\n", NULL, NULL);
    assert_same_run("paged", "resident", "checkpoint-00000006");
    TRAIN("paged32", "optimizer: paged_adamw_32bit\n", NULL, NULL);
    TRAIN("resident32", "optimizer: adamw\n", NULL, NULL);
    assert_same_run("paged32", "resident32", "checkpoint-00000006");
}

/* Invariant I3: no part of a run, from loading to export, touches an arena outside of operations. */
static void a_whole_run_passes_on_a_guarded_backend(void **state)
{
    (void)state;
    const char *more = "test_datasets: [{path: test.jsonl}]\neval_steps: 2\nlora_dropout: 0.1\n"
                       "generate_samples: {prompts: [hello], max_new_tokens: 4}\n";
    Guard *guard = guard_create();
    const RunOptions options = {.no_signals = true, .hooks = guard_hooks(guard)};
    TRAIN("plain", more, NULL, NULL);
    TRAIN("guarded", more, &options, NULL);
    assert_true(guard_operations(guard) > 1000);
    assert_same_run("plain", "guarded", "checkpoint-00000006");
    guard_free(guard);
}

static void the_cut_into_micro_batches_changes_only_rounding(void **state)
{
    (void)state;
    static const char *const cuts[] = {"micro_batch_size: 8\ngradient_accumulation_steps: 1\n",
                                       "micro_batch_size: 4\ngradient_accumulation_steps: 2\n",
                                       "micro_batch_size: 2\ngradient_accumulation_steps: 4\n",
                                       "micro_batch_size: 1\ngradient_accumulation_steps: 8\n"};
    static const char *const outputs[] = {"8x1", "4x2", "2x4", "1x8"};
    double first[16], other[16];
    for (int i = 0; i < 4; i++) {
        char more[256];
        snprintf(more, sizeof more, "%soptimizer: adamw\n", cuts[i]);
        TRAIN(outputs[i], more, NULL, NULL);
    }
    const int n = workspace_curve("8x1", "loss", first, 16);
    for (int i = 1; i < 4; i++) {
        assert_int_equal(workspace_curve(outputs[i], "loss", other, 16), n);
        for (int k = 0; k < n; k++)
            assert_true(fabs(first[k] - other[k]) <= 2e-5 * first[k]);
    }
}

static void packed_and_unpacked_rows_have_the_same_loss(void **state)
{
    (void)state;
    double packed[4], alone[16], tokens_packed[4], tokens_alone[16];
    /* one update that takes the whole set, in either form */
    TRAIN("packed", "sample_packing: true\nsequence_len: 4096\ngradient_accumulation_steps: 1\nmax_steps: 1\n", NULL,
          NULL);
    TRAIN("alone", "sample_packing: false\ngradient_accumulation_steps: 9\nmax_steps: 1\n", NULL, NULL);
    assert_int_equal(workspace_curve("packed", "loss", packed, 4), 1);
    assert_int_equal(workspace_curve("alone", "loss", alone, 16), 1);
    workspace_curve("packed", "trained_tokens", tokens_packed, 4);
    workspace_curve("alone", "trained_tokens", tokens_alone, 16);
    assert_true(tokens_packed[0] == tokens_alone[0]);
    assert_true(fabs(packed[0] - alone[0]) <= 2e-6 * alone[0]);
}

static void a_finished_run_started_again_changes_nothing(void **state)
{
    (void)state;
    RunReport report;
    Err err = {0};
    TRAIN("a", "", NULL, NULL);
    assert_true(file_copy("before", "a/metrics.jsonl", &err));
    TRAIN("a", "", NULL, &report);
    assert_true(report.finished_before);
    assert_true(workspace_same("before", "a/metrics.jsonl"));
    assert_true(file_copy("adapter", "a/adapter_model.safetensors", &err));
    assert_true(file_remove("a/adapter_model.safetensors", &err)); /* the end of the run was lost */
    TRAIN("a", "", NULL, &report);
    assert_true(workspace_same("adapter", "a/adapter_model.safetensors"));
}

/* What stands in output_dir is replaced where it is of an earlier end, or lacks a part. */
static void an_end_that_was_not_written_out_is_made_up_for(void **state)
{
    (void)state;
    RunReport report;
    Err err = {0};
    TRAIN("a", "max_steps: 4\n", NULL, NULL);
    assert_true(file_copy("early", "a/adapter_model.safetensors", &err));
    TRAIN("a", "max_steps: 6\n", NULL, NULL);
    assert_true(file_copy("late", "a/adapter_model.safetensors", &err));
    assert_false(workspace_same("early", "late"));
    assert_true(file_copy("a/adapter_model.safetensors", "early", &err)); /* killed between the save and the end */
    TRAIN("a", "max_steps: 6\n", NULL, &report);
    assert_true(report.finished_before);
    assert_true(workspace_same("late", "a/adapter_model.safetensors"));
    assert_true(file_remove("a/tokenizer_config.json", &err));
    TRAIN("a", "max_steps: 6\n", NULL, &report);
    assert_true(file_exists("a/tokenizer_config.json"));
    if (truncate("a/adapter_model.safetensors", (off_t)1 << 42) == 0) { /* nobody reads all of that first */
        TRAIN("a", "max_steps: 6\n", NULL, &report);
        assert_true(workspace_same("late", "a/adapter_model.safetensors"));
    }
}

static void a_finished_checkpoint_elsewhere_is_written_out(void **state)
{
    (void)state;
    RunReport report;
    TRAIN("a", "", NULL, NULL);
    TRAIN("b", "resume_from_checkpoint: a/checkpoint-00000006\n", NULL, &report);
    assert_true(report.finished_before);
    assert_true(workspace_same("b/adapter_model.safetensors", "a/checkpoint-00000006/adapter_model.safetensors"));
    TRAIN("b", "resume_from_checkpoint: a/checkpoint-00000006\n", NULL, NULL); /* the folder passes for one of ours */
}

/* Parameters and states no longer belong together then: nothing of it is saved, and it is no fault of the data. */
static void a_page_file_that_fails_ends_the_run_and_is_no_divergence(void **state)
{
    (void)state;
    static const char more[] = "optimizer: paged_adamw_8bit\nsave_steps: 2\n";
    bool done = false, seen = false;
    TRAIN("b", more, NULL, NULL);
    for (uint64_t nth = 1; !done; nth += 2) {
        Err err = {0}, ignored = {0};
        assert_true(file_remove_tree("a", &ignored));
        file_fail_at("read", nth, EIO, true);
        done = workspace_train("a", more, NULL, NULL, &err);
        file_fail_at(NULL, 0, 0, false);
        if (!strstr(err.text, "page file")) continue;
        seen = true;
        assert_int_equal(err.code, ERR_DISK);
        TRAIN("a", more, NULL, NULL);
        assert_same_run("a", "b", "checkpoint-00000006");
    }
    assert_true(seen);
}

static void epochs_follow_one_another_and_the_last_update_may_be_partial(void **state)
{
    (void)state;
    double epoch[16], tokens[16];
    TRAIN("a", "max_steps: -1\nnum_epochs: 1.5\nshuffle: false\n", NULL, NULL); /* 9 rows, 14 of them, 2 an update */
    assert_int_equal(workspace_curve("a", "epoch", epoch, 16), 7);
    TRAIN("b", "max_steps: -1\nnum_epochs: 1\nshuffle: false\n", NULL, NULL);
    assert_int_equal(workspace_curve("b", "epoch", epoch, 16), 5);
    assert_true(epoch[4] == 1.0);
    assert_int_equal(workspace_curve("b", "tokens", tokens, 16), 5);
    assert_true(tokens[4] < tokens[0]); /* one row */
}

static void a_damaged_checkpoint_is_passed_over_and_the_result_is_the_same(void **state)
{
    (void)state;
    Err err = {0};
    TRAIN("whole", "", NULL, NULL);
    const RunOptions options = {.no_signals = true, .interrupt_after = 9};
    assert_false(workspace_train("parts", "", &options, NULL, &err)); /* checkpoints 2 and 4 */
    FILE *f = fopen("parts/checkpoint-00000004/optimizer.safetensors", "r+b");
    assert_non_null(f);
    fseek(f, -1, SEEK_END);
    const int byte = fgetc(f);
    fseek(f, -1, SEEK_END);
    fputc(byte ^ 1, f);
    fclose(f);
    RunReport report;
    TRAIN("parts", "", NULL, &report);
    assert_int_equal(report.first_step, 2);
    assert_same_run("whole", "parts", "checkpoint-00000006");
}

static void a_change_that_cannot_be_resumed_is_refused(void **state)
{
    (void)state;
    const RunOptions options = {.no_signals = true, .interrupt_after = 9};
    Err err = {0}, fault = {0};
    assert_false(workspace_train("a", "", &options, NULL, &err));
    assert_false(workspace_train("a", "lora_r: 8\n", NULL, NULL, &fault));
    assert_int_equal(fault.code, ERR_CONFIG);
    assert_non_null(strstr(fault.text, "lora_r"));
    RunReport report;
    TRAIN("a", "learning_rate: 1e-3\n", NULL, &report); /* this one is said and done */
    assert_int_equal(report.first_step, 4);
}

static void another_base_model_is_refused_and_the_same_one_elsewhere_is_not(void **state)
{
    (void)state;
    const RunOptions options = {.no_signals = true, .interrupt_after = 9};
    Err err = {0}, fault = {0};
    assert_false(workspace_train("a", "", &options, NULL, &err));
    assert_int_equal(rename("model", "moved"), 0);
    TRAIN("a", "base_model: moved\n", NULL, NULL);
    FILE *f = fopen("moved/model.safetensors", "r+b");
    fseek(f, -2, SEEK_END);
    fputc(1, f);
    fclose(f);
    assert_false(workspace_train("a", "base_model: moved\nmax_steps: 20\n", NULL, NULL, &fault));
    assert_int_equal(fault.code, ERR_CHECKPOINT);
}

static void starting_anew_removes_what_was_there(void **state)
{
    (void)state;
    RunReport report;
    TRAIN("a", "", NULL, NULL);
    TRAIN("b", "", NULL, NULL);
    TRAIN("a", "resume_from_checkpoint: none\n", NULL, &report);
    assert_int_equal(report.first_step, 0);
    assert_same_run("a", "b", "checkpoint-00000006");
}

static void a_named_checkpoint_is_gone_on_from(void **state)
{
    (void)state;
    RunReport report;
    TRAIN("a", "", NULL, NULL);
    TRAIN("b", "", NULL, NULL);
    TRAIN("a", "resume_from_checkpoint: a/checkpoint-00000004\n", NULL, &report);
    assert_int_equal(report.first_step, 4);
    assert_same_run("a", "b", "checkpoint-00000006");
}

static void a_second_run_on_one_folder_is_refused(void **state)
{
    (void)state;
    Err err = {0}, fault = {0};
    File lock = {0};
    assert_true(file_make_folders("a", &err));
    assert_true(file_lock_folder(&lock, "a", &err));
    assert_false(workspace_train("a", "", NULL, NULL, &fault));
    assert_int_equal(fault.code, ERR_DISK);
    file_close(&lock);
    TRAIN("a", "", NULL, NULL);
}

static void an_adapter_of_somebody_else_is_not_overwritten(void **state)
{
    (void)state;
    Err err = {0}, fault = {0};
    assert_true(file_make_folders("a", &err));
    assert_true(file_replace("a/adapter_model.safetensors", "x", 1, &err));
    assert_false(workspace_train("a", "", NULL, NULL, &fault));
    assert_int_equal(fault.code, ERR_CONFIG);
}

static void the_best_checkpoint_is_kept_and_becomes_the_adapter(void **state)
{
    (void)state;
    /* a rate that soon does harm, so that the best evaluation is an early one */
    const char *more = "test_datasets: [{path: test.jsonl}]\neval_steps: 1\nlearning_rate: 0.3\nmax_steps: 6\n"
                       "lr_scheduler: constant\nwarmup_steps: 1\nsave_total_limit: 1\nmax_grad_norm: 0\n";
    TRAIN("a", more, NULL, NULL);
    CheckpointList list = {0};
    Err err = {0};
    assert_true(checkpoint_list(&list, "a", &err));
    assert_int_equal(list.count, 2); /* the best and the newest */
    assert_true(list.steps[0] < 6 && list.steps[1] == 6);
    char best[64];
    snprintf(best, sizeof best, "a/checkpoint-%08d/adapter_model.safetensors", (int)list.steps[0]);
    assert_true(workspace_same(best, "a/adapter_model.safetensors"));
    checkpoint_list_free(&list);
}

static void training_stops_early_when_nothing_gets_better(void **state)
{
    (void)state;
    const char *more = "test_datasets: [{path: test.jsonl}]\neval_steps: 1\nlearning_rate: 0.3\nmax_steps: 30\n"
                       "lr_scheduler: constant\nmax_grad_norm: 0\nearly_stopping_patience: 2\n";
    RunReport report;
    TRAIN("a", more, NULL, &report);
    assert_true(report.stopped_early && report.last_step < 30);
    TRAIN("a", more, NULL, &report);
    assert_true(report.finished_before);
}

static void a_start_from_an_adapter_continues_its_weights(void **state)
{
    (void)state;
    double loss[64], next[64];
    TRAIN("a", "max_steps: 30\nlr_scheduler: constant\n", NULL, NULL);
    TRAIN("b", "max_steps: 2\nadapter_path: a\n", NULL, NULL);
    workspace_curve("a", "loss", loss, 64);
    workspace_curve("b", "loss", next, 64);
    assert_true(next[0] < 0.8 * loss[0]);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_run_learns_and_leaves_an_adapter),
        TEST(nothing_is_allocated_after_the_first_update),
        TEST(two_runs_give_equal_files),
        TEST(a_run_may_stop_anywhere_and_goes_on_to_the_bit),
        TEST(an_evaluation_that_was_interrupted_is_made_up_for),
        TEST(keeping_and_recomputing_activations_give_the_same_bits),
        TEST(paged_and_resident_states_give_the_same_bits),
        TEST(a_whole_run_passes_on_a_guarded_backend),
        TEST(the_cut_into_micro_batches_changes_only_rounding),
        TEST(packed_and_unpacked_rows_have_the_same_loss),
        TEST(a_finished_run_started_again_changes_nothing),
        TEST(an_end_that_was_not_written_out_is_made_up_for),
        TEST(a_finished_checkpoint_elsewhere_is_written_out),
        TEST(a_page_file_that_fails_ends_the_run_and_is_no_divergence),
        TEST(epochs_follow_one_another_and_the_last_update_may_be_partial),
        TEST(a_damaged_checkpoint_is_passed_over_and_the_result_is_the_same),
        TEST(a_change_that_cannot_be_resumed_is_refused),
        TEST(another_base_model_is_refused_and_the_same_one_elsewhere_is_not),
        TEST(starting_anew_removes_what_was_there),
        TEST(a_named_checkpoint_is_gone_on_from),
        TEST(a_second_run_on_one_folder_is_refused),
        TEST(an_adapter_of_somebody_else_is_not_overwritten),
        TEST(the_best_checkpoint_is_kept_and_becomes_the_adapter),
        TEST(training_stops_early_when_nothing_gets_better),
        TEST(a_start_from_an_adapter_continues_its_weights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
