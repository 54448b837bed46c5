#include "trainer/quantize_parts.h"

#include "base/log.h"
#include "base/mem.h"
#include "lora/lora.h"
#include "trainer/tokenizer_files.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_BYTES = 512 };

size_t quantize_shard_bytes = 5000000000;

/* --- what becomes of each tensor --- */

/* "model.layers.0.mlp.up_proj.weight" without its end; false when the tensor is no matrix of a layer. */
static bool linear_path(char path[PATH_BYTES], const SourceTensor *t)
{
    const size_t length = strlen(t->name), end = strlen(".weight");
    if (t->rank != 2 || strncmp(t->name, "model.layers.", 13) != 0 || length <= end || length >= PATH_BYTES)
        return false;
    if (strcmp(t->name + length - end, ".weight") != 0) return false;
    memcpy(path, t->name, length - end);
    path[length - end] = '\0';
    return true;
}

static bool is_skipped(const QuantizeJob *job, const char *path)
{
    for (int i = 0; i < job->skip_count; i++) {
        if (lora_name_matches(path, job->skip[i])) return true;
    }
    return false;
}

/* A name that matches nothing is a slip: without the error the module would be quantized. */
static bool check_skip(const QuantizeJob *job, const char *item, Err *err)
{
    char path[PATH_BYTES];
    if (lora_name_matches("lm_head", item) || lora_name_matches("model.embed_tokens", item)) return true;
    for (int i = 0; i < job->count; i++) {
        if (linear_path(path, job->items[i].tensor) && lora_name_matches(path, item)) return true;
    }
    return FAIL(err, ERR_ARG,
                "no module is named \"%s\", so it cannot be left as it is; names are like \"q_proj\" or "
                "\"model.layers.0.mlp.up_proj\"",
                item);
}

static bool same_options(const QuantOptions *a, const QuantOptions *b)
{
    return a->type == b->type && a->block == b->block && a->double_quant == b->double_quant;
}

static const char *describe(char text[80], const QuantOptions *o)
{
    snprintf(text, 80, "%s, block %d%s", quantize_type_name(o->type), o->block,
             o->double_quant ? ", double quantization" : "");
    return text;
}

/* A tensor that is in 4 bits already is only copied. */
static bool take_prequantized(QuantizeJob *job, QuantizeItem *item, const QuantOptions *options, Err *err)
{
    char is[80], wanted[80], path[PATH_BYTES];
    if (linear_path(path, item->tensor) && is_skipped(job, path))
        return FAIL(err, ERR_ARG,
                    "%s has %s in 4 bits already, so it cannot keep another type; give the model it was made from",
                    source_path(job->source), path);
    if (!source_read_quantized(job->source, item->tensor, &item->matrix, NULL, err)) return false;
    item->quantized = true;
    if (same_options(&item->matrix.options, options)) return true;
    return FAIL(err, ERR_MODEL,
                "%s is already in 4 bits (%s) and would lose precision in other ones (%s); give the "
                "model it was made from",
                source_path(job->source), describe(is, &item->matrix.options), describe(wanted, options));
}

static void take_linear(const QuantizeJob *job, QuantizeItem *item, const QuantOptions *options)
{
    char path[PATH_BYTES];
    const SourceTensor *t = item->tensor;
    if (!linear_path(path, t) || is_skipped(job, path)) return;
    item->quantized = true;
    item->matrix =
        (QuantMatrix){.options = *options, .rows = t->shape[0], .cols = t->shape[1], .source_dtype = t->dtype};
    blockwise_map_signed(item->matrix.map);
}

static size_t kept_bytes(const SourceTensor *t)
{
    return (size_t)(t->shape[0] * (t->rank == 2 ? t->shape[1] : 1)) * dtype_bytes(t->dtype);
}

/* Shards fill up one after the other; a matrix and what belongs to it stay together. */
static void cut_shards(QuantizeJob *job)
{
    size_t bytes = 0;
    job->shards = 1;
    for (int i = 0; i < job->count; i++) {
        QuantizeItem *item = &job->items[i];
        item->bytes = item->quantized ? quantize_matrix_bytes(&item->matrix) : kept_bytes(item->tensor);
        if (bytes > 0 && bytes + item->bytes > quantize_shard_bytes) {
            job->shards++;
            bytes = 0;
        }
        item->shard = job->shards - 1;
        bytes += item->bytes;
    }
}

static bool plan(QuantizeJob *job, const QuantOptions *options, Err *err)
{
    bool any = false;
    job->count = source_count(job->source);
    job->items = mem_alloc((size_t)job->count, sizeof *job->items, err);
    if (!job->items) return false;
    for (int i = 0; i < job->count; i++) {
        job->items[i].tensor = source_tensor(job->source, i);
        job->copied = job->copied || job->items[i].tensor->prequantized;
    }
    for (int i = 0; i < job->skip_count; i++) {
        if (!check_skip(job, job->skip[i], err)) return false;
    }
    for (int i = 0; i < job->count; i++) {
        QuantizeItem *item = &job->items[i];
        if (!job->copied) {
            take_linear(job, item, options);
        } else if (item->tensor->prequantized && !take_prequantized(job, item, options, err)) {
            return false;
        }
        any = any || item->quantized;
    }
    if (!any) return FAIL(err, ERR_ARG, "no module is left to quantize: all of them are named as to be skipped");
    cut_shards(job);
    return true;
}

/* --- where it goes --- */

typedef struct Target {
    char *folder;    /* without a slash at its end */
    char *temporary; /* beside it */
    char *old;       /* beside it: what stood there before */
    bool replaces;
} Target;

static void target_free(Target *t)
{
    mem_free(t->folder);
    mem_free(t->temporary);
    mem_free(t->old);
    *t = (Target){0};
}

/* True when one of the folder's safetensors files carries our mark. */
static bool is_ours(const char *folder, const FileList *list)
{
    bool ours = false;
    for (size_t i = 0; !ours && i < list->count; i++) {
        const char *name = list->names[i], *end = strrchr(name, '.');
        Err ignored = {0};
        Safetensors st = {0};
        if (!end || strcmp(end, ".safetensors") != 0) continue;
        char *path = path_join(folder, name, &ignored);
        if (path && safetensors_open(&st, path, &ignored)) {
            const char *mark = safetensors_metadata(&st, QUANTIZE_MARK_KEY);
            ours = mark && strcmp(mark, QUANTIZE_MARK) == 0;
        }
        safetensors_close(&st);
        mem_free(path);
    }
    return ours;
}

static bool check_existing(const char *folder, const char *model, Err *err)
{
    FileList list = {0};
    char a[PATH_MAX], b[PATH_MAX];
    if (!file_is_folder(folder)) return FAIL(err, ERR_ARG, "%s is there and is no folder", folder);
    if (realpath(folder, a) && realpath(model, b) && strcmp(a, b) == 0)
        return FAIL(err, ERR_ARG, "%s is the model itself; give another folder for the result", folder);
    if (!file_list(&list, folder, ERR_ARG, err)) return false;
    const bool fine = list.count == 0 || is_ours(folder, &list);
    file_list_free(&list);
    if (fine) return true;
    return FAIL(err, ERR_ARG, "%s is not empty and was not written by this command; give another folder", folder);
}

static char *beside(const char *folder, const char *end, Err *err)
{
    Text name = {0};
    if (text_add_z(&name, folder, err) && text_add_z(&name, end, err)) return name.bytes;
    text_free(&name);
    return NULL;
}

/* A run that was killed while one folder took the other's place left the old one beside it. */
static bool settle_old(const Target *t, Err *err)
{
    if (!file_exists(t->old)) return true;
    return file_exists(t->folder) ? file_remove_tree(t->old, err) : file_rename(t->old, t->folder, err);
}

static bool target_init(Target *out, const char *out_dir, const char *model, Err *err)
{
    Target t = {0};
    char whole[PATH_MAX];
    const char *folder = realpath(out_dir, whole) ? whole : out_dir; /* "." has no name beside which to write */
    size_t length = strlen(folder);
    while (length > 1 && folder[length - 1] == '/')
        length--;
    if (length == 0) return FAIL(err, ERR_ARG, "the folder for the result has no name");
    TRY((t.folder = mem_copy_bytes(folder, length, err)) != NULL);
    TRY((t.temporary = beside(t.folder, ".qlora-partial", err)) != NULL);
    TRY((t.old = beside(t.folder, ".qlora-old", err)) != NULL);
    TRY(settle_old(&t, err));
    t.replaces = file_exists(t.folder);
    if (t.replaces) TRY(check_existing(t.folder, model, err));
    if (file_exists(t.temporary)) TRY(file_remove_tree(t.temporary, err));
    TRY(file_make_folders(t.temporary, err));
    *out = t;
    return true;
fail:
    target_free(&t);
    return false;
}

/* After a failure: a rename may have happened although it could not be made durable. */
static void put_back(const Target *t)
{
    Err fault = {0};
    const bool moved = !t->replaces || file_exists(t->old);
    if (moved && file_exists(t->folder) && !file_remove_tree(t->folder, &fault)) log_warn("%s", fault.text);
    if (t->replaces && moved && !file_rename(t->old, t->folder, &fault)) log_warn("%s", fault.text);
}

/* The old folder steps aside until the new one stands in its place. */
static bool target_commit(const Target *t, Err *err)
{
    Err fault = {0};
    if ((t->replaces && !file_rename(t->folder, t->old, err)) || !file_commit_folder(t->temporary, t->folder, err)) {
        put_back(t);
        return false;
    }
    if (t->replaces && !file_remove_tree(t->old, &fault)) log_warn("%s stays behind: %s", t->old, fault.text);
    return true;
}

/* --- the whole --- */

static void tell(const QuantizeJob *job, const char *folder)
{
    size_t codes = 0, saved = 0, bytes = 0;
    int modules = 0;
    char text[80];
    const QuantOptions *options = NULL;
    for (int i = 0; i < job->count; i++) {
        const QuantizeItem *item = &job->items[i];
        bytes += item->bytes;
        if (!item->quantized) continue;
        const QuantMatrix *m = &item->matrix;
        const size_t packed = quant_matrix_bytes(&m->options, m->rows, m->cols);
        codes += packed;
        saved += 2 * (size_t)(m->rows * m->cols) - packed;
        modules++;
        options = &m->options;
    }
    log_info("%s %d linear modules (%s): %.1f MB, %.1f MB less than in 16 bits; %s holds %.1f MB",
             job->copied ? "copied" : "quantized", modules, describe(text, options), (double)codes / 1e6,
             (double)saved / 1e6, folder, (double)bytes / 1e6);
}

static bool write_all(QuantizeJob *job, const Target *t, Err *err)
{
    return quantize_write_weights(job, t->temporary, err) && quantize_write_config(job, t->temporary, err) &&
           tokenizer_files_write(t->temporary, source_path(job->source), NULL, err) && target_commit(t, err);
}

bool quantize_folder(const char *model, const char *revision, const char *out_dir, const QuantOptions *options,
                     const char *const *skip, int skip_count, Err *err)
{
    QuantizeJob job = {.skip = skip, .skip_count = skip_count};
    Target target = {0};
    char *path = NULL;
    bool ok = false;
    TRY(source_resolve(&path, model, revision, err));
    TRY(source_open(&job.source, path, true, err));
    TRY(plan(&job, options, err));
    TRY(target_init(&target, out_dir, path, err));
    ok = write_all(&job, &target, err);
    if (ok) {
        tell(&job, target.folder);
    } else {
        Err ignored = {0}; /* there was a failure before this one */
        const bool gone = !file_exists(target.temporary) || file_remove_tree(target.temporary, &ignored);
        if (!gone) log_warn("%s stays behind", target.temporary);
    }
fail:
    target_free(&target);
    mem_free(job.items);
    source_close(job.source);
    mem_free(path);
    return ok;
}
