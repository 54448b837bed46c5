/*
 * test_kernels.cpp - right kernels pass in silence, wrong ones are noticed: by a report in every order, or by wrong
 * results in some. What the tests of kernels rest on.
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
/* AddressSanitizer tells of memory in its own words. */
bool address_sanitizer()
{
#if defined(__SANITIZE_ADDRESS__)
    return true;
#else
    return false;
#endif
}

void right_kernels_are_silent_in_every_order(void **)
{
    for (const Case *c = right_cases; c->name != nullptr; c++)
        for (const char *order : orders) {
            const Outcome outcome = in_child(*c, order, "eager");
            if (!outcome.exited || outcome.status != 0 || !outcome.text.empty())
                fail_msg("%s, %s: status %d: %s", c->name, order, outcome.status, outcome.text.c_str());
        }
}

void expect_report(const Case &c, const char *order)
{
    const Outcome outcome = in_child(c, order, "eager");
    if (outcome.exited && outcome.status == 0) fail_msg("%s, %s: not noticed", c.name, order);
    if (address_sanitizer() && outcome.text.find("AddressSanitizer") != std::string::npos) return;
    if (address_sanitizer() && outcome.text.find("misaligned address") != std::string::npos) return;
    if (outcome.text.find(c.says) == std::string::npos)
        fail_msg("%s, %s: should say \"%s\", says: %s", c.name, order, c.says, outcome.text.c_str());
    if (outcome.text.find("case_reports.cu:") == std::string::npos)
        fail_msg("%s, %s: names no line: %s", c.name, order, outcome.text.c_str());
    if (outcome.text.find("thread (") == std::string::npos && outcome.text.find("kernel ") == std::string::npos)
        fail_msg("%s, %s: names no kernel: %s", c.name, order, outcome.text.c_str());
}

void broken_rules_are_reported_in_every_order(void **)
{
    for (const Case *c = reported_cases; c->name != nullptr; c++)
        for (const char *order : orders)
            expect_report(*c, order);
}

void touches_outside_arrays_are_reported_in_every_order(void **)
{
    for (const Case *c = memory_cases; c->name != nullptr; c++)
        for (const char *order : {"in-order", "reverse", "random:1", "priority:1"})
            expect_report(*c, order);
}

void misaligned_accesses_are_reported(void **)
{
    for (const Case *c = alignment_cases; c->name != nullptr; c++)
        for (const char *order : {"in-order", "priority:1"})
            expect_report(*c, order);
}

void expect_wrong_in_some_order(const Case &c)
{
    int noticed = 0;
    for (const char *order : orders) {
        const Outcome outcome = in_child(c, order, "eager");
        noticed += !outcome.exited || outcome.status != 0;
    }
    print_message("%-50s wrong in %2d of 18 orders\n", c.name, noticed);
    if (noticed == 0) fail_msg("%s: right results in every order", c.name);
}

void missing_synchronization_shows_in_some_order(void **)
{
    for (const Case *c = order_cases; c->name != nullptr; c++)
        expect_wrong_in_some_order(*c);
    for (const Case *c = async_cases; c->name != nullptr; c++)
        expect_wrong_in_some_order(*c);
}
} // namespace

int main()
{
    const CMUnitTest tests[] = {
        cmocka_unit_test(right_kernels_are_silent_in_every_order),
        cmocka_unit_test(broken_rules_are_reported_in_every_order),
        cmocka_unit_test(misaligned_accesses_are_reported),
        cmocka_unit_test(touches_outside_arrays_are_reported_in_every_order),
        cmocka_unit_test(missing_synchronization_shows_in_some_order),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
