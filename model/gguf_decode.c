#include "model/gguf_decode.h"

#include <string.h>

#ifdef __F16C__
#    include <immintrin.h>
#endif

int64_t gguf_block_elements(GgufType type)
{
    switch (type) {
#define X(name, number, elements, bytes, text)                                                                         \
    case name: return elements;
        GGUF_TYPES(X)
#undef X
    }
    CHECK(false);
}

size_t gguf_block_bytes(GgufType type)
{
    switch (type) {
#define X(name, number, elements, bytes, text)                                                                         \
    case name: return bytes;
        GGUF_TYPES(X)
#undef X
    }
    CHECK(false);
}

/* The f16 at p. */
static inline float half_at(const uint8_t *p)
{
    const uint16_t bits = (uint16_t)(p[0] | p[1] << 8);
#ifdef __F16C__
    return _cvtsh_ss(bits);
#else
    return f16_to_f32(bits);
#endif
}

static void decode_f16(float *restrict to, const uint8_t *restrict from, int64_t count)
{
    int64_t i = 0;
#ifdef __AVX512F__
    for (; i + 16 <= count; i += 16) {
        const __m256i halves = _mm256_loadu_si256((const __m256i *)(const void *)(from + 2 * i));
        _mm512_storeu_ps(to + i, _mm512_cvtph_ps(halves));
    }
#endif
    for (; i < count; i++)
        to[i] = half_at(from + 2 * i);
}

static void decode_bf16(float *restrict to, const uint8_t *restrict from, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        uint16_t bits;
        memcpy(&bits, from + 2 * i, sizeof bits);
        to[i] = bf16_to_f32(bits);
    }
}

/* f16 d; u8 q[16]: element j is the low nibble of q[j], element j + 16 the high one; (q - 8) * d */
static void decode_q4_0(float *restrict to, const uint8_t *restrict from, int64_t blocks)
{
    for (int64_t b = 0; b < blocks; b++, from += 18, to += 32) {
        const float d = half_at(from);
        const uint8_t *q = from + 2;
        for (int half = 0; half < 2; half++) { /* this shape of the loop is the one that gcc turns into vectors */
            for (int j = 0; j < 16; j++)
                to[16 * half + j] = (float)(((q[j] >> (4 * half)) & 15) - 8) * d;
        }
    }
}

/* f16 d; f16 m; u8 q[16] as in Q4_0; q * d + m */
static void decode_q4_1(float *restrict to, const uint8_t *restrict from, int64_t blocks)
{
    for (int64_t b = 0; b < blocks; b++, from += 20, to += 32) {
        const float d = half_at(from);
        const float m = half_at(from + 2);
        const uint8_t *q = from + 4;
        for (int half = 0; half < 2; half++) {
            for (int j = 0; j < 16; j++)
                to[16 * half + j] = (float)((q[j] >> (4 * half)) & 15) * d + m;
        }
    }
}

/* Fifth bits: bit j of qh belongs to element j. */
static inline uint32_t word_at(const uint8_t *p)
{
    uint32_t word;
    memcpy(&word, p, sizeof word); /* little-endian, as this machine */
    return word;
}

/* f16 d; u32 qh; u8 q[16] as in Q4_0; (q - 16) * d */
static void decode_q5_0(float *restrict to, const uint8_t *restrict from, int64_t blocks)
{
    for (int64_t b = 0; b < blocks; b++, from += 22, to += 32) {
        const float d = half_at(from);
        const uint32_t qh = word_at(from + 2);
        const uint8_t *q = from + 6;
        for (int j = 0; j < 16; j++) {
            const int low = (q[j] & 15) | (int)((qh >> j) & 1) << 4;
            const int high = (q[j] >> 4) | (int)((qh >> (j + 16)) & 1) << 4;
            to[j] = (float)(low - 16) * d;
            to[j + 16] = (float)(high - 16) * d;
        }
    }
}

/* f16 d; f16 m; u32 qh; u8 q[16]; q * d + m */
static void decode_q5_1(float *restrict to, const uint8_t *restrict from, int64_t blocks)
{
    for (int64_t b = 0; b < blocks; b++, from += 24, to += 32) {
        const float d = half_at(from);
        const float m = half_at(from + 2);
        const uint32_t qh = word_at(from + 4);
        const uint8_t *q = from + 8;
        for (int j = 0; j < 16; j++) {
            const int low = (q[j] & 15) | (int)((qh >> j) & 1) << 4;
            const int high = (q[j] >> 4) | (int)((qh >> (j + 16)) & 1) << 4;
            to[j] = (float)low * d + m;
            to[j + 16] = (float)high * d + m;
        }
    }
}

/* f16 d; i8 q[32]; q * d */
static void decode_q8_0(float *restrict to, const uint8_t *restrict from, int64_t blocks)
{
    for (int64_t b = 0; b < blocks; b++, from += 34, to += 32) {
        const float d = half_at(from);
        for (int j = 0; j < 32; j++)
            to[j] = (float)(int8_t)from[2 + j] * d;
    }
}

/* The 6-bit scale and minimum of sub-block k (0..7), packed into 12 bytes. */
static inline void unpack_scale(const uint8_t *sc, int k, float *scale, float *minimum)
{
    if (k < 4) {
        *scale = (float)(sc[k] & 63);
        *minimum = (float)(sc[k + 4] & 63);
    } else {
        *scale = (float)((sc[k + 4] & 15) | (sc[k - 4] >> 6) << 4);
        *minimum = (float)(sc[k + 4] >> 4 | (sc[k] >> 6) << 4);
    }
}

/*
 * f16 d; f16 dmin; u8 sc[12]; u8 q[128]: 8 sub-blocks of 32, two to 32 bytes of q: first the low nibbles, then the
 * high ones; (d * scale) * q - dmin * minimum
 */
static void decode_q4_k(float *restrict to, const uint8_t *restrict from, int64_t blocks)
{
    for (int64_t b = 0; b < blocks; b++, from += 144) {
        const float d = half_at(from);
        const float dmin = half_at(from + 2);
        for (int k = 0; k < 8; k++, to += 32) {
            const uint8_t *q = from + 16 + (k / 2) * 32;
            const int shift = (k & 1) * 4;
            float scale;
            float minimum;
            unpack_scale(from + 4, k, &scale, &minimum);
            scale *= d;
            minimum *= dmin;
            for (int j = 0; j < 32; j++)
                to[j] = (float)((q[j] >> shift) & 15) * scale - minimum;
        }
    }
}

/* As Q4_K with u8 qh[32] before q: bit k of qh[j] is the fifth bit of element j of sub-block k. */
static void decode_q5_k(float *restrict to, const uint8_t *restrict from, int64_t blocks)
{
    for (int64_t b = 0; b < blocks; b++, from += 176) {
        const float d = half_at(from);
        const float dmin = half_at(from + 2);
        const uint8_t *qh = from + 16;
        for (int k = 0; k < 8; k++, to += 32) {
            const uint8_t *q = from + 48 + (k / 2) * 32;
            const int shift = (k & 1) * 4;
            float scale;
            float minimum;
            unpack_scale(from + 4, k, &scale, &minimum);
            scale *= d;
            minimum *= dmin;
            for (int j = 0; j < 32; j++) {
                const int value = ((q[j] >> shift) & 15) | ((qh[j] >> k) & 1) << 4;
                to[j] = (float)value * scale - minimum;
            }
        }
    }
}

/*
 * u8 ql[128]; u8 qh[64]; i8 scales[16]; f16 d: two halves of 128 elements, each from 64 bytes of ql and 32 of qh, in
 * four runs of 32 with a scale for 16; (d * scale) * (q - 32)
 */
static void decode_q6_k(float *restrict to, const uint8_t *restrict from, int64_t blocks)
{
    for (int64_t b = 0; b < blocks; b++, from += 210) {
        const float d = half_at(from + 208);
        for (int run = 0; run < 8; run++, to += 32) {
            const int half = run / 4;
            const int part = run % 4; /* 0, 1: low nibbles; 2, 3: high */
            const uint8_t *ql = from + half * 64 + (part & 1) * 32;
            const uint8_t *qh = from + 128 + half * 32;
            const int shift = (part / 2) * 4;
            const float first = (float)(int8_t)from[192 + 2 * run] * d;
            const float second = (float)(int8_t)from[193 + 2 * run] * d;
            uint8_t q[32];
            for (int j = 0; j < 32; j++)
                q[j] = (uint8_t)(((ql[j] >> shift) & 15) | ((qh[j] >> (2 * part)) & 3) << 4);
            for (int j = 0; j < 16; j++)
                to[j] = (float)(q[j] - 32) * first;
            for (int j = 16; j < 32; j++)
                to[j] = (float)(q[j] - 32) * second;
        }
    }
}

void gguf_decode(float *to, const void *from, GgufType type, int64_t count)
{
    DCHECK(count % gguf_block_elements(type) == 0);
    switch (type) {
    case GGUF_F32: memcpy(to, from, (size_t)count * sizeof *to); return;
    case GGUF_F16: decode_f16(to, from, count); return;
    case GGUF_BF16: decode_bf16(to, from, count); return;
    case GGUF_Q4_0: decode_q4_0(to, from, count / 32); return;
    case GGUF_Q4_1: decode_q4_1(to, from, count / 32); return;
    case GGUF_Q5_0: decode_q5_0(to, from, count / 32); return;
    case GGUF_Q5_1: decode_q5_1(to, from, count / 32); return;
    case GGUF_Q8_0: decode_q8_0(to, from, count / 32); return;
    case GGUF_Q4_K: decode_q4_k(to, from, count / 256); return;
    case GGUF_Q5_K: decode_q5_k(to, from, count / 256); return;
    case GGUF_Q6_K: decode_q6_k(to, from, count / 256); return;
    }
    CHECK(false);
}
