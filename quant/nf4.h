/*
 * nf4.h - 4-bit weights (NF4 and FP4) with blockwise absmax, optionally quantized themselves ("double quantization").
 *
 * A matrix W (O, K) is flattened row-major and cut into blocks of `block` elements (blocks may straddle rows):
 *   codes  (ceil(O*K / 2))  u8   even element in the high nibble
 *   absmax (nb) f32, or with double quantization u8 codes of (absmax - offset) in the signed dynamic map, block 256,
 *   nested_absmax (ceil(nb / 256)) f32, and one f32 offset;  nb = ceil(O*K / block)
 * Decoding: f32(level[code] * absmax), one f32 multiply, then one rounding to the output type;
 * absmax = f32(f32(map[q] * nested_absmax) + offset), two roundings.
 * NF4 codes equal bitsandbytes' CUDA kernels up to values within 2 ulp of a threshold (their reciprocal is approximate);
 * its CPU code moves some thresholds by an ulp. absmax, FP4 codes, nested codes (blockwise.h) and offset equal its CPU
 * code, where every byte can be compared; its CUDA kernels give FP4 zeros the other sign and ties the smaller level.
 * Source: Dettmers et al. 2023, arXiv:2305.14314; bitsandbytes 0.50.
 */
#pragma once

#include "backend/backend.h"
#include "quant/blockwise.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum QuantType { QUANT_NF4, QUANT_FP4 } QuantType;

typedef struct QuantOptions {
    QuantType type;
    int block;         /* 32, 64, 128, ..., 4096 */
    bool double_quant; /* quantize the absmax too */
} QuantOptions;

typedef struct QuantMatrix {
    QuantOptions options;
    int64_t rows, cols;
    DType source_dtype;   /* what the weights were before: F32, F16 or BF16; "dtype" in bitsandbytes' quant_state */
    float offset;         /* mean of absmax; 0 without double quantization */
    float map[256];       /* signed dynamic map: ours, or the one a checkpoint stored */
    Tensor codes;         /* (ceil(O*K/2)) u8 */
    Tensor absmax;        /* (nb) f32, or u8 with double quantization */
    Tensor nested_absmax; /* (ceil(nb/256)) f32; empty otherwise */
} QuantMatrix;

extern const float quant_levels[2][16]; /* [QuantType][code] */

/* Takes the tensors from the arena (or measures); sets rows, cols, options and the default map. */
void quant_place(QuantMatrix *m, Arena *a, const QuantOptions *options, int64_t rows, int64_t cols);

int64_t quant_blocks(const QuantMatrix *m);
size_t quant_matrix_bytes(const QuantOptions *options, int64_t rows, int64_t cols); /* without alignment */

/*
 * Host encoding, used while weights stream from disk; all cores. `values` (O*K) f32, host. Outputs are host arrays of
 * the sizes above; with double quantization `absmax` receives u8 codes and *offset is set; scratch_absmax (nb) f32 is
 * the caller's. False with ERR_MODEL, naming the flat index, when a value is not finite.
 */
typedef struct QuantHost {
    uint8_t *codes;
    void *absmax;          /* u8 or f32 */
    float *nested_absmax;  /* null without double quantization */
    float *scratch_absmax; /* (nb) */
    float offset;
} QuantHost;
bool quant_encode(QuantHost *out, const float *values, int64_t count, const QuantOptions *options, Err *err) MUST_USE;

/*
 * The first half of the same on the device, for a run of whole blocks of a matrix: codes and f32 absmax, bit for bit what
 * quant_encode finds. What is not finite is marked, not refused: bad[0] becomes the smallest `first` + index, if that is
 * below what it holds.
 */
typedef struct QuantEncode {
    Tensor values; /* (n) f32; n ends a block or the matrix */
    Tensor codes;  /* (ceil(n / 2)) u8 */
    Tensor absmax; /* (ceil(n / block)) f32 */
    Tensor bad;    /* (1) i64 */
    int64_t first; /* flat index of the first value in its matrix */
} QuantEncode;
void quant_encode_on(Backend *be, const QuantEncode *e, const QuantOptions *options);

/* Always false: what quant_encode says about a value that is not finite. */
bool quant_refuse(int64_t index, float value, Err *err);

/* The second half on the host: u8 codes, nested_absmax and the offset from `count` f32 absmax. */
void quant_nest(QuantHost *out, const float *absmax, int64_t count);

/* w (O, K) f32 or bf16, possibly strided. On the device. */
void quant_decode(Backend *be, const Tensor *w, const QuantMatrix *m);

#ifdef __cplusplus
}
#endif
