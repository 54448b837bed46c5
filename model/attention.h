/*
 * attention.h - causal attention inside segments, grouped-query, without a score matrix in memory.
 *
 * qkv (N, (H + 2G) * D) in the compute type: H query heads, then G key heads, then G value heads; q and k are already
 * rotated. Query head h reads key/value head h / (H / G). out (N, H * D); lse (N, H) f32 is the log-sum-exp of the
 * scaled scores, which backward needs. Tiles of queries and keys; softmax statistics and sums in f32.
 * Backward: delta = rowsum(dout * out); p = exp(s - lse); ds = p * (dp - delta); dqkv is overwritten.
 * Source: Dao 2023, FlashAttention-2, arXiv:2307.08691.
 */
#pragma once

#include "backend/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Attention {
    int heads;    /* H */
    int kv_heads; /* G, divides H */
    int head_dim; /* D */
    float scale;  /* usually D^-1/2 */
    int window;   /* keys that a query sees at most, its own included; 0: all of its segment up to there */
    int segments;
    const int32_t *starts; /* (segments + 1) host: first row of each, then N */
} Attention;

void attention_forward(Backend *be, const Attention *at, const Tensor *out, const Tensor *lse, const Tensor *qkv,
                       const Tensor *scratch);
void attention_backward(Backend *be, const Attention *at, const Tensor *dqkv, const Tensor *dout, const Tensor *out,
                        const Tensor *lse, const Tensor *qkv, const Tensor *scratch);

/* f32 elements of scratch that either pass needs, for up to n tokens (and any cut into segments). */
int64_t attention_scratch(const Backend *be, int64_t n, int heads, int kv_heads, int head_dim);

/*
 * Generation: q (B, H*D), one query per sequence; keys and values (B * capacity, G*D), sequence b in rows
 * b*capacity ..; lengths (B) host: keys to read, the newest included. out (B, H*D). `scratch`: attention_scratch().
 */
void attention_decode(Backend *be, const Attention *at, const Tensor *out, const Tensor *q, const Tensor *keys,
                      const Tensor *values, int64_t capacity, const int32_t *lengths, const Tensor *scratch);

#ifdef __cplusplus
}
#endif
