#include "base/arena.h"

void *arena_take(Arena *a, size_t bytes)
{
    const size_t at = (a->used + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
    CHECK(bytes <= SIZE_MAX - at);
    CHECK(!a->base || at + bytes <= a->size);
    a->used = at + bytes;
    if (a->used > a->peak) a->peak = a->used;
    return a->base ? a->base + at : NULL;
}

Tensor arena_vector(Arena *a, DType dtype, int64_t n)
{
    return tensor_vector(arena_take(a, (size_t)n * dtype_bytes(dtype)), dtype, n);
}

Tensor arena_matrix(Arena *a, DType dtype, int64_t rows, int64_t cols)
{
    return tensor_matrix(arena_take(a, (size_t)(rows * cols) * dtype_bytes(dtype)), dtype, rows, cols);
}

void arena_release(Arena *a, size_t mark)
{
    CHECK(mark <= a->used);
    a->used = mark;
}
