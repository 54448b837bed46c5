/* safetensors_write.c - the writing half of safetensors.h. */
#include "base/mem.h"
#include "base/safetensors.h"
#include "base/text.h"

#include <stdlib.h>
#include <string.h>

typedef struct Declared {
    SafetensorsEntry entry; /* its name is owned */
    int order;              /* of declaration */
} Declared;

struct SafetensorsWriter {
    File file;
    char *path;      /* final name */
    char *temporary; /* PATH.tmp, which holds the bytes until they are whole */
    Text metadata;   /* "key":"value",... */
    Declared *tensors;
    size_t count, capacity;
    size_t current; /* tensor (in order of declaration) that the next byte belongs to */
    size_t written; /* bytes of it so far */
    bool begun;
};

static void writer_free(SafetensorsWriter *w)
{
    file_close(&w->file);
    mem_free(w->path);
    mem_free(w->temporary);
    text_free(&w->metadata);
    for (size_t i = 0; i < w->count; i++)
        mem_free(w->tensors[i].entry.name);
    mem_free(w->tensors);
    mem_free(w);
}

bool safetensors_writer_create(SafetensorsWriter **out, const char *path, Err *err)
{
    Text temporary = {0};
    SafetensorsWriter *w = mem_alloc(1, sizeof *w, err);
    if (!w) return false;
    w->file.fd = -1;
    TRY((w->path = mem_copy_text(path, err)) != NULL);
    TRY(text_add_z(&temporary, path, err) && text_add_z(&temporary, ".tmp", err));
    w->temporary = temporary.bytes;
    temporary = (Text){0};
    TRY(file_create(&w->file, w->temporary, err));
    *out = w;
    return true;
fail:
    text_free(&temporary);
    writer_free(w);
    return false;
}

/* A JSON text with its quotes. */
static bool add_quoted(Text *t, const char *text, Err *err)
{
    if (!text_add_z(t, "\"", err)) return false;
    for (const char *c = text; *c; c++) {
        bool ok;
        if (*c == '"' || *c == '\\') {
            ok = text_format(t, err, "\\%c", *c);
        } else if (*c == '\n') {
            ok = text_add_z(t, "\\n", err);
        } else if ((unsigned char)*c < 0x20) {
            ok = text_format(t, err, "\\u%04x", (unsigned)(unsigned char)*c);
        } else {
            ok = text_add(t, c, 1, err);
        }
        if (!ok) return false;
    }
    return text_add_z(t, "\"", err);
}

bool safetensors_writer_metadata(SafetensorsWriter *w, const char *key, const char *value, Err *err)
{
    CHECK(!w->begun);
    if (w->metadata.length && !text_add_z(&w->metadata, ",", err)) return false;
    return add_quoted(&w->metadata, key, err) && text_add_z(&w->metadata, ":", err) &&
           add_quoted(&w->metadata, value, err);
}

bool safetensors_writer_declare(SafetensorsWriter *w, const char *name, DType dtype, int rank, const int64_t *shape,
                                Err *err)
{
    CHECK(!w->begun && rank >= 0 && rank <= TENSOR_RANK_MAX);
    SafetensorsEntry e = {.dtype = dtype, .rank = rank};
    uint64_t count = 1;
    uint64_t bytes;
    for (int i = 0; i < rank; i++) {
        CHECK(shape[i] >= 0 && checked_mul(count, (uint64_t)shape[i], &count));
        e.shape[i] = shape[i];
    }
    CHECK(count <= INT64_MAX && checked_mul(count, dtype_bytes(dtype), &bytes));
    e.count = (int64_t)count;
    e.bytes = (size_t)bytes;
    if (!mem_grow(&w->tensors, &w->capacity, w->count + 1, sizeof *w->tensors, err)) return false;
    e.name = mem_copy_text(name, err);
    if (!e.name) return false;
    w->tensors[w->count] = (Declared){.entry = e, .order = (int)w->count};
    w->count++;
    return true;
}

/* Where a type stands among Hugging Face's; tensors of a later one come first, so that all are aligned. */
static int type_rank(DType dtype)
{
    static const int ranks[DTYPE_COUNT] = {
        [DTYPE_U8] = 0,  [DTYPE_I8] = 1,  [DTYPE_F16] = 2, [DTYPE_BF16] = 3,
        [DTYPE_I32] = 4, [DTYPE_F32] = 5, [DTYPE_F64] = 6, [DTYPE_I64] = 7,
    };
    return ranks[dtype];
}

static int compare_places(const void *a, const void *b)
{
    const Declared *x = a;
    const Declared *y = b;
    const int difference = type_rank(y->entry.dtype) - type_rank(x->entry.dtype);
    return difference ? difference : strcmp(x->entry.name, y->entry.name);
}

static int compare_orders(const void *a, const void *b)
{
    const Declared *x = a;
    const Declared *y = b;
    return (x->order > y->order) - (x->order < y->order);
}

static bool add_entry(Text *header, const SafetensorsEntry *e, Err *err)
{
    TRY(add_quoted(header, e->name, err));
    TRY(text_format(header, err, ":{\"dtype\":\"%s\",\"shape\":[", dtype_name(e->dtype)));
    for (int i = 0; i < e->rank; i++) {
        TRY(text_format(header, err, "%s%lld", i ? "," : "", (long long)e->shape[i]));
    }
    return text_format(header, err, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)e->offset,
                       (unsigned long long)(e->offset + e->bytes));
fail:
    return false;
}

/* Lays the tensors out and describes them; entries then stand in the order of the file. */
static bool make_header(SafetensorsWriter *w, Text *header, Err *err)
{
    uint64_t end = 0;
    bool first = true;
    if (w->count) qsort(w->tensors, w->count, sizeof *w->tensors, compare_places);
    TRY(text_add_z(header, "{", err));
    if (w->metadata.length) {
        TRY(text_format(header, err, "\"__metadata__\":{%s}", w->metadata.bytes));
        first = false;
    }
    for (size_t i = 0; i < w->count; i++) {
        SafetensorsEntry *e = &w->tensors[i].entry;
        e->offset = end;
        CHECK(checked_add(end, e->bytes, &end));
        if (!first) TRY(text_add_z(header, ",", err));
        first = false;
        TRY(add_entry(header, e, err));
    }
    TRY(text_add_z(header, "}", err));
    while (header->length % 8 != 0)
        TRY(text_add_z(header, " ", err));
    return true;
fail:
    return false;
}

bool safetensors_writer_begin(SafetensorsWriter *w, Err *err)
{
    CHECK(!w->begun);
    w->begun = true;
    Text header = {0};
    unsigned char raw[8];
    bool ok = make_header(w, &header, err);
    if (ok) {
        for (int i = 0; i < 8; i++)
            raw[i] = (unsigned char)((uint64_t)header.length >> (8 * i));
        ok = file_write(&w->file, raw, sizeof raw, err) && file_write(&w->file, header.bytes, header.length, err);
        for (size_t i = 0; i < w->count; i++)
            w->tensors[i].entry.offset += sizeof raw + header.length;
        if (w->count) qsort(w->tensors, w->count, sizeof *w->tensors, compare_orders);
    }
    text_free(&header);
    return ok;
}

static void skip_full(SafetensorsWriter *w)
{
    while (w->current < w->count && w->written == w->tensors[w->current].entry.bytes) {
        w->current++;
        w->written = 0;
    }
}

bool safetensors_writer_data(SafetensorsWriter *w, const void *bytes, size_t length, Err *err)
{
    CHECK(w->begun);
    const char *from = bytes;
    while (length > 0) {
        skip_full(w);
        CHECK(w->current < w->count); /* more bytes than were declared */
        const SafetensorsEntry *e = &w->tensors[w->current].entry;
        const size_t room = e->bytes - w->written;
        const size_t step = length < room ? length : room;
        if (!file_write_at(&w->file, e->offset + w->written, from, step, err)) return false;
        w->written += step;
        from += step;
        length -= step;
    }
    return true;
}

bool safetensors_writer_finish(SafetensorsWriter *w, Err *err)
{
    skip_full(w);
    bool ok = w->begun && w->current == w->count;
    if (!ok) {
        (void)FAIL(err, ERR_DISK, "%s: not all tensors were written", w->path);
    } else {
        ok = file_sync_close(&w->file, err) && file_rename(w->temporary, w->path, err);
    }
    if (ok) {
        writer_free(w);
    } else {
        safetensors_writer_discard(w);
    }
    return ok;
}

void safetensors_writer_discard(SafetensorsWriter *w)
{
    if (!w) return;
    file_close(&w->file);
    Err ignored = {0}; /* there was a failure before this one */
    if (!file_remove(w->temporary, &ignored)) err_clear(&ignored);
    writer_free(w);
}
