/* The loss scale of fp16 as a function of its state. */
#include "trainer/loss_scale.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static const LossScale fresh;

static void only_fp16_has_a_scale(void **state)
{
    (void)state;
    const DType others[] = {DTYPE_F32, DTYPE_BF16};
    for (size_t i = 0; i < ARRAY_COUNT(others); i++) {
        LossScale s = loss_scale_begin(&(LossScale){.factor = 4096, .good = 7}, others[i], 0); /* fp16 before */
        assert_true(loss_scale_factor(&s) == 1);
        assert_false(loss_scale_overflowed(&s, 2.0, false));
        for (int k = 0; k < 3 * LOSS_SCALE_PATIENCE; k++)
            loss_scale_move(&s, false);
        assert_true(loss_scale_factor(&s) == 1 && s.good == 0);
    }
    const LossScale s = loss_scale_begin(&fresh, DTYPE_F16, 0);
    assert_true(loss_scale_factor(&s) == 65536);
    const LossScale chosen = loss_scale_begin(&fresh, DTYPE_F16, 8);
    assert_true(loss_scale_factor(&chosen) == 8);
}

static void a_checkpoint_goes_on_with_its_scale(void **state)
{
    (void)state;
    const LossScale saved = {.factor = 1, .good = 1999, .overflows = 16};
    LossScale s = loss_scale_begin(&saved, DTYPE_F16, 8);
    assert_true(s.factor == 1 && s.good == 1999 && s.overflows == 16);
    loss_scale_move(&s, false);
    assert_true(s.factor == 2 && s.good == 0);
}

static void only_an_infinite_gradient_of_a_finite_loss_overflows(void **state)
{
    (void)state;
    const LossScale s = loss_scale_begin(&fresh, DTYPE_F16, 2), lowest = loss_scale_begin(&fresh, DTYPE_F16, 1);
    assert_true(loss_scale_overflowed(&s, 3.0, false));
    assert_false(loss_scale_overflowed(&s, 3.0, true));
    assert_false(loss_scale_overflowed(&s, (double)NAN, false));
    assert_false(loss_scale_overflowed(&s, (double)INFINITY, false));
    assert_false(loss_scale_overflowed(&lowest, 3.0, false)); /* no lower scale would help */
}

static void overflow_halves_and_patience_doubles(void **state)
{
    (void)state;
    LossScale s = loss_scale_begin(&fresh, DTYPE_F16, 0);
    for (int i = 0; i < LOSS_SCALE_PATIENCE - 1; i++)
        loss_scale_move(&s, false);
    assert_true(s.factor == 65536);
    loss_scale_move(&s, true); /* the count starts anew */
    assert_true(s.factor == 32768 && s.good == 0 && s.overflows == 1);
    for (int i = 0; i < LOSS_SCALE_PATIENCE - 1; i++)
        loss_scale_move(&s, false);
    assert_true(s.factor == 32768 && s.good == LOSS_SCALE_PATIENCE - 1);
    loss_scale_move(&s, false);
    assert_true(s.factor == 65536 && s.good == 0 && s.overflows == 1);
}

static void the_scale_stays_below_its_limit(void **state)
{
    (void)state;
    LossScale s = loss_scale_begin(&fresh, DTYPE_F16, LOSS_SCALE_MOST / 2);
    for (int i = 0; i < 3 * LOSS_SCALE_PATIENCE; i++)
        loss_scale_move(&s, false);
    assert_true(s.factor == LOSS_SCALE_MOST);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_fp16_has_a_scale),
        cmocka_unit_test(a_checkpoint_goes_on_with_its_scale),
        cmocka_unit_test(only_an_infinite_gradient_of_a_finite_loss_overflows),
        cmocka_unit_test(overflow_halves_and_patience_doubles),
        cmocka_unit_test(the_scale_stays_below_its_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
