/*
 * disturbed.h - a run that something befalls, what it may leave behind, and the run after it.
 *
 * The soak takes every point and does not stop at the first that fails: each is said, and the test fails at its end.
 */
#pragma once

#include "base/hash.h"
#include "tests/e2e/straight.h"
#include "trainer/checkpoint.h"

/* What a run yields beside the adapter and the log; %d is the last step. */
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

/* Set-up of a group of tests; the tear-down is close_straight. */
static inline int open_disturbed(void **state)
{
    open_straight(state);
    for (size_t i = 0; i < ARRAY_COUNT(straight_names); i++)
        assert_true(straight_hash(i, straight_hashes[i]));
    return 0;
}

static inline bool is_wholly_as_straight(void)
{
    return is_as_straight() && files_are_as_straight();
}

/* No run yet, and none of the files that an earlier one left for others. */
static inline void forget_everything(void)
{
    Err err = {0};
    char cache[512];
    scene_path(cache, &scene, "cache");
    scene_forget_run(&scene);
    CHECK(file_remove_tree(cache, &err));
}

/* All that goes by the name of a checkpoint is whole; *newest: the last one's step, 0 when there is none. */
static inline bool checkpoints_are_whole(int64_t *newest)
{
    Err err = {0};
    CheckpointList list = {0};
    char run[512];
    bool whole = true;
    scene_path(run, &scene, "run");
    *newest = 0;
    if (!file_exists(run)) return true;
    assert_true(checkpoint_list(&list, run, &err));
    for (size_t i = 0; whole && i < list.count; i++) {
        *newest = list.steps[i];
        char *folder = checkpoint_folder(run, *newest, &err);
        whole = checkpoint_verify(folder, *newest, &err);
        if (!whole) print_error("%s\n", err.text);
        mem_free(folder);
    }
    checkpoint_list_free(&list);
    return whole;
}

/* Nothing hidden or half written stands in the run's folder. */
static inline bool nothing_is_left_over(void)
{
    Err err = {0};
    FileList list = {0};
    char run[512];
    bool clean = true;
    scene_path(run, &scene, "run");
    assert_true(file_list(&list, run, ERR_DISK, &err));
    for (size_t i = 0; i < list.count; i++) {
        const char *name = list.names[i];
        const size_t n = strlen(name);
        const bool hidden = name[0] == '.' && strcmp(name, ".lock") != 0;
        if (!hidden && (n < 4 || strcmp(name + n - 4, ".tmp") != 0)) continue;
        print_error("%s stays behind\n", name);
        clean = false;
    }
    file_list_free(&list);
    return clean;
}

/* The run after a disturbed one takes up the newest checkpoint and ends as if nothing had happened. */
static inline bool goes_on(void)
{
    int64_t newest = 0, last = 0;
    if (!checkpoints_are_whole(&newest)) return false;
    const ChildResult r = straight_try(NULL);
    if (r.status != 0 || r.report.first_step != newest) {
        scene_show_log(&scene);
        print_error("status %d of the run after it, which began behind step %d\n", r.status, (int)r.report.first_step);
        return false;
    }
    return is_wholly_as_straight() && checkpoints_are_whole(&last) && last == SCENE_STEPS && nothing_is_left_over();
}

/* How a loop over points went. */
typedef struct Tally {
    const char *what;
    uint64_t points, done, failed;
} Tally;

static inline void tally(Tally *t, uint64_t point, bool ok)
{
    t->failed += !ok;
    if (!ok) print_error("^ %s %lu\n", t->what, (unsigned long)point);
    if (getenv("QLORA_TEST_SOAK") && ++t->done % 200 == 0) {
        print_message("%s: %lu, at %lu of %lu, failed %lu\n", t->what, (unsigned long)t->done, (unsigned long)point,
                      (unsigned long)t->points, (unsigned long)t->failed);
    }
    assert_true(ok || getenv("QLORA_TEST_SOAK"));
}

static inline void tally_end(const Tally *t)
{
    if (getenv("QLORA_TEST_SOAK")) {
        print_message("%s: %lu points, failed %lu\n", t->what, (unsigned long)t->done, (unsigned long)t->failed);
    }
    assert_int_equal(t->failed, 0);
}
