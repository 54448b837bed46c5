/* Figures of cards: names, changes, figures given by hand, and what is refused. */
#include "trainer/device_card.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static DeviceCard parsed(const char *text)
{
    DeviceCard card;
    Err err = {0};
    if (!device_card_parse(&card, text, &err)) fail_msg("%s: %s", text, err.text);
    return card;
}

static void assert_refused(const char *text, const char *part)
{
    DeviceCard card;
    Err err = {0};
    assert_false(device_card_parse(&card, text, &err));
    assert_int_equal(err.code, ERR_ARG);
    assert_int_equal(err_exit_status(err.code), 2);
    if (!strstr(err.text, part)) fail_msg("\"%s\": \"%s\" does not say \"%s\"", text, err.text, part);
}

static void every_card_of_the_table_is_found_and_plausible(void **state)
{
    (void)state;
    static const char *const asked[] = {"h100", "h200", "a100", "4090", "3090", "t4", "l4", "b200", "a100-40gb"};
    for (size_t i = 0; i < sizeof asked / sizeof asked[0]; i++)
        assert_string_equal(parsed(asked[i]).name, asked[i]);
    for (int i = 0; i < device_card_count(); i++) {
        const DeviceCard card = device_card_at(i), found = parsed(card.name);
        assert_memory_equal(&card, &found, sizeof card);
        assert_true(card.memory_bytes > 14e9 && card.memory_bytes < 200e9);
        assert_in_range(card.context_bytes, 200 << 20, 600 << 20);
        assert_int_equal(card.workspace_bytes, (card.capability >= 90 ? 32 : 8) << 20);
        assert_true(card.matmul > card.attention_forward && card.attention_forward > card.attention_backward);
        assert_true(card.matmul / card.bandwidth > 50 && card.matmul / card.bandwidth < 300);
        assert_true(card.link >= 12e9 && card.link < card.bandwidth);
        assert_false(card.changed);
    }
}

static void h100_has_the_figures_of_the_written_model(void **state)
{
    (void)state;
    const DeviceCard card = parsed("h100");
    assert_int_equal(card.capability, 90);
    assert_int_equal(card.processors, 132);
    assert_true(card.matmul == 700e12 && card.bandwidth == 3000e9 && card.link == 50e9);
    assert_true(card.context_bytes > 440e6 && card.context_bytes < 460e6);
}

static void names_are_found_in_other_spellings(void **state)
{
    (void)state;
    assert_string_equal(parsed("H100").name, "h100");
    assert_string_equal(parsed("a100-80gb").name, "a100");
    assert_string_equal(parsed("RTX-4090").name, "4090");
    assert_true(parsed("a100").memory_bytes == 2 * parsed("a100-40").memory_bytes);
}

static void a_card_of_the_table_can_be_changed(void **state)
{
    (void)state;
    const DeviceCard plain = parsed("4090"),
                     card = parsed("4090,memory=20GiB,link=12,launch=0,capability=9.0,l2=64MiB");
    assert_int_equal(card.memory_bytes, 20ULL << 30);
    assert_int_equal(card.l2_bytes, 64 << 20);
    assert_int_equal(card.capability, 90);
    assert_true(card.link == 12e9 && card.launch == 0 && card.matmul == plain.matmul);
    assert_true(card.changed);
}

static void a_card_by_hand_gets_the_rest_from_what_is_given(void **state)
{
    (void)state;
    const DeviceCard card = parsed("custom,memory=24GiB,matmul=150,bandwidth=1000");
    assert_int_equal(card.memory_bytes, 24ULL << 30);
    assert_true(card.matmul == 150e12 && card.bandwidth == 1e12 && card.link == 25e9);
    assert_true(card.attention_forward > 60e12 && card.attention_forward < 75e12);
    assert_true(card.attention_backward < card.attention_forward);
    assert_true(parsed("custom,memory=24GiB,matmul=150,bandwidth=1000,attention=100").attention_forward == 100e12);
}

static void what_is_wrong_is_refused_with_the_nearest_name(void **state)
{
    (void)state;
    assert_refused("h10", "did you mean \"h100\"");
    assert_refused("a100-41gb", "did you mean \"a100-40gb\"");
    assert_refused("costum,memory=1GiB", "did you mean \"custom\"");
    assert_refused("voodoo", "there are h100");
    assert_refused("", "write NAME");
    assert_refused("h100,", "write NAME");
    assert_refused("h100,memory", "not KEY=VALUE");
    assert_refused("h100,memroy=40GiB", "did you mean \"memory\"");
    assert_refused("h100,colour=red", "unknown figure \"colour\"");
    assert_refused("h100,memory=40", "less than 1MiB");
    assert_refused("h100,matmul=fast", "is not a number");
    assert_refused("h100,matmul=nan", "is not a number");
    assert_refused("h100,matmul=-1", "is not a number from");
    assert_refused("h100,processors=0", "is not a number from 1");
    assert_refused("h100,processors=1.5", "is no whole number");
    assert_refused("h100,capability=3.5", "from 7.5");
    assert_refused("h100,capability=8.95", "is no compute capability");
    assert_refused("h100,link=20,memory=20GiB,link=30", "link stands twice");
    assert_refused("all,memory=20GiB", "all lists every card");
    assert_refused("memory=20GiB", "a card comes first, such as h100,memory=20GiB");
    assert_refused("xy", "there are h100"); /* two letters of which none is right are no slip of l4 */
    assert_refused("custom,matmul=150,bandwidth=1000", "needs memory");
    assert_refused("custom,memory=24GiB,bandwidth=1000", "needs matmul");
    assert_refused("custom,memory=24GiB,matmul=150", "needs bandwidth");
    assert_refused("h100\033[31m", "\\x1B");
    assert_refused("a-name-that-is-longer-than-any-card-could-ever-have-been-called", "write NAME");
}

static void the_names_of_drivers_are_known(void **state)
{
    (void)state;
    static const struct {
        const char *driver, *name;
    } cases[] = {
        {"NVIDIA H100 80GB HBM3",                                   "h100"     },
        {"cuda:0 (NVIDIA H100 80GB HBM3, 85.0 GB, capability 9.0)", "h100"     },
        {"NVIDIA H100 PCIe",                                        "h100-pcie"},
        {"NVIDIA H200",                                             "h200"     },
        {"NVIDIA A100-SXM4-40GB",                                   "a100-40gb"},
        {"NVIDIA A100-SXM4-80GB",                                   "a100"     },
        {"NVIDIA GeForce RTX 4090",                                 "4090"     },
        {"Tesla T4",                                                "t4"       },
        {"NVIDIA L4",                                               "l4"       },
        {"NVIDIA B200",                                             "b200"     },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        DeviceCard card = {0};
        assert_true(device_card_of_driver(&card, cases[i].driver));
        assert_string_equal(card.name, cases[i].name);
    }
    DeviceCard card = {.processors = 7};
    assert_false(device_card_of_driver(&card, "NVIDIA L40S"));
    assert_false(device_card_of_driver(&card, "Quadro"));
    assert_int_equal(card.processors, 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_card_of_the_table_is_found_and_plausible),
        cmocka_unit_test(h100_has_the_figures_of_the_written_model),
        cmocka_unit_test(names_are_found_in_other_spellings),
        cmocka_unit_test(a_card_of_the_table_can_be_changed),
        cmocka_unit_test(a_card_by_hand_gets_the_rest_from_what_is_given),
        cmocka_unit_test(what_is_wrong_is_refused_with_the_nearest_name),
        cmocka_unit_test(the_names_of_drivers_are_known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
