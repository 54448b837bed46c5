/* Any bytes as a safetensors file: refused with one sentence, or every tensor lies in it and can be read. */
#include "base/safetensors.h"

#include "tests/fuzz/input_file.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static void check_entries(const Safetensors *st, size_t length)
{
    size_t total = 0;
    Err err = {0};
    char *tensor = malloc(length + 1);
    for (int i = 0; i < st->count; i++) {
        const SafetensorsEntry *e = &st->entries[i];
        if (e->rank > TENSOR_RANK_MAX || e->bytes != (size_t)e->count * dtype_bytes(e->dtype)) abort();
        if (e->offset > length || e->bytes > length - e->offset) abort();
        if (safetensors_find(st, e->name) != e) abort(); /* names are unique */
        if (!safetensors_read(st, e, 0, e->bytes, tensor, &err)) abort();
        total += e->bytes;
    }
    if (total > length) abort(); /* no overlap */
    for (int i = 0; i < st->metadata_count; i++) {
        if (safetensors_metadata(st, st->metadata[2 * i]) != st->metadata[2 * i + 1]) abort();
    }
    free(tensor);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    InputFile f = input_file_make(bytes, length);
    Safetensors st;
    Err err = {0};
    if (safetensors_open(&st, f.path, &err)) {
        check_entries(&st, length);
        safetensors_close(&st);
    } else if (err.code == ERR_NONE || strchr(err.text, '\n')) {
        abort();
    }
    close(f.fd);
    return 0;
}
