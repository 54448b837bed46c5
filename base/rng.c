#include "base/rng.h"

#include "base/check.h"

#include <math.h>
#include <string.h>

#if defined(__AVX512F__)
#    include <immintrin.h>
#endif

static void philox_round(uint32_t c[4], const uint32_t k[2])
{
    const uint64_t p0 = (uint64_t)0xD2511F53u * c[0];
    const uint64_t p1 = (uint64_t)0xCD9E8D57u * c[2];
    const uint32_t next[4] = {
        (uint32_t)(p1 >> 32) ^ c[1] ^ k[0],
        (uint32_t)p1,
        (uint32_t)(p0 >> 32) ^ c[3] ^ k[1],
        (uint32_t)p0,
    };
    for (int i = 0; i < 4; i++)
        c[i] = next[i];
}

/* 10 rounds; the key is bumped between rounds by the Weyl constants of the paper. */
static Rng4 philox(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint32_t k0, uint32_t k1)
{
    uint32_t c[4] = {c0, c1, c2, c3};
    uint32_t k[2] = {k0, k1};
    for (int round = 0; round < 10; round++) {
        philox_round(c, k);
        k[0] += 0x9E3779B9u;
        k[1] += 0xBB67AE85u;
    }
    return (Rng4){
        {c[0], c[1], c[2], c[3]}
    };
}

Rng4 rng_subkey(RngKey key)
{
    return philox((uint32_t)key.step, (uint32_t)(key.step >> 32), key.purpose, key.stream, (uint32_t)key.seed,
                  (uint32_t)(key.seed >> 32));
}

Rng4 rng_block(RngKey key, uint64_t block)
{
    const Rng4 sub = rng_subkey(key);
    return philox((uint32_t)block, (uint32_t)(block >> 32), sub.word[2], sub.word[3], sub.word[0], sub.word[1]);
}

#if defined(__AVX512F__)

/* Low and high words of a * m for 16 numbers: the instruction multiplies every other one. */
static inline void multiply(__m512i a, __m512i m, __m512i *low, __m512i *high)
{
    const __m512i even = _mm512_mul_epu32(a, m), odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), m);
    *low = _mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32));
    *high = _mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(even, 32), odd);
}

/* 16 blocks side by side; `sub` is the folded key. */
static void philox_sixteen(uint32_t *words, uint64_t block, Rng4 sub)
{
    uint32_t low[16], high[16], lanes[4][16];
    for (uint32_t j = 0; j < 16; j++) {
        low[j] = (uint32_t)(block + j);
        high[j] = (uint32_t)((block + j) >> 32);
    }
    __m512i c0 = _mm512_loadu_si512(low), c1 = _mm512_loadu_si512(high);
    __m512i c2 = _mm512_set1_epi32((int)sub.word[2]), c3 = _mm512_set1_epi32((int)sub.word[3]);
    uint32_t k0 = sub.word[0], k1 = sub.word[1];
    for (int round = 0; round < 10; round++) {
        __m512i low0, high0, low1, high1;
        multiply(c0, _mm512_set1_epi64(0xD2511F53), &low0, &high0);
        multiply(c2, _mm512_set1_epi64(0xCD9E8D57), &low1, &high1);
        c0 = _mm512_xor_si512(_mm512_xor_si512(high1, c1), _mm512_set1_epi32((int)k0));
        c2 = _mm512_xor_si512(_mm512_xor_si512(high0, c3), _mm512_set1_epi32((int)k1));
        c1 = low1;
        c3 = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    _mm512_storeu_si512(lanes[0], c0);
    _mm512_storeu_si512(lanes[1], c1);
    _mm512_storeu_si512(lanes[2], c2);
    _mm512_storeu_si512(lanes[3], c3);
    for (int j = 0; j < 16; j++) {
        for (int k = 0; k < 4; k++)
            words[4 * j + k] = lanes[k][j];
    }
}

#endif

void rng_blocks(RngKey key, uint64_t first, uint32_t *words, int count)
{
    const Rng4 sub = rng_subkey(key);
    int at = 0;
#if defined(__AVX512F__)
    for (; at + 16 <= count; at += 16)
        philox_sixteen(words + 4 * at, first + (uint64_t)at, sub);
    if (count - at > 2) { /* the rest, from sixteen again */
        uint32_t more[64];
        philox_sixteen(more, first + (uint64_t)at, sub);
        memcpy(words + 4 * at, more, (size_t)(count - at) * 16);
        return;
    }
#endif
    for (; at < count; at++) {
        const uint64_t block = first + (uint64_t)at;
        const Rng4 r =
            philox((uint32_t)block, (uint32_t)(block >> 32), sub.word[2], sub.word[3], sub.word[0], sub.word[1]);
        memcpy(words + 4 * at, r.word, sizeof r.word);
    }
}

uint32_t rng_u32(RngKey key, uint64_t element)
{
    return rng_block(key, element / 4).word[element % 4];
}

float rng_uniform(RngKey key, uint64_t element)
{
    return rng_unit(rng_u32(key, element));
}

float rng_normal(RngKey key, uint64_t element)
{
    const Rng4 r = rng_block(key, element / 2);
    const double u = ((double)r.word[0] + 0.5) * 0x1p-32; /* never 0 */
    const double v = (double)r.word[1] * 0x1p-32;
    const double radius = sqrt(-2.0 * log(u));
    const double angle = 6.283185307179586476925 * v;
    return (float)(element % 2 ? radius * sin(angle) : radius * cos(angle));
}

/* A Feistel network on the smallest even number of bits that holds n, walked until the result lies below n. */
uint64_t rng_permute(RngKey key, uint64_t n, uint64_t i)
{
    CHECK(i < n);
    int half_bits = 1;
    while (half_bits < 32 && ((uint64_t)1 << (2 * half_bits)) < n)
        half_bits++;
    const uint64_t mask = ((uint64_t)1 << half_bits) - 1;
    do {
        uint64_t left = i >> half_bits;
        uint64_t right = i & mask;
        for (uint64_t round = 0; round < 6; round++) {
            const uint64_t mixed = rng_block(key, (round << 40) | right).word[0] & mask;
            const uint64_t next = left ^ mixed;
            left = right;
            right = next;
        }
        i = (left << half_bits) | right;
    } while (i >= n);
    return i;
}
