/*
 * bpe_internal.h - what bpe.c (encoding) and bpe_build.c (setting up) share.
 */
#pragma once

#include "data/bpe.h"

enum { BPE_DIRECT_CHARS = 0x800 };

typedef struct MergeSlot {
    uint64_t pair; /* left id << 32 | right id; UINT64_MAX: empty */
    uint32_t rank;
    int32_t id; /* what the pair becomes */
} MergeSlot;

struct Bpe {
    Vocab vocab;
    /* Characters that are no tokens but parts of tokens, with ids from vocab.id_count on; llama.cpp's rule only. */
    Vocab missing;
    MergeSlot *merges;
    size_t merge_slots, merge_count;
    uint32_t next_rank;
    char *prefix, *suffix; /* null: none */
    size_t prefix_length, suffix_length;
    int32_t unk; /* -1: none, or not in the vocabulary */
    bool unk_missing, byte_fallback, fuse_unk, ignore_merges, merge_missing_symbols;
    bool cut_at_space;                  /* no merge crosses into U+2581 from another character */
    int32_t byte_ids[256];              /* of <0x00>...<0xFF>, -1: no such token */
    int32_t char_ids[BPE_DIRECT_CHARS]; /* of the characters U+0000... */
    char *joined;                       /* work memory of the set-up */
};

static inline size_t bpe_merge_home(uint64_t pair, size_t slots)
{
    uint64_t h = pair * 0x9E3779B97F4A7C15u; /* Fibonacci hashing: the upper bits are well mixed */
    return (size_t)(h ^ (h >> 32)) & (slots - 1);
}

/* Null when the pair does not merge. */
static inline const MergeSlot *bpe_find_merge(const Bpe *b, int32_t left, int32_t right)
{
    const uint64_t pair = ((uint64_t)(uint32_t)left << 32) | (uint32_t)right;
    for (size_t at = bpe_merge_home(pair, b->merge_slots);; at = (at + 1) & (b->merge_slots - 1)) {
        if (b->merges[at].pair == pair) return &b->merges[at];
        if (b->merges[at].pair == UINT64_MAX) return NULL;
    }
}
