/*
 * embedding.h - rows of the token table, with optional NEFTune noise. The table is frozen: there is no backward.
 *
 * out (N, C) = table[ids]; with alpha > 0 uniform noise in [-1, 1) * alpha / sqrt(L * C) is added to every element,
 * L being the length of the token's segment (Jain et al. 2023, arXiv:2310.05914; PEFT/TRL: the same).
 */
#pragma once

#include "backend/backend.h"
#include "base/rng.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Neftune {
    float alpha; /* 0: off */
    RngKey key;
    int segments;
    const int32_t *starts; /* host */
} Neftune;

/* ids (N) i32 on the device, each below the rows of the table, which may lie in pinned memory (backend_pinned_reserve) */
void embedding_forward(Backend *be, const Tensor *out, const Tensor *table, const Tensor *ids, const Neftune *noise);

#ifdef __cplusplus
}
#endif
