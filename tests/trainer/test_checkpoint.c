#include "base/file.h"
#include "base/mem.h"
#include "tests/support/tiny.h"
#include "trainer/checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static const char *const names[] = {"adapter_config.json", "adapter_model.safetensors", "run.yaml",
                                    "trainer_state.json"};
enum { NAMES = 4 };

static int setup(void **state)
{
    *state = tiny_temp_folder();
    return *state ? 0 : -1;
}

static int teardown(void **state)
{
    Err err = {0};
    const bool ok = file_remove_tree(*state, &err);
    mem_free(*state);
    return ok ? 0 : -1;
}

/* A checkpoint of four small files whose content depends on `content`. */
static bool save(const char *output, int64_t step, const char *content, Err *err)
{
    Checkpoint c = {0};
    if (!checkpoint_begin(&c, output, step, err)) return false;
    for (int i = 0; i < NAMES; i++) {
        char text[128];
        const int n = snprintf(text, sizeof text, "%s of %s\n", content, names[i]);
        if (!checkpoint_write(&c, names[i], text, (size_t)n, err)) {
            checkpoint_discard(&c);
            return false;
        }
    }
    return checkpoint_commit(&c, err);
}

static char *path_of(const char *output, int64_t step, const char *name)
{
    Err err = {0};
    char *folder = checkpoint_folder(output, step, &err);
    char *path = path_join(folder, name, &err);
    mem_free(folder);
    assert_non_null(path);
    return path;
}

static void overwrite(const char *path, const char *bytes, size_t length)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, length, f), length);
    fclose(f);
}

static int64_t newest(const char *output)
{
    Err err = {0};
    char *folder = NULL;
    int64_t step = -1;
    assert_true(checkpoint_newest(&folder, &step, output, INT64_MAX, &err));
    const int64_t found = folder ? step : -1;
    mem_free(folder);
    return found;
}

static void a_saved_checkpoint_verifies_and_is_the_newest(void **state)
{
    Err err = {0};
    assert_int_equal(newest(*state), -1);
    assert_true(save(*state, 10, "first", &err));
    assert_true(save(*state, 20, "second", &err));
    assert_int_equal(newest(*state), 20);
    char *folder = checkpoint_folder(*state, 20, &err);
    assert_true(checkpoint_verify(folder, 20, &err));
    assert_false(checkpoint_verify(folder, 10, &err));
    assert_int_equal(err.code, ERR_CHECKPOINT);
    mem_free(folder);
}

static void a_save_of_the_same_step_replaces_the_older_one(void **state)
{
    Err err = {0};
    assert_true(save(*state, 10, "first", &err));
    assert_true(save(*state, 10, "second", &err));
    char *path = path_of(*state, 10, "run.yaml"), *bytes = NULL;
    size_t length = 0;
    assert_true(file_read_all(&bytes, &length, path, 1000, ERR_CHECKPOINT, &err));
    assert_string_equal(bytes, "second of run.yaml\n");
    mem_free(bytes);
    mem_free(path);
    FileList list = {0};
    assert_true(file_list(&list, *state, ERR_DISK, &err));
    assert_int_equal(list.count, 1); /* nothing hidden stays behind */
    file_list_free(&list);
}

static void every_flipped_bit_and_every_truncation_is_noticed(void **state)
{
    Err err = {0};
    assert_true(save(*state, 10, "good", &err));
    assert_true(save(*state, 20, "damaged", &err));
    const char *const victims[] = {"run.yaml", "trainer_state.json", "manifest.json"};
    long accepted = 0;
    for (int v = 0; v < 3; v++) {
        char *path = path_of(*state, 20, victims[v]), *bytes = NULL;
        char *folder = checkpoint_folder(*state, 20, &err);
        size_t length = 0;
        assert_true(file_read_all(&bytes, &length, path, 1 << 20, ERR_CHECKPOINT, &err));
        for (size_t cut = 0; cut < length; cut++) {
            overwrite(path, bytes, cut);
            Err fault = {0};
            if (checkpoint_verify(folder, 20, &fault)) {
                assert_string_equal(victims[v], "manifest.json");
                assert_int_equal(cut, length - 1); /* its final line break carries nothing */
            }
        }
        for (size_t bit = 0; bit < 8 * length; bit++) {
            bytes[bit / 8] = (char)(bytes[bit / 8] ^ 1 << bit % 8);
            overwrite(path, bytes, length);
            bytes[bit / 8] = (char)(bytes[bit / 8] ^ 1 << bit % 8);
            Err fault = {0};
            if (checkpoint_verify(folder, 20, &fault)) {
                assert_string_equal(victims[v], "manifest.json"); /* then every file still has its checksum */
                accepted++;
            } else {
                assert_int_equal(fault.code, ERR_CHECKPOINT);
            }
        }
        overwrite(path, bytes, length);
        assert_true(checkpoint_verify(folder, 20, &err));
        mem_free(bytes);
        mem_free(path);
        mem_free(folder);
    }
    assert_true(accepted < 600); /* blanks and the name of the format: no bit of a size, a name or a checksum */
}

static void a_damaged_checkpoint_is_passed_over(void **state)
{
    Err err = {0};
    assert_true(save(*state, 10, "good", &err));
    assert_true(save(*state, 20, "damaged", &err));
    char *path = path_of(*state, 20, "adapter_model.safetensors");
    overwrite(path, "x", 1);
    assert_int_equal(newest(*state), 10);
    remove(path);
    assert_int_equal(newest(*state), 10);
    mem_free(path);
}

static void hostile_manifests_are_refused(void **state)
{
    static const char *const manifests[] = {
        "",
        "[]",
        "{",
        "{\"version\": 1, \"step\": 20}",
        "{\"version\": 2, \"step\": 20, \"files\": {}}",
        "{\"version\": 1, \"step\": 20, \"files\": {}}",
        "{\"version\": 1, \"step\": \"20\", \"files\": {}}",
        "{\"version\": 1, \"step\": 20, \"files\": {\"adapter_config.json\": 1, \"adapter_model.safetensors\": 1, "
        "\"run.yaml\": 1, \"trainer_state.json\": 1}}",
        "{\"version\": 1, \"step\": 20, \"files\": {\"adapter_config.json\": {\"bytes\": 1}, "
        "\"adapter_model.safetensors\": {}, \"run.yaml\": {}, \"trainer_state.json\": {}, \"../../x\": {}}}",
    };
    Err err = {0};
    assert_true(save(*state, 20, "good", &err));
    char *path = path_of(*state, 20, "manifest.json"), *folder = checkpoint_folder(*state, 20, &err);
    for (size_t i = 0; i < sizeof manifests / sizeof manifests[0]; i++) {
        overwrite(path, manifests[i], strlen(manifests[i]));
        Err fault = {0};
        assert_false(checkpoint_verify(folder, 20, &fault));
        assert_int_equal(fault.code, ERR_CHECKPOINT);
    }
    mem_free(path);
    mem_free(folder);
}

static void rotation_keeps_the_newest_and_the_best(void **state)
{
    Err err = {0};
    CheckpointList list = {0};
    for (int64_t step = 10; step <= 60; step += 10)
        assert_true(save(*state, step, "x", &err));
    assert_true(checkpoint_rotate(*state, 2, 20, &err));
    assert_true(checkpoint_list(&list, *state, &err));
    assert_int_equal(list.count, 3);
    assert_int_equal(list.steps[0], 20);
    assert_int_equal(list.steps[1], 50);
    assert_int_equal(list.steps[2], 60);
    checkpoint_list_free(&list);
}

static void cleaning_removes_leftovers_and_nothing_else(void **state)
{
    static const char *const made[] = {".checkpoint-00000010.tmp", ".checkpoint-00000010.old", ".final.tmp", "notes",
                                       ".checkpoints.tmp",         "checkpoint-00000010"};
    Err err = {0};
    for (int i = 0; i < 6; i++) {
        char *path = path_join(*state, made[i], &err);
        assert_true(file_make_folders(path, &err));
        mem_free(path);
    }
    assert_true(checkpoint_clean(*state, &err));
    FileList list = {0};
    assert_true(file_list(&list, *state, ERR_DISK, &err));
    assert_int_equal(list.count, 3);
    file_list_free(&list);
}

/* Hundreds of expected warnings are no news. */
static int quiet_begin(void)
{
    fflush(stderr);
    const int kept = dup(STDERR_FILENO), nowhere = open("/dev/null", O_WRONLY);
    dup2(nowhere, STDERR_FILENO);
    close(nowhere);
    return kept;
}

static void quiet_end(int kept)
{
    fflush(stderr);
    dup2(kept, STDERR_FILENO);
    close(kept);
}

/* Whatever call fails, the older checkpoint is whole, and the new one is whole or absent. */
static void a_failing_call_never_harms_what_was_saved(void **state)
{
    static const int errors[] = {ENOSPC, EIO};
    Err err = {0};
    const int kept = quiet_begin();
    for (int sticky = 0; sticky < 2; sticky++) {
        for (int e = 0; e < 2; e++) {
            bool done = false;
            assert_true(save(*state, 10, "old", &err));
            for (uint64_t nth = 1; !done; nth++) {
                Err fault = {0};
                file_fail_at("any", nth, errors[e], sticky);
                done = save(*state, 20, "new", &fault);
                file_fail_at(NULL, 0, 0, false);
                const int64_t found = newest(*state);
                assert_true(found == 20 || found == 10);
                assert_true(!done || found == 20);
                if (!done) assert_true(fault.code != ERR_NONE);
                assert_true(checkpoint_clean(*state, &err));
                assert_true(nth < 500);
                char *folder = checkpoint_folder(*state, 10, &err);
                assert_true(checkpoint_verify(folder, 10, &err));
                mem_free(folder);
                if (done) break;
                folder = checkpoint_folder(*state, 20, &err);
                if (file_exists(folder)) assert_true(file_remove_tree(folder, &err));
                mem_free(folder);
            }
        }
    }
    quiet_end(kept);
}

static bool all_whole(const char *output)
{
    Err err = {0};
    CheckpointList list = {0};
    assert_true(checkpoint_list(&list, output, &err));
    bool whole = list.count > 0;
    for (size_t i = 0; whole && i < list.count; i++) {
        char *folder = checkpoint_folder(output, list.steps[i], &err);
        whole = checkpoint_verify(folder, list.steps[i], &err);
        mem_free(folder);
    }
    checkpoint_list_free(&list);
    return whole;
}

/* A checkpoint that makes room is not seen half removed, and goes the next time where it could not go at once. */
static void a_failing_removal_leaves_whole_checkpoints_or_none(void **state)
{
    Err err = {0};
    const int kept = quiet_begin();
    bool done = false;
    for (uint64_t nth = 1; !done; nth++) {
        for (int64_t step = 10; step <= 30; step += 10)
            assert_true(save(*state, step, "x", &err));
        Err fault = {0};
        file_fail_at("any", nth, EIO, true);
        done = checkpoint_rotate(*state, 1, -1, &fault);
        file_fail_at(NULL, 0, 0, false);
        assert_true(done || fault.code == ERR_DISK);
        assert_true(all_whole(*state));
        assert_int_equal(newest(*state), 30);
        assert_true(checkpoint_rotate(*state, 1, -1, &err));
        FileList list = {0};
        assert_true(file_list(&list, *state, ERR_DISK, &err));
        assert_int_equal(list.count, 1);
        file_list_free(&list);
        assert_true(nth < 500);
    }
    quiet_end(kept);
}

/* Somebody moved a checkpoint to another disk: the run goes on, and leaves alone what is not in its folder. */
static void a_checkpoint_that_is_a_link_makes_room_too(void **state)
{
    Err err = {0};
    for (int64_t step = 10; step <= 30; step += 10)
        assert_true(save(*state, step, "x", &err));
    char *folder = checkpoint_folder(*state, 10, &err), *moved = path_join(*state, "moved", &err);
    assert_true(folder && moved);
    assert_int_equal(rename(folder, moved), 0);
    assert_int_equal(symlink("moved", folder), 0);
    assert_true(checkpoint_verify(folder, 10, &err));
    assert_true(checkpoint_rotate(*state, 2, -1, &err));
    assert_false(file_exists(folder));
    assert_true(checkpoint_verify(moved, 10, &err));
    assert_true(checkpoint_clean(*state, &err));
    mem_free(folder);
    mem_free(moved);
}

/* The manifest too takes memory to make, and a checkpoint whose manifest lacks a part is none. */
static void a_failing_allocation_leaves_whole_checkpoints_or_none(void **state)
{
    Err err = {0};
    uint64_t nth = 0, end = 0;
    assert_true(save(*state, 10, "old", &err));
    do {
        Err fault = {0};
        const uint64_t before = mem_alloc_count();
        mem_fail_at(++nth, false);
        const bool ok = save(*state, 20, "new", &fault);
        mem_fail_at(0, false);
        end = mem_alloc_count() - before;
        assert_true(ok || fault.code == ERR_MEMORY);
        assert_true(all_whole(*state));
        assert_true(checkpoint_clean(*state, &err));
    } while (nth <= end);
    assert_int_equal(newest(*state), 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_saved_checkpoint_verifies_and_is_the_newest, setup, teardown),
        cmocka_unit_test_setup_teardown(a_save_of_the_same_step_replaces_the_older_one, setup, teardown),
        cmocka_unit_test_setup_teardown(every_flipped_bit_and_every_truncation_is_noticed, setup, teardown),
        cmocka_unit_test_setup_teardown(a_damaged_checkpoint_is_passed_over, setup, teardown),
        cmocka_unit_test_setup_teardown(hostile_manifests_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(rotation_keeps_the_newest_and_the_best, setup, teardown),
        cmocka_unit_test_setup_teardown(cleaning_removes_leftovers_and_nothing_else, setup, teardown),
        cmocka_unit_test_setup_teardown(a_failing_call_never_harms_what_was_saved, setup, teardown),
        cmocka_unit_test_setup_teardown(a_failing_removal_leaves_whole_checkpoints_or_none, setup, teardown),
        cmocka_unit_test_setup_teardown(a_checkpoint_that_is_a_link_makes_room_too, setup, teardown),
        cmocka_unit_test_setup_teardown(a_failing_allocation_leaves_whole_checkpoints_or_none, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
