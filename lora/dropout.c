#include "backend/cpu.h"
#include "lora/ops.h"

#include <math.h>

/* 16 bits for each element of a piece of a row; the numbers of one block lie in the order of their elements. */
enum { PIECE = 512, BLOCKS = PIECE / 8 + 1 };

static void draw(uint32_t words[4 * BLOCKS], const Mask *m, int64_t first, int64_t count)
{
    const int64_t block = first / 8, last = (first + count - 1) / 8;
    rng_blocks(m->key, (uint64_t)block, words, (int)(last - block + 1));
}

static void row_f32(float *out, const float *in, const uint16_t *bits, int64_t count, const Mask *m)
{
    for (int64_t j = 0; j < count; j++)
        out[j] = bits[j] < m->threshold ? 0.0f : in[j] * m->keep;
}

static void row_bf16(uint16_t *out, const uint16_t *in, const uint16_t *bits, int64_t count, const Mask *m)
{
    for (int64_t j = 0; j < count; j++) {
        const uint16_t kept = bf16_from_f32(bf16_to_f32(in[j]) * m->keep);
        out[j] = bits[j] < m->threshold ? 0 : kept;
    }
}

static void row(const Tensor *out, const Tensor *in, int64_t i, const Mask *m)
{
    const int64_t cols = tensor_cols(in);
    union { /* halves of words are read as 16-bit numbers */
        uint32_t words[4 * BLOCKS];
        uint16_t halves[8 * BLOCKS];
    } u;
    for (int64_t j = 0; j < cols; j += PIECE) {
        const int64_t n = cols - j < PIECE ? cols - j : PIECE;
        draw(u.words, m, i * cols + j, n);
        const uint16_t *bits = u.halves + (i * cols + j) % 8;
        if (in->dtype == DTYPE_F32)
            row_f32((float *)out->data + i * out->stride + j, (const float *)in->data + i * in->stride + j, bits, n, m);
        else
            row_bf16((uint16_t *)out->data + i * out->stride + j, (const uint16_t *)in->data + i * in->stride + j, bits,
                     n, m);
    }
}

static void dropout_cpu(Backend *be, const Tensor *out, const Tensor *in, const Mask *m)
{
    (void)be;
    const int64_t rows = tensor_rows(in);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; i++)
        row(out, in, i, m);
}

static const DropoutOps dropout_ops_cpu = {.apply = dropout_cpu};

static const DropoutOps *const dropout_ops[BACKEND_COUNT] = {
    [BACKEND_CPU] = &dropout_ops_cpu,
    [BACKEND_CUDA] = CUDA_OPS(dropout_ops_cuda),
};

void lora_dropout(Backend *be, const Tensor *out, const Tensor *in, float p, RngKey key)
{
    CHECK(in->dtype == out->dtype && cpu_is_float(be, in));
    CHECK(tensor_rows(in) == tensor_rows(out) && tensor_cols(in) == tensor_cols(out));
    CHECK(p >= 0 && p < 1);
    const Mask m = {.key = key, .threshold = (uint32_t)lrintf(p * 65536.0f), .keep = 1.0f / (1.0f - p)};
    backend_enter(be);
    dropout_ops[backend_kind(be)]->apply(be, out, in, &m);
    backend_leave(be);
}
