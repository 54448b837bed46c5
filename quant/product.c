#include "quant/product.h"

#include "backend/simd.h"
#include "quant/nested.h"

enum {
    GROUP = 32,   /* weights in 16 bytes of codes */
    AHEAD = 2048, /* bytes of codes asked for in advance: rows follow one another in memory */
};

static bool ordered(int64_t cols)
{
    return cols % GROUP == 0;
}

void quant_product_order(float *to, const float *x, int64_t cols)
{
    if (!ordered(cols)) {
        memcpy(to, x, (size_t)cols * sizeof *to);
        return;
    }
    for (int64_t i = 0; i < cols; i += GROUP) {
        for (int64_t j = 0; j < GROUP / 2; j++) {
            to[i + j] = x[i + 2 * j];
            to[i + GROUP / 2 + j] = x[i + 2 * j + 1];
        }
    }
}

static float absmax_at(const QuantMatrix *m, int64_t block)
{
    if (!m->options.double_quant) return ((const float *)m->absmax.data)[block];
    const uint8_t code = ((const uint8_t *)m->absmax.data)[block];
    return nested_value(m->map, code, ((const float *)m->nested_absmax.data)[block / NESTED_BLOCK], m->offset);
}

/* Where element k of a row lies in the ordered vector. */
static int64_t place_of(int64_t k, int64_t cols)
{
    if (!ordered(cols)) return k;
    return k / GROUP * GROUP + (k % 2) * (GROUP / 2) + k % GROUP / 2;
}

void quant_row_product_plain(float *out, const QuantMatrix *m, int64_t row, const float *x, int n)
{
    const uint8_t *codes = m->codes.data;
    const float *levels = quant_levels[m->options.type];
    float sum[QUANT_PRODUCT_VECTORS] = {0};
    for (int64_t k = 0; k < m->cols; k++) {
        const int64_t at = row * m->cols + k;
        const unsigned code = (at % 2 == 0 ? codes[at / 2] >> 4 : codes[at / 2]) & 15u;
        const float w = levels[code] * absmax_at(m, at / m->options.block);
        for (int i = 0; i < n; i++)
            sum[i] += w * x[i * m->cols + place_of(k, m->cols)];
    }
    memcpy(out, sum, (size_t)n * sizeof *out);
}

#if SIMD_AVX512

/* The lookup takes the low four bits of each lane, so the high halves need no mask. */
SIMD_INLINE void row_product(float *out, const QuantMatrix *m, int64_t row, const float *x, int n)
{
    const Lanes levels = lanes_load_f32(quant_levels[m->options.type]);
    const int64_t cols = m->cols, first = row * cols, size = m->options.block;
    const int shift =
        __builtin_ctz((unsigned)m->options.block); /* a power of two; a division costs as much as a block */
    const uint8_t *codes = (const uint8_t *)m->codes.data + first / 2;
    Lanes sum[QUANT_PRODUCT_VECTORS];
    for (int i = 0; i < n; i++)
        sum[i] = lanes_zero();
    for (int64_t k = 0; k < cols;) {
        const int64_t block = (first + k) >> shift, border = (block + 1) * size - first;
        const int64_t end = border < cols ? border : cols;
        Lanes even[QUANT_PRODUCT_VECTORS], odd[QUANT_PRODUCT_VECTORS];
        for (int i = 0; i < n; i++)
            even[i] = odd[i] = lanes_zero();
        for (; k < end; k += GROUP) {
            _mm_prefetch((const char *)codes + k / 2 + AHEAD, _MM_HINT_T0);
            const __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)(codes + k / 2));
            const __m512i wide = _mm512_cvtepu8_epi32(bytes);
            const Lanes high = _mm512_permutexvar_ps(_mm512_srli_epi32(wide, 4), levels);
            const Lanes low = _mm512_permutexvar_ps(wide, levels);
            for (int i = 0; i < n; i++) {
                even[i] = lanes_fma(high, lanes_load_f32(x + i * cols + k), even[i]);
                odd[i] = lanes_fma(low, lanes_load_f32(x + i * cols + k + GROUP / 2), odd[i]);
            }
        }
        const Lanes absmax = lanes_set(absmax_at(m, block));
        for (int i = 0; i < n; i++)
            sum[i] = lanes_fma(absmax, even[i] + odd[i], sum[i]);
    }
    for (int i = 0; i < n; i++)
        out[i] = _mm512_reduce_add_ps(sum[i]);
}

void quant_row_product(float *out, const QuantMatrix *m, int64_t row, const float *x, int n)
{
    /* Blocks are multiples of 32 as well, so no group of 32 straddles a border. */
    if (!ordered(m->cols)) {
        quant_row_product_plain(out, m, row, x, n);
        return;
    }
    switch (n) { /* constants, so that the sums stay in registers */
    case 1: row_product(out, m, row, x, 1); break;
    case 2: row_product(out, m, row, x, 2); break;
    case 3: row_product(out, m, row, x, 3); break;
    case 4: row_product(out, m, row, x, 4); break;
    default: CHECK(false);
    }
}

#else

void quant_row_product(float *out, const QuantMatrix *m, int64_t row, const float *x, int n)
{
    quant_row_product_plain(out, m, row, x, n);
}

#endif
