#include "trainer/watchdog.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void good_updates_change_nothing(void **state)
{
    (void)state;
    const WatchdogOptions o = {.threshold = 5, .patience = 2, .action = WATCHDOG_STOP};
    WatchdogState s = {0};
    for (int step = 1; step < 100; step++)
        assert_int_equal(watchdog_judge(&o, &s, step, 4.9, true), WATCHDOG_GO);
    assert_int_equal(s.total, 0);
}

static void stopping_takes_patience_bad_updates_in_a_row(void **state)
{
    (void)state;
    const WatchdogOptions o = {.threshold = 5, .patience = 3, .action = WATCHDOG_STOP};
    WatchdogState s = {0};
    assert_int_equal(watchdog_judge(&o, &s, 1, 6, true), WATCHDOG_GO);
    assert_int_equal(watchdog_judge(&o, &s, 2, 6, true), WATCHDOG_GO);
    assert_int_equal(watchdog_judge(&o, &s, 3, 1, true), WATCHDOG_GO); /* a good one in between */
    assert_int_equal(watchdog_judge(&o, &s, 4, 6, true), WATCHDOG_GO);
    assert_int_equal(watchdog_judge(&o, &s, 5, (double)NAN, false), WATCHDOG_GO);
    assert_int_equal(watchdog_judge(&o, &s, 6, 1, false), WATCHDOG_GIVE_UP); /* finite loss, bad gradient */
    assert_int_equal(s.total, 5);
    assert_int_equal(s.withheld, 2);
    assert_int_equal(s.first_bad, 4);
}

static void a_loss_that_is_not_finite_is_always_withheld(void **state)
{
    (void)state;
    const WatchdogAction actions[] = {WATCHDOG_STOP, WATCHDOG_SKIP, WATCHDOG_ROLLBACK};
    for (int i = 0; i < 3; i++) {
        const WatchdogOptions o = {.threshold = 5, .patience = 3, .action = actions[i]};
        assert_true(watchdog_withholds(&o, (double)NAN));
        assert_true(watchdog_withholds(&o, (double)INFINITY));
        assert_false(watchdog_withholds(&o, 4));
        assert_int_equal(watchdog_withholds(&o, 6), actions[i] == WATCHDOG_SKIP);
    }
    const WatchdogOptions off = {.threshold = 0, .patience = 3, .action = WATCHDOG_SKIP};
    assert_false(watchdog_withholds(&off, 1e30));
}

static void skipping_gives_up_at_last(void **state)
{
    (void)state;
    const WatchdogOptions o = {.patience = 2, .action = WATCHDOG_SKIP};
    WatchdogState s = {0};
    int step = 1;
    while (watchdog_judge(&o, &s, step, (double)NAN, false) == WATCHDOG_GO)
        step++;
    assert_int_equal(step, 2 * WATCHDOG_SKIP_LIMIT);
}

static void rolling_back_gives_up_after_some_times(void **state)
{
    (void)state;
    const WatchdogOptions o = {.threshold = 5, .patience = 2, .action = WATCHDOG_ROLLBACK};
    WatchdogState s = {0};
    int64_t step = 0;
    for (int i = 0; i < WATCHDOG_ROLLBACK_LIMIT; i++) {
        assert_int_equal(watchdog_judge(&o, &s, ++step, 6, true), WATCHDOG_GO);
        assert_int_equal(watchdog_judge(&o, &s, ++step, 6, true), WATCHDOG_GO_BACK);
        assert_int_equal(s.first_bad, step - 1);
        assert_int_equal(s.in_a_row, 2); /* until the weights are back */
        watchdog_went_back(&s);
        assert_int_equal(s.in_a_row, 0);
        assert_int_equal(s.rollbacks, i + 1);
    }
    assert_int_equal(watchdog_judge(&o, &s, ++step, 6, true), WATCHDOG_GO);
    assert_int_equal(watchdog_judge(&o, &s, ++step, 6, true), WATCHDOG_GIVE_UP);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_updates_change_nothing),
        cmocka_unit_test(stopping_takes_patience_bad_updates_in_a_row),
        cmocka_unit_test(a_loss_that_is_not_finite_is_always_withheld),
        cmocka_unit_test(skipping_gives_up_at_last),
        cmocka_unit_test(rolling_back_gives_up_after_some_times),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
