#include "model/source.h"

#include "base/hash.h"
#include "base/mem.h"
#include "base/text.h"
#include "model/gguf_decode.h"
#include "model/source_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK_BYTES = 1 << 16, SAMPLE_BYTES = 1024, NAME_BYTES = 128 };

static int compare_tensors(const void *a, const void *b)
{
    const StoredTensor *x = a;
    const StoredTensor *y = b;
    return strcmp(x->shown.name, y->shown.name);
}

StoredTensor *source_add(ModelSource *s, Err *err)
{
    if (!mem_grow(&s->tensors, &s->capacity, s->count + 1, sizeof *s->tensors, err)) return NULL;
    StoredTensor *t = &s->tensors[s->count++];
    *t = (StoredTensor){0};
    return t;
}

/* One tensor that the spec asks for; cols 0: a vector. */
static bool expect(ModelSource *s, const char *name, int64_t rows, int64_t cols, Err *err)
{
    const StoredTensor key = {.shown.name = name};
    StoredTensor *t = s->count ? bsearch(&key, s->tensors, s->count, sizeof key, compare_tensors) : NULL;
    if (!t) return FAIL(err, ERR_MODEL, "%s: the tensor \"%s\" is missing", s->path, name);
    const SourceTensor *shown = &t->shown;
    t->expected = true;
    if (shown->rank != (cols ? 2 : 1) || shown->shape[0] != rows || (cols && shown->shape[1] != cols)) {
        return FAIL(err, ERR_MODEL, "%s: tensor \"%s\" is %lld x %lld, but the configuration asks for %lld x %lld",
                    s->path, name, (long long)shown->shape[0], (long long)(shown->rank == 2 ? shown->shape[1] : 1),
                    (long long)rows, (long long)(cols ? cols : 1));
    }
    return true;
}

static bool expect_layer(ModelSource *s, int layer, Err *err)
{
    const ModelSpec *spec = &s->spec;
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "model.layers.%d.input_layernorm.weight", layer);
    if (!expect(s, name, spec->hidden, 0, err)) return false;
    snprintf(name, sizeof name, "model.layers.%d.post_attention_layernorm.weight", layer);
    if (!expect(s, name, spec->hidden, 0, err)) return false;
    for (Projection p = 0; p < PROJ_COUNT; p++) {
        const bool bias = p <= PROJ_O ? spec->attention_bias : spec->mlp_bias;
        snprintf(name, sizeof name, "model.layers.%d.%s.weight", layer, projection_module(p));
        if (!expect(s, name, projection_rows(spec, p), projection_cols(spec, p), err)) return false;
        snprintf(name, sizeof name, "model.layers.%d.%s.bias", layer, projection_module(p));
        if (bias && !expect(s, name, projection_rows(spec, p), 0, err)) return false;
    }
    return true;
}

/* All tensors of the spec are there in the right shape, and none beside them. */
static bool check_complete(ModelSource *s, Err *err)
{
    const ModelSpec *spec = &s->spec;
    if (!expect(s, "model.embed_tokens.weight", spec->vocab, spec->hidden, err)) return false;
    if (!expect(s, "model.norm.weight", spec->hidden, 0, err)) return false;
    if (!spec->tied && !expect(s, "lm_head.weight", spec->vocab, spec->hidden, err)) return false;
    for (int layer = 0; layer < spec->layers; layer++) {
        if (!expect_layer(s, layer, err)) return false;
    }
    for (size_t i = 0; i < s->count; i++) {
        if (s->tensors[i].expected) continue;
        char shown[NAME_BYTES];
        const char *name = s->tensors[i].shown.name;
        return FAIL(err, ERR_MODEL, "%s: the tensor \"%s\" has no place in a llama model of %d layers%s", s->path,
                    text_printable(shown, sizeof shown, name, strlen(name)), spec->layers,
                    strstr(name, ".bias") ? " without such biases" : "");
    }
    return true;
}

/* A folder without config.json may hold one GGUF file instead; *path then is that file. */
static bool find_gguf(char **path, const char *folder, Err *err)
{
    FileList list = {0};
    const char *found = NULL;
    int count = 0;
    if (!file_list(&list, folder, ERR_MODEL, err)) return false;
    for (size_t i = 0; i < list.count; i++) {
        const size_t length = strlen(list.names[i]);
        if (length < 5 || strcmp(list.names[i] + length - 5, ".gguf") != 0) continue;
        found = list.names[i];
        count++;
    }
    bool ok = count == 1;
    if (ok) {
        ok = source_locate(path, folder, found, err);
    } else {
        (void)FAIL(err, ERR_MODEL, count ? "%s holds several GGUF files; name one of them" : "%s has no config.json",
                   folder);
    }
    file_list_free(&list);
    return ok;
}

static bool open_parts(ModelSource *s, const char *path, bool weights, Err *err)
{
    if (!file_is_folder(path)) {
        const size_t length = strlen(path);
        if (length > 12 && strcmp(path + length - 12, ".safetensors") == 0) {
            return FAIL(err, ERR_MODEL, "%s is only the weights of a model; give the folder that also has config.json",
                        path);
        }
        s->path = mem_copy_text(path, err);
        return s->path && source_open_gguf(s, err);
    }
    char *config = path_join(path, "config.json", err);
    if (!config) return false;
    const bool folder = file_exists(config);
    mem_free(config);
    if (!folder) return find_gguf(&s->path, path, err) && source_open_gguf(s, err);
    s->path = mem_copy_text(path, err);
    return s->path && source_open_folder(s, weights, err);
}

static bool open_source(ModelSource **out, const char *path, bool weights, Err *err)
{
    ModelSource *s = mem_alloc(1, sizeof *s, err);
    if (!s) return false;
    TRY(open_parts(s, path, weights, err));
    if (s->count) qsort(s->tensors, s->count, sizeof *s->tensors, compare_tensors);
    if (weights) TRY(check_complete(s, err));
    *out = s;
    return true;
fail:
    source_close(s);
    return false;
}

bool source_open(ModelSource **out, const char *path, bool weights, Err *err)
{
    if (!open_source(out, path, weights, err)) return false;
    if (weights || !source_spec(*out)->prequantized) return true;
    ModelSource *whole = NULL;
    Err ignored = {0};
    if (!open_source(&whole, path, true, &ignored)) return true;
    source_close(*out);
    *out = whole;
    return true;
}

void source_close(ModelSource *s)
{
    if (!s) return;
    for (size_t i = 0; i < s->count; i++)
        mem_free(s->tensors[i].name);
    for (size_t i = 0; i < s->shard_count; i++)
        safetensors_close(&s->shards[i]);
    mem_free(s->tensors);
    mem_free(s->shards);
    mem_free(s->entries);
    gguf_close(s->gguf);
    mem_free(s->path);
    mem_free(s);
}

const ModelSpec *source_spec(const ModelSource *s)
{
    return &s->spec;
}

const char *source_path(const ModelSource *s)
{
    return s->path;
}

bool source_is_gguf(const ModelSource *s)
{
    return s->gguf != NULL;
}

int source_count(const ModelSource *s)
{
    return (int)s->count;
}

const SourceTensor *source_tensor(const ModelSource *s, int i)
{
    CHECK(i >= 0 && (size_t)i < s->count);
    return &s->tensors[i].shown;
}

const SourceTensor *source_find(const ModelSource *s, const char *name)
{
    const StoredTensor key = {.shown.name = name};
    const StoredTensor *t = s->count ? bsearch(&key, s->tensors, s->count, sizeof key, compare_tensors) : NULL;
    return t ? &t->shown : NULL;
}

/* Elements [first, first + count) of the tensor as it is stored; they start and end with a block. */
static bool read_span(const StoredTensor *t, int64_t first, int64_t count, float *to, Err *err)
{
    const int64_t block = gguf_block_elements(t->type);
    const size_t block_bytes = gguf_block_bytes(t->type);
    uint64_t at = t->offset + (uint64_t)(first / block) * block_bytes;
    if (t->type == GGUF_F32) return file_read_at(t->file, at, to, (size_t)count * sizeof *to, err);
    _Alignas(64) unsigned char chunk[CHUNK_BYTES];
    const int64_t most = (int64_t)(sizeof chunk / block_bytes) * block;
    while (count > 0) {
        const int64_t step = count < most ? count : most;
        const size_t bytes = (size_t)(step / block) * block_bytes;
        if (!file_read_at(t->file, at, chunk, bytes, err)) return false;
        gguf_decode(to, chunk, t->type, step);
        at += bytes;
        to += step;
        count -= step;
    }
    return true;
}

/*
 * Rows of a matrix whose heads llama.cpp interleaved for its rope: row 2i + j of a head in the file is row
 * j * D/2 + i of Hugging Face. The file is read in order, in pieces of whole rows.
 */
static bool read_interleaved(const StoredTensor *t, int64_t first, int64_t count, float *to, Err *err)
{
    const int64_t cols = t->shown.rank == 2 ? t->shown.shape[1] : 1;
    const int64_t head_rows = t->shown.shape[0] / t->interleaved;
    const int64_t block = gguf_block_elements(t->type);
    const size_t row_bytes = (size_t)(cols / block) * gguf_block_bytes(t->type);
    const int64_t most = row_bytes > CHUNK_BYTES ? 0 : (int64_t)(CHUNK_BYTES / row_bytes);
    const int64_t end = ceil_div(first + count, head_rows) * head_rows;
    _Alignas(64) unsigned char chunk[CHUNK_BYTES];
    int64_t loaded = first / head_rows * head_rows; /* rows below it are in the chunk or done */
    int64_t chunk_first = loaded;
    for (int64_t row = loaded; row < end; row++) {
        const int64_t within = row % head_rows;
        const int64_t target = row - within + (within % 2) * (head_rows / 2) + within / 2;
        if (row >= loaded && most > 0) {
            const int64_t step = end - row < most ? end - row : most;
            const uint64_t at = t->offset + (uint64_t)row * row_bytes;
            if (!file_read_at(t->file, at, chunk, (size_t)step * row_bytes, err)) return false;
            chunk_first = row;
            loaded = row + step;
        }
        if (target < first || target >= first + count) continue;
        float *place = to + (target - first) * cols;
        if (most > 0) {
            gguf_decode(place, chunk + (size_t)(row - chunk_first) * row_bytes, t->type, cols);
        } else if (!read_span(t, row * cols, cols, place, err)) {
            return false;
        }
    }
    return true;
}

bool source_read(const ModelSource *s, const SourceTensor *shown, int64_t first, int64_t count, float *to, Err *err)
{
    const StoredTensor *t = (const StoredTensor *)(const void *)shown;
    CHECK(!shown->prequantized && first >= 0 && count >= 0 && first <= shown->shape[0] - count);
    const int64_t cols = shown->rank == 2 ? shown->shape[1] : 1;
    const bool ok =
        t->interleaved ? read_interleaved(t, first, count, to, err) : read_span(t, first * cols, count * cols, to, err);
    return ok || err_note(err, "%s: tensor \"%s\"", s->path, shown->name);
}

static bool add_sample(Hash *h, const File *f, uint64_t offset, uint64_t bytes, Err *err)
{
    unsigned char sample[SAMPLE_BYTES];
    const uint64_t length = bytes < sizeof sample ? bytes : sizeof sample;
    const uint64_t places[] = {0, (bytes - length) / 2, bytes - length};
    for (size_t i = 0; i < ARRAY_COUNT(places); i++) {
        if (!file_read_at(f, offset + places[i], sample, (size_t)length, err)) return false;
        hash_add(h, sample, (size_t)length);
    }
    return true;
}

static uint64_t stored_bytes(const StoredTensor *t)
{
    if (t->shown.prequantized) return t->quant.codes.entry->bytes;
    const int64_t count = t->shown.shape[0] * (t->shown.rank == 2 ? t->shown.shape[1] : 1);
    return (uint64_t)(count / gguf_block_elements(t->type)) * gguf_block_bytes(t->type);
}

bool source_fingerprint(const ModelSource *s, char text[33], Err *err)
{
    Hash *h = NULL;
    json_begin();
    json_t *config = spec_to_config(&s->spec, "");
    char *dumped = json_print(config, JSON_SORT_KEYS | JSON_COMPACT, "what the model is", err);
    bool ok = dumped && hash_create(&h, err);
    if (ok) hash_add(h, dumped, strlen(dumped));
    for (size_t i = 0; ok && i < s->count; i++) {
        const StoredTensor *t = &s->tensors[i];
        char line[512];
        const int length = snprintf(line, sizeof line, "\n%s %s %lld %lld\n", t->shown.name, t->shown.stored,
                                    (long long)t->shown.shape[0], (long long)t->shown.shape[1]);
        hash_add(h, line, length < (int)sizeof line ? (size_t)length : sizeof line - 1);
        ok = add_sample(h, t->file, t->offset, stored_bytes(t), err);
    }
    char unused[33];
    if (h) hash_finish(h, ok ? text : unused);
    mem_free(dumped);
    json_decref(config);
    return ok;
}
