/* A run whose n-th system call or allocation fails says one clear thing, loses nothing, and can be taken up again. */
#define SCENE_UPDATES 4
#define SCENE_LAYERS 1
#define SCENE_ROWS 12
#define SCENE_TEST_ROWS 2
/* The soak takes 15,000 points, and the library compiles its kernels anew in every run. */
#define STRAIGHT_REFERENCE (getenv("QLORA_TEST_SOAK") != NULL)
/* All that writes or removes files: logs of every kind, samples, a checkpoint that makes room for the next one. */
#define STRAIGHT_OVERRIDES                                                                                             \
    {                                                                                                                  \
        "use_tensorboard=true", "save_total_limit=1", "generate_samples.prompts=[colour 7]",                           \
            "generate_samples.max_new_tokens=2", "generate_samples.every=3", "micro_batch_size=1", "lora_r=2", NULL    \
    }
#include "tests/e2e/disturbed.h"

#include <errno.h>

enum { IN_CI = 40 };

static void show_fault(const ChildFault *f, const ChildResult *r)
{
    scene_show_log(&scene);
    print_error("status %d at file operation %lu, allocation %lu%s\n", r->status, (unsigned long)f->file_nth,
                (unsigned long)f->memory_nth, f->sticky ? ", and all later ones" : "");
}

/* One line that says where it happened, and a status that is one of the program's. */
static bool well_ended(const ChildFault *f, const ChildResult *r)
{
    if (r->status == 0) return r->error[0] == '\0';
    if (!r->error[0] || strchr(r->error, '\n')) return false;
    if (f->memory_nth) return r->status == err_exit_status(ERR_MEMORY) && strstr(r->error, "memory");
    return r->status >= err_exit_status(ERR_CONFIG) && r->status <= err_exit_status(ERR_DISK) && strchr(r->error, '/');
}

static bool survives(const ChildFault *fault)
{
    const ChildResult r = straight_try(fault);
    const bool ok = well_ended(fault, &r);
    if (!ok) show_fault(fault, &r);
    return goes_on() && ok;
}

/* Every point at which a file operation of `all` may fail: alone with EIO, and with all later ones as on a full disk. */
static void at_file_operations(const char *what, const ChildResult *all, bool (*survived)(const ChildFault *fault))
{
    Tally t = {.what = what, .points = all->file_operations * 2};
    const uint64_t stride = scene_stride(t.points, IN_CI) | 1;
    for (uint64_t at = scene_first() - 1; at < t.points; at += stride) {
        tally(&t, at,
              survived(&(ChildFault){.file_operation = "any",
                                     .file_nth = at / 2 + 1,
                                     .file_error = at % 2 ? ENOSPC : EIO,
                                     .sticky = at % 2}));
    }
    tally_end(&t);
}

static void at_allocations(const char *what, const ChildResult *all, bool (*survived)(const ChildFault *fault))
{
    Tally t = {.what = what, .points = all->allocations * 2};
    const uint64_t stride = scene_stride(t.points, IN_CI) | 1;
    for (uint64_t at = scene_first() - 1; at < t.points; at += stride)
        tally(&t, at, survived(&(ChildFault){.memory_nth = at / 2 + 1, .sticky = at % 2}));
    tally_end(&t);
}

static bool survives_from_the_start(const ChildFault *fault)
{
    forget_everything();
    return survives(fault);
}

static void any_failing_file_operation_leaves_a_run_that_can_go_on(void **state)
{
    (void)state;
    at_file_operations("file operations", &straight_run, survives_from_the_start);
}

static void any_failing_allocation_leaves_a_run_that_can_go_on(void **state)
{
    (void)state;
    at_allocations("allocations", &straight_run, survives_from_the_start);
}

static const ChildFault halfway = {.interrupt_after = 7};

static bool survives_going_on(const ChildFault *fault)
{
    scene_forget_run(&scene);
    straight_train(&halfway, 75);
    return survives(fault);
}

static ChildResult going_on(void)
{
    scene_forget_run(&scene);
    straight_train(&halfway, 75);
    return straight_train(NULL, 0);
}

static void any_failing_file_operation_of_a_resumed_run_leaves_one_that_can_go_on(void **state)
{
    (void)state;
    const ChildResult all = going_on();
    at_file_operations("file operations of a resumed run", &all, survives_going_on);
}

static void any_failing_allocation_of_a_resumed_run_leaves_one_that_can_go_on(void **state)
{
    (void)state;
    const ChildResult all = going_on();
    at_allocations("allocations of a resumed run", &all, survives_going_on);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_failing_file_operation_leaves_a_run_that_can_go_on),
        cmocka_unit_test(any_failing_allocation_leaves_a_run_that_can_go_on),
        cmocka_unit_test(any_failing_file_operation_of_a_resumed_run_leaves_one_that_can_go_on),
        cmocka_unit_test(any_failing_allocation_of_a_resumed_run_leaves_one_that_can_go_on),
    };
    return cmocka_run_group_tests(tests, open_disturbed, close_straight);
}
