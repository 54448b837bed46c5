/* A run that is killed and started again yields the bits of the run that was not. */
#include "tests/e2e/straight.h"

static void two_runs_give_equal_files(void **state)
{
    (void)state;
    scene_forget_run(&scene);
    scene_train(&scene, NULL, NULL, 0);
    assert_as_straight();
}

static void a_finished_run_started_again_changes_nothing(void **state)
{
    (void)state;
    scene_train(&scene, NULL, NULL, 0);
    assert_as_straight();
}

static void a_signal_after_any_micro_batch_resumes_to_the_bit(void **state)
{
    (void)state;
    for (int64_t after = 1; after < SCENE_STEPS * 2; after += QLORA_TEST_CUDA ? 5 : 1) {
        scene_forget_run(&scene);
        scene_train(&scene, NULL, &(ChildFault){.interrupt_after = after}, 75);
        scene_train(&scene, NULL, NULL, 0);
        assert_as_straight();
    }
}

/* Killed at the n-th file operation, unless this run had fewer (saves by the clock, a token cache that was there). */
static void train_and_kill(uint64_t nth)
{
    remove(scene.log);
    const ChildFault fault = {.file_operation = "any", .file_nth = nth, .file_error = -1};
    const ChildResult r = child_train(scene.config, NULL, &fault, scene.log);
    if (r.status == -1 || (r.status == 0 && r.file_operations < nth)) return;
    scene_show_log(&scene);
    fail_msg("killed at file operation %lu, the run ended with %d", (unsigned long)nth, r.status);
}

static void sigkill_at_any_file_operation_resumes_to_the_bit(void **state)
{
    (void)state;
    scene_forget_run(&scene);
    const uint64_t operations = scene_train(&scene, NULL, NULL, 0).file_operations;
    assert_true(operations > 100);
    const uint64_t stride = scene_stride(operations, 40);
    for (uint64_t nth = 1; nth <= operations; nth += stride) {
        scene_forget_run(&scene);
        train_and_kill(nth);
        scene_train(&scene, NULL, NULL, 0);
        assert_as_straight();
    }
}

static void sigkill_while_resuming_resumes_to_the_bit(void **state)
{
    (void)state;
    const ChildFault interrupt = {.interrupt_after = 7};
    scene_forget_run(&scene);
    scene_train(&scene, NULL, &interrupt, 75);
    const uint64_t operations = scene_train(&scene, NULL, NULL, 0).file_operations;
    const uint64_t stride = scene_stride(operations, 12);
    for (uint64_t nth = 2; nth <= operations; nth += stride) {
        scene_forget_run(&scene);
        scene_train(&scene, NULL, &interrupt, 75);
        train_and_kill(nth);
        scene_train(&scene, NULL, NULL, 0);
        assert_as_straight();
    }
}

static void a_damaged_checkpoint_is_passed_over(void **state)
{
    (void)state;
    scene_forget_run(&scene);
    scene_train(&scene, NULL, &(ChildFault){.interrupt_after = 11}, 75);
    char path[512];
    scene_path(path, &scene, "run/checkpoint-00000005/optimizer.safetensors");
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    assert_int_equal(fseek(f, -5, SEEK_END), 0);
    const int byte = fgetc(f);
    assert_int_equal(fseek(f, -5, SEEK_END), 0);
    fputc(byte ^ 1, f);
    fclose(f);
    scene_train(&scene, NULL, NULL, 0);
    assert_as_straight();
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
    return cmocka_run_group_tests(tests, open_straight, close_straight);
}
