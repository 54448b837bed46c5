/* A run whose n-th system call or allocation fails says one clear thing, loses nothing, and can be taken up again. */
#include "tests/e2e/straight.h"

#include <errno.h>

/* Any defined end will do, but no crash; and a run without the fault then ends as if nothing had happened. */
static void survive(const ChildFault *fault)
{
    scene_forget_run(&scene);
    remove(scene.log);
    const ChildResult r = child_train(scene.config, NULL, fault, scene.log);
    if (r.status < 0 || r.status == 1) {
        scene_show_log(&scene);
        fail_msg("status %d at file operation %lu, allocation %lu, byte %lu", r.status, (unsigned long)fault->file_nth,
                 (unsigned long)fault->memory_nth, (unsigned long)fault->disk_bytes);
    }
    scene_train(&scene, NULL, NULL, 0);
    assert_as_straight();
}

static void any_failing_file_operation_leaves_a_run_that_can_go_on(void **state)
{
    (void)state;
    static const int errors[] = {EIO, ENOSPC};
    const uint64_t stride = scene_stride(straight_run.file_operations, 40);
    for (uint64_t nth = 1; nth <= straight_run.file_operations; nth += stride) {
        survive(&(ChildFault){.file_operation = "any",
                              .file_nth = nth,
                              .file_error = errors[nth / stride % 2],
                              .sticky = nth / stride % 3 == 0});
    }
}

static void a_disk_that_fills_up_at_any_byte_leaves_a_run_that_can_go_on(void **state)
{
    (void)state;
    for (uint64_t bytes = 1; bytes < 1 << 20; bytes = bytes * 3 / 2 + 77)
        survive(&(ChildFault){.disk_bytes = bytes});
}

static void any_failing_allocation_leaves_a_run_that_can_go_on(void **state)
{
    (void)state;
    const uint64_t stride = scene_stride(straight_run.allocations, 40);
    for (uint64_t nth = 1; nth <= straight_run.allocations; nth += stride) {
        survive(&(ChildFault){.memory_nth = nth, .sticky = nth / stride % 2 == 0});
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_failing_file_operation_leaves_a_run_that_can_go_on),
        cmocka_unit_test(a_disk_that_fills_up_at_any_byte_leaves_a_run_that_can_go_on),
        cmocka_unit_test(any_failing_allocation_leaves_a_run_that_can_go_on),
    };
    return cmocka_run_group_tests(tests, open_straight, close_straight);
}
