/*
 * quantize_write.c - the tensors of a 4-bit folder, one at a time.
 *
 * A safetensors file begins with the sizes of all its tensors, and the size of a quant_state depends on the digits of
 * its offset, the mean of the scales. So with double quantization the matrices of a shard are encoded twice: once for
 * their offsets, once to be written. Encoding is much faster than any disk.
 */
#include "trainer/quantize_parts.h"

#include "base/log.h"
#include "base/mem.h"

#include <omp.h>
#include <stdio.h>
#include <string.h>

enum { STATE_BYTES_MAX = 256, NAME_BYTES = 512, ROWS_BYTES = 4 << 20 };

/* Host memory for the largest tensor. */
typedef struct Buffers {
    float *values;
    QuantHost host;
} Buffers;

static int64_t blocks_of(const QuantMatrix *m)
{
    return ceil_div(m->rows * m->cols, m->options.block);
}

size_t quantize_matrix_bytes(const QuantMatrix *m)
{
    const size_t maps = sizeof quant_levels[0] + (m->options.double_quant ? sizeof m->map : 0);
    return quant_matrix_bytes(&m->options, m->rows, m->cols) + maps + STATE_BYTES_MAX;
}

static void buffers_free(Buffers *b)
{
    mem_free(b->values);
    mem_free(b->host.codes);
    mem_free(b->host.absmax);
    mem_free(b->host.nested_absmax);
    mem_free(b->host.scratch_absmax);
    *b = (Buffers){0};
}

static bool buffers_create(Buffers *out, const QuantizeJob *job, Err *err)
{
    Buffers b = {0};
    int64_t values = ROWS_BYTES / (int64_t)sizeof(float), codes = 1, blocks = 1;
    for (int i = 0; i < job->count; i++) {
        const QuantizeItem *item = &job->items[i];
        const SourceTensor *t = item->tensor;
        const int64_t count = t->shape[0] * (t->rank == 2 ? t->shape[1] : 1);
        const int64_t row = t->rank == 2 ? t->shape[1] : 1;
        const int64_t floats = item->quantized && !job->copied ? count : row;
        if (floats > values) values = floats;
        if (!item->quantized) continue;
        if (ceil_div(count, 2) > codes) codes = ceil_div(count, 2);
        if (blocks_of(&item->matrix) > blocks) blocks = blocks_of(&item->matrix);
    }
    TRY((b.values = mem_alloc((size_t)values, sizeof(float), err)) != NULL);
    TRY((b.host.codes = mem_alloc((size_t)codes, 1, err)) != NULL);
    TRY((b.host.absmax = mem_alloc((size_t)blocks, sizeof(float), err)) != NULL);
    TRY((b.host.nested_absmax = mem_alloc((size_t)ceil_div(blocks, 256), sizeof(float), err)) != NULL);
    TRY((b.host.scratch_absmax = mem_alloc((size_t)blocks, sizeof(float), err)) != NULL);
    *out = b;
    return true;
fail:
    buffers_free(&b);
    return false;
}

/* --- reading and encoding --- */

/* All rows, a share a thread: types of few bits take longer to decode than to read. */
static bool read_values(const ModelSource *s, const SourceTensor *t, float *to, Err *err)
{
    const int64_t parts = omp_get_max_threads(), rows = t->shape[0], cols = t->shape[1];
    bool good = true;
#pragma omp parallel for schedule(static)
    for (int64_t p = 0; p < parts; p++) {
        const int64_t first = rows * p / parts, count = rows * (p + 1) / parts - first;
        Err own = {0};
        if (source_read(s, t, first, count, to + first * cols, &own)) continue;
#pragma omp critical
        {
            good = FAIL(err, own.code, "%s", own.text);
        }
    }
    return good;
}

static bool encode(const QuantizeJob *job, QuantizeItem *item, Buffers *b, Err *err)
{
    QuantMatrix *m = &item->matrix;
    if (job->copied) return source_read_quantized(job->source, item->tensor, m, &b->host, err);
    if (!read_values(job->source, item->tensor, b->values, err)) return false;
    if (!quant_encode(&b->host, b->values, m->rows * m->cols, &m->options, err))
        return err_note(err, "%s: tensor \"%s\"", source_path(job->source), item->tensor->name);
    m->offset = b->host.offset;
    return true;
}

/* --- one shard --- */

static bool declare(SafetensorsWriter *w, const char *tensor, const char *part, DType dtype, int64_t rows, int64_t cols,
                    Err *err)
{
    char name[NAME_BYTES];
    const int64_t shape[2] = {rows, cols};
    if (snprintf(name, sizeof name, "%s%s", tensor, part) >= (int)sizeof name)
        return FAIL(err, ERR_MODEL, "the tensor name \"%.80s...\" is too long", tensor);
    return safetensors_writer_declare(w, name, dtype, cols ? 2 : 1, shape, err);
}

static bool declare_matrix(SafetensorsWriter *w, const char *name, const QuantMatrix *m, Err *err)
{
    Text state = {0};
    char part[64];
    const int64_t blocks = blocks_of(m);
    const bool nested = m->options.double_quant;
    snprintf(part, sizeof part, ".quant_state.bitsandbytes__%s", quantize_type_name(m->options.type));
    const bool ok = quantize_state_text(&state, m, err) &&
                    declare(w, name, "", DTYPE_U8, ceil_div(m->rows * m->cols, 2), 1, err) &&
                    declare(w, name, ".absmax", nested ? DTYPE_U8 : DTYPE_F32, blocks, 0, err) &&
                    declare(w, name, ".quant_map", DTYPE_F32, 16, 0, err) &&
                    (!nested || declare(w, name, ".nested_absmax", DTYPE_F32, ceil_div(blocks, 256), 0, err)) &&
                    (!nested || declare(w, name, ".nested_quant_map", DTYPE_F32, 256, 0, err)) &&
                    declare(w, name, part, DTYPE_U8, (int64_t)state.length, 0, err);
    text_free(&state);
    return ok;
}

static bool declare_item(SafetensorsWriter *w, const QuantizeItem *item, Err *err)
{
    const SourceTensor *t = item->tensor;
    if (item->quantized) return declare_matrix(w, t->name, &item->matrix, err);
    return declare(w, t->name, "", t->dtype, t->shape[0], t->rank == 2 ? t->shape[1] : 0, err);
}

/* In the order of their declaration. */
static bool write_matrix(SafetensorsWriter *w, const QuantMatrix *m, const QuantHost *host, Err *err)
{
    Text state = {0};
    float levels[16];
    const size_t blocks = (size_t)blocks_of(m), nested = ((blocks + 255) / 256) * sizeof(float);
    const bool twice = m->options.double_quant;
    for (int i = 0; i < 16; i++)
        levels[i] = quant_levels[m->options.type][i] + 0.0f; /* bitsandbytes stores FP4's -0 as 0 */
    const bool ok = quantize_state_text(&state, m, err) &&
                    safetensors_writer_data(w, host->codes, (size_t)ceil_div(m->rows * m->cols, 2), err) &&
                    safetensors_writer_data(w, host->absmax, blocks * (twice ? 1 : sizeof(float)), err) &&
                    safetensors_writer_data(w, levels, sizeof levels, err) &&
                    (!twice || safetensors_writer_data(w, host->nested_absmax, nested, err)) &&
                    (!twice || safetensors_writer_data(w, m->map, sizeof m->map, err)) &&
                    safetensors_writer_data(w, state.bytes, state.length, err);
    text_free(&state);
    return ok;
}

/* What the source's type holds goes back into it without loss. In place: 16-bit values do not overtake the f32 ones. */
static size_t narrow(float *values, int64_t count, DType dtype)
{
    char *to = (char *)values;
    if (dtype == DTYPE_F32) return (size_t)count * sizeof(float);
    for (int64_t i = 0; i < count; i++) {
        const uint16_t bits = dtype == DTYPE_BF16 ? bf16_from_f32(values[i]) : f16_from_f32(values[i]);
        memcpy(to + 2 * i, &bits, sizeof bits);
    }
    return (size_t)count * sizeof(uint16_t);
}

static bool write_kept(SafetensorsWriter *w, const QuantizeJob *job, const SourceTensor *t, Buffers *b, Err *err)
{
    const int64_t cols = t->rank == 2 ? t->shape[1] : 1, room = ROWS_BYTES / (int64_t)sizeof(float) / cols;
    const int64_t step = room > 0 ? room : 1;
    for (int64_t first = 0; first < t->shape[0]; first += step) {
        const int64_t left = t->shape[0] - first, rows = left < step ? left : step;
        if (!source_read(job->source, t, first, rows, b->values, err)) return false;
        const size_t bytes = narrow(b->values, rows * cols, t->dtype);
        if (!safetensors_writer_data(w, b->values, bytes, err)) return false;
    }
    return true;
}

static bool write_item(SafetensorsWriter *w, const QuantizeJob *job, QuantizeItem *item, Buffers *b, Err *err)
{
    if (!item->quantized) return write_kept(w, job, item->tensor, b, err);
    return encode(job, item, b, err) && write_matrix(w, &item->matrix, &b->host, err);
}

static bool find_offsets(const QuantizeJob *job, int shard, Buffers *b, Err *err)
{
    for (int i = 0; i < job->count; i++) {
        QuantizeItem *item = &job->items[i];
        const bool needed =
            item->shard == shard && item->quantized && !job->copied && item->matrix.options.double_quant;
        if (needed && !encode(job, item, b, err)) return false;
    }
    return true;
}

static void shard_name(char name[64], const QuantizeJob *job, int shard)
{
    if (job->shards == 1) {
        snprintf(name, 64, "model.safetensors");
    } else {
        snprintf(name, 64, "model-%05d-of-%05d.safetensors", shard + 1, job->shards);
    }
}

static bool fill_shard(SafetensorsWriter *w, const QuantizeJob *job, int shard, Buffers *b, Err *err)
{
    if (!safetensors_writer_metadata(w, "format", "pt", err)) return false;
    if (!safetensors_writer_metadata(w, QUANTIZE_MARK_KEY, QUANTIZE_MARK, err)) return false;
    for (int i = 0; i < job->count; i++) {
        if (job->items[i].shard == shard && !declare_item(w, &job->items[i], err)) return false;
    }
    if (!safetensors_writer_begin(w, err)) return false;
    for (int i = 0; i < job->count; i++) {
        if (job->items[i].shard != shard) continue;
        if (!write_item(w, job, &job->items[i], b, err)) return false;
        log_progress("quantizing", i + 1, job->count, "tensors", i + 1 == job->count);
    }
    return true;
}

static bool write_shard(const QuantizeJob *job, const char *folder, int shard, Buffers *b, Err *err)
{
    SafetensorsWriter *w = NULL;
    char name[64];
    shard_name(name, job, shard);
    char *path = path_join(folder, name, err);
    TRY(path != NULL);
    TRY(find_offsets(job, shard, b, err));
    TRY(safetensors_writer_create(&w, path, err));
    TRY(fill_shard(w, job, shard, b, err));
    mem_free(path);
    return safetensors_writer_finish(w, err);
fail:
    safetensors_writer_discard(w);
    mem_free(path);
    return false;
}

/* --- the index of several shards --- */

/* Names of a file that was just written, so that nothing is said twice. */
static bool index_shard(json_t *map, uint64_t *total, const char *folder, const char *name, Err *err)
{
    Safetensors st = {0};
    char *path = path_join(folder, name, err);
    bool ok = path && safetensors_open(&st, path, err);
    for (int i = 0; ok && i < st.count; i++) {
        ok = json_object_set_new(map, st.entries[i].name, json_string(name)) == 0 ||
             FAIL(err, ERR_MEMORY, "out of memory while writing the index");
        *total += st.entries[i].bytes;
    }
    safetensors_close(&st);
    mem_free(path);
    return ok;
}

static bool write_index(const QuantizeJob *job, const char *folder, Err *err)
{
    json_begin();
    json_t *map = json_object(), *index = NULL;
    char name[64], *text = NULL, *path = NULL;
    uint64_t total = 0;
    bool ok = true;
    for (int shard = 0; ok && shard < job->shards; shard++) {
        shard_name(name, job, shard);
        ok = index_shard(map, &total, folder, name, err);
    }
    if (ok) index = json_pack("{s:{s:I}, s:O}", "metadata", "total_size", (json_int_t)total, "weight_map", map);
    if (ok) text = json_print(index, JSON_INDENT(2) | JSON_SORT_KEYS, "the index", err);
    ok = ok && text && (path = path_join(folder, "model.safetensors.index.json", err)) != NULL &&
         file_replace(path, text, strlen(text), err);
    mem_free(path);
    mem_free(text);
    json_decref(index);
    json_decref(map);
    return ok;
}

bool quantize_write_weights(QuantizeJob *job, const char *folder, Err *err)
{
    Buffers b;
    if (!buffers_create(&b, job, err)) return false;
    bool ok = true;
    for (int shard = 0; ok && shard < job->shards; shard++)
        ok = write_shard(job, folder, shard, &b, err);
    buffers_free(&b);
    return ok && (job->shards == 1 || write_index(job, folder, err));
}
