/*
 * arena.h - memory with one lifetime: planned, taken once, given back at once.
 *
 * The same code first measures and then places: on an arena without storage arena_take only adds up and yields null.
 * The caller then gets `peak` bytes, sets base and size, and runs the code again. Offsets are multiples of 64 bytes.
 * Nothing is allocated between the first step and the last (invariant I2): arenas never grow.
 */
#pragma once

#include "base/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { ARENA_ALIGN = 64 };

typedef struct Arena {
    const char *name; /* "weights", "state", "activations", "scratch"; static text */
    char *base;       /* null while measuring; borrowed from whoever owns the storage */
    size_t size;      /* bytes at base */
    size_t used;
    size_t peak; /* highest `used` so far */
} Arena;

/* Null while measuring; otherwise `bytes` bytes, and it is a bug when they do not fit. */
void *arena_take(Arena *a, size_t bytes);

Tensor arena_vector(Arena *a, DType dtype, int64_t n);
Tensor arena_matrix(Arena *a, DType dtype, int64_t rows, int64_t cols);

/* Everything taken after the mark is given back. */
static inline size_t arena_mark(const Arena *a)
{
    return a->used;
}
void arena_release(Arena *a, size_t mark);

#ifdef __cplusplus
}
#endif
