/*
 * cpu.h - what the CPU bodies of operations share: rows of strided tensors, and when a loop is worth all threads.
 *
 * Included by the .c files of operations only; headers stay free of it.
 */
#pragma once

#include "backend/backend.h"
#include "backend/simd.h"

/* Below this many elements the start of the threads costs more than the loop. */
enum { CPU_PARALLEL_MIN = 1 << 14 };

SIMD_INLINE char *cpu_at(void *data, DType dtype, int64_t elements)
{
    return (char *)data + elements * (dtype == DTYPE_F32 ? 4 : 2);
}

SIMD_INLINE const char *cpu_at_in(const void *data, DType dtype, int64_t elements)
{
    return (const char *)data + elements * (dtype == DTYPE_F32 ? 4 : 2);
}

/* First element of row r of an f32 or bf16 tensor. */
SIMD_INLINE char *cpu_row(const Tensor *t, int64_t r)
{
    return cpu_at(t->data, t->dtype, r * t->stride);
}

SIMD_INLINE const char *cpu_row_in(const Tensor *t, int64_t r)
{
    return cpu_at_in(t->data, t->dtype, r * t->stride);
}

/* Whether the backend computes with this element type: f16 is CUDA's alone. */
static inline bool cpu_is_float(const Backend *be, const Tensor *t)
{
    return t->dtype == DTYPE_F32 || t->dtype == DTYPE_BF16 ||
           (t->dtype == DTYPE_F16 && backend_kind(be) == BACKEND_CUDA);
}

static inline bool cpu_same_shape(const Tensor *a, const Tensor *b)
{
    bool same = a->rank == b->rank;
    for (int i = 0; same && i < a->rank; i++)
        same = a->shape[i] == b->shape[i];
    return same;
}

static inline const int32_t *cpu_i32_in(const Tensor *t)
{
    CHECK(t->dtype == DTYPE_I32 && tensor_dense(t));
    return t->data;
}

static inline float *cpu_f32(const Tensor *t)
{
    CHECK(t->dtype == DTYPE_F32);
    return t->data;
}
