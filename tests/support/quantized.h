/*
 * quantized.h - 4-bit matrices of known values for tests of operations, and what each of their weights decodes to.
 */
#pragma once

#include "quant/nested.h"
#include "quant/nf4.h"
#include "tests/support/kernel_test.h"

static inline void *quantized_copy(const void *from, size_t bytes)
{
    void *to = kernel_memory(bytes);
    memcpy(to, from, bytes);
    return to;
}

/* A matrix whose arrays host and device reach; values are normal, block 1 is all zero and block 2 tiny. */
static inline QuantMatrix quantized_make(int64_t rows, int64_t cols, const QuantOptions *options)
{
    QuantMatrix m;
    Arena measure = {.name = "weights"};
    Err err = {0};
    const int64_t count = rows * cols;
    quant_place(&m, &measure, options, rows, cols);
    const size_t blocks = (size_t)quant_blocks(&m);
    float *values = malloc((size_t)count * sizeof *values);
    QuantHost host = {
        .codes = malloc((size_t)(count + 1) / 2),
        .absmax = malloc(blocks * 4),
        .nested_absmax = malloc((blocks / 256 + 1) * 4),
        .scratch_absmax = malloc(blocks * 4),
    };
    assert_true(values && host.codes && host.absmax && host.nested_absmax && host.scratch_absmax);
    for (int64_t i = 0; i < count; i++) {
        const int64_t block = i / options->block;
        const float scale = block == 1 ? 0.0f : block == 2 ? 1e-30f : 0.02f;
        values[i] = scale * rng_normal((RngKey){.seed = 9, .purpose = RNG_TEST}, (uint64_t)i);
    }
    assert_true(quant_encode(&host, values, count, options, &err));
    m.offset = host.offset;
    m.codes.data = quantized_copy(host.codes, (size_t)(count + 1) / 2);
    m.absmax.data = quantized_copy(host.absmax, blocks * (options->double_quant ? 1 : 4));
    m.nested_absmax.data = quantized_copy(host.nested_absmax, (blocks / 256 + 1) * 4);
    free(values);
    free(host.codes);
    free(host.absmax);
    free(host.nested_absmax);
    free(host.scratch_absmax);
    return m;
}

static inline void quantized_free(const QuantMatrix *m)
{
    kernel_memory_free(m->codes.data);
    kernel_memory_free(m->absmax.data);
    kernel_memory_free(m->nested_absmax.data);
}

/* Weight `flat` by the formula of quant/nf4.h. */
static inline float quantized_at(const QuantMatrix *m, int64_t flat)
{
    const int64_t block = flat / m->options.block;
    const uint8_t byte = ((const uint8_t *)m->codes.data)[flat / 2];
    float absmax = m->options.double_quant ? 0 : ((const float *)m->absmax.data)[block];
    if (m->options.double_quant) {
        absmax = nested_value(m->map, ((const uint8_t *)m->absmax.data)[block],
                              ((const float *)m->nested_absmax.data)[block / NESTED_BLOCK], m->offset);
    }
    return quant_levels[m->options.type][flat % 2 == 0 ? byte >> 4 : byte & 15] * absmax;
}
