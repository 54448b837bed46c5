#include "base/safetensors.h"

#include "base/mem.h"
#include "base/safetensors_header.h"
#include "base/text.h"

#include <stdlib.h>
#include <string.h>

enum { LENGTH_BYTES = 8, HEADER_MAX = 32 << 20 };

static bool fail_tensor(Err *err, const Safetensors *st, const SafetensorsEntry *e, const char *why)
{
    char shown[256];
    return FAIL(err, ERR_MODEL, "%s: tensor \"%s\" %s", st->file.path,
                text_printable(shown, sizeof shown, e->name, strlen(e->name)), why);
}

static bool read_header(Safetensors *st, size_t *length, Err *err)
{
    unsigned char raw[LENGTH_BYTES];
    const char *path = st->file.path;
    if (st->file.size < LENGTH_BYTES) {
        return FAIL(err, ERR_MODEL, "%s is no safetensors file: it has only %llu bytes", path,
                    (unsigned long long)st->file.size);
    }
    if (!file_read_at(&st->file, 0, raw, sizeof raw, err)) return false;
    uint64_t n = 0;
    for (int i = LENGTH_BYTES - 1; i >= 0; i--)
        n = n << 8 | raw[i];
    if (n > st->file.size - LENGTH_BYTES) {
        return FAIL(err, ERR_MODEL,
                    "%s is no safetensors file, or it was cut: its header would take %llu bytes of %llu", path,
                    (unsigned long long)n, (unsigned long long)st->file.size);
    }
    if (n > HEADER_MAX) {
        return FAIL(err, ERR_MODEL, "%s: the header takes %llu bytes; at most %d are read", path, (unsigned long long)n,
                    HEADER_MAX);
    }
    st->text = mem_alloc((size_t)n + 1, 1, err);
    *length = (size_t)n;
    return st->text && file_read_at(&st->file, LENGTH_BYTES, st->text, (size_t)n, err);
}

/* Elements and bytes from the shape; the bytes must be those that the offsets span. */
static bool check_size(const Safetensors *st, SafetensorsEntry *e, Err *err)
{
    uint64_t count = 1;
    uint64_t bytes;
    for (int i = 0; i < e->rank; i++) {
        if (!checked_mul(count, (uint64_t)e->shape[i], &count)) count = UINT64_MAX;
    }
    if (count > INT64_MAX || !checked_mul(count, dtype_bytes(e->dtype), &bytes)) {
        return fail_tensor(err, st, e, "is too large: its shape overflows");
    }
    if (bytes != e->bytes) return fail_tensor(err, st, e, "has data_offsets that do not fit its shape and type");
    e->count = (int64_t)count;
    return true;
}

static int compare_offsets(const void *a, const void *b)
{
    const SafetensorsEntry *x = a;
    const SafetensorsEntry *y = b;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes); /* an empty tensor stands before its neighbour */
}

static int compare_names(const void *a, const void *b)
{
    const SafetensorsEntry *x = a;
    const SafetensorsEntry *y = b;
    return strcmp(x->name, y->name);
}

/* Data without hole and overlap from the header to the end of the file; offsets become those in the file. */
static bool check_layout(Safetensors *st, size_t header, Err *err)
{
    const uint64_t start = LENGTH_BYTES + (uint64_t)header;
    const uint64_t size = st->file.size - start;
    uint64_t end = 0;
    if (st->count) qsort(st->entries, (size_t)st->count, sizeof *st->entries, compare_offsets);
    for (int i = 0; i < st->count; i++) {
        SafetensorsEntry *e = &st->entries[i];
        if (!check_size(st, e, err)) return false;
        if (e->offset < end) return fail_tensor(err, st, e, "overlaps another tensor");
        if (e->offset > end) return fail_tensor(err, st, e, "leaves a hole before it");
        end += e->bytes; /* offset + bytes was at most 2^63 - 1 in the header */
        if (end > size) return fail_tensor(err, st, e, "ends beyond the end of the file; was the file cut?");
        e->offset += start;
    }
    if (end == size) return true;
    return FAIL(err, ERR_MODEL, "%s: %llu bytes follow the last tensor", st->file.path,
                (unsigned long long)(size - end));
}

static int compare_keys(const void *a, const void *b)
{
    char *const *x = a;
    char *const *y = b;
    return strcmp(*x, *y);
}

static bool check_names(Safetensors *st, Err *err)
{
    if (st->count) qsort(st->entries, (size_t)st->count, sizeof *st->entries, compare_names);
    for (int i = 1; i < st->count; i++) {
        if (strcmp(st->entries[i - 1].name, st->entries[i].name) != 0) continue;
        return fail_tensor(err, st, &st->entries[i], "stands there twice");
    }
    const size_t pairs = (size_t)st->metadata_count;
    if (pairs) qsort(st->metadata, pairs, 2 * sizeof *st->metadata, compare_keys);
    for (size_t i = 1; i < pairs; i++) {
        if (strcmp(st->metadata[2 * i - 2], st->metadata[2 * i]) != 0) continue;
        return FAIL(err, ERR_MODEL, "%s: a key of __metadata__ stands there twice", st->file.path);
    }
    return true;
}

bool safetensors_open(Safetensors *out, const char *path, Err *err)
{
    Safetensors st = {.file.fd = -1};
    size_t header = 0;
    TRY(file_open_read(&st.file, path, ERR_MODEL, err));
    TRY(read_header(&st, &header, err));
    TRY(safetensors_header_scan(&st, header, err));
    TRY(check_layout(&st, header, err));
    TRY(check_names(&st, err));
    *out = st;
    return true;
fail:
    safetensors_close(&st);
    return false;
}

void safetensors_close(Safetensors *st)
{
    file_close(&st->file);
    mem_free(st->entries);
    mem_free(st->metadata);
    mem_free(st->text);
    *st = (Safetensors){.file.fd = -1};
}

const SafetensorsEntry *safetensors_find(const Safetensors *st, const char *name)
{
    const SafetensorsEntry key = {.name = (char *)(uintptr_t)name}; /* only read */
    if (st->count == 0) return NULL;
    return bsearch(&key, st->entries, (size_t)st->count, sizeof *st->entries, compare_names);
}

const char *safetensors_metadata(const Safetensors *st, const char *key)
{
    if (st->metadata_count == 0) return NULL;
    char *const *pair = bsearch(&key, st->metadata, (size_t)st->metadata_count, 2 * sizeof *st->metadata, compare_keys);
    return pair ? pair[1] : NULL;
}

bool safetensors_read(const Safetensors *st, const SafetensorsEntry *e, size_t first, size_t length, void *to, Err *err)
{
    CHECK(first <= e->bytes && length <= e->bytes - first);
    return file_read_at(&st->file, e->offset + first, to, length, err);
}
