/* A run that is killed and started again yields the bits of the run that was not. */
#define SCENE_ROWS 12
#define SCENE_TEST_ROWS 2
/* Older checkpoints go while others are written. */
#define STRAIGHT_OVERRIDES                                                                                             \
    {                                                                                                                  \
        "save_total_limit=2", "micro_batch_size=1", NULL                                                               \
    }
/* The library compiles its kernels in every run. */
#define STRAIGHT_REFERENCE (getenv("QLORA_TEST_SOAK") != NULL)
#include "tests/e2e/disturbed.h"

enum { SAVE_STEPS = 2 }; /* of the scene */

static void two_runs_give_equal_files(void **state)
{
    (void)state;
    scene_forget_run(&scene);
    straight_train(NULL, 0);
    assert_true(is_wholly_as_straight());
}

static void a_finished_run_started_again_changes_nothing(void **state)
{
    (void)state;
    straight_train(NULL, 0);
    assert_true(is_wholly_as_straight());
}

static void a_signal_after_any_micro_batch_resumes_to_the_bit(void **state)
{
    (void)state;
    for (int64_t after = 1; after < SCENE_STEPS * 2; after += QLORA_TEST_CUDA ? 5 : 1) {
        scene_forget_run(&scene);
        straight_train(&(ChildFault){.interrupt_after = after}, 75);
        straight_train(NULL, 0);
        assert_true(is_wholly_as_straight());
    }
}

/* Updates that are in metrics.jsonl; a line that the kill cut short does not count. */
static int64_t updates_logged(void)
{
    char path[512], line[8192];
    scene_path(path, &scene, "run/metrics.jsonl");
    FILE *f = fopen(path, "r");
    int64_t updates = 0;
    while (f && fgets(line, sizeof line, f))
        updates += strchr(line, '\n') && strstr(line, "\"loss\"");
    if (f) fclose(f);
    return updates;
}

/*
 * Killed at the n-th file operation, unless this run had fewer (saves by the clock). Whatever was hit, no more is lost
 * than what was trained since the last save, or the one before where that was the victim.
 */
static bool survives_kill(uint64_t nth)
{
    const ChildResult r = straight_try(&(ChildFault){.file_operation = "any", .file_nth = nth, .file_error = -1});
    const bool as_meant = r.status == -1 || (r.status == 0 && r.file_operations < nth);
    if (!as_meant) {
        scene_show_log(&scene);
        print_error("status %d instead of a kill\n", r.status);
    }
    int64_t newest = 0;
    const bool whole = checkpoints_are_whole(&newest);
    const int64_t lost = updates_logged() - newest;
    if (lost < 0 || lost > SAVE_STEPS) print_error("%d updates are lost\n", (int)lost);
    return goes_on() && as_meant && whole && lost >= 0 && lost <= SAVE_STEPS;
}

static void sigkill_at_any_file_operation_resumes_to_the_bit(void **state)
{
    (void)state;
    forget_everything();
    Tally t = {.what = "kills", .points = straight_train(NULL, 0).file_operations};
    assert_true(t.points > 100);
    const uint64_t stride = scene_stride(t.points, 40);
    for (uint64_t nth = scene_first(); nth <= t.points; nth += stride) {
        forget_everything();
        tally(&t, nth, survives_kill(nth));
    }
    tally_end(&t);
}

static void sigkill_while_resuming_resumes_to_the_bit(void **state)
{
    (void)state;
    const ChildFault interrupt = {.interrupt_after = 7};
    scene_forget_run(&scene);
    straight_train(&interrupt, 75);
    Tally t = {.what = "kills of a resumed run", .points = straight_train(NULL, 0).file_operations};
    const uint64_t stride = scene_stride(t.points, 12);
    for (uint64_t nth = scene_first(); nth <= t.points; nth += stride) {
        scene_forget_run(&scene);
        straight_train(&interrupt, 75);
        tally(&t, nth, survives_kill(nth));
    }
    tally_end(&t);
}

static void a_damaged_checkpoint_is_passed_over(void **state)
{
    (void)state;
    scene_forget_run(&scene);
    straight_train(&(ChildFault){.interrupt_after = 11}, 75);
    char path[512];
    scene_path(path, &scene, "run/checkpoint-00000005/optimizer.safetensors");
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    assert_int_equal(fseek(f, -5, SEEK_END), 0);
    const int byte = fgetc(f);
    assert_int_equal(fseek(f, -5, SEEK_END), 0);
    fputc(byte ^ 1, f);
    fclose(f);
    straight_train(NULL, 0);
    assert_true(is_wholly_as_straight());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_runs_give_equal_files),
        cmocka_unit_test(a_finished_run_started_again_changes_nothing),
        cmocka_unit_test(a_signal_after_any_micro_batch_resumes_to_the_bit),
        cmocka_unit_test(sigkill_at_any_file_operation_resumes_to_the_bit),
        cmocka_unit_test(sigkill_while_resuming_resumes_to_the_bit),
        cmocka_unit_test(a_damaged_checkpoint_is_passed_over),
    };
    return cmocka_run_group_tests(tests, open_disturbed, close_straight);
}
