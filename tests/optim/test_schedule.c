#include "optim/schedule.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

/* Factors of transformers 5.23 (tests/golden/adamw.py prints them), before updates u = 0, 1, ... */
static const struct Case {
    const char *name;
    Schedule schedule;
    double factors[14];
} cases[] = {
#include "tests/golden/data/optim/schedule.inc"
};

static void factors_equal_those_of_transformers(void **state)
{
    (void)state;
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        const Schedule *s = &cases[c].schedule;
        for (int u = 0; u < 14; u++) {
            const double expected = s->peak * cases[c].factors[u];
            if (!(fabs(schedule_rate(s, u + 1) - expected) <= 1e-15 * s->peak))
                fail_msg("%s: update %d has %.17g, not %.17g", cases[c].name, u, schedule_rate(s, u + 1), expected);
        }
    }
}

static void after_the_end_the_rate_stays_at_the_floor(void **state)
{
    (void)state;
    for (int kind = SCHEDULE_COSINE; kind <= SCHEDULE_WSD; kind++) {
        const Schedule s = {(ScheduleKind)kind, 2e-4, 0.25, 3, 10, 4};
        const double floor = kind == SCHEDULE_CONSTANT ? 2e-4 : 0.5e-4;
        assert_true(fabs(schedule_rate(&s, 11) - floor) < 1e-18);
        assert_true(fabs(schedule_rate(&s, 1000) - floor) < 1e-18);
    }
}

static void degenerate_lengths_stay_finite(void **state)
{
    (void)state;
    for (int kind = SCHEDULE_COSINE; kind <= SCHEDULE_WSD; kind++) {
        const Schedule whole = {(ScheduleKind)kind, 1e-3, 0.0, 5, 5, 0};
        const Schedule single = {(ScheduleKind)kind, 1e-3, 0.0, 0, 1, 1};
        for (int step = 1; step < 10; step++) {
            assert_true(isfinite(schedule_rate(&whole, step)) && schedule_rate(&whole, step) >= 0.0);
            assert_true(isfinite(schedule_rate(&single, step)) && schedule_rate(&single, step) >= 0.0);
        }
        assert_true(fabs(schedule_rate(&single, 1) - 1e-3) < 1e-18);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(factors_equal_those_of_transformers),
        cmocka_unit_test(after_the_end_the_rate_stays_at_the_floor),
        cmocka_unit_test(degenerate_lengths_stay_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
