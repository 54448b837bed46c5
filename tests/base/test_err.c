#include "base/err.h"

#include "tests/support/scratch.h"

static void the_first_failure_is_the_one_that_stays(void **state)
{
    (void)state;
    Err err = {0};
    assert_false(FAIL(&err, ERR_DATA, "line %d is empty", 7));
    assert_false(FAIL(&err, ERR_MEMORY, "a later one"));
    assert_int_equal(err.code, ERR_DATA);
    assert_string_equal(err.text, "line 7 is empty");
    assert_non_null(strstr(err.file, "test_err.c"));
    assert_true(err.line > 0 && !err.located);
    assert_false(FAIL(NULL, ERR_DATA, "nobody wants to know"));
}

static void context_goes_in_front_unless_there_is_a_place(void **state)
{
    (void)state;
    Err err = {0};
    assert_false(err_note(&err, "nothing happened"));
    assert_int_equal(err.code, ERR_NONE);
    assert_false(FAIL(&err, ERR_MODEL, "it is cut"));
    assert_false(err_note(&err, "open %s", "m.gguf"));
    assert_string_equal(err.text, "open m.gguf: it is cut");
    err_clear(&err);
    assert_int_equal(err.code, ERR_NONE);
    assert_string_equal(err.text, "");
    assert_false(FAIL_AT(&err, ERR_CONFIG, "run.yaml:3:1: unknown key"));
    assert_false(err_note(&err, "context"));
    assert_true(err.located);
    assert_string_equal(err.text, "run.yaml:3:1: unknown key");
    err_clear(&err);
    assert_false(err.located);
}

static void long_texts_are_cut_and_stay_terminated(void **state)
{
    (void)state;
    static char text[2 * ERR_TEXT_MAX];
    memset(text, 'x', sizeof text - 1);
    Err err = {0};
    assert_false(FAIL(&err, ERR_DATA, "%s", text));
    assert_int_equal(strlen(err.text), ERR_TEXT_MAX - 1);
    assert_false(err_note(&err, "in front"));
    assert_int_equal(strlen(err.text), ERR_TEXT_MAX - 1);
    assert_true(strncmp(err.text, "in front: xxx", 13) == 0);
}

static void exit_codes_are_an_interface(void **state)
{
    (void)state;
    static const struct {
        ErrCode code;
        int status;
    } cases[] = {
        {ERR_NONE,        0 },
        {ERR_ARG,         2 },
        {ERR_CONFIG,      2 },
        {ERR_DATA,        3 },
        {ERR_MODEL,       4 },
        {ERR_CHECKPOINT,  4 },
        {ERR_MEMORY,      5 },
        {ERR_DISK,        5 },
        {ERR_DEVICE,      6 },
        {ERR_DIVERGED,    7 },
        {ERR_INTERRUPTED, 75},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(err_exit_status(cases[i].code), cases[i].status);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_failure_is_the_one_that_stays),
        cmocka_unit_test(context_goes_in_front_unless_there_is_a_place),
        cmocka_unit_test(long_texts_are_cut_and_stay_terminated),
        cmocka_unit_test(exit_codes_are_an_interface),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
