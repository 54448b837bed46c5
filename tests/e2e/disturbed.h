/*
 * disturbed.h - a run that something befalls, what it may leave behind, and the run after it.
 *
 * The soak takes every point and does not stop at the first that fails: each is said, and the test fails at its end.
 */
#pragma once

#include "tests/e2e/straight.h"
#include "trainer/checkpoint.h"

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
    return is_as_straight() && checkpoints_are_whole(&last) && last == SCENE_STEPS && nothing_is_left_over();
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
