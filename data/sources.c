#include "data/sources.h"

#include "base/file.h"
#include "base/mem.h"

#include <errno.h>
#include <glob.h>
#include <stdlib.h>
#include <string.h>

void source_files_free(SourceFiles *f)
{
    for (size_t i = 0; i < f->count; i++)
        mem_free(f->paths[i]);
    mem_free(f->paths);
    *f = (SourceFiles){0};
}

/* Takes ownership of `path`, which may be null after a failed allocation. */
static bool take(SourceFiles *f, char *path, Err *err)
{
    if (!path) return false;
    if (!mem_grow(&f->paths, &f->capacity, f->count + 1, sizeof *f->paths, err)) {
        mem_free(path);
        return false;
    }
    f->paths[f->count++] = path;
    return true;
}

static bool has_ending(const char *name, const char *ending)
{
    const size_t n = strlen(name);
    const size_t k = strlen(ending);
    return n > k && !strcmp(name + n - k, ending);
}

static bool is_data_file(const char *name)
{
    return name[0] != '.' && (has_ending(name, ".jsonl") || has_ending(name, ".json") ||
                              has_ending(name, ".jsonl.gz") || has_ending(name, ".json.gz"));
}

static bool find_in_folder(SourceFiles *f, const char *folder, Err *err)
{
    FileList list = {0};
    TRY(file_list(&list, folder, ERR_DATA, err));
    for (size_t i = 0; i < list.count; i++)
        if (is_data_file(list.names[i])) TRY(take(f, path_join(folder, list.names[i], err), err));
    file_list_free(&list);
    if (f->count > 0) return true;
    return FAIL(err, ERR_DATA, "the folder %s has no .jsonl, .json, .jsonl.gz or .json.gz file", folder);
fail:
    file_list_free(&list);
    return false;
}

static bool find_by_glob(SourceFiles *f, const char *pattern, Err *err)
{
    glob_t found;
    const int status = glob(pattern, GLOB_MARK, NULL, &found);
    if (status == GLOB_NOSPACE) return FAIL(err, ERR_MEMORY, "out of host memory while looking for %s", pattern);
    bool good = true;
    for (size_t i = 0; status == 0 && good && i < found.gl_pathc; i++) {
        if (has_ending(found.gl_pathv[i], "/")) continue; /* a folder */
        good = take(f, mem_copy_text(found.gl_pathv[i], err), err);
    }
    if (status == 0) globfree(&found);
    if (!good || f->count > 0) return good;
    return FAIL(err, ERR_DATA, "no file matches %s", pattern);
}

bool source_files_find(SourceFiles *out, const char *path, Err *err)
{
    SourceFiles f = {0};
    if (file_is_folder(path)) {
        TRY(find_in_folder(&f, path, err));
    } else if (strpbrk(path, "*?[") && !file_exists(path)) {
        TRY(find_by_glob(&f, path, err));
    } else {
        TRY(take(&f, mem_copy_text(path, err), err));
    }
    *out = f;
    return true;
fail:
    source_files_free(&f);
    return false;
}

/* "", "100", "-5", "10%" up to the delimiter; returns where it stands, null when it is none of these. */
static const char *parse_end(SliceEnd *end, const char *text)
{
    *end = (SliceEnd){0};
    if (*text == ':' || *text == ']') return text;
    char *after;
    errno = 0;
    const long long value = strtoll(text, &after, 10);
    if (after == text || errno || value < INT32_MIN || value > INT64_C(1) << 40) return NULL;
    *end = (SliceEnd){.given = true, .value = value};
    if (*after == '%') {
        end->percent = true;
        after++;
        if (value < -100 || value > 100) return NULL;
    }
    return after;
}

bool source_slice_parse(SourceSlice *out, const char *split, Err *err)
{
    *out = (SourceSlice){0};
    if (!split || !strcmp(split, "train")) return true;
    if (strncmp(split, "train[", 6)) {
        return FAIL(
            err, ERR_CONFIG,
            "datasets: split \"%s\" does not exist, files of your own have only \"train\" (or a slice of it such "
            "as \"train[:90%%]\"); give other files by their path",
            split);
    }
    const char *at = parse_end(&out->from, split + 6);
    if (at && *at == ':')
        at = parse_end(&out->to, at + 1);
    else
        at = NULL;
    if (at && !strcmp(at, "]")) return true;
    return FAIL(err, ERR_CONFIG,
                "datasets: split \"%s\" is not of the form train[FROM:TO], such as \"train[:100]\" or "
                "\"train[10%%:]\"",
                split);
}

static bool end_needs_count(const SliceEnd *e)
{
    return e->given && (e->percent || e->value < 0);
}

bool source_slice_needs_count(const SourceSlice *s)
{
    return end_needs_count(&s->from) || end_needs_count(&s->to);
}

/* floor(x + 1/2) of rows * percent / 100, without leaving whole numbers. */
static int64_t resolve(const SliceEnd *e, int64_t rows, int64_t otherwise)
{
    if (!e->given) return otherwise;
    int64_t at = e->value;
    if (e->percent) at = (rows * (e->value < 0 ? -e->value : e->value) + 50) / 100 * (e->value < 0 ? -1 : 1);
    if (at < 0) at += rows;
    if (at < 0) return 0;
    return at > rows ? rows : at;
}

void source_slice_range(const SourceSlice *s, int64_t rows, int64_t *first, int64_t *last)
{
    *first = resolve(&s->from, rows, 0);
    *last = resolve(&s->to, rows, rows);
    if (*last < *first) *last = *first;
}
