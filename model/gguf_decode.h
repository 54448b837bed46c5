/*
 * gguf_decode.h - values of the block types of GGUF files, as f32.
 *
 * Products and sums are taken one by one in f32, in the order of gguf-py, so every value is equal to its to the bit.
 * Source: ggml, ggml-quants.c and gguf-py, quants.py (layouts); the figures of each layout stand at its function.
 */
#pragma once

#include "base/gguf.h"

#ifdef __cplusplus
extern "C" {
#endif

int64_t gguf_block_elements(GgufType type);
size_t gguf_block_bytes(GgufType type);

/* `count` elements, whole blocks; `from` needs no alignment. */
void gguf_decode(float *to, const void *from, GgufType type, int64_t count);

#ifdef __cplusplus
}
#endif
