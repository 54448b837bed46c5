/* A disk that fills up at any byte of a run, saves included: one clear line, and nothing is lost. */
#define SCENE_UPDATES 2
#define SCENE_LAYERS 1
#define SCENE_ROWS 8
#define SCENE_TEST_ROWS 2

/* As few bytes as a run with two saves can have, so that each of them can have a run. */
#define STRAIGHT_OVERRIDES                                                                                             \
    {                                                                                                                  \
        "save_steps=1", "eval_steps=2", "lora_r=1", "lora_target_modules=[q_proj]", "micro_batch_size=1",              \
            "gradient_accumulation_steps=1", "save_total_limit=1", NULL                                                \
    }
#define STRAIGHT_REFERENCE true
#include "tests/e2e/disturbed.h"

enum { BYTES = 40000 }; /* about as many: the token cache, two checkpoints, logs, and what the run yields */

/* *full: whether the disk was too small, which must be what ends the run. */
static bool survives(uint64_t bytes, bool *full)
{
    forget_everything();
    const ChildResult r = straight_try(&(ChildFault){.disk_bytes = bytes});
    *full = r.status != 0;
    const bool said = r.status == err_exit_status(ERR_DISK) && strcasestr(r.error, "no space left") &&
                      strchr(r.error, '/') && !strchr(r.error, '\n');
    if (*full && !said) scene_show_log(&scene);
    return goes_on() && (!*full || said);
}

static void a_disk_that_fills_up_at_any_byte_leaves_a_run_that_can_go_on(void **state)
{
    (void)state;
    Tally t = {.what = "bytes", .points = BYTES};
    const uint64_t stride = scene_stride(BYTES, 60);
    bool full = true;
    uint64_t bytes = scene_first();
    for (; full; bytes += stride)
        tally(&t, bytes, survives(bytes, &full));
    tally_end(&t);
    assert_in_range(bytes, BYTES / 2, BYTES * 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_disk_that_fills_up_at_any_byte_leaves_a_run_that_can_go_on),
    };
    return cmocka_run_group_tests(tests, open_disturbed, close_straight);
}
