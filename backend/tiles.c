#include "backend/tiles.h"

#include "backend/cpu.h"

#include <oneapi/dnnl/dnnl.h>

#if defined(__AVX512BF16__) && SIMD_AVX512
#    define HAVE_DOT 1
#else
#    define HAVE_DOT 0
#endif
#if defined(__AMX_BF16__) && defined(__AMX_TILE__) && SIMD_AVX512
#    define HAVE_AMX 1
#else
#    define HAVE_AMX 0
#endif

/* The library asks the processor and the operating system, and on Linux requests the right to use the AMX state. */
bool tile_kernel_available(TileKernel kernel)
{
    const dnnl_cpu_isa_t isa = dnnl_get_effective_cpu_isa();
    if (kernel == TILE_BF16_AMX) return HAVE_AMX && isa == dnnl_cpu_isa_avx512_core_amx;
    if (kernel == TILE_BF16_DOT) {
        return HAVE_DOT && (isa == dnnl_cpu_isa_avx512_core_bf16 || isa == dnnl_cpu_isa_avx512_core_amx);
    }
    return true;
}

TileKernel tile_kernel(const Backend *be, DType dtype)
{
    if (dtype == DTYPE_F32) return backend_reference(be) ? TILE_F32_PLAIN : TILE_F32;
    CHECK(dtype == DTYPE_BF16);
    if (backend_reference(be)) return TILE_BF16_PLAIN;
    if (tile_kernel_available(TILE_BF16_AMX)) return TILE_BF16_AMX;
    return tile_kernel_available(TILE_BF16_DOT) ? TILE_BF16_DOT : TILE_BF16_PLAIN;
}

/* --- plain --- */

static float element_b(const TileProduct *p, DType dtype, int64_t k, int64_t j)
{
    if (dtype == DTYPE_F32) return ((const float *)p->b)[k * p->ldb + j];
    return bf16_to_f32(((const uint16_t *)p->b)[k / 2 * 2 * p->ldb + 2 * j + k % 2]);
}

static float element_a(const TileProduct *p, DType dtype, int64_t i, int64_t k)
{
    const int64_t at = i * p->lda + k;
    return dtype == DTYPE_F32 ? ((const float *)p->a)[at] : bf16_to_f32(((const uint16_t *)p->a)[at]);
}

/* One line of B is converted at a time and used by all rows of the block. */
static void product_plain(const TileProduct *p, DType dtype)
{
    for (int64_t first = 0; first < p->n; first += TILE) {
        for (int64_t i = 0; i < p->m && !p->accumulate; i++)
            memset(p->c + i * p->ldc + first, 0, TILE * sizeof(float));
        for (int64_t k = 0; k < p->k; k++) {
            float line[TILE];
            for (int64_t j = 0; j < TILE; j++)
                line[j] = element_b(p, dtype, k, first + j);
            for (int64_t i = 0; i < p->m; i++) {
                const float x = element_a(p, dtype, i, k);
                float *c = p->c + i * p->ldc + first;
                for (int64_t j = 0; j < TILE; j++)
                    c[j] += x * line[j];
            }
        }
    }
}

/* --- f32: 8 rows x 32 columns of sums in registers --- */

enum { ROWS = 8 };

static void block_f32(const TileProduct *p, int64_t i, int64_t j)
{
    const float *a = (const float *)p->a + i * p->lda, *b = (const float *)p->b + j;
    float *c = p->c + i * p->ldc + j;
    Lanes left[ROWS], right[ROWS];
    for (int r = 0; r < ROWS; r++) {
        left[r] = p->accumulate ? lanes_load_f32(c + r * p->ldc) : lanes_zero();
        right[r] = p->accumulate ? lanes_load_f32(c + r * p->ldc + LANES) : lanes_zero();
    }
    for (int64_t k = 0; k < p->k; k++) {
        const Lanes b_left = lanes_load_f32(b + k * p->ldb), b_right = lanes_load_f32(b + k * p->ldb + LANES);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            const Lanes x = lanes_set(a[r * p->lda + k]);
            left[r] = lanes_fma(x, b_left, left[r]);
            right[r] = lanes_fma(x, b_right, right[r]);
        }
    }
    for (int r = 0; r < ROWS; r++) {
        lanes_store_f32(c + r * p->ldc, left[r]);
        lanes_store_f32(c + r * p->ldc + LANES, right[r]);
    }
}

static void product_f32(const TileProduct *p)
{
    for (int64_t j = 0; j < p->n; j += 2 * LANES) {
        for (int64_t i = 0; i < p->m; i += ROWS)
            block_f32(p, i, j);
    }
}

/* --- AVX512-BF16: the same block, two k at a time --- */

#if HAVE_DOT
static void block_dot(const TileProduct *p, int64_t i, int64_t j)
{
    const uint16_t *a = (const uint16_t *)p->a + i * p->lda, *b = (const uint16_t *)p->b + 2 * j;
    float *c = p->c + i * p->ldc + j;
    __m512 left[ROWS], right[ROWS];
    for (int r = 0; r < ROWS; r++) {
        left[r] = p->accumulate ? _mm512_loadu_ps(c + r * p->ldc) : _mm512_setzero_ps();
        right[r] = p->accumulate ? _mm512_loadu_ps(c + r * p->ldc + LANES) : _mm512_setzero_ps();
    }
    for (int64_t k = 0; k < p->k; k += 2) {
        const __m512bh b_left = (__m512bh)_mm512_loadu_si512(b + k * p->ldb);
        const __m512bh b_right = (__m512bh)_mm512_loadu_si512(b + k * p->ldb + 2 * LANES);
#    pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            int32_t pair;
            memcpy(&pair, a + r * p->lda + k, sizeof pair);
            const __m512bh x = (__m512bh)_mm512_set1_epi32(pair);
            left[r] = _mm512_dpbf16_ps(left[r], x, b_left);
            right[r] = _mm512_dpbf16_ps(right[r], x, b_right);
        }
    }
    for (int r = 0; r < ROWS; r++) {
        _mm512_storeu_ps(c + r * p->ldc, left[r]);
        _mm512_storeu_ps(c + r * p->ldc + LANES, right[r]);
    }
}

static void product_dot(const TileProduct *p)
{
    for (int64_t j = 0; j < p->n; j += 2 * LANES) {
        for (int64_t i = 0; i < p->m; i += ROWS)
            block_dot(p, i, j);
    }
}
#endif

/* --- AMX: 32 x 32 sums in tiles 0..3, A in 4 and 5, B in 6 and 7 --- */

#if HAVE_AMX
/* All eight tiles: 16 rows of 64 bytes. Constant, because the compiler does not see that the instruction reads it all. */
typedef struct AmxConfig {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} AmxConfig;

static const AmxConfig amx_config = {
    .palette = 1,
    .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
    .rows = {16, 16, 16, 16, 16, 16, 16, 16},
};

static void block_amx(const TileProduct *p, int64_t i, int64_t j)
{
    const uint16_t *a = (const uint16_t *)p->a + i * p->lda, *b = (const uint16_t *)p->b + 2 * j;
    float *c = p->c + i * p->ldc + j;
    const int64_t a_bytes = p->lda * 2, b_bytes = p->ldb * 4, c_bytes = p->ldc * 4;
    if (p->accumulate) {
        _tile_loadd(0, c, c_bytes);
        _tile_loadd(1, c + LANES, c_bytes);
        _tile_loadd(2, c + LANES * p->ldc, c_bytes);
        _tile_loadd(3, c + LANES * p->ldc + LANES, c_bytes);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t k = 0; k < p->k; k += TILE) {
        _tile_loadd(6, b + k * p->ldb, b_bytes);
        _tile_loadd(4, a + k, a_bytes);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, b + k * p->ldb + TILE, b_bytes);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, a + LANES * p->lda + k, a_bytes);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, c_bytes);
    _tile_stored(1, c + LANES, c_bytes);
    _tile_stored(2, c + LANES * p->ldc, c_bytes);
    _tile_stored(3, c + LANES * p->ldc + LANES, c_bytes);
}

static void product_amx(const TileProduct *p)
{
    __asm__ volatile("" ::: "memory"); /* tile loads do not tell the compiler that they read memory */
    for (int64_t j = 0; j < p->n; j += TILE) {
        for (int64_t i = 0; i < p->m; i += TILE)
            block_amx(p, i, j);
    }
}
#endif

void tile_begin(TileKernel kernel)
{
#if HAVE_AMX
    if (kernel == TILE_BF16_AMX) _tile_loadconfig(&amx_config);
#else
    (void)kernel;
#endif
}

void tile_end(TileKernel kernel)
{
#if HAVE_AMX
    if (kernel == TILE_BF16_AMX) _tile_release();
#else
    (void)kernel;
#endif
}

void tile_product(TileKernel kernel, const TileProduct *p)
{
    DCHECK(p->m % TILE == 0 && p->n % TILE == 0 && p->k % TILE == 0);
    switch (kernel) {
    case TILE_F32: product_f32(p); return;
    case TILE_F32_PLAIN: product_plain(p, DTYPE_F32); return;
    case TILE_BF16_PLAIN: product_plain(p, DTYPE_BF16); return;
#if HAVE_DOT
    case TILE_BF16_DOT: product_dot(p); return;
#endif
#if HAVE_AMX
    case TILE_BF16_AMX: product_amx(p); return;
#endif
    default: CHECK(false); /* tile_kernel never chooses what the build lacks */
    }
}
