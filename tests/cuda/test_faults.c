/*
 * What a failing device leaves: one clear end, whole checkpoints, and a run that goes on as if nothing had been. The
 * faults are made by the emulation (tests/support/cuda/emulation.h); on a real device there is nothing to run.
 */
#include "tests/e2e/straight.h"

/* The last line that is an error of the program; empty when there is none. */
static void last_error(char out[1024])
{
    char line[1024];
    FILE *f = fopen(scene.log, "r");
    assert_non_null(f);
    out[0] = '\0';
    while (fgets(line, sizeof line, f)) {
        if (strncmp(line, "qlora: ", 7) == 0) memcpy(out, line, sizeof line);
    }
    fclose(f);
}

/* A run with QLORA_CUDA_FAULT; its exit status. */
static int run_with_fault(const char *fault)
{
    scene_forget_run(&scene);
    remove(scene.log);
    assert_int_equal(setenv("QLORA_CUDA_FAULT", fault, 1), 0);
    const ChildResult r = child_train(scene.config, NULL, NULL, scene.log);
    assert_int_equal(unsetenv("QLORA_CUDA_FAULT"), 0);
    return r.status;
}

/* The n-th call fails with `code`; 0 when the run did not notice. */
static int survive(long nth, int code, bool once)
{
    char fault[64], error[1024];
    snprintf(fault, sizeof fault, "any:%ld:%d%s", nth, code, once ? ":once" : "");
    const int status = run_with_fault(fault);
    last_error(error);
    const bool told = status == 0 || strstr(error, "CUDA") || strstr(error, "cuBLAS") || strstr(error, "device") ||
                      strstr(error, "driver");
    if ((status != 0 && status != 5 && status != 6) || !told) {
        scene_show_log(&scene);
        fail_msg("status %d with QLORA_CUDA_FAULT=%s: %s", status, fault, error);
    }
    scene_train(&scene, NULL, NULL, 0);
    assert_as_straight();
    return status;
}

/* Every call in the soak; in CI all of the first ones, which open the device, then fewer and fewer. */
static long next_call(long nth)
{
    return getenv("QLORA_TEST_SOAK") || nth < 8 ? nth + 1 : nth * 2 + 1;
}

static void any_call_may_fail_for_ever(void **state)
{
    (void)state;
    long nth = 1;
    while (survive(nth, 719, false) != 0)
        nth = next_call(nth);
    assert_true(nth > 1000); /* more calls than that are made, so the run did end by faults before */
}

static void any_call_may_lack_memory_once(void **state)
{
    (void)state;
    for (long nth = 1; nth < 3000; nth = next_call(nth))
        survive(nth, 2, true);
}

/* A run with that variable of the emulation set ends with `status` and one line that has `words`. */
static void assert_refused(const char *variable, const char *value, int status, const char *words)
{
    char error[1024];
    scene_forget_run(&scene);
    remove(scene.log);
    assert_int_equal(setenv(variable, value, 1), 0);
    const ChildResult r = child_train(scene.config, NULL, NULL, scene.log);
    assert_int_equal(unsetenv(variable), 0);
    last_error(error);
    assert_int_equal(r.status, status);
    assert_non_null(strstr(error, words));
}

static void without_cublas_the_run_ends_with_one_line(void **state)
{
    (void)state;
    assert_refused("QLORA_CUDA_BLAS", "missing", 6, "cuBLAS could not be loaded");
}

static void too_little_device_memory_is_refused_before_training(void **state)
{
    (void)state;
    assert_refused("QLORA_CUDA_MEMORY", "30000000", 5, "memory");
}

int main(void)
{
    if (!getenv("QLORA_CUDA_EMULATED")) {
        printf("only the emulation makes faults: SKIPPED\n");
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_cublas_the_run_ends_with_one_line),
        cmocka_unit_test(too_little_device_memory_is_refused_before_training),
        cmocka_unit_test(any_call_may_fail_for_ever),
        cmocka_unit_test(any_call_may_lack_memory_once),
    };
    return cmocka_run_group_tests(tests, open_straight, close_straight);
}
