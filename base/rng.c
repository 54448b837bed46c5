#include "base/rng.h"

#include "base/check.h"

#include <math.h>

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

Rng4 rng_block(RngKey key, uint64_t block)
{
    /* Two passes: the first folds (purpose, stream, step) into a counter-independent key for the second. */
    const Rng4 sub = philox((uint32_t)key.step, (uint32_t)(key.step >> 32), key.purpose, key.stream, (uint32_t)key.seed,
                            (uint32_t)(key.seed >> 32));
    return philox((uint32_t)block, (uint32_t)(block >> 32), sub.word[2], sub.word[3], sub.word[0], sub.word[1]);
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
