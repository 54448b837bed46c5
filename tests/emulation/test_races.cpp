/*
 * test_races.cpp - the kernels of the cases compiled with -fsanitize=thread: one run in one order shows every race, in
 * shared and in global memory, in a block and between blocks; right kernels are silent. Runs under `setarch -R`.
 */
#include "cases.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

extern "C" {
#include <cmocka.h>
}

#include <string.h>

namespace
{
void right_kernels_have_no_races(void **)
{
    for (const Case *c = right_cases; c->name != nullptr; c++)
        for (const char *order : {"in-order", "priority:1"}) {
            const Outcome outcome = in_child(*c, order, "eager");
            if (!outcome.exited || outcome.status != 0 || !outcome.text.empty())
                fail_msg("%s, %s: status %d: %s", c->name, order, outcome.status, outcome.text.c_str());
        }
}

void expect_race(const Case &c, const char *order)
{
    const Outcome outcome = in_child(c, order, "eager");
    if (outcome.text.find("WARNING: ThreadSanitizer: data race") == std::string::npos)
        fail_msg("%s, %s: no race reported: %s", c.name, order, outcome.text.c_str());
    if (outcome.text.find("case_kernels.cu:") == std::string::npos)
        fail_msg("%s, %s: names no line: %s", c.name, order, outcome.text.c_str());
    if (outcome.exited && outcome.status == 0) fail_msg("%s: the program ends with 0 all the same", c.name);
}

void races_are_reported_in_any_order(void **)
{
    for (const Case *c = order_cases; c->name != nullptr; c++)
        expect_race(*c, "in-order");
    expect_race(order_cases[0], "reverse");
}

void races_that_no_order_shows_are_reported(void **)
{
    for (const Case *c = race_cases; c->name != nullptr; c++)
        expect_race(*c, "in-order");
}
} // namespace

int main()
{
    const CMUnitTest tests[] = {
        cmocka_unit_test(right_kernels_have_no_races),
        cmocka_unit_test(races_are_reported_in_any_order),
        cmocka_unit_test(races_that_no_order_shows_are_reported),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
