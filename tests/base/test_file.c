#include "base/file.h"

#include "base/mem.h"
#include "tests/support/scratch.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

static void hooks_off(void)
{
    file_fail_at(NULL, 0, 0, false);
    file_fail_after_bytes(UINT64_MAX);
    mem_fail_at(0, false);
}

/* Opening must come back at once, so an alarm ends the program when it does not. */
static void only_regular_files_are_read(void **state)
{
    (void)state;
    Err err = {0};
    Scratch s = scratch_make();
    File f;
    FileMap m;
    char *bytes;
    size_t length;
    alarm(20);
    const char *fifo = scratch_path(&s, "fifo");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_false(file_open_read(&f, fifo, ERR_DATA, &err));
    assert_error(&err, ERR_DATA, "is a pipe, not a file");
    assert_false(file_map(&m, fifo, ERR_DATA, &err));
    assert_error(&err, ERR_DATA, "is a pipe");
    assert_false(file_read_all(&bytes, &length, s.folder, 100, ERR_CONFIG, &err));
    assert_error(&err, ERR_CONFIG, "is a folder, not a file");
    assert_false(file_open_read(&f, "/dev/zero", ERR_MODEL, &err));
    assert_error(&err, ERR_MODEL, "is a device, not a file");
    assert_false(file_open_read(&f, scratch_path(&s, "none"), ERR_MODEL, &err));
    assert_error(&err, ERR_MODEL, "it does not exist");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *name = scratch_path(&s, "socket");
    assert_true(strlen(name) < sizeof address.sun_path);
    memcpy(address.sun_path, name, strlen(name) + 1);
    const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_false(file_open_read(&f, address.sun_path, ERR_MODEL, &err));
    assert_error(&err, ERR_MODEL, "could not open");
    close(fd);
    alarm(0);
    scratch_remove(&s);
}

static void nothing_but_files_is_written_over(void **state)
{
    (void)state;
    Err err = {0};
    Scratch s = scratch_make();
    File f;
    alarm(20);
    const char *fifo = scratch_path(&s, "fifo");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_false(file_create(&f, fifo, &err));
    assert_error(&err, ERR_DISK, "is a pipe");
    assert_false(file_append(fifo, "x", 1, &err));
    assert_error(&err, ERR_DISK, "");
    assert_false(file_create(&f, s.folder, &err));
    assert_error(&err, ERR_DISK, "is a folder");
    alarm(0);
    /* A link is replaced; what it points at stays. */
    scratch_write(scratch_path(&s, "target"), "old", 3);
    const char *link = scratch_path(&s, "link");
    assert_int_equal(symlink("target", link), 0);
    assert_done(file_replace(link, "new", 3, &err));
    size_t length;
    char *target = scratch_read(scratch_path(&s, "target"), &length);
    assert_string_equal(target, "old");
    free(target);
    scratch_remove(&s);
}

static void reads_are_whole_and_within_the_file(void **state)
{
    (void)state;
    Err err = {0};
    Scratch s = scratch_make();
    const char *path = scratch_path(&s, "f");
    scratch_write(path, "0123456789", 10);
    File f;
    char part[16] = {0};
    assert_done(file_open_read(&f, path, ERR_MODEL, &err));
    assert_int_equal(f.size, 10);
    assert_done(file_read_at(&f, 3, part, 4, &err));
    assert_string_equal(part, "3456");
    assert_done(file_read_at(&f, 10, part, 0, &err));
    assert_false(file_read_at(&f, 7, part, 4, &err));
    assert_error(&err, ERR_MODEL, "ends at byte 10");
    assert_false(file_read_at(&f, UINT64_MAX - 1, part, 4, &err));
    assert_error(&err, ERR_MODEL, "ends at byte 10");
    assert_int_equal(truncate(path, 5), 0); /* somebody cuts it while we have it open */
    assert_false(file_read_at(&f, 3, part, 4, &err));
    assert_error(&err, ERR_MODEL, "became shorter");
    file_close(&f);
    file_close(&f); /* twice is fine */
    char *bytes;
    size_t length;
    assert_done(file_read_all(&bytes, &length, path, 5, ERR_DATA, &err));
    assert_int_equal(length, 5);
    assert_string_equal(bytes, "01234");
    mem_free(bytes);
    assert_false(file_read_all(&bytes, &length, path, 4, ERR_DATA, &err));
    assert_error(&err, ERR_DATA, "larger than the 4 bytes");
    assert_done(file_read_all(&bytes, &length, "/proc/self/stat", 4096, ERR_DATA, &err)); /* its size is 0 */
    assert_true(length > 10);
    mem_free(bytes);
    FileMap m;
    assert_done(file_map(&m, path, ERR_DATA, &err));
    assert_memory_equal(m.bytes, "01234", 5);
    file_unmap(&m);
    scratch_write(path, "", 0);
    assert_done(file_map(&m, path, ERR_DATA, &err));
    assert_null(m.bytes);
    file_unmap(&m);
    scratch_remove(&s);
}

/* Interrupted calls and calls that do half of the work are not failures. */
static void interrupted_and_short_calls_are_continued(void **state)
{
    (void)state;
    Err err = {0};
    Scratch s = scratch_make();
    const char *path = scratch_path(&s, "f");
    static const int kinds[] = {EINTR, 0};
    for (size_t k = 0; k < 2; k++) {
        static const char *const classes[] = {"open", "read", "write"};
        for (size_t c = 0; c < 3; c++) {
            file_fail_at(classes[c], 1, kinds[k], false);
            assert_done(file_replace(path, "0123456789", 10, &err));
            file_fail_at(classes[c], 1, kinds[k], false);
            char *bytes;
            size_t length;
            assert_done(file_read_all(&bytes, &length, path, 100, ERR_DATA, &err));
            assert_string_equal(bytes, "0123456789");
            mem_free(bytes);
            hooks_off();
        }
    }
    file_fail_at("fsync", 1, EINTR, false);
    assert_done(file_replace(path, "x", 1, &err));
    hooks_off();
    scratch_remove(&s);
}

/* What a save looks like; everything it does may fail. */
static bool save(const char *folder, const char *final, Err *err)
{
    char a[700];
    char b[700];
    snprintf(a, sizeof a, "%s/a", folder);
    snprintf(b, sizeof b, "%s/b", folder);
    File f;
    if (!file_make_folders(folder, err)) return false;
    if (!file_create(&f, a, err)) return false;
    if (!file_write(&f, "first", 5, err) || !file_write(&f, " and second", 11, err)) {
        file_close(&f);
        return false;
    }
    if (!file_sync_close(&f, err)) return false;
    return file_copy(b, a, err) && file_commit_folder(folder, final, err);
}

static bool is_whole(const char *folder)
{
    static const char *const names[] = {"a", "b"};
    for (int i = 0; i < 2; i++) {
        char path[700];
        size_t length;
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        char *bytes = scratch_read(path, &length);
        const bool right = bytes && strcmp(bytes, "first and second") == 0;
        free(bytes);
        if (!right) return false;
    }
    return true;
}

static void a_save_is_whole_or_absent_whichever_call_fails(void **state)
{
    (void)state;
    Scratch s = scratch_make();
    static const int errors[] = {EIO, ENOSPC, EROFS};
    int failures = 0;
    for (int sticky = 0; sticky < 2; sticky++) {
        for (size_t e = 0; e < 3; e++) {
            for (uint64_t nth = 1;; nth++) {
                Err err = {0};
                const char *work = scratch_path(&s, "save.tmp");
                const char *final = scratch_path(&s, "save");
                file_fail_at("any", nth, errors[e], sticky);
                const bool ok = save(work, final, &err);
                hooks_off();
                if (ok) {
                    assert_int_equal(err.code, ERR_NONE);
                    assert_true(is_whole(final));
                } else {
                    failures++;
                    assert_error(&err, ERR_DISK, "");
                    if (file_exists(final)) assert_true(is_whole(final)); /* only the last fsync was missed */
                }
                assert_done(file_remove_tree(final, &err));
                assert_done(file_remove_tree(work, &err));
                if (ok) break;
            }
        }
    }
    assert_true(failures > 60);
    scratch_remove(&s);
}

static void a_save_is_whole_or_absent_wherever_the_process_dies(void **state)
{
    (void)state;
    Scratch s = scratch_make();
    Err err = {0};
    for (uint64_t nth = 1;; nth++) {
        const char *work = scratch_path(&s, "save.tmp");
        const char *final = scratch_path(&s, "save");
        const pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            file_fail_at("any", nth, -1, false);
            _exit(save(work, final, &err) ? 0 : 1);
        }
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        const bool killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
        assert_true(killed || (WIFEXITED(status) && WEXITSTATUS(status) == 0));
        if (file_exists(final)) assert_true(is_whole(final));
        if (!killed) assert_true(file_exists(final));
        assert_done(file_remove_tree(final, &err));
        assert_done(file_remove_tree(work, &err));
        if (!killed) break;
        assert_true(nth < 100);
    }
    scratch_remove(&s);
}

static void a_full_disk_at_any_byte_is_an_error(void **state)
{
    (void)state;
    Scratch s = scratch_make();
    for (uint64_t room = 0; room <= 32; room++) { /* two files of 16 bytes */
        Err err = {0};
        const char *work = scratch_path(&s, "save.tmp");
        const char *final = scratch_path(&s, "save");
        file_fail_after_bytes(room);
        const bool ok = save(work, final, &err);
        hooks_off();
        assert_int_equal(ok, room == 32);
        if (!ok) assert_error(&err, ERR_DISK, "no space left");
        assert_int_equal(file_exists(final), ok);
        assert_done(file_remove_tree(work, &err));
        assert_done(file_remove_tree(final, &err));
    }
    scratch_remove(&s);
}

static void a_replaced_file_is_the_old_one_or_the_new_one(void **state)
{
    (void)state;
    Scratch s = scratch_make();
    Err err = {0};
    const char *path = scratch_path(&s, "state.json");
    scratch_write(path, "old", 3);
    for (uint64_t nth = 1;; nth++) {
        file_fail_at("any", nth, EIO, false);
        const bool ok = file_replace(path, "new!", 4, &err);
        hooks_off();
        size_t length;
        char *bytes = scratch_read(path, &length);
        assert_true(strcmp(bytes, "old") == 0 || strcmp(bytes, "new!") == 0);
        if (ok) assert_string_equal(bytes, "new!");
        free(bytes);
        if (ok) break;
        assert_error(&err, ERR_DISK, s.folder);
        scratch_write(path, "old", 3);
    }
    assert_false(file_exists(scratch_path(&s, "state.json.tmp")));
    scratch_remove(&s);
}

static void memory_that_runs_out_leaks_nothing(void **state)
{
    (void)state;
    Scratch s = scratch_make();
    for (uint64_t nth = 1;; nth++) {
        Err err = {0};
        const char *work = scratch_path(&s, "save.tmp");
        const char *final = scratch_path(&s, "save");
        mem_fail_at(nth, false);
        FileList list = {0};
        const bool ok = save(work, final, &err) && file_list(&list, final, ERR_DATA, &err) &&
                        file_replace(scratch_path(&s, "r"), "x", 1, &err) && file_remove_tree(final, &err);
        hooks_off();
        if (!ok) assert_error(&err, ERR_MEMORY, "out of host memory");
        file_list_free(&list);
        assert_done(file_remove_tree(work, &err));
        assert_done(file_remove_tree(final, &err));
        if (ok) break;
    }
    scratch_remove(&s);
}

static void a_commit_never_replaces_a_folder(void **state)
{
    (void)state;
    Err err = {0};
    Scratch s = scratch_make();
    const char *from = scratch_path(&s, "from");
    const char *to = scratch_path(&s, "to");
    assert_done(file_make_folders(from, &err));
    assert_done(file_make_folders(to, &err)); /* plain rename would replace an empty folder */
    assert_false(file_commit_folder(from, to, &err));
    assert_error(&err, ERR_DISK, "File exists");
    assert_true(file_is_folder(from) && file_is_folder(to));
    scratch_remove(&s);
}

static void appending_adds_whole_lines_or_nothing(void **state)
{
    (void)state;
    Err err = {0};
    Scratch s = scratch_make();
    const char *path = scratch_path(&s, "metrics.jsonl");
    assert_done(file_append(path, "one\n", 4, &err));
    file_fail_after_bytes(2);
    assert_false(file_append(path, "two\n", 4, &err));
    assert_error(&err, ERR_DISK, "no space left");
    hooks_off();
    assert_done(file_append(path, "three\n", 6, &err));
    size_t length;
    char *bytes = scratch_read(path, &length);
    assert_string_equal(bytes, "one\nthree\n");
    free(bytes);
    assert_done(file_truncate(path, 4, &err));
    bytes = scratch_read(path, &length);
    assert_string_equal(bytes, "one\n");
    free(bytes);
    scratch_remove(&s);
}

static void removing_a_tree_does_not_follow_links(void **state)
{
    (void)state;
    Err err = {0};
    Scratch s = scratch_make();
    assert_done(file_make_folders(scratch_path(&s, "kept"), &err));
    scratch_write(scratch_path(&s, "kept/file"), "x", 1);
    assert_done(file_make_folders(scratch_path(&s, "gone/inner"), &err));
    scratch_write(scratch_path(&s, "gone/inner/file"), "x", 1);
    assert_int_equal(symlink("../kept", scratch_path(&s, "gone/link")), 0);
    assert_done(file_remove_tree(scratch_path(&s, "gone"), &err));
    assert_false(file_exists(scratch_path(&s, "gone")));
    assert_true(file_exists(scratch_path(&s, "kept/file")));
    assert_int_equal(symlink("kept", scratch_path(&s, "link")), 0);
    assert_done(file_remove_tree(scratch_path(&s, "link"), &err));
    assert_false(file_exists(scratch_path(&s, "link")));
    assert_true(file_exists(scratch_path(&s, "kept/file")));
    assert_false(file_remove_tree(scratch_path(&s, "kept/file"), &err));
    assert_error(&err, ERR_DISK, "could not remove");
    assert_done(file_remove_tree(scratch_path(&s, "none"), &err));
    char deep[700];
    snprintf(deep, sizeof deep, "%s/deep", s.folder);
    for (int i = 0; i < 20; i++)
        strcat(deep, "/d");
    assert_done(file_make_folders(deep, &err));
    assert_false(file_remove_tree(scratch_path(&s, "deep"), &err));
    assert_error(&err, ERR_DISK, "nested too deeply");
    scratch_remove(&s);
}

static void a_second_lock_names_its_holder(void **state)
{
    (void)state;
    Err err = {0};
    Scratch s = scratch_make();
    File lock;
    File second;
    char holder[64];
    assert_done(file_lock_folder(&lock, s.folder, &err));
    assert_false(file_lock_folder(&second, s.folder, &err));
    snprintf(holder, sizeof holder, "in use by process %ld", (long)getpid());
    assert_error(&err, ERR_DISK, holder);
    file_close(&lock);
    const pid_t child = fork();
    if (child == 0) {
        if (!file_lock_folder(&lock, s.folder, &err)) _exit(1);
        raise(SIGKILL);
    }
    int status;
    waitpid(child, &status, 0);
    assert_true(WIFSIGNALED(status));
    assert_done(file_lock_folder(&lock, s.folder, &err)); /* a lock dies with its process */
    file_close(&lock);
    for (uint64_t nth = 1; nth <= 4; nth++) {
        file_fail_at("any", nth, EIO, false);
        const bool ok = file_lock_folder(&lock, s.folder, &err);
        hooks_off();
        assert_int_equal(ok, false);
        assert_error(&err, ERR_DISK, "could not");
    }
    for (uint64_t bytes = 0; bytes < 2; bytes++) { /* a part of the line fits */
        file_fail_after_bytes(bytes);
        errno = 0;
        const bool ok = file_lock_folder(&lock, s.folder, &err);
        hooks_off();
        assert_int_equal(ok, false);
        assert_error(&err, ERR_DISK, "No space left");
    }
    scratch_remove(&s);
}

static void folders_are_made_listed_and_measured(void **state)
{
    (void)state;
    Err err = {0};
    Scratch s = scratch_make();
    assert_done(file_make_folders(scratch_path(&s, "a/b/c/"), &err));
    assert_done(file_make_folders(scratch_path(&s, "a/b"), &err));
    assert_true(file_is_folder(scratch_path(&s, "a/b/c")));
    scratch_write(scratch_path(&s, "a/z"), "", 0);
    scratch_write(scratch_path(&s, "a/.hidden"), "", 0);
    FileList list;
    assert_done(file_list(&list, scratch_path(&s, "a"), ERR_DATA, &err));
    assert_int_equal(list.count, 3);
    assert_string_equal(list.names[0], ".hidden");
    assert_string_equal(list.names[1], "b");
    assert_string_equal(list.names[2], "z");
    file_list_free(&list);
    assert_false(file_list(&list, scratch_path(&s, "none"), ERR_DATA, &err));
    assert_error(&err, ERR_DATA, "could not read the folder");
    assert_false(file_make_folders(scratch_path(&s, "a/z/y"), &err));
    assert_error(&err, ERR_DISK, "could not create the folder");
    uint64_t here;
    uint64_t planned;
    assert_done(file_free_space(&here, s.folder, &err));
    assert_done(file_free_space(&planned, scratch_path(&s, "not/made/yet"), &err));
    assert_done(file_free_space(&planned, "qlora-not-made", &err));
    assert_true(here > 0 && planned > 0);
    char *joined = path_join("/a/", "b", &err);
    assert_string_equal(joined, "/a/b");
    mem_free(joined);
    scratch_remove(&s);
}

/* Names in messages come from outside: they must not drive the terminal. */
static void messages_show_odd_names_safely(void **state)
{
    (void)state;
    Err err = {0};
    File f;
    assert_false(file_open_read(&f,
                                "no\x1b[2Jsuch\xff"
                                "file",
                                ERR_DATA, &err));
    assert_error(&err, ERR_DATA, "no\\x1B[2Jsuch\\xFFfile");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_regular_files_are_read),
        cmocka_unit_test(nothing_but_files_is_written_over),
        cmocka_unit_test(reads_are_whole_and_within_the_file),
        cmocka_unit_test(interrupted_and_short_calls_are_continued),
        cmocka_unit_test(a_save_is_whole_or_absent_whichever_call_fails),
        cmocka_unit_test(a_save_is_whole_or_absent_wherever_the_process_dies),
        cmocka_unit_test(a_full_disk_at_any_byte_is_an_error),
        cmocka_unit_test(a_replaced_file_is_the_old_one_or_the_new_one),
        cmocka_unit_test(memory_that_runs_out_leaks_nothing),
        cmocka_unit_test(a_commit_never_replaces_a_folder),
        cmocka_unit_test(appending_adds_whole_lines_or_nothing),
        cmocka_unit_test(removing_a_tree_does_not_follow_links),
        cmocka_unit_test(a_second_lock_names_its_holder),
        cmocka_unit_test(folders_are_made_listed_and_measured),
        cmocka_unit_test(messages_show_odd_names_safely),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
