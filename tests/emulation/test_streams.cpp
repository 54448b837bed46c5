/*
 * test_streams.cpp - mistakes of host code: reported, or shown by deferred streams by value; right code is silent.
 */
#include "cases.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

extern "C" {
#include <cmocka.h>
}

namespace
{
constexpr int SEEDS = 20;

std::string deferred(int seed)
{
    return "deferred:" + std::to_string(seed);
}

void expect_right(const Case &c, const char *streams)
{
    const Outcome outcome = in_child(c, "in-order", streams);
    if (!outcome.exited || outcome.status != 0 || !outcome.text.empty())
        fail_msg("%s, %s: status %d: %s", c.name, streams, outcome.status, outcome.text.c_str());
}

void right_code_is_silent_eager_and_deferred(void **)
{
    for (const Case *c = host_right_cases; c->name != nullptr; c++) {
        expect_right(*c, "eager");
        for (int seed = 0; seed < SEEDS; seed++)
            expect_right(*c, deferred(seed).c_str());
        expect_right(*c, "oldest");
        expect_right(*c, "youngest");
    }
}

void right_kernels_are_silent_on_deferred_streams(void **)
{
    for (const Case *c = right_cases; c->name != nullptr; c++)
        expect_right(*c, "deferred:1");
}

void mistakes_show_by_value_with_deferred_streams(void **)
{
    for (const Case *c = host_value_cases; c->name != nullptr; c++) {
        int noticed = 0;
        for (int seed = 0; seed < SEEDS; seed++) {
            const Outcome outcome = in_child(*c, "in-order", deferred(seed).c_str());
            noticed += !outcome.exited || outcome.status != 0;
        }
        print_message("%-50s wrong with %2d of %d seeds\n", c->name, noticed, SEEDS);
        if (noticed < SEEDS / 2) fail_msg("%s: noticed with %d of %d seeds", c->name, noticed, SEEDS);
    }
}

/* A stream that runs as long as it can is as far ahead of the others as their waits allow: one of the two directions
 * shows what depends on chance above, however far the mistake is from its effect. */
void mistakes_show_by_value_when_one_stream_runs_ahead(void **)
{
    for (const Case *c = host_value_cases; c->name != nullptr; c++) {
        const Outcome oldest = in_child(*c, "in-order", "oldest"), youngest = in_child(*c, "in-order", "youngest");
        if (oldest.exited && oldest.status == 0 && youngest.exited && youngest.status == 0)
            fail_msg("%s: not noticed", c->name);
    }
}

void mistakes_are_reported(void **)
{
    for (const Case *c = host_reported_cases; c->name != nullptr; c++) {
        int noticed = 0;
        for (int seed = 0; seed < SEEDS; seed++) {
            const Outcome outcome = in_child(*c, "in-order", deferred(seed).c_str());
            noticed += outcome.text.find(c->says) != std::string::npos && !(outcome.exited && outcome.status == 0);
            if (noticed <= seed)
                fail_msg("%s, seed %d: should say \"%s\", says: %s", c->name, seed, c->says, outcome.text.c_str());
        }
    }
}
} // namespace

int main()
{
    const CMUnitTest tests[] = {
        cmocka_unit_test(right_code_is_silent_eager_and_deferred),
        cmocka_unit_test(right_kernels_are_silent_on_deferred_streams),
        cmocka_unit_test(mistakes_show_by_value_with_deferred_streams),
        cmocka_unit_test(mistakes_show_by_value_when_one_stream_runs_ahead),
        cmocka_unit_test(mistakes_are_reported),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
