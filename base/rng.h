/*
 * rng.h - counter-based random numbers (Philox4x32-10).
 *
 * A number is a pure function of (seed, purpose, step, stream, element). Nothing is ever fast-forwarded, threads do
 * not matter, and a resumed run draws what the uninterrupted one drew.
 * Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", SC'11.
 */
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum RngPurpose {
    RNG_LORA_INIT = 1,
    RNG_LORA_DROPOUT,
    RNG_NEFTUNE,
    RNG_SHUFFLE,
    RNG_SPLIT, /* train / validation */
    RNG_MIX,   /* weights of several sources */
    RNG_SAMPLING,
    RNG_TEST
} RngPurpose;

/* What stays the same for one draw over many elements. */
typedef struct RngKey {
    uint64_t seed;
    uint32_t purpose; /* RngPurpose */
    uint32_t stream;  /* layer and module, or whatever tells apart draws of one step */
    uint64_t step;
} RngKey;

typedef struct Rng4 {
    uint32_t word[4];
} Rng4;

/* (seed, purpose, stream, step) folded into what the blocks of a sequence are made from; devices start there. */
Rng4 rng_subkey(RngKey key);

/* Words 4*block .. 4*block+3 of the sequence of this key. */
Rng4 rng_block(RngKey key, uint64_t block);

/* Words of `count` blocks from `first` on, 4 each: the same numbers as rng_block, several at a time. */
void rng_blocks(RngKey key, uint64_t first, uint32_t *words, int count);

/* Word `element` of the sequence. */
uint32_t rng_u32(RngKey key, uint64_t element);

/* Uniform in [0, 1), 24 bits. */
static inline float rng_unit(uint32_t word)
{
    return (float)(word >> 8) * 0x1p-24f;
}

float rng_uniform(RngKey key, uint64_t element);

/* Standard normal by Box-Muller in double; element pairs share a block. */
float rng_normal(RngKey key, uint64_t element);

/* A stateless permutation: where index i of 0..n-1 goes; a bijection for every key. */
uint64_t rng_permute(RngKey key, uint64_t n, uint64_t i);

#ifdef __cplusplus
}
#endif
