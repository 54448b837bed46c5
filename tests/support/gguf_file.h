/* gguf_file.h - GGUF files put together value by value, right or wrong, for tests. */
#pragma once

#include "base/text.h"
#include "tests/support/scratch.h"

typedef struct GgufFile {
    Text bytes;
} GgufFile;

static inline void gguf_put(GgufFile *f, const void *bytes, size_t length)
{
    Err err = {0};
    assert_done(text_add(&f->bytes, bytes, length, &err));
}

static inline void gguf_put_u32(GgufFile *f, uint32_t value)
{
    gguf_put(f, &value, sizeof value);
}

static inline void gguf_put_u64(GgufFile *f, uint64_t value)
{
    gguf_put(f, &value, sizeof value);
}

static inline void gguf_put_text(GgufFile *f, const char *text)
{
    gguf_put_u64(f, strlen(text));
    gguf_put(f, text, strlen(text));
}

static inline void gguf_start(GgufFile *f, uint32_t version, uint64_t tensors, uint64_t pairs)
{
    gguf_put(f, "GGUF", 4);
    gguf_put_u32(f, version);
    gguf_put_u64(f, tensors);
    gguf_put_u64(f, pairs);
}

/* Numbers of value types in the file. */
enum { G_U8, G_I8, G_U16, G_I16, G_U32, G_I32, G_F32, G_BOOL, G_TEXT, G_ARRAY, G_U64, G_I64, G_F64 };

static inline void gguf_key(GgufFile *f, const char *key, uint32_t type)
{
    gguf_put_text(f, key);
    gguf_put_u32(f, type);
}

static inline void gguf_key_u32(GgufFile *f, const char *key, uint32_t value)
{
    gguf_key(f, key, G_U32);
    gguf_put_u32(f, value);
}

static inline void gguf_key_f32(GgufFile *f, const char *key, float value)
{
    gguf_key(f, key, G_F32);
    gguf_put(f, &value, sizeof value);
}

static inline void gguf_key_text(GgufFile *f, const char *key, const char *text)
{
    gguf_key(f, key, G_TEXT);
    gguf_put_text(f, text);
}

static inline void gguf_key_array(GgufFile *f, const char *key, uint32_t type, uint64_t count)
{
    gguf_key(f, key, G_ARRAY);
    gguf_put_u32(f, type);
    gguf_put_u64(f, count);
}

/* cols 0: a vector. Sizes in the file's order: innermost first. */
static inline void gguf_tensor_info(GgufFile *f, const char *name, uint64_t rows, uint64_t cols, uint32_t type,
                                    uint64_t offset)
{
    gguf_put_text(f, name);
    gguf_put_u32(f, cols ? 2 : 1);
    if (cols) gguf_put_u64(f, cols);
    gguf_put_u64(f, rows);
    gguf_put_u32(f, type);
    gguf_put_u64(f, offset);
}

static inline void gguf_pad(GgufFile *f, size_t alignment)
{
    while (f->bytes.length % alignment != 0)
        gguf_put(f, "", 1);
}

static inline void gguf_zeros(GgufFile *f, size_t count)
{
    for (size_t i = 0; i < count; i++)
        gguf_put(f, "", 1);
}

/* Writes the file and empties the buffer. */
static inline void gguf_save(GgufFile *f, const char *path)
{
    scratch_write(path, f->bytes.bytes, f->bytes.length);
    text_free(&f->bytes);
}
