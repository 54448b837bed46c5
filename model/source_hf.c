/* source_hf.c - a Hugging Face folder: config.json and safetensors, one file or shards with an index. */
#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "model/source_parts.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CONFIG_MAX = 1 << 20, INDEX_MAX = 64 << 20, SHARDS_MAX = 1000, NAME_MAX_BYTES = 255 };

static bool ends_with(const char *text, const char *end)
{
    const size_t n = strlen(text);
    const size_t m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

static bool read_config(ModelSource *s, Err *err)
{
    char *path = NULL;
    json_t *config = NULL;
    const bool ok = source_locate(&path, s->path, "config.json", err) &&
                    json_parse_file(&config, path, CONFIG_MAX, ERR_MODEL, err) &&
                    spec_from_config(&s->spec, config, path, err);
    json_decref(config);
    mem_free(path);
    return ok;
}

static int compare_texts(const void *a, const void *b)
{
    const char *const *x = a;
    const char *const *y = b;
    return strcmp(*x, *y);
}

/* A shard is a file of the folder itself, whatever the index says. */
static bool check_shard_name(const char *name, size_t length, const char *path, Err *err)
{
    const bool plain = length > 0 && length <= NAME_MAX_BYTES && strlen(name) == length && !strpbrk(name, "/\\") &&
                       name[0] != '.' && ends_with(name, ".safetensors");
    if (plain) return true;
    char shown[128];
    return FAIL(err, ERR_MODEL, "%s: \"%s\" is not the plain name of a safetensors file", path,
                text_printable(shown, sizeof shown, name, length));
}

/* The different shard names of a weight_map, sorted; they are borrowed from it. */
static bool list_shards(const char ***out, size_t *count, json_t *map, const char *path, Err *err)
{
    const size_t size = json_object_size(map);
    const char **names = mem_alloc(size, sizeof *names, err);
    if (!names) return false;
    size_t n = 0;
    const char *key;
    json_t *value;
    json_object_foreach(map, key, value)
    {
        const char *name = json_string_value(value);
        if (!name) {
            (void)FAIL(err, ERR_MODEL, "%s: weight_map must map names to names", path);
            goto fail;
        }
        TRY(check_shard_name(name, json_string_length(value), path, err));
        names[n++] = name;
    }
    qsort(names, n, sizeof *names, compare_texts);
    size_t unique = 0;
    for (size_t i = 0; i < n; i++) {
        if (unique == 0 || strcmp(names[unique - 1], names[i]) != 0) names[unique++] = names[i];
    }
    if (unique == 0 || unique > SHARDS_MAX) {
        (void)FAIL(err, ERR_MODEL, "%s names %zu shards; 1 to %d are supported", path, unique, SHARDS_MAX);
        goto fail;
    }
    *out = names;
    *count = unique;
    return true;
fail:
    mem_free(names);
    return false;
}

static bool open_shards(ModelSource *s, const char *const *names, size_t count, Err *err)
{
    s->shards = mem_alloc(count, sizeof *s->shards, err);
    if (!s->shards) return false;
    for (size_t i = 0; i < count; i++) {
        char *path = NULL;
        const bool ok = source_locate(&path, s->path, names[i], err) && safetensors_open(&s->shards[i], path, err);
        mem_free(path);
        if (!ok) return false;
        s->shard_count++;
    }
    return true;
}

static int compare_entries(const void *a, const void *b)
{
    const ShardEntry *x = a;
    const ShardEntry *y = b;
    return strcmp(x->entry->name, y->entry->name);
}

static bool list_entries(ModelSource *s, Err *err)
{
    size_t total = 0;
    for (size_t i = 0; i < s->shard_count; i++)
        total += (size_t)s->shards[i].count;
    s->entries = mem_alloc(total, sizeof *s->entries, err);
    if (!s->entries) return false;
    for (size_t i = 0; i < s->shard_count; i++) {
        for (int k = 0; k < s->shards[i].count; k++)
            s->entries[s->entry_count++] = (ShardEntry){.entry = &s->shards[i].entries[k], .shard = &s->shards[i]};
    }
    if (total) qsort(s->entries, total, sizeof *s->entries, compare_entries);
    for (size_t i = 1; i < total; i++) {
        if (compare_entries(&s->entries[i - 1], &s->entries[i]) != 0) continue;
        return FAIL(err, ERR_MODEL, "%s: the tensor \"%s\" is in two shards", s->path, s->entries[i].entry->name);
    }
    return true;
}

const ShardEntry *source_entry(const ModelSource *s, const char *name)
{
    const SafetensorsEntry wanted = {.name = (char *)(uintptr_t)name}; /* only read */
    const ShardEntry key = {.entry = &wanted};
    return s->entry_count ? bsearch(&key, s->entries, s->entry_count, sizeof key, compare_entries) : NULL;
}

/* The index and the shards tell the same story. */
static bool check_index(const ModelSource *s, json_t *index, json_t *map, const char *path, Err *err)
{
    const char *key;
    json_t *value;
    uint64_t total = 0;
    json_object_foreach(map, key, value)
    {
        const ShardEntry *e = source_entry(s, key);
        char shown[256];
        text_printable(shown, sizeof shown, key, strlen(key));
        if (!e) return FAIL(err, ERR_MODEL, "%s: the tensor \"%s\" is in no shard", path, shown);
        if (strcmp(strrchr(e->shard->file.path, '/') + 1, json_string_value(value)) != 0) {
            return FAIL(err, ERR_MODEL, "%s: the tensor \"%s\" is not in %s but in %s", path, shown,
                        json_string_value(value), e->shard->file.path);
        }
    }
    for (size_t i = 0; i < s->entry_count; i++) {
        const char *name = s->entries[i].entry->name;
        if (!json_object_get(map, name)) {
            return FAIL(err, ERR_MODEL, "%s does not list the tensor \"%s\" of %s", path, name,
                        s->entries[i].shard->file.path);
        }
        total += s->entries[i].entry->bytes; /* each is at most the size of a file */
    }
    const json_t *declared = json_object_get(json_object_get(index, "metadata"), "total_size");
    if (json_is_integer(declared) && (uint64_t)json_integer_value(declared) != total) {
        log_warn("%s: total_size is %lld, but the shards hold %llu bytes", path,
                 (long long)json_integer_value(declared), (unsigned long long)total);
    }
    return true;
}

static bool open_index(ModelSource *s, Err *err)
{
    char *path = NULL;
    json_t *index = NULL;
    const char **names = NULL;
    size_t count;
    bool ok = source_locate(&path, s->path, "model.safetensors.index.json", err) &&
              json_parse_file(&index, path, INDEX_MAX, ERR_MODEL, err);
    json_t *map = json_object_get(index, "weight_map");
    if (ok && !json_is_object(map)) ok = FAIL(err, ERR_MODEL, "%s has no weight_map", path);
    ok = ok && list_shards(&names, &count, map, path, err) && open_shards(s, names, count, err) &&
         list_entries(s, err) && check_index(s, index, map, path, err);
    mem_free(names);
    json_decref(index);
    mem_free(path);
    return ok;
}

/* The only safetensors file of a folder that has neither of the usual names. */
static bool open_only_file(ModelSource *s, Err *err)
{
    FileList list = {0};
    const char *found = NULL;
    int count = 0;
    bool pickled = false;
    if (!file_list(&list, s->path, ERR_MODEL, err)) return false;
    for (size_t i = 0; i < list.count; i++) {
        pickled = pickled || ends_with(list.names[i], ".bin");
        if (!ends_with(list.names[i], ".safetensors") || strncmp(list.names[i], "adapter_", 8) == 0) continue;
        found = list.names[i];
        count++;
    }
    bool ok = count == 1;
    if (ok) {
        ok = open_shards(s, &found, 1, err) && list_entries(s, err);
    } else if (count > 1) {
        (void)FAIL(err, ERR_MODEL, "%s has several safetensors files, but no model.safetensors.index.json", s->path);
    } else {
        (void)FAIL(err, ERR_MODEL, "%s has no weights: no model.safetensors and no index%s", s->path,
                   pickled ? " (.bin files are not read; save the model as safetensors)" : "");
    }
    file_list_free(&list);
    return ok;
}

static bool has_file(const ModelSource *s, const char *name, bool *has, Err *err)
{
    char *path = path_join(s->path, name, err);
    *has = path && file_exists(path);
    mem_free(path);
    return path != NULL;
}

static bool open_weights(ModelSource *s, Err *err)
{
    static const char *const single = "model.safetensors";
    bool has;
    if (!has_file(s, single, &has, err)) return false;
    if (has) return open_shards(s, &single, 1, err) && list_entries(s, err);
    if (!has_file(s, "model.safetensors.index.json", &has, err)) return false;
    return has ? open_index(s, err) : open_only_file(s, err);
}

/* Whether NAME is MATRIX.weight.PART with a part that belongs to a 4-bit matrix, and the matrix is there. */
static bool is_part(const ModelSource *s, const char *name)
{
    static const char *const parts[] = {
        "absmax",
        "quant_map",
        "nested_absmax",
        "nested_quant_map",
        "quant_state.bitsandbytes__nf4",
        "quant_state.bitsandbytes__fp4",
    };
    static const char mark[] = ".weight.";
    const char *at = strstr(name, mark);
    if (!at) return false;
    for (size_t i = 0; i < ARRAY_COUNT(parts); i++) {
        if (strcmp(at + sizeof mark - 1, parts[i]) != 0) continue;
        char owner[1200];
        snprintf(owner, sizeof owner, "%.*s", (int)(at - name + (ptrdiff_t)sizeof mark - 2), name);
        return source_entry(s, owner) != NULL;
    }
    return false;
}

/* Tables that can be computed, the copy of a tied head, and what belongs to a 4-bit matrix. */
static bool is_ignored(const ModelSource *s, const char *name)
{
    if (ends_with(name, ".rotary_emb.inv_freq") || ends_with(name, ".masked_bias")) return true;
    if (s->spec.tied && strncmp(name, "lm_head.weight", 14) == 0) return true;
    return is_part(s, name);
}

static bool add_tensor(ModelSource *s, const ShardEntry *e, Err *err)
{
    StoredTensor *t = source_add(s, err);
    bool quantized;
    if (!t) return false;
    const SafetensorsEntry *entry = e->entry;
    t->file = &e->shard->file;
    t->offset = entry->offset;
    t->shown = (SourceTensor){.name = entry->name, .rank = entry->rank, .dtype = entry->dtype};
    if (!source_find_quant(s, e, t, &quantized, err)) return false;
    if (quantized) return true;
    t->shown.stored = dtype_name(entry->dtype);
    for (int i = 0; i < 2 && i < entry->rank; i++)
        t->shown.shape[i] = entry->shape[i];
    if (entry->rank < 1 || entry->rank > 2) {
        return FAIL(err, ERR_MODEL, "%s: tensor \"%s\" has %d dimensions; 1 or 2 are supported", s->path, entry->name,
                    entry->rank);
    }
    switch (entry->dtype) {
    case DTYPE_F32: t->type = GGUF_F32; return true;
    case DTYPE_F16: t->type = GGUF_F16; return true;
    case DTYPE_BF16: t->type = GGUF_BF16; return true;
    default:
        return FAIL(err, ERR_MODEL, "%s: tensor \"%s\" is %s; weights must be F32, F16, BF16 or bitsandbytes 4-bit",
                    s->path, entry->name, t->shown.stored);
    }
}

bool source_open_folder(ModelSource *s, bool weights, Err *err)
{
    if (!read_config(s, err)) return false;
    if (!weights) return true;
    if (!open_weights(s, err)) return false;
    for (size_t i = 0; i < s->entry_count; i++) {
        if (is_ignored(s, s->entries[i].entry->name)) continue;
        if (!add_tensor(s, &s->entries[i], err)) return false;
    }
    return true;
}
