/*
 * Packing for backend/tiles.h. Three movements make all layouts: copy rows, interleave two rows of 16-bit elements,
 * and transpose 32-bit elements (a pair of bf16 neighbours is one).
 */
#include "backend/cpu.h"
#include "backend/tiles.h"

void tile_pack_a(void *to, DType dtype, const TileSource *src)
{
    const size_t size = dtype_bytes(dtype);
    const size_t bytes = (size_t)src->cols * size, full = (size_t)src->full_cols * size;
    for (int64_t r = 0; r < src->full_rows; r++) {
        char *row = (char *)to + (size_t)r * full;
        const size_t used = r < src->rows ? bytes : 0;
        if (used) memcpy(row, (const char *)src->data + (size_t)(r * src->stride) * size, used);
        if (full > used) memset(row + used, 0, full - used);
    }
}

/* to[j] = upper[j] << 16 | lower[j]; a null upper row is zeros */
static void interleave(uint32_t *to, const uint16_t *lower, const uint16_t *upper, int64_t cols)
{
    if (!upper) {
        for (int64_t j = 0; j < cols; j++)
            to[j] = lower[j];
        return;
    }
    for (int64_t j = 0; j < cols; j++)
        to[j] = (uint32_t)upper[j] << 16 | lower[j];
}

void tile_pack_b(void *to, DType dtype, const TileSource *src)
{
    if (dtype == DTYPE_F32) {
        tile_pack_a(to, dtype, src);
        return;
    }
    const uint16_t *data = src->data;
    for (int64_t r = 0; r < src->full_rows; r += 2) {
        uint32_t *line = (uint32_t *)to + r / 2 * src->full_cols;
        const int64_t used = r < src->rows ? src->cols : 0;
        const uint16_t *lower = data + r * src->stride;
        if (used) interleave(line, lower, r + 1 < src->rows ? lower + src->stride : NULL, used);
        memset(line + used, 0, (size_t)(src->full_cols - used) * sizeof *line);
    }
}

/* 16 x 16 elements */
#if SIMD_AVX512
static void transpose_16(uint32_t *to, int64_t to_ld, const uint32_t *from, int64_t ld)
{
    __m512i r[16], s[16];
    for (int i = 0; i < 16; i++)
        r[i] = _mm512_loadu_si512(from + i * ld);
    for (int i = 0; i < 16; i += 2) {
        s[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        s[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(s[i], s[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(s[i], s[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(s[i + 1], s[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(s[i + 1], s[i + 3]);
    }
    /* r[4 q + c]: 128-bit part p holds column 4 p + c of rows 4 q .. 4 q + 3 */
    for (int c = 0; c < 4; c++) {
        const __m512i low01 = _mm512_shuffle_i32x4(r[c], r[4 + c], 0x44),
                      high01 = _mm512_shuffle_i32x4(r[c], r[4 + c], 0xee);
        const __m512i low23 = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0x44);
        const __m512i high23 = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0xee);
        _mm512_storeu_si512(to + c * to_ld, _mm512_shuffle_i32x4(low01, low23, 0x88));
        _mm512_storeu_si512(to + (4 + c) * to_ld, _mm512_shuffle_i32x4(low01, low23, 0xdd));
        _mm512_storeu_si512(to + (8 + c) * to_ld, _mm512_shuffle_i32x4(high01, high23, 0x88));
        _mm512_storeu_si512(to + (12 + c) * to_ld, _mm512_shuffle_i32x4(high01, high23, 0xdd));
    }
}
#else
static void transpose_16(uint32_t *to, int64_t to_ld, const uint32_t *from, int64_t ld)
{
    for (int i = 0; i < 16; i++) {
        for (int j = 0; j < 16; j++)
            memcpy(to + j * to_ld + i, from + i * ld + j, sizeof *to); /* may be pairs of another type */
    }
}
#endif

void tile_transpose(uint32_t *to, const uint32_t *from, int64_t ld, int64_t rows, int64_t cols)
{
    for (int64_t i = 0; i < rows; i += 16) {
        for (int64_t j = 0; j < cols; j += 16)
            transpose_16(to + j * rows + i, rows, from + i * ld + j, ld);
    }
}

/* A corner block: what is there, with zeros around it. */
static void transpose_edge(uint32_t *to, int64_t to_ld, const uint32_t *from, int64_t ld, int64_t rows, int64_t cols)
{
    uint32_t block[16 * 16] = {0};
    for (int64_t i = 0; i < rows; i++)
        memcpy(block + i * 16, from + i * ld, (size_t)cols * sizeof *from);
    transpose_16(to, to_ld, block, 16);
}

static int64_t clamp16(int64_t left)
{
    return left < 0 ? 0 : left > 16 ? 16 : left;
}

void tile_pack_b_transposed(void *to, DType dtype, const TileSource *src)
{
    const int64_t pack = dtype == DTYPE_F32 ? 1 : 2; /* elements in a 32-bit unit; widths are even */
    const int64_t cols = src->cols / pack, stride = src->stride / pack;
    CHECK(src->cols % pack == 0 && src->stride % pack == 0);
    for (int64_t i = 0; i < src->full_rows; i += 16) {
        for (int64_t j = 0; j < src->full_cols / pack; j += 16) {
            uint32_t *block = (uint32_t *)to + j * src->full_rows + i;
            const int64_t r = clamp16(src->rows - i), c = clamp16(cols - j);
            const uint32_t *from = r && c ? (const uint32_t *)src->data + i * stride + j : NULL;
            if (r == 16 && c == 16) {
                transpose_16(block, src->full_rows, from, stride);
            } else {
                transpose_edge(block, src->full_rows, from, stride, from ? r : 0, from ? c : 0);
            }
        }
    }
}

void tile_pack_a_transposed(void *to, DType dtype, const TileSource *src, void *work)
{
    if (dtype == DTYPE_F32) {
        tile_pack_b_transposed(to, dtype, src);
        return;
    }
    tile_pack_b(work, dtype, src);
    tile_transpose(to, work, src->full_cols, src->full_rows / 2, src->full_cols);
}
