#include "trainer/checkpoint.h"

#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MANIFEST_VERSION = 1, MANIFEST_MAX = 1 << 20, STEP_DIGITS = 8 };
static const char MANIFEST[] = "manifest.json";
static const char PREFIX[] = "checkpoint-";

static char *folder_name(const char *output_dir, int64_t step, const char *before, const char *after, Err *err)
{
    char name[64];
    snprintf(name, sizeof name, "%s%s%0*" PRId64 "%s", before, PREFIX, STEP_DIGITS, step, after);
    return path_join(output_dir, name, err);
}

char *checkpoint_folder(const char *output_dir, int64_t step, Err *err)
{
    return folder_name(output_dir, step, "", "", err);
}

static void forget(Checkpoint *c)
{
    mem_free(c->temporary);
    mem_free(c->folder);
    mem_free(c->replaced);
    *c = (Checkpoint){0};
}

bool checkpoint_begin(Checkpoint *out, const char *output_dir, int64_t step, Err *err)
{
    Checkpoint c = {.step = step};
    c.temporary = folder_name(output_dir, step, ".", ".tmp", err);
    c.replaced = folder_name(output_dir, step, ".", ".old", err);
    c.folder = folder_name(output_dir, step, "", "", err);
    if (!c.temporary || !c.replaced || !c.folder) goto fail;
    if (file_exists(c.temporary)) TRY(file_remove_tree(c.temporary, err));
    TRY(file_make_folders(c.temporary, err));
    *out = c;
    return true;
fail:
    forget(&c);
    return false;
}

void checkpoint_discard(Checkpoint *c)
{
    Err ignored = {0};
    if (c->temporary && file_exists(c->temporary) && !file_remove_tree(c->temporary, &ignored)) {
        log_warn("%s stays behind: %s", c->temporary, ignored.text);
    }
    forget(c);
}

bool checkpoint_write(const Checkpoint *c, const char *name, const char *bytes, size_t length, Err *err)
{
    File file = {0};
    char *path = path_join(c->temporary, name, err);
    bool ok = path && file_create(&file, path, err);
    if (ok && !file_write(&file, bytes, length, err)) {
        file_close(&file);
        ok = false;
    }
    ok = ok && file_sync_close(&file, err);
    mem_free(path);
    return ok;
}

/* {"bytes": n, "xxh3_128": "..."}; null on failure */
static json_t *describe_file(const char *folder, const char *name, Err *err)
{
    char hash[HASH_TEXT];
    File file = {0};
    json_t *entry = NULL;
    char *path = path_join(folder, name, err);
    if (path && hash_file(path, ERR_DISK, hash, err) && file_open_read(&file, path, ERR_DISK, err)) {
        entry = json_pack("{s:I, s:s}", "bytes", (json_int_t)file.size, "xxh3_128", hash);
        if (!entry) (void)FAIL(err, ERR_MEMORY, "out of host memory");
    }
    file_close(&file);
    mem_free(path);
    return entry;
}

static json_t *manifest_of(const Checkpoint *c, Err *err)
{
    FileList list = {0};
    json_t *files = json_object();
    bool ok = files && file_list(&list, c->temporary, ERR_DISK, err);
    for (size_t i = 0; ok && i < list.count; i++) {
        json_t *entry = describe_file(c->temporary, list.names[i], err);
        ok = entry && json_object_set_new(files, list.names[i], entry) == 0;
    }
    file_list_free(&list);
    json_t *manifest = NULL;
    if (ok) {
        manifest = json_pack("{s:s, s:i, s:I, s:O}", "format", "qlora checkpoint", "version", MANIFEST_VERSION, "step",
                             (json_int_t)c->step, "files", files);
    }
    json_decref(files);
    if (!manifest) (void)FAIL(err, ERR_MEMORY, "out of host memory");
    return manifest;
}

static bool write_manifest(const Checkpoint *c, Err *err)
{
    json_begin();
    json_t *manifest = manifest_of(c, err);
    if (!manifest) return false;
    char *text = json_print(manifest, JSON_INDENT(2) | JSON_SORT_KEYS, MANIFEST, err);
    const bool ok = text && checkpoint_write(c, MANIFEST, text, strlen(text), err);
    mem_free(text);
    json_decref(manifest);
    return ok;
}

/* Out of sight; an older leftover of that name goes first. */
static bool set_aside(const char *folder, const char *aside, Err *err)
{
    if (file_exists(aside) && !file_remove_tree(aside, err)) return false;
    return file_commit_folder(folder, aside, err);
}

bool checkpoint_commit(Checkpoint *c, Err *err)
{
    bool moved = false;
    TRY(write_manifest(c, err));
    if (file_exists(c->folder)) { /* a damaged one, or one of a run that was set back */
        TRY(set_aside(c->folder, c->replaced, err));
        moved = true;
    }
    TRY(file_commit_folder(c->temporary, c->folder, err));
    if (moved) {
        Err ignored = {0};
        if (!file_remove_tree(c->replaced, &ignored)) log_warn("%s stays behind: %s", c->replaced, ignored.text);
    }
    forget(c);
    return true;
fail:
    if (moved && !file_exists(c->folder)) {
        Err ignored = {0};
        if (!file_commit_folder(c->replaced, c->folder, &ignored)) log_warn("%s", ignored.text);
    }
    checkpoint_discard(c);
    return false;
}

/* Names come from the manifest, which nobody vouches for: only plain ones are joined to the folder. */
static bool plain_name(const char *name)
{
    const size_t n = strlen(name);
    return n > 0 && n < 128 && name[0] != '.' && !strpbrk(name, "/\\\n");
}

static bool verify_file(const char *folder, const char *name, const json_t *entry, Err *err)
{
    if (!plain_name(name)) return FAIL(err, ERR_CHECKPOINT, "%s/%s names a file outside of it", folder, MANIFEST);
    const json_t *bytes = json_object_get(entry, "bytes"), *hash = json_object_get(entry, "xxh3_128");
    if (!json_is_integer(bytes) || !json_is_string(hash)) {
        return FAIL(err, ERR_CHECKPOINT, "%s/%s: entry \"%s\" is damaged", folder, MANIFEST, name);
    }
    File file = {0};
    char found[HASH_TEXT];
    char *path = path_join(folder, name, err);
    bool ok = path && file_open_read(&file, path, ERR_CHECKPOINT, err);
    if (ok && file.size != (uint64_t)json_integer_value(bytes)) {
        ok = FAIL(err, ERR_CHECKPOINT, "%s has %" PRIu64 " bytes, its manifest says %" JSON_INTEGER_FORMAT, path,
                  file.size, json_integer_value(bytes));
    }
    file_close(&file);
    ok = ok && hash_file(path, ERR_CHECKPOINT, found, err);
    if (ok && strcmp(found, json_string_value(hash)) != 0) {
        ok = FAIL(err, ERR_CHECKPOINT, "%s differs from its checksum", path);
    }
    mem_free(path);
    return ok;
}

static bool verify_manifest(const json_t *root, const char *folder, int64_t step, Err *err)
{
    static const char *const required[] = {"adapter_config.json", "adapter_model.safetensors", "run.yaml",
                                           "trainer_state.json"};
    const json_t *version = json_object_get(root, "version"), *files = json_object_get(root, "files");
    const json_t *found = json_object_get(root, "step");
    if (!json_is_integer(version) || !json_is_integer(found) || !json_is_object(files)) {
        return FAIL(err, ERR_CHECKPOINT, "%s/%s is no manifest of a checkpoint", folder, MANIFEST);
    }
    if (json_integer_value(version) != MANIFEST_VERSION) {
        return FAIL(err, ERR_CHECKPOINT, "%s/%s has version %" JSON_INTEGER_FORMAT ", this program reads version %d",
                    folder, MANIFEST, json_integer_value(version), MANIFEST_VERSION);
    }
    if (step >= 0 && json_integer_value(found) != step) {
        return FAIL(err, ERR_CHECKPOINT, "%s/%s is of another step", folder, MANIFEST);
    }
    for (size_t i = 0; i < sizeof required / sizeof required[0]; i++) {
        if (!json_object_get(files, required[i])) {
            return FAIL(err, ERR_CHECKPOINT, "%s/%s does not list %s", folder, MANIFEST, required[i]);
        }
    }
    const char *name;
    json_t *entry;
    json_object_foreach((json_t *)(uintptr_t)files, name, entry)
    {
        if (!verify_file(folder, name, entry, err)) return false;
    }
    return true;
}

bool checkpoint_verify(const char *folder, int64_t step, Err *err)
{
    json_t *root = NULL;
    char *path = path_join(folder, MANIFEST, err);
    const bool ok = path && json_parse_file(&root, path, MANIFEST_MAX, ERR_CHECKPOINT, err) &&
                    verify_manifest(root, folder, step, err);
    json_decref(root);
    mem_free(path);
    return ok;
}

/* Step of a folder name "checkpoint-00000100", -1 when it is another kind of name. */
static int64_t step_of_name(const char *name)
{
    if (strncmp(name, PREFIX, sizeof PREFIX - 1) != 0) return -1;
    const char *digits = name + sizeof PREFIX - 1;
    const size_t n = strspn(digits, "0123456789");
    if (n < STEP_DIGITS || n > 18 || digits[n]) return -1;
    return strtoll(digits, NULL, 10);
}

static int compare_steps(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

bool checkpoint_list(CheckpointList *out, const char *output_dir, Err *err)
{
    FileList list = {0};
    CheckpointList found = {0};
    TRY(file_list(&list, output_dir, ERR_DISK, err));
    for (size_t i = 0; i < list.count; i++) {
        const int64_t step = step_of_name(list.names[i]);
        if (step < 0) continue;
        TRY(mem_grow(&found.steps, &found.capacity, found.count + 1, sizeof *found.steps, err));
        found.steps[found.count++] = step;
    }
    if (found.count) qsort(found.steps, found.count, sizeof *found.steps, compare_steps);
    file_list_free(&list);
    *out = found;
    return true;
fail:
    file_list_free(&list);
    checkpoint_list_free(&found);
    return false;
}

void checkpoint_list_free(CheckpointList *list)
{
    mem_free(list->steps);
    *list = (CheckpointList){0};
}

bool checkpoint_newest(char **folder, int64_t *step, const char *output_dir, int64_t at_most, Err *err)
{
    CheckpointList list = {0};
    *folder = NULL;
    if (!checkpoint_list(&list, output_dir, err)) return false;
    bool ok = true;
    for (size_t i = list.count; ok && !*folder && i-- > 0;) {
        if (list.steps[i] > at_most) continue;
        char *path = checkpoint_folder(output_dir, list.steps[i], err);
        ok = path != NULL;
        Err fault = {0};
        if (ok && checkpoint_verify(path, list.steps[i], &fault)) {
            *folder = path;
            *step = list.steps[i];
        } else if (ok && fault.code == ERR_MEMORY) {
            mem_free(path);
            ok = FAIL(err, fault.code, "%s", fault.text);
        } else if (ok) {
            log_warn("%s is passed over: %s", path, fault.text);
            mem_free(path);
        }
    }
    checkpoint_list_free(&list);
    return ok;
}

bool checkpoint_remove(const char *output_dir, int64_t step, Err *err)
{
    char *folder = folder_name(output_dir, step, "", "", err), *aside = folder_name(output_dir, step, ".", ".old", err);
    const bool ok = folder && aside && set_aside(folder, aside, err) && file_remove_tree(aside, err);
    mem_free(folder);
    mem_free(aside);
    return ok;
}

bool checkpoint_rotate(const char *output_dir, int64_t keep, int64_t best, Err *err)
{
    CheckpointList list = {0};
    if (!checkpoint_list(&list, output_dir, err)) return false;
    if (keep < 1) keep = 1;
    bool ok = true;
    for (size_t i = 0; ok && i + (size_t)keep < list.count; i++) {
        if (list.steps[i] == best) continue;
        ok = checkpoint_remove(output_dir, list.steps[i], err);
    }
    checkpoint_list_free(&list);
    return ok && checkpoint_clean(output_dir, err); /* what could not be removed the last time */
}

static bool is_leftover(const char *name)
{
    const size_t n = strlen(name);
    if (name[0] != '.' || n < 6) return false;
    const char *end = name + n - 4;
    if (strcmp(name, ".final.tmp") == 0) return true;
    return strncmp(name + 1, PREFIX, sizeof PREFIX - 1) == 0 && (strcmp(end, ".tmp") == 0 || strcmp(end, ".old") == 0);
}

bool checkpoint_clean(const char *output_dir, Err *err)
{
    FileList list = {0};
    if (!file_list(&list, output_dir, ERR_DISK, err)) return false;
    bool ok = true;
    for (size_t i = 0; ok && i < list.count; i++) {
        if (!is_leftover(list.names[i])) continue;
        char *path = path_join(output_dir, list.names[i], err);
        ok = path && file_remove_tree(path, err);
        mem_free(path);
    }
    file_list_free(&list);
    return ok;
}
