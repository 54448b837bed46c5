/* source_resolve.c - where a base model lies: a path, or a name in the Hugging Face cache. */
#include "base/mem.h"
#include "base/text.h"
#include "model/source_parts.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum { REF_BYTES_MAX = 256 };

/* "$VARIABLE/rest", or null when the variable is unset or empty. */
static bool from_variable(char **out, const char *variable, const char *rest, Err *err)
{
    const char *value = getenv(variable);
    *out = NULL;
    if (!value || !*value) return true;
    *out = *rest ? path_join(value, rest, err) : mem_copy_text(value, err);
    return *out != NULL;
}

static bool find_cache(char **out, Err *err)
{
    static const char *const places[][2] = {
        {"HF_HUB_CACHE",          ""                      },
        {"HUGGINGFACE_HUB_CACHE", ""                      },
        {"HF_HOME",               "hub"                   },
        {"XDG_CACHE_HOME",        "huggingface/hub"       },
        {"HOME",                  ".cache/huggingface/hub"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(places); i++) {
        if (!from_variable(out, places[i][0], places[i][1], err)) return false;
        if (*out) return true;
    }
    return FAIL(err, ERR_MODEL, "the Hugging Face cache is unknown: neither HF_HUB_CACHE nor HF_HOME nor HOME is set");
}

/* Letters, digits, '-', '_', '.', parts apart by single '/', none of them starting with a dot. */
static bool is_plain(const char *text, int most_slashes)
{
    if (!*text || strlen(text) > REF_BYTES_MAX) return false;
    char before = '/';
    for (const char *c = text; *c; c++) {
        const bool word = (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') || (*c >= '0' && *c <= '9');
        if (!word && !strchr("-_./", *c)) return false;
        if (before == '/' && (*c == '/' || *c == '.')) return false;
        if (*c == '/' && most_slashes-- == 0) return false;
        before = *c;
    }
    return before != '/';
}

/* REPOSITORY/snapshots/COMMIT, where COMMIT stands in refs/REVISION or is the revision itself. */
static bool find_snapshot(char **out, const char *repository, const char *revision, Err *err)
{
    Text path = {0};
    char *commit = NULL;
    size_t length = 0;
    TRY(text_format(&path, err, "%s/refs/%s", repository, revision));
    if (file_exists(path.bytes)) {
        TRY(file_read_all(&commit, &length, path.bytes, REF_BYTES_MAX, ERR_MODEL, err));
        while (length > 0 && strchr(" \r\n", commit[length - 1]))
            commit[--length] = '\0';
        if (!is_plain(commit, 0)) {
            (void)FAIL(err, ERR_MODEL, "%s does not name a snapshot; download the model again", path.bytes);
            goto fail;
        }
    }
    text_clear(&path);
    TRY(text_format(&path, err, "%s/snapshots/%s", repository, commit ? commit : revision));
    mem_free(commit);
    *out = path.bytes;
    return true;
fail:
    mem_free(commit);
    text_free(&path);
    return false;
}

/* "org/model" is the folder models--org--model of the cache. */
static bool find_repository(char **out, const char *cache, const char *name, Err *err)
{
    Text t = {0};
    TRY(text_format(&t, err, "%s/models--", cache));
    for (const char *c = name; *c; c++)
        TRY(*c == '/' ? text_add_z(&t, "--", err) : text_add(&t, c, 1, err));
    *out = t.bytes;
    return true;
fail:
    text_free(&t);
    return false;
}

static bool resolve_in_cache(char **path, const char *name, const char *revision, Err *err)
{
    char *cache = NULL;
    char *repository = NULL;
    char *snapshot = NULL;
    TRY(find_cache(&cache, err));
    TRY(find_repository(&repository, cache, name, err));
    if (!file_is_folder(repository)) {
        (void)FAIL(err, ERR_MODEL,
                   "the model \"%s\" is neither a path nor in the Hugging Face cache (%s); give a folder or a GGUF "
                   "file, or download it there first",
                   name, cache);
        goto fail;
    }
    TRY(find_snapshot(&snapshot, repository, revision, err));
    if (!file_is_folder(snapshot)) {
        (void)FAIL(err, ERR_MODEL, "the Hugging Face cache has the model \"%s\", but not its revision \"%s\" (%s)",
                   name, revision, snapshot);
        goto fail;
    }
    mem_free(cache);
    mem_free(repository);
    *path = snapshot;
    return true;
fail:
    mem_free(cache);
    mem_free(repository);
    mem_free(snapshot);
    return false;
}

bool source_resolve(char **path, const char *name, const char *revision, Err *err)
{
    char shown[512];
    text_printable(shown, sizeof shown, name, strlen(name));
    const char *home = getenv("HOME");
    if (!name[0]) return FAIL(err, ERR_MODEL, "the name of the model is empty; give a folder or a GGUF file");
    if (strncmp(name, "~/", 2) == 0 && home) { /* no shell expands it in a configuration file */
        *path = path_join(home, name + 2, err);
        if (!*path) return false;
        if (file_exists(*path)) return true;
        mem_free(*path);
        return FAIL(err, ERR_MODEL, "the model %s does not exist", shown);
    }
    if (file_exists(name)) {
        *path = mem_copy_text(name, err);
        return *path != NULL;
    }
    if (!is_plain(name, 1)) return FAIL(err, ERR_MODEL, "the model %s does not exist", shown);
    if (revision && !is_plain(revision, 4)) {
        return FAIL(err, ERR_MODEL, "the revision of the model %s is no name of a branch, tag or commit", shown);
    }
    return resolve_in_cache(path, name, revision ? revision : "main", err);
}

/* Whether `path` lies below `folder`; both are absolute and without links. */
static bool lies_in(const char *path, const char *folder)
{
    const size_t length = strlen(folder);
    return strncmp(path, folder, length) == 0 && (path[length] == '/' || strcmp(folder, "/") == 0);
}

/* .../snapshots/COMMIT becomes .../blobs in place; false when the folder is no snapshot of a cache. */
static bool make_blobs(char *folder)
{
    char *last = strrchr(folder, '/');
    if (!last) return false;
    *last = '\0';
    char *parent = strrchr(folder, '/');
    if (!parent || strcmp(parent, "/snapshots") != 0) return false;
    memcpy(parent, "/blobs", sizeof "/blobs"); /* shorter than "/snapshots" */
    return true;
}

bool source_locate(char **path, const char *folder, const char *name, Err *err)
{
    char real_file[PATH_MAX];
    char real_folder[PATH_MAX];
    char *joined = path_join(folder, name, err);
    if (!joined) return false;
    if (!realpath(joined, real_file) || !realpath(folder, real_folder)) {
        const int error = errno;
        (void)FAIL(err, ERR_MODEL, "could not open %s: %s", joined,
                   error == ENOENT ? "it does not exist, or is a link to nowhere" : strerrordesc_np(error));
        goto fail;
    }
    if (!lies_in(real_file, real_folder) && !(make_blobs(real_folder) && lies_in(real_file, real_folder))) {
        (void)FAIL(err, ERR_MODEL, "%s is a link to %s, outside of the model's folder; put the file itself there",
                   joined, real_file);
        goto fail;
    }
    *path = joined;
    return true;
fail:
    mem_free(joined);
    return false;
}
