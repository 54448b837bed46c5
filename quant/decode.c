#include "backend/simd.h"
#include "quant/kernels.h"

/* The even element is in the high half. */
static unsigned code_at(const uint8_t *codes, int64_t i)
{
    return (i % 2 == 0 ? codes[i / 2] >> 4 : codes[i / 2]) & 15u;
}

void kernel_decode_f32_plain(float *out, const uint8_t *codes, int64_t first, int64_t count, const float values[16])
{
    for (int64_t i = 0; i < count; i++)
        out[i] = values[code_at(codes, first + i)];
}

void kernel_decode_u16_plain(uint16_t *out, const uint8_t *codes, int64_t first, int64_t count,
                             const uint16_t values[16])
{
    for (int64_t i = 0; i < count; i++)
        out[i] = values[code_at(codes, first + i)];
}

#if SIMD_AVX512

/*
 * A byte per lane is widened so that its high half indexes the even output and its low half the odd one; the index
 * bits above bit 3 come from the other half of the byte, so the table is repeated (u16) or the permutation ignores
 * them (f32).
 */
void kernel_decode_f32(float *out, const uint8_t *codes, int64_t first, int64_t count, const float values[16])
{
    if (first % 2 != 0) {
        kernel_decode_f32_plain(out, codes, first, count, values);
        return;
    }
    const __m512 table = _mm512_loadu_ps(values);
    const uint8_t *from = codes + first / 2;
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        const __m512i wide = _mm512_cvtepu8_epi64(_mm_loadl_epi64((const __m128i *)(const void *)(from + i / 2)));
        const __m512i index = _mm512_or_si512(_mm512_srli_epi64(wide, 4), _mm512_slli_epi64(wide, 32));
        _mm512_storeu_ps(out + i, _mm512_permutexvar_ps(index, table));
    }
    kernel_decode_f32_plain(out + i, codes, first + i, count - i, values);
}

void kernel_decode_u16(uint16_t *out, const uint8_t *codes, int64_t first, int64_t count, const uint16_t values[16])
{
    enum { WORDS = 2 * LANES };
    if (first % 2 != 0) {
        kernel_decode_u16_plain(out, codes, first, count, values);
        return;
    }
    const __m512i table = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(const void *)values));
    const uint8_t *from = codes + first / 2;
    int64_t i = 0;
    for (; i + WORDS <= count; i += WORDS) {
        const __m512i wide = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(from + i / 2)));
        const __m512i index = _mm512_or_si512(_mm512_srli_epi32(wide, 4), _mm512_slli_epi32(wide, 16));
        _mm512_storeu_si512(out + i, _mm512_permutexvar_epi16(index, table));
    }
    kernel_decode_u16_plain(out + i, codes, first + i, count - i, values);
}

#else

void kernel_decode_f32(float *out, const uint8_t *codes, int64_t first, int64_t count, const float values[16])
{
    kernel_decode_f32_plain(out, codes, first, count, values);
}

void kernel_decode_u16(uint16_t *out, const uint8_t *codes, int64_t first, int64_t count, const uint16_t values[16])
{
    kernel_decode_u16_plain(out, codes, first, count, values);
}

#endif
