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

static Scene scene;
static Outcome straight;
static ChildResult straight_run;

/* Set-up and tear-down of a group of tests. */
static inline int open_straight(void **state)
{
    (void)state;
    scene_open(&scene);
    straight_run = scene_train(&scene, (const char *const[])STRAIGHT_OVERRIDES, NULL, 0);
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

/* What stands in the run's folder now. */
static inline void assert_as_straight(void)
{
    Outcome now;
    outcome_read(&now, &scene);
    outcome_equal(&straight, &now);
    outcome_free(&now);
}
