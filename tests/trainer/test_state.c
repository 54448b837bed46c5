#include "base/file.h"
#include "base/mem.h"
#include "tests/support/tiny.h"
#include "trainer/state.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static RunState example(void)
{
    RunState s = {
        .step = 17,
        .total_steps = 40,
        .rows = 136,
        .epoch = 1.0 / 3,
        .tokens = 9999999999,
        .trained_tokens = 5,
        .has_loss = true,
        .loss = 2.0 / 3,
        .has_best = true,
        .best_loss = 0.1,
        .best_step = 10,
        .evals_without_gain = 2,
        .stopped_early = true,
        .eval_pending = true,
        .resumable = true,
        .watchdog = {.in_a_row = 1,   .total = 2, .withheld = 3, .rollbacks = 1, .first_bad = 9},
        .scale = {.factor = 32768, .good = 11,           .overflows = 2         },
    };
    strcpy(s.config_hash, "0123456789abcdef0123456789abcdef");
    strcpy(s.data_fingerprint, "1123456789abcdef0123456789abcdef");
    strcpy(s.base_fingerprint, "2123456789abcdef0123456789abcdef");
    return s;
}

typedef struct Place {
    char *folder, *path;
} Place;

static Place place_make(void)
{
    Err err = {0};
    Place p = {.folder = tiny_temp_folder()};
    p.path = path_join(p.folder, "trainer_state.json", &err);
    return p;
}

static void place_free(Place *p)
{
    Err err = {0};
    assert_true(file_remove_tree(p->folder, &err));
    mem_free(p->folder);
    mem_free(p->path);
}

static void what_is_written_comes_back(void **state)
{
    (void)state;
    Place p = place_make();
    Err err = {0};
    const RunState s = example();
    RunState back;
    memset(&back, 0, sizeof back);
    char *text = state_to_json(&s, &err);
    assert_true(file_replace(p.path, text, strlen(text), &err));
    assert_true(state_read(&back, p.path, &err));
    char *again = state_to_json(&back, &err);
    assert_string_equal(text, again);
    assert_true(back.loss == s.loss && back.best_loss == s.best_loss && back.epoch == s.epoch);
    assert_int_equal(back.watchdog.first_bad, 9);
    assert_true(back.scale.factor == 32768 && back.scale.good == 11 && back.scale.overflows == 2);
    assert_true(back.eval_pending && back.stopped_early && back.resumable);
    free(text);
    free(again);
    place_free(&p);
}

static void a_run_without_a_loss_scale_has_none(void **state)
{
    (void)state;
    Place p = place_make();
    Err err = {0};
    RunState s = example(), back;
    s.scale = (LossScale){0};
    char *text = state_to_json(&s, &err);
    assert_non_null(strstr(text, "\"loss_scale\": null"));
    assert_true(file_replace(p.path, text, strlen(text), &err));
    assert_true(state_read(&back, p.path, &err));
    assert_true(back.scale.factor == 0);
    free(text);
    place_free(&p);
}

static void a_missing_or_foreign_member_is_one_clear_error(void **state)
{
    (void)state;
    Place p = place_make();
    Err err = {0};
    const RunState s = example();
    char *text = state_to_json(&s, &err);
    static const char *const edits[][2] = {
        {"\"global_step\": 17",              "\"global_step\": -17"               },
        {"\"global_step\": 17",              "\"global_step\": 1.5"               },
        {"\"global_step\": 17",              "\"steps\": 17"                      },
        {"\"rows\": 136",                    "\"rows\": \"136\""                  },
        {"\"version\": 1",                   "\"version\": 9"                     },
        {"\"resumable\": true",              "\"resumable\": 1"                   },
        {"\"resumable\": true",              "\"resumed\": true"                  },
        {"0123456789abcdef0123456789abcdef", "x0123456789abcdef0123456789abcdefx" },
        {"\"max_steps\": 40",                "\"max_steps\": 99999999999999999999"},
        {"\"loss_scale\": 32768.0",          "\"loss_scale\": 30000.0"            },
        {"\"loss_scale\": 32768.0",          "\"loss_scale\": 0.5"                },
        {"\"loss_scale\": 32768.0",          "\"loss_scale\": -2.0"               },
        {"\"loss_scale\": 32768.0",          "\"loss_scale\": 33554432.0"         },
        {"\"overflowed_updates\": 2",        "\"overflowed_updates\": -2"         },
    };
    for (size_t i = 0; i < sizeof edits / sizeof edits[0]; i++) {
        char edited[4096];
        const char *at = strstr(text, edits[i][0]);
        assert_non_null(at);
        snprintf(edited, sizeof edited, "%.*s%s%s", (int)(at - text), text, edits[i][1], at + strlen(edits[i][0]));
        assert_true(file_replace(p.path, edited, strlen(edited), &err));
        Err fault = {0};
        RunState back;
        assert_false(state_read(&back, p.path, &fault));
        assert_int_equal(fault.code, ERR_CHECKPOINT);
    }
    free(text);
    place_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_comes_back),
        cmocka_unit_test(a_run_without_a_loss_scale_has_none),
        cmocka_unit_test(a_missing_or_foreign_member_is_one_clear_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
