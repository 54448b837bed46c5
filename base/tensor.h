/*
 * tensor.h - element types and the view on memory that all parts pass around.
 *
 * A Tensor borrows its bytes: the arena or file it came from owns them. It is row-major; the innermost dimension is
 * contiguous, and consecutive rows (of the second-last dimension) lie `stride` elements apart, so that a matrix may
 * have spare columns (rows of C + R elements of which a view shows C). Elements are int64_t, bytes size_t.
 * Only operations of a backend (backend/) and of files (base/) may touch `data`.
 */
#pragma once

#include "base/check.h"

#ifdef __cplusplus
extern "C" {
#endif

/* X(enum, bytes of one element, name in safetensors files) */
#define DTYPES(X)                                                                                                      \
    X(DTYPE_F32, 4, "F32")                                                                                             \
    X(DTYPE_F16, 2, "F16")                                                                                             \
    X(DTYPE_BF16, 2, "BF16")                                                                                           \
    X(DTYPE_U8, 1, "U8")                                                                                               \
    X(DTYPE_I8, 1, "I8")                                                                                               \
    X(DTYPE_I32, 4, "I32")                                                                                             \
    X(DTYPE_I64, 8, "I64")                                                                                             \
    X(DTYPE_F64, 8, "F64")

typedef enum DType {
#define X(dtype, bytes, name) dtype,
    DTYPES(X)
#undef X
        DTYPE_COUNT
} DType;

enum { TENSOR_RANK_MAX = 4 };

typedef struct Tensor {
    void *data; /* borrowed; null while a plan is only being measured */
    DType dtype;
    int rank;
    int64_t shape[TENSOR_RANK_MAX]; /* outermost first */
    int64_t stride;                 /* elements from one row to the next; equals the last dimension when dense */
} Tensor;

size_t dtype_bytes(DType dtype);
const char *dtype_name(DType dtype); /* as safetensors spells it: "BF16" */

/* False when no dtype has this safetensors name. */
bool dtype_from_name(DType *out, const char *name);

/* Dense views on `data`. */
Tensor tensor_make(void *data, DType dtype, int rank, const int64_t *shape);
Tensor tensor_vector(void *data, DType dtype, int64_t n);
Tensor tensor_matrix(void *data, DType dtype, int64_t rows, int64_t cols);

int64_t tensor_count(const Tensor *t); /* elements shown */
int64_t tensor_rows(const Tensor *t);  /* product of all dimensions but the last */
int64_t tensor_cols(const Tensor *t);  /* the last dimension */
bool tensor_dense(const Tensor *t);    /* no gaps between rows */
size_t tensor_bytes(const Tensor *t);  /* from the first to the last byte shown, gaps included */

/* Rows [first, first + count) of a matrix; columns likewise. Both keep the stride. */
Tensor tensor_slice_rows(const Tensor *t, int64_t first, int64_t count);
Tensor tensor_slice_cols(const Tensor *t, int64_t first, int64_t count);

/* Elements [first, first + count) of a dense tensor, as a vector. */
Tensor tensor_slice_flat(const Tensor *t, int64_t first, int64_t count);

/* 16-bit conversions, round to nearest even; NaN stays NaN. */
static inline float bf16_to_f32(uint16_t bits)
{
    const uint32_t wide = (uint32_t)bits << 16;
    float value;
    __builtin_memcpy(&value, &wide, sizeof value);
    return value;
}

static inline uint16_t bf16_from_f32(float value)
{
    uint32_t bits;
    __builtin_memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((bits >> 16) | 0x40u); /* quiet NaN */
    bits += 0x7fffu + ((bits >> 16) & 1u);
    return (uint16_t)(bits >> 16);
}

float f16_to_f32(uint16_t bits);
uint16_t f16_from_f32(float value);

#ifdef __cplusplus
}
#endif
