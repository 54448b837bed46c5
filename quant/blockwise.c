#include "quant/blockwise.h"

#include "backend/simd.h"

#include <math.h>

enum { DECADES = 7 };

/* Largest value of decade i: 10^(i-6), rounded once. */
static const float decade_scale[DECADES] = {1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1.0f};

/* Point j of `points` equally spaced ones from 0.1 to 1, walked from the nearer end: what torch.linspace yields. */
static float spaced_point(int j, int points)
{
    const float step = (1.0f - 0.1f) / (float)(points - 1);
    if (j < points / 2) return fmaf(step, (float)j, 0.1f);
    return fmaf(-step, (float)(points - 1 - j), 1.0f);
}

/* Means of neighbouring points of one decade, ascending. */
static float decade_value(int decade, int j, int points)
{
    const float mean = (spaced_point(j, points) + spaced_point(j + 1, points)) / 2.0f;
    return decade_scale[decade] * mean;
}

/* Decade i has 2^i values of either sign; zero lies at 127 and the one 1.0 at the end. */
void blockwise_map_signed(float map[256])
{
    map[127] = 0.0f;
    map[255] = 1.0f;
    for (int i = 0; i < DECADES; i++) {
        const int count = 1 << i;
        for (int j = 0; j < count; j++) {
            const float value = decade_value(i, j, count + 1);
            map[127 + count + j] = value;
            map[127 - count - j] = -value;
        }
    }
}

/* Decade i has 2^(i+1) values. */
void blockwise_map_unsigned(float map[256])
{
    map[0] = 0.0f;
    map[255] = 1.0f;
    for (int i = 0; i < DECADES; i++) {
        const int count = 2 << i;
        for (int j = 0; j < count; j++)
            map[count - 1 + j] = decade_value(i, j, count + 1);
    }
}

/*
 * Seven halvings end on an even index; its neighbour on y's side wins only when y lies strictly past their midpoint.
 * So an exact tie goes to the even code, which is how bitsandbytes' kernels search.
 */
uint8_t blockwise_code(const float map[256], float y)
{
    int at = 127;
    for (int step = 64; step > 0; step /= 2)
        at += y > map[at] ? step : -step;
    DCHECK(at % 2 == 0 && at >= 0 && at <= 254);
    if (y > map[at]) return (uint8_t)(y > (map[at] + map[at + 1]) * 0.5f ? at + 1 : at);
    if (at == 0) return 0;
    return (uint8_t)(y < (map[at] + map[at - 1]) * 0.5f ? at - 1 : at);
}

static void round_to_steps(float *y, int count)
{
    for (int i = 0; i < count; i++)
        y[i] = floorf((y[i] + 1.0f) * 0.5f * 65535.0f + 0.5f) * (2.0f / 65535.0f) - 1.0f;
}

#if SIMD_AVX512

/*
 * The same search, sixteen values at a time. Its first five comparisons only meet every eighth entry of the map (7, 15,
 * ... 247): those lie in two registers, so that memory is gathered from for the last steps alone.
 */
typedef struct Coarse {
    __m512 low, high;
} Coarse;

static Coarse coarse_of(const float map[256])
{
    const __m512i every8 = _mm512_setr_epi32(7, 15, 23, 31, 39, 47, 55, 63, 71, 79, 87, 95, 103, 111, 119, 127);
    return (Coarse){_mm512_i32gather_ps(every8, map, 4), _mm512_i32gather_ps(every8, map + 128, 4)};
}

/* at +- step, up where y lies above `value` */
SIMD_INLINE __m512i walk(__m512i at, __m512 y, __m512 value, int step)
{
    const __m512i down = _mm512_sub_epi32(at, _mm512_set1_epi32(step));
    return _mm512_mask_add_epi32(down, _mm512_cmp_ps_mask(y, value, _CMP_GT_OQ), at, _mm512_set1_epi32(step));
}

static __m512i codes_of(__m512 y, const float map[256], const Coarse *c)
{
    const __m512i one = _mm512_set1_epi32(1);
    __m512i k = _mm512_set1_epi32(15);
    for (int step = 8; step > 0; step /= 2)
        k = walk(k, y, _mm512_permutex2var_ps(c->low, k, c->high), step);
    __m512i at = _mm512_add_epi32(_mm512_slli_epi32(k, 3), _mm512_set1_epi32(7));
    at = walk(at, y, _mm512_permutex2var_ps(c->low, k, c->high), 4);
    at = walk(at, y, _mm512_i32gather_ps(at, map, 4), 2);
    at = walk(at, y, _mm512_i32gather_ps(at, map, 4), 1);
    const __m512 value = _mm512_i32gather_ps(at, map, 4);
    const __mmask16 above = _mm512_cmp_ps_mask(y, value, _CMP_GT_OQ);
    const __m512i below = _mm512_max_epi32(_mm512_sub_epi32(at, one), _mm512_setzero_si512());
    const __m512i other = _mm512_mask_add_epi32(below, above, at, one);
    const __m512 sum = _mm512_add_ps(value, _mm512_i32gather_ps(other, map, 4));
    const __m512 middle = _mm512_mul_ps(sum, _mm512_set1_ps(0.5f));
    const __mmask16 past_up = _mm512_mask_cmp_ps_mask(above, y, middle, _CMP_GT_OQ);
    const __mmask16 past_down = _mm512_mask_cmp_ps_mask((__mmask16)~above, y, middle, _CMP_LT_OQ);
    return _mm512_mask_mov_epi32(at, (__mmask16)(past_up | past_down), other);
}

void blockwise_codes(uint8_t *codes, const float map[256], float *y, int count)
{
    round_to_steps(y, count);
    const Coarse coarse = coarse_of(map);
    int i = 0;
    for (; i + LANES <= count; i += LANES) {
        const __m512i found = codes_of(_mm512_loadu_ps(y + i), map, &coarse);
        _mm_storeu_si128((__m128i *)(void *)(codes + i), _mm512_cvtepi32_epi8(found));
    }
    for (; i < count; i++)
        codes[i] = blockwise_code(map, y[i]);
}

void blockwise_values(float *out, const float map[256], const uint8_t *codes, float scale, int count)
{
    const __m512 factor = _mm512_set1_ps(scale);
    int i = 0;
    for (; i + LANES <= count; i += LANES) {
        const __m512i at = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(codes + i)));
        _mm512_storeu_ps(out + i, _mm512_mul_ps(_mm512_i32gather_ps(at, map, 4), factor));
    }
    for (; i < count; i++)
        out[i] = map[codes[i]] * scale;
}

#else

void blockwise_codes(uint8_t *codes, const float map[256], float *y, int count)
{
    round_to_steps(y, count);
    for (int i = 0; i < count; i++)
        codes[i] = blockwise_code(map, y[i]);
}

void blockwise_values(float *out, const float map[256], const uint8_t *codes, float scale, int count)
{
    for (int i = 0; i < count; i++)
        out[i] = map[codes[i]] * scale;
}

#endif
