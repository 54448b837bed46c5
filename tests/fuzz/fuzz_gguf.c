/* Any bytes as a GGUF file: its header alone, and as a base model whose tensors are all read. */
#include "base/gguf.h"

#include "model/gguf_decode.h"
#include "model/source.h"
#include "tests/fuzz/input_file.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static void read_header(const char *path, size_t length)
{
    Gguf *g;
    Err err = {0};
    if (!gguf_open(&g, path, &err)) {
        if (err.code == ERR_NONE) abort();
        return;
    }
    static const char *const keys[] = {"general.architecture", "general.alignment", "tokenizer.ggml.tokens", "k", "a"};
    for (size_t i = 0; i < ARRAY_COUNT(keys); i++) {
        const char *text;
        size_t n;
        double real;
        const int64_t count = gguf_array_count(g, keys[i]);
        if (count > (int64_t)length) abort();
        if (gguf_text(g, keys[i], &text, &n) && n > length) abort();
        for (int64_t k = 0; k < count; k++) {
            if (gguf_array_text(g, keys[i], k, &text, &n) && (n > length || (n > 0 && text[n - 1] == 1))) continue;
            if (gguf_array_real(g, keys[i], k, &real)) continue;
        }
    }
    for (int i = 0; i < gguf_tensor_count(g); i++) {
        const GgufTensor *t = gguf_tensor(g, i);
        if (t->offset > length || t->bytes > length - t->offset || gguf_find(g, t->name) != t) abort();
        unsigned char *raw = malloc(t->bytes + 1);
        float *values = malloc((size_t)t->count * sizeof *values + 1);
        if (!file_read_at(gguf_file(g), t->offset, raw, t->bytes, &err)) abort();
        gguf_decode(values, raw, t->type, t->count);
        free(values);
        free(raw);
    }
    gguf_close(g);
}

static void read_model(const char *path)
{
    ModelSource *s;
    Err err = {0};
    char text[33];
    if (!source_open(&s, path, true, &err)) {
        if (err.code == ERR_NONE || strchr(err.text, '\n')) abort();
        return;
    }
    for (int i = 0; i < source_count(s); i++) {
        const SourceTensor *t = source_tensor(s, i);
        const int64_t cols = t->rank == 2 ? t->shape[1] : 1;
        float *values = malloc((size_t)(t->shape[0] * cols) * sizeof *values);
        if (!source_read(s, t, 0, t->shape[0], values, &err)) abort();
        if (!source_read(s, t, t->shape[0] / 2, 1, values, &err)) abort();
        free(values);
    }
    if (!source_fingerprint(s, text, &err)) abort();
    source_close(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    InputFile f = input_file_make(bytes, length);
    read_header(f.path, length);
    read_model(f.path);
    close(f.fd);
    return 0;
}
