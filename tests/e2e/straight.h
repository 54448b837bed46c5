/*
 * straight.h - a scene and what its run yields when nothing disturbs it: for tests that compare other runs with it.
 */
#pragma once

#include "base/hash.h"
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

/* What a run yields beside the adapter and the log. `last` checkpoint: %d is the step. */
static const char *const straight_names[] = {
    "adapter_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "run.yaml",
    "checkpoint-%08d/adapter_model.safetensors",
    "checkpoint-%08d/adapter_config.json",
    "checkpoint-%08d/optimizer.safetensors",
    "checkpoint-%08d/run.yaml",
    "checkpoint-%08d/trainer_state.json",
};
static char straight_hashes[ARRAY_COUNT(straight_names)][HASH_TEXT];

static inline bool straight_hash(size_t i, char hash[HASH_TEXT])
{
    Err err = {0};
    char path[512], name[128], format[128];
    snprintf(format, sizeof format, "run/%s", straight_names[i]);
    snprintf(name, sizeof name, format, SCENE_STEPS);
    scene_path(path, &scene, name);
    const bool ok = hash_file(path, ERR_DISK, hash, &err);
    if (!ok) print_error("%s\n", err.text);
    return ok;
}

static inline bool files_are_as_straight(void)
{
    bool same = true;
    for (size_t i = 0; i < ARRAY_COUNT(straight_names); i++) {
        char hash[HASH_TEXT];
        if (straight_hash(i, hash) && strcmp(hash, straight_hashes[i]) == 0) continue;
        print_error("%s differs\n", straight_names[i]);
        same = false;
    }
    return same;
}

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
    for (size_t i = 0; i < ARRAY_COUNT(straight_names); i++)
        assert_true(straight_hash(i, straight_hashes[i]));
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
    const bool same = outcome_load(&now, &scene) && outcome_same(&straight, &now) && files_are_as_straight();
    outcome_free(&now);
    return same;
}

static inline void assert_as_straight(void)
{
    assert_true(is_as_straight());
}
