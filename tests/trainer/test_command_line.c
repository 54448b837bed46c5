#include "trainer/command.h"
#include "trainer/settings.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static const CommandOption options[] = {
    COMMAND_SET,
    COMMAND_JSON,
    {"count",   "N",      "a number"},
    {"adapter", "FOLDER", "a folder"},
    {"prompt",  "TEXT",   "a text"  }
};
static const Command command = {
    .name = "try", .files = "FILE", .min_files = 1, .max_files = 1, .options = options, .option_count = 5};

static bool parse(CommandLine *line, Err *err, int argc, const char *const *words)
{
    char *argv[16];
    for (int i = 0; i < argc; i++)
        argv[i] = (char *)(uintptr_t)words[i];
    return command_line_parse(line, &command, argc, argv, err);
}

#define PARSE(line, err, ...)                                                                                          \
    parse((line), (err), (int)(sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *)), (const char *[]){__VA_ARGS__})

static void options_may_stand_before_and_after_the_file(void **state)
{
    (void)state;
    Err err = {0};
    CommandLine a = {0}, b = {0};
    assert_true(PARSE(&a, &err, "--json", "--set", "a=1", "file", "--count=5"));
    assert_true(PARSE(&b, &err, "file", "--count", "5", "--json", "--set=a=1"));
    const CommandLine *both[] = {&a, &b};
    for (int i = 0; i < 2; i++) {
        int64_t count = 0;
        assert_string_equal(both[i]->files[0], "file");
        assert_true(command_flag(both[i], "json"));
        assert_int_equal(both[i]->set_count, 1);
        assert_string_equal(both[i]->sets[0], "a=1");
        assert_true(command_int(both[i], "count", 1, 10, &count, &err));
        assert_int_equal(count, 5);
    }
    command_line_free(&a);
    command_line_free(&b);
}

static void two_dashes_end_the_options(void **state)
{
    (void)state;
    Err err = {0};
    CommandLine line = {0};
    assert_true(PARSE(&line, &err, "--", "--json"));
    assert_string_equal(line.files[0], "--json");
    assert_false(command_flag(&line, "json"));
    command_line_free(&line);
}

static void a_text_may_be_empty(void **state)
{
    (void)state;
    Err err = {0};
    CommandLine line = {0};
    assert_true(PARSE(&line, &err, "file", "--prompt", ""));
    assert_string_equal(command_text(&line, "prompt"), "");
    command_line_free(&line);
}

static void mistakes_are_usage_errors_that_help(void **state)
{
    (void)state;
    static const struct Case {
        const char *words[3];
        const char *says;
    } cases[] = {
        {{"file", "--jsn", NULL},        "did you mean \"--json\"?"            },
        {{"file", "-j", NULL},           "unknown option \"-j\""               },
        {{"file", "--xyzzyxyzzy", NULL}, "--help"                              },
        {{"file", "--json=1", NULL},     "takes no value"                      },
        {{"file", "--count", NULL},      "needs a value"                       },
        {{"file", "--adapter=", NULL},   "--adapter is empty: --adapter FOLDER"},
        {{"file", "--adapter", ""},      "--adapter is empty"                  },
        {{"file", "--count", ""},        "--count is empty"                    },
        {{"file", "other", NULL},        "one argument too many"               },
        {{"--json", NULL, NULL},         "something is missing"                },
        {{"file", "--\x1b[31m", NULL},   "\\x1B"                               },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Err err = {0};
        CommandLine line = {0};
        int n = 0;
        while (n < 3 && cases[i].words[n])
            n++;
        assert_false(parse(&line, &err, n, cases[i].words));
        assert_int_equal(err_exit_status(err.code), 2);
        if (!strstr(err.text, cases[i].says)) fail_msg("\"%s\" does not say \"%s\"", err.text, cases[i].says);
    }
}

static void numbers_out_of_range_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"0", "11", "x", "5x", "99999999999999999999", "1.5"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        Err err = {0};
        CommandLine line = {0};
        int64_t count = 0;
        double real = 0;
        assert_true(PARSE(&line, &err, "file", "--count", bad[i]));
        assert_false(command_int(&line, "count", 1, 10, &count, &err));
        assert_int_equal(err.code, ERR_ARG);
        Err other = {0};
        assert_int_equal(command_real(&line, "count", 1, 10, &real, &other), strcmp(bad[i], "1.5") == 0);
        command_line_free(&line);
    }
}

static void things_are_due_by_steps_or_by_epochs(void **state)
{
    (void)state;
    assert_true(settings_due(5, 3, 10, 8, 64));
    assert_false(settings_due(5, 3, 11, 8, 64));
    assert_false(settings_due(0, 0, 10, 8, 64));
    int due = 0;
    for (int64_t step = 1; step <= 16; step++)
        due += settings_due(0, 4, step, 8, 64); /* two epochs of 8 updates */
    assert_int_equal(due, 8);
    due = 0;
    for (int64_t step = 1; step <= 100; step++)
        due += settings_due(0, 1, step, 7, 50); /* 14 epochs: they straddle */
    assert_int_equal(due, 14);
    for (int64_t step = 1; step <= 5; step++)
        assert_true(settings_due(0, 9, step, 64, 64)); /* more often than updates */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options_may_stand_before_and_after_the_file),
        cmocka_unit_test(two_dashes_end_the_options),
        cmocka_unit_test(a_text_may_be_empty),
        cmocka_unit_test(mistakes_are_usage_errors_that_help),
        cmocka_unit_test(numbers_out_of_range_are_refused),
        cmocka_unit_test(things_are_due_by_steps_or_by_epochs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
