/*
 * tiles.h - products of small packed blocks by one thread: what attention is made of.
 *
 * C (m, n) f32 [+]= A (m, k) x B (k, n), with m, n and k multiples of TILE. Elements of A and B are f32 or bf16, sums
 * f32. A is row-major. B is row-major too in f32; in bf16 rows 2i and 2i+1 are interleaved, as both AMX and
 * AVX512-BF16 want it: element (k, j) stands at (k / 2) * 2 * ldb + 2 * j + k % 2. Leading dimensions count elements
 * of a row; blocks start at multiples of 64 bytes. Results depend on the kind of kernel, never on threads.
 */
#pragma once

#include "backend/backend.h"

enum { TILE = 32 };

typedef enum TileKernel {
    TILE_F32,
    TILE_F32_PLAIN, /* the reference */
    TILE_BF16_AMX,
    TILE_BF16_DOT, /* AVX512-BF16 */
    TILE_BF16_PLAIN,
} TileKernel;

/* The best kernel of this build and processor, or the plain one on a reference backend. */
TileKernel tile_kernel(const Backend *be, DType dtype);
bool tile_kernel_available(TileKernel kernel); /* for tests: every one that runs here */

static inline DType tile_dtype(TileKernel kernel)
{
    return kernel == TILE_F32 || kernel == TILE_F32_PLAIN ? DTYPE_F32 : DTYPE_BF16;
}

typedef struct TileProduct {
    float *c;
    const void *a, *b;
    int64_t m, n, k;
    int64_t ldc, lda, ldb;
    bool accumulate;
} TileProduct;

/* Around a thread's products: AMX keeps a state. */
void tile_begin(TileKernel kernel);
void tile_end(TileKernel kernel);
void tile_product(TileKernel kernel, const TileProduct *p);

/* rows x cols elements of src at `stride`, zero-filled to full_rows x full_cols. */
typedef struct TileSource {
    const void *data;
    int64_t stride, rows, cols;
    int64_t full_rows, full_cols; /* multiples of TILE */
} TileSource;

/* Each writes `src`, or its transpose, as A or B; leading dimension: full_cols, transposed full_rows. */
void tile_pack_a(void *to, DType dtype, const TileSource *src);
void tile_pack_b(void *to, DType dtype, const TileSource *src);
void tile_pack_b_transposed(void *to, DType dtype, const TileSource *src);
void tile_pack_a_transposed(void *to, DType dtype, const TileSource *src, void *work); /* work: as large as `to` */

/* Columns of an f32 block become rows: to (cols, rows) with leading dimension `rows`; multiples of 16. */
void tile_transpose(uint32_t *to, const uint32_t *from, int64_t ld, int64_t rows, int64_t cols);
