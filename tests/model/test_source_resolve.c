/* Names and paths of base models, and the links that a model's folder may hold. */
#include "model/source.h"

#include "base/file.h"
#include "base/mem.h"
#include "model/source_parts.h"
#include "tests/support/scratch.h"

#include <sys/stat.h>

static void make(Scratch *s, const char *folder)
{
    Err err = {0};
    assert_done(file_make_folders(scratch_path(s, folder), &err));
}

static void put(Scratch *s, const char *name, const char *text)
{
    scratch_write(scratch_path(s, name), text, strlen(text));
}

static const char commit[] = "0123456789abcdef0123456789abcdef01234567";

/* HUB/models--org--model/{blobs,refs/main,snapshots/COMMIT} as huggingface_hub lays it out */
static void make_cache(Scratch *s, const char *hub)
{
    char path[256];
    snprintf(path, sizeof path, "%s/models--org--model/blobs", hub);
    make(s, path);
    snprintf(path, sizeof path, "%s/models--org--model/blobs/abc", hub);
    put(s, path, "blob");
    snprintf(path, sizeof path, "%s/models--org--model/refs/pr", hub);
    make(s, path);
    snprintf(path, sizeof path, "%s/models--org--model/refs/main", hub);
    put(s, path, commit);
    snprintf(path, sizeof path, "%s/models--org--model/refs/pr/7", hub);
    put(s, path, "fedc");
    snprintf(path, sizeof path, "%s/models--org--model/snapshots/fedc", hub);
    make(s, path);
    snprintf(path, sizeof path, "%s/models--org--model/snapshots/%s", hub, commit);
    make(s, path);
    snprintf(path, sizeof path, "%s/models--org--model/snapshots/%s/config.json", hub, commit);
    assert_int_equal(symlink("../../blobs/abc", scratch_path(s, path)), 0);
}

static void clear_environment(void)
{
    unsetenv("HF_HUB_CACHE");
    unsetenv("HUGGINGFACE_HUB_CACHE");
    unsetenv("HF_HOME");
    unsetenv("XDG_CACHE_HOME");
    unsetenv("HOME");
}

static void expect_snapshot(const char *name, const char *revision, const char *hub, const char *wanted)
{
    Err err = {0};
    char expected[1200];
    char *path;
    assert_done(source_resolve(&path, name, revision, &err));
    snprintf(expected, sizeof expected, "%s/models--org--model/snapshots/%s", hub, wanted);
    assert_string_equal(path, expected);
    mem_free(path);
}

static void names_are_found_where_the_environment_says(void **state)
{
    (void)state;
    Scratch s = scratch_make();
    clear_environment();
    make_cache(&s, "home/.cache/huggingface/hub");
    make_cache(&s, "xdg/huggingface/hub");
    make_cache(&s, "hf/hub");
    make_cache(&s, "direct");
    setenv("HOME", scratch_path(&s, "home"), 1);
    expect_snapshot("org/model", NULL, scratch_path(&s, "home/.cache/huggingface/hub"), commit);
    setenv("XDG_CACHE_HOME", scratch_path(&s, "xdg"), 1);
    expect_snapshot("org/model", NULL, scratch_path(&s, "xdg/huggingface/hub"), commit);
    setenv("HF_HOME", scratch_path(&s, "hf"), 1);
    expect_snapshot("org/model", NULL, scratch_path(&s, "hf/hub"), commit);
    setenv("HF_HUB_CACHE", scratch_path(&s, "direct"), 1);
    expect_snapshot("org/model", NULL, scratch_path(&s, "direct"), commit);
    expect_snapshot("org/model", "pr/7", scratch_path(&s, "direct"), "fedc"); /* a reference */
    expect_snapshot("org/model", "fedc", scratch_path(&s, "direct"), "fedc"); /* a commit */
    clear_environment();
    scratch_remove(&s);
}

static void a_path_wins_over_a_name(void **state)
{
    (void)state;
    Err err = {0};
    Scratch s = scratch_make();
    char before[512];
    char *path;
    clear_environment();
    make_cache(&s, "hub");
    make(&s, "org/model");
    setenv("HF_HUB_CACHE", scratch_path(&s, "hub"), 1);
    assert_non_null(getcwd(before, sizeof before));
    assert_int_equal(chdir(s.folder), 0);
    assert_done(source_resolve(&path, "org/model", NULL, &err));
    assert_string_equal(path, "org/model");
    mem_free(path);
    assert_int_equal(chdir(before), 0);
    setenv("HOME", s.folder, 1);
    assert_done(source_resolve(&path, "~/org/model", NULL, &err)); /* no shell expands it in a YAML file */
    assert_string_equal(path, scratch_path(&s, "org/model"));
    mem_free(path);
    assert_false(source_resolve(&path, "~/none", NULL, &err));
    assert_error(&err, ERR_MODEL, "~/none does not exist");
    clear_environment();
    scratch_remove(&s);
}

static void what_is_not_found_is_explained(void **state)
{
    (void)state;
    Err err = {0};
    Scratch s = scratch_make();
    char *path;
    clear_environment();
    assert_false(source_resolve(&path, "org/model", NULL, &err));
    assert_error(&err, ERR_MODEL, "neither HF_HUB_CACHE nor HF_HOME nor HOME");
    make_cache(&s, "hub");
    setenv("HF_HUB_CACHE", scratch_path(&s, "hub"), 1);
    assert_false(source_resolve(&path, "org/other", NULL, &err));
    assert_error(&err, ERR_MODEL, scratch_path(&s, "hub"));
    assert_false(source_resolve(&path, "org/model", "v9", &err));
    assert_error(&err, ERR_MODEL, "not its revision \"v9\"");
    static const char *const bad[] = {"/no/such/folder", "./none",     "../none", "org/../model",
                                      "a/b/c",           "org//model", "org/",    "org/mo\x1b[2Jdel"};
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        assert_false(source_resolve(&path, bad[i], NULL, &err));
        assert_error(&err, ERR_MODEL, "does not exist");
    }
    assert_false(source_resolve(&path, "", NULL, &err));
    assert_error(&err, ERR_MODEL, "name of the model is empty");
    static const char *const revisions[] = {"../../../etc", "/etc", "a//b", ".", "..", "a/../b", ""};
    for (size_t i = 0; i < ARRAY_COUNT(revisions); i++) {
        assert_false(source_resolve(&path, "org/model", revisions[i], &err));
        assert_error(&err, ERR_MODEL, "no name of a branch");
    }
    put(&s, "hub/models--org--model/refs/main", "../../../../etc");
    assert_false(source_resolve(&path, "org/model", NULL, &err));
    assert_error(&err, ERR_MODEL, "does not name a snapshot");
    put(&s, "hub/models--org--model/refs/main", "fedc\n"); /* written by hand */
    assert_done(source_resolve(&path, "org/model", NULL, &err));
    mem_free(path);
    clear_environment();
    scratch_remove(&s);
}

static bool locates(const char *folder, const char *name, Err *err)
{
    char *path;
    if (!source_locate(&path, folder, name, err)) return false;
    mem_free(path);
    return true;
}

static void links_stay_in_the_folder_or_lead_to_the_cache_blobs(void **state)
{
    (void)state;
    Err err = {0};
    Scratch s = scratch_make();
    char snapshot[256];
    make_cache(&s, "hub");
    snprintf(snapshot, sizeof snapshot, "hub/models--org--model/snapshots/%s", commit);
    assert_true(locates(scratch_path(&s, snapshot), "config.json", &err)); /* the normal case of the cache */
    make(&s, "model/inner");
    put(&s, "secret", "x");
    put(&s, "model-secret", "x"); /* a name that only begins like the folder's */
    put(&s, "model/inner/file", "x");
    static const struct {
        const char *target, *part;
    } cases[] = {
        {"inner/file",                          NULL                           },
        {"../model/inner/file",                 NULL                           },
        {"../secret",                           "outside of the model's folder"},
        {"../model-secret",                     "outside of the model's folder"},
        {"/etc/hostname",                       "outside of the model's folder"},
        {"../hub/models--org--model/blobs/abc", "outside of the model's folder"}, /* not this folder's cache */
        {"nowhere",                             "does not exist"               },
        {"link",                                "could not open"               }, /* at itself */
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        const char *link = scratch_path(&s, "model/link");
        unlink(link);
        assert_int_equal(symlink(cases[i].target, link), 0);
        const bool ok = locates(scratch_path(&s, "model"), "link", &err);
        if (ok != !cases[i].part) fail_msg("%s", cases[i].target);
        if (!ok) assert_error(&err, ERR_MODEL, cases[i].part);
    }
    /* A chain that leaves and comes back ends inside; a folder reached through a link is its target. */
    assert_int_equal(symlink("model/inner/file", scratch_path(&s, "back")), 0);
    unlink(scratch_path(&s, "model/link"));
    assert_int_equal(symlink("../back", scratch_path(&s, "model/link")), 0);
    assert_true(locates(scratch_path(&s, "model"), "link", &err));
    assert_int_equal(symlink("model", scratch_path(&s, "alias")), 0);
    assert_true(locates(scratch_path(&s, "alias"), "inner/file", &err));
    /* In a cache, only that model's blobs. */
    snprintf(snapshot, sizeof snapshot, "hub/models--org--model/snapshots/%s/bad", commit);
    assert_int_equal(symlink("../../../../secret", scratch_path(&s, snapshot)), 0);
    snprintf(snapshot, sizeof snapshot, "hub/models--org--model/snapshots/%s", commit);
    assert_false(locates(scratch_path(&s, snapshot), "bad", &err));
    assert_error(&err, ERR_MODEL, "outside of the model's folder");
    /* Other folders have no blobs, whatever lies beside them. */
    make(&s, "plain/versions/one");
    make(&s, "plain/blobs");
    put(&s, "plain/blobs/abc", "x");
    assert_int_equal(symlink("../../blobs/abc", scratch_path(&s, "plain/versions/one/link")), 0);
    assert_false(locates(scratch_path(&s, "plain/versions/one"), "link", &err));
    assert_error(&err, ERR_MODEL, "outside of the model's folder");
    scratch_remove(&s);
}

static void memory_that_runs_out_leaks_nothing(void **state)
{
    (void)state;
    Scratch s = scratch_make();
    clear_environment();
    make_cache(&s, "hub");
    setenv("HF_HUB_CACHE", scratch_path(&s, "hub"), 1);
    for (uint64_t nth = 1;; nth++) {
        Err err = {0};
        char *path = NULL;
        mem_fail_at(nth, false);
        const bool ok = source_resolve(&path, "org/model", NULL, &err) && locates(path, "config.json", &err);
        mem_fail_at(0, false);
        mem_free(path);
        if (ok) break;
        assert_error(&err, ERR_MEMORY, "out of host memory");
    }
    clear_environment();
    scratch_remove(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_found_where_the_environment_says),
        cmocka_unit_test(a_path_wins_over_a_name),
        cmocka_unit_test(what_is_not_found_is_explained),
        cmocka_unit_test(links_stay_in_the_folder_or_lead_to_the_cache_blobs),
        cmocka_unit_test(memory_that_runs_out_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
