/* Twenty updates on the CUDA backend against the CPU, and ways to run that must not change a bit of them. */
#define SCENE_UPDATES 20
#include "tests/e2e/straight.h"
#include "trainer/device_card.h"

#include <inttypes.h>

/* Losses and norms of each update; `first` bounds the first one, which is one rounding of one pass, `later` the others. */
static void assert_close(const Outcome *a, const Outcome *b, double first, double later)
{
    for (int step = 1; step <= SCENE_STEPS; step++) {
        const double bound = step == 1 ? first : later;
        if (!(fabs(a->loss[step] - b->loss[step]) <= bound * fabs(b->loss[step])) ||
            !(fabs(a->grad_norm[step] - b->grad_norm[step]) <= 10 * bound * fabs(b->grad_norm[step]))) {
            fail_msg("update %d: loss %.9g and %.9g, gradient norm %.9g and %.9g", step, a->loss[step], b->loss[step],
                     a->grad_norm[step], b->grad_norm[step]);
        }
    }
}

static void f32_training_equals_the_cpu_but_for_rounding(void **state)
{
    (void)state;
    Outcome cpu = scene_run(&scene, (const char *const[]){"device=cpu", NULL}, NULL);
    assert_close(&straight, &cpu, 2e-6, 1e-4);
    outcome_free(&cpu);
}

static void bf16_training_equals_the_cpu_but_for_rounding(void **state)
{
    (void)state;
    Outcome cpu = scene_run(&scene, (const char *const[]){"device=cpu", "bnb_4bit_compute_dtype=bf16", NULL}, NULL);
    Outcome cuda = scene_run(&scene, (const char *const[]){"bnb_4bit_compute_dtype=bf16", NULL}, NULL);
    assert_close(&cuda, &cpu, 2e-3, 2e-2);
    outcome_free(&cpu);
    outcome_free(&cuda);
}

static void resident_states_and_kept_layers_change_no_bit(void **state)
{
    (void)state;
    Outcome kept =
        scene_run(&scene, (const char *const[]){"gradient_checkpointing=false", "optimizer=adamw_8bit", NULL}, NULL);
    outcome_equal(&straight, &kept);
    outcome_free(&kept);
}

/* But for the context, which emulated threads do without, and whole pages. */
static void device_memory_is_what_the_plan_says(void **state)
{
    (void)state;
    if (!getenv("QLORA_CUDA_EMULATED")) skip(); /* other processes may hold memory of a real device */
    const DeviceCard card = device_card_at(0);
    const RunReport *r = &straight_run.report;
    const uint64_t planned = r->planned_peak_bytes - card.context_bytes;
    if (r->peak_memory_bytes < planned || r->peak_memory_bytes - planned > 32768)
        fail_msg("%" PRIu64 " bytes in use, planned %" PRIu64, r->peak_memory_bytes, planned);
}

/* QLORA_TEST_REPEATS: how often; twice in CI. */
static void repeats_give_equal_bytes(void **state)
{
    (void)state;
    const char *text = getenv("QLORA_TEST_REPEATS");
    const int repeats = text ? atoi(text) : 2;
    for (int i = 1; i < repeats; i++) {
        Outcome again = scene_run(&scene, NULL, NULL);
        outcome_equal(&straight, &again);
        outcome_free(&again);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(f32_training_equals_the_cpu_but_for_rounding),
        cmocka_unit_test(bf16_training_equals_the_cpu_but_for_rounding),
        cmocka_unit_test(device_memory_is_what_the_plan_says),
        cmocka_unit_test(repeats_give_equal_bytes),
        cmocka_unit_test(resident_states_and_kept_layers_change_no_bit),
    };
    return cmocka_run_group_tests(tests, open_straight, close_straight);
}
