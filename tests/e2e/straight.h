/*
 * straight.h - a scene and what its run yields when nothing disturbs it: for tests that compare other runs with it.
 */
#pragma once

#include "tests/e2e/scene.h"

#ifndef STRAIGHT_OVERRIDES /* of that run; a test may want others */
#    define STRAIGHT_OVERRIDES                                                                                         \
        {                                                                                                              \
            NULL                                                                                                       \
        }
#endif
#ifndef STRAIGHT_REFERENCE /* plain products: other bits, and none of the library's start-up time */
#    define STRAIGHT_REFERENCE false
#endif

static Scene scene;
static Outcome straight;
static ChildResult straight_run;
static const char *const straight_overrides[] = STRAIGHT_OVERRIDES;

/* The run of the scene, from where it stands. */
static inline ChildResult straight_try(const ChildFault *fault)
{
    ChildFault f = fault ? *fault : (ChildFault){0};
    f.reference = STRAIGHT_REFERENCE;
    remove(scene.log);
    return child_train(scene.config, straight_overrides, &f, scene.log);
}

/* It must end with `status`. */
static inline ChildResult straight_train(const ChildFault *fault, int status)
{
    const ChildResult r = straight_try(fault);
    if (r.status != status) {
        scene_show_log(&scene);
        fail_msg("the run ended with %d instead of %d", r.status, status);
    }
    return r;
}

/* Set-up and tear-down of a group of tests. */
static inline int open_straight(void **state)
{
    (void)state;
    scene_open(&scene);
    straight_run = straight_train(NULL, 0);
    outcome_read(&straight, &scene);
    return 0;
}

static inline int close_straight(void **state)
{
    (void)state;
    outcome_free(&straight);
    scene_close(&scene);
    return 0;
}

/* What stands in the run's folder now; false, and said, when it differs. */
static inline bool is_as_straight(void)
{
    Outcome now;
    const bool same = outcome_load(&now, &scene) && outcome_same(&straight, &now);
    outcome_free(&now);
    return same;
}

static inline void assert_as_straight(void)
{
    assert_true(is_as_straight());
}
