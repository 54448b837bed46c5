/*
 * matmul_cpu.h - the two ways the CPU computes a product; only backend/matmul*.c look at it.
 */
#pragma once

#include "backend/matmul.h"
#include "backend/ops.h"
#include "backend/state.h"

/* The library's product. `lane` picks the scratch memory: 0 for calls that use all threads, 1 + t for a call of thread
 * t that stays on it. False when the library cannot do this product on this processor. */
bool matmul_library(MatmulState *state, const Product *p, int lane);

/* Scratch memory that grows to the largest product seen and stays. */
typedef struct MatmulSpace {
    void *block;
    size_t bytes;
} MatmulSpace;

MatmulSpace *matmul_space(MatmulState *state);
bool matmul_space_reserve(MatmulSpace *space, size_t bytes);

/* Tile kernels (backend/tiles.h) on all threads; false where they are no gain or do not fit. */
bool matmul_tiles(MatmulSpace *space, const Product *p, int threads);

/* A few rows times a weight as it lies; false for other products. */
bool matmul_rows(const Product *p);

/* Our own loops, all threads or the calling one. Rows do not depend on one another. */
void matmul_plain(const Product *p, bool parallel);
