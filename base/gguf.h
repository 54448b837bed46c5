/*
 * gguf.h - the header of a GGUF v3 file: key/value metadata and the tensor table. Values of tensors: model/source.h.
 *
 * Nothing in the file is trusted: counts, lengths, offsets and products are checked against the bytes that are left
 * before anything is allocated or looped over; arrays of arrays are refused. Getters yield false when the key is
 * absent or of another type.
 * Source: ggml docs/gguf.md.
 */
#pragma once

#include "base/file.h"
#include "base/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* X(enum, number in the file, elements of a block, bytes of a block, name) */
#define GGUF_TYPES(X)                                                                                                  \
    X(GGUF_F32, 0, 1, 4, "F32")                                                                                        \
    X(GGUF_F16, 1, 1, 2, "F16")                                                                                        \
    X(GGUF_Q4_0, 2, 32, 18, "Q4_0")                                                                                    \
    X(GGUF_Q4_1, 3, 32, 20, "Q4_1")                                                                                    \
    X(GGUF_Q5_0, 6, 32, 22, "Q5_0")                                                                                    \
    X(GGUF_Q5_1, 7, 32, 24, "Q5_1")                                                                                    \
    X(GGUF_Q8_0, 8, 32, 34, "Q8_0")                                                                                    \
    X(GGUF_Q4_K, 12, 256, 144, "Q4_K")                                                                                 \
    X(GGUF_Q5_K, 13, 256, 176, "Q5_K")                                                                                 \
    X(GGUF_Q6_K, 14, 256, 210, "Q6_K")                                                                                 \
    X(GGUF_BF16, 30, 1, 2, "BF16")

typedef enum GgufType {
#define X(type, number, elements, bytes, name) type = number,
    GGUF_TYPES(X)
#undef X
} GgufType;

typedef struct GgufTensor {
    char *name;
    GgufType type;
    const char *type_name;
    int rank;
    int64_t shape[TENSOR_RANK_MAX]; /* row-major order, outermost first (the file stores it reversed) */
    int64_t count;
    uint64_t offset; /* first byte in the file */
    size_t bytes;
} GgufTensor;

typedef struct Gguf Gguf;

bool gguf_open(Gguf **out, const char *path, Err *err) MUST_USE; /* ERR_MODEL */
void gguf_close(Gguf *g);
const File *gguf_file(const Gguf *g);

bool gguf_text(const Gguf *g, const char *key, const char **text, size_t *length);
bool gguf_int(const Gguf *g, const char *key, int64_t *out); /* any integer type; u64 above 2^63 - 1 does not count */
bool gguf_real(const Gguf *g, const char *key, double *out); /* f32, f64 or an integer */
bool gguf_bool(const Gguf *g, const char *key, bool *out);
int64_t gguf_array_count(const Gguf *g, const char *key); /* -1: absent or no array */
/* Elements of an array of texts / integers; pointers stay valid while the file is open. */
bool gguf_array_text(const Gguf *g, const char *key, int64_t i, const char **text, size_t *length);
bool gguf_array_int(const Gguf *g, const char *key, int64_t i, int64_t *out);
bool gguf_array_real(const Gguf *g, const char *key, int64_t i, double *out); /* f32, f64 or an integer */

int gguf_tensor_count(const Gguf *g);
const GgufTensor *gguf_tensor(const Gguf *g, int i);
const GgufTensor *gguf_find(const Gguf *g, const char *name); /* null: none */

#ifdef __cplusplus
}
#endif
