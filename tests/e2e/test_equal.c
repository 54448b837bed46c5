/* Ways to run that must not change a bit, and ways that must not change more than rounding. */
#include "tests/e2e/straight.h"

static void nothing_is_allocated_after_the_first_update(void **state)
{
    (void)state;
    assert_int_equal(straight_run.report.allocations_in_steps, 0);
}

#if !QLORA_TEST_CUDA
static void a_whole_run_passes_with_arenas_closed_outside_of_operations(void **state)
{
    (void)state;
    Outcome o = scene_run(&scene, NULL, &(ChildFault){.guarded = true});
    outcome_equal(&straight, &o);
    outcome_free(&o);
}
#endif

static void recompute_policies_give_the_same_bits(void **state)
{
    (void)state;
    static const char *const policies[] = {"gradient_checkpointing=true", "gradient_checkpointing=false",
                                           "gradient_checkpointing=auto", "gradient_checkpointing=offload"};
    for (size_t i = 0; i < ARRAY_COUNT(policies); i++) {
        Outcome o = scene_run(&scene, (const char *const[]){policies[i], NULL}, NULL);
        outcome_equal(&straight, &o);
        outcome_free(&o);
    }
}

static void paged_and_resident_states_give_the_same_bits(void **state)
{
    (void)state;
    static const struct {
        const char *paged, *resident;
    } pairs[] = {
        {"optimizer=paged_adamw_8bit",  "optimizer=adamw_8bit"},
        {"optimizer=paged_adamw_32bit", "optimizer=adamw"     }
    };
    for (size_t i = 0; i < ARRAY_COUNT(pairs); i++) {
        Outcome a = scene_run(&scene, (const char *const[]){pairs[i].paged, NULL}, NULL);
        Outcome b = scene_run(&scene, (const char *const[]){pairs[i].resident, NULL}, NULL);
        outcome_equal(&a, &b);
        outcome_free(&a);
        outcome_free(&b);
    }
}

/* Losses of two runs whose sums are only ordered differently. The first update differs by the rounding of one forward
 * pass, later ones by what Adam makes of it. */
static void assert_close(const Outcome *a, const Outcome *b)
{
    for (int step = 1; step <= SCENE_STEPS; step++) {
        const double bound = (step == 1 ? 1e-6 : 1e-4) * fabs(b->loss[step]);
        assert_true(fabs(a->loss[step] - b->loss[step]) <= bound);
    }
}

/* Dropout and noise are keyed by micro-batch and position, so they are off here. */
#define QUIET "lora_dropout=0", "neftune_noise_alpha=0"

static void micro_batches_may_be_cut_in_any_way(void **state)
{
    (void)state;
    Outcome one = scene_run(
        &scene, (const char *const[]){QUIET, "micro_batch_size=8", "gradient_accumulation_steps=1", NULL}, NULL);
    Outcome two = scene_run(
        &scene, (const char *const[]){QUIET, "micro_batch_size=4", "gradient_accumulation_steps=2", NULL}, NULL);
    Outcome eight = scene_run(
        &scene, (const char *const[]){QUIET, "micro_batch_size=1", "gradient_accumulation_steps=8", NULL}, NULL);
    assert_close(&two, &one);
    assert_close(&eight, &one);
    outcome_free(&one);
    outcome_free(&two);
    outcome_free(&eight);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_allocated_after_the_first_update),
#if !QLORA_TEST_CUDA /* the emulation closes its memory outside of operations anyway */
        cmocka_unit_test(a_whole_run_passes_with_arenas_closed_outside_of_operations),
#endif
        cmocka_unit_test(recompute_policies_give_the_same_bits),
        cmocka_unit_test(paged_and_resident_states_give_the_same_bits),
        cmocka_unit_test(micro_batches_may_be_cut_in_any_way),
    };
    return cmocka_run_group_tests(tests, open_straight, close_straight);
}
