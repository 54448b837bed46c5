/*
 * cuda_philox.cuh - the random numbers of base/rng.h on the device: the same words, block by block.
 */
#pragma once

#include "backend/cuda.cuh"
#include "base/rng.h"

/* Block `block` of the sequence whose key rng_subkey has folded. */
__device__ __forceinline__ Rng4 philox_block(const Rng4 &sub, uint64_t block)
{
    uint32_t c0 = static_cast<uint32_t>(block), c1 = static_cast<uint32_t>(block >> 32);
    uint32_t c2 = sub.word[2], c3 = sub.word[3], k0 = sub.word[0], k1 = sub.word[1];
    for (int round = 0; round < 10; round++) {
        const uint32_t high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
        const uint32_t high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
        c0 = high1 ^ c1 ^ k0;
        c1 = low1;
        c2 = high0 ^ c3 ^ k1;
        c3 = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    Rng4 r;
    r.word[0] = c0;
    r.word[1] = c1;
    r.word[2] = c2;
    r.word[3] = c3;
    return r;
}

/* Uniform in [0, 1), 24 bits: rng_unit. */
__device__ __forceinline__ float philox_unit(uint32_t word)
{
    return static_cast<float>(word >> 8) * 0x1p-24f;
}
