#include "lora/lora.h"

#include "backend/backend.h"

#include <math.h>

/*
 * Eight elements share one Philox block: 16 bits each decide, so p is honoured to 2^-17. Blocks are counted in the
 * dense matrix, whatever the strides are, so that forward and backward draw the same mask.
 */
typedef struct Mask {
    RngKey key;
    uint32_t threshold; /* of 65536; below it: dropped */
    float keep;         /* 1 / (1 - p) */
} Mask;

static inline uint32_t draw16(const Rng4 *words, int64_t element)
{
    return (words->word[(element % 8) / 2] >> (16 * (element & 1))) & 0xffffu;
}

static void row_f32(float *out, const float *in, int64_t first, int64_t cols, const Mask *m)
{
    Rng4 words = rng_block(m->key, (uint64_t)first / 8);
    for (int64_t j = 0; j < cols; j++) {
        const int64_t element = first + j;
        if (element % 8 == 0) words = rng_block(m->key, (uint64_t)element / 8);
        out[j] = draw16(&words, element) < m->threshold ? 0.0f : in[j] * m->keep;
    }
}

static void row_bf16(uint16_t *out, const uint16_t *in, int64_t first, int64_t cols, const Mask *m)
{
    Rng4 words = rng_block(m->key, (uint64_t)first / 8);
    for (int64_t j = 0; j < cols; j++) {
        const int64_t element = first + j;
        if (element % 8 == 0) words = rng_block(m->key, (uint64_t)element / 8);
        out[j] = draw16(&words, element) < m->threshold ? 0 : bf16_from_f32(bf16_to_f32(in[j]) * m->keep);
    }
}

static void dropout_cpu(const Tensor *out, const Tensor *in, const Mask *m)
{
    const int64_t rows = tensor_rows(in), cols = tensor_cols(in);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; i++) {
        if (in->dtype == DTYPE_F32)
            row_f32((float *)out->data + i * out->stride, (const float *)in->data + i * in->stride, i * cols, cols, m);
        else
            row_bf16((uint16_t *)out->data + i * out->stride, (const uint16_t *)in->data + i * in->stride, i * cols,
                     cols, m);
    }
}

typedef struct DropoutOps {
    void (*apply)(const Tensor *out, const Tensor *in, const Mask *m);
} DropoutOps;

static const DropoutOps dropout_ops_cpu = {.apply = dropout_cpu};

static const DropoutOps *const dropout_ops[BACKEND_COUNT] = {
    [BACKEND_CPU] = &dropout_ops_cpu,
};

void lora_dropout(Backend *be, const Tensor *out, const Tensor *in, float p, RngKey key)
{
    CHECK(in->dtype == out->dtype && (in->dtype == DTYPE_F32 || in->dtype == DTYPE_BF16));
    CHECK(tensor_rows(in) == tensor_rows(out) && tensor_cols(in) == tensor_cols(out));
    CHECK(p >= 0 && p < 1);
    const Mask m = {.key = key, .threshold = (uint32_t)lrintf(p * 65536.0f), .keep = 1.0f / (1.0f - p)};
    backend_enter(be);
    dropout_ops[backend_kind(be)]->apply(out, in, &m);
    backend_leave(be);
}
