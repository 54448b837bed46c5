/*
 * traffic_weights.c - kernels that read or make 4-bit weights.
 */
#include "tests/bench/traffic.h"

#include "base/rng.h"
#include "model/fill.h"
#include "model/thin.h"

#include <stdlib.h>

static void upload_noise(Traffic *t, const Tensor *to)
{
    const size_t words = (tensor_bytes(to) + 3) / 4;
    uint32_t *noise = malloc(words * sizeof *noise);
    CHECK(noise);
    for (size_t i = 0; i < words; i++)
        noise[i] = rng_u32((RngKey){.seed = 2, .purpose = RNG_TEST}, i);
    backend_upload(t->be, to, noise);
    free(noise);
}

/* A matrix of codes without a pattern: lookups in the tables of levels and of absmax go anywhere. */
static QuantMatrix quantized(Traffic *t, const QuantOptions *options, int64_t rows, int64_t cols)
{
    QuantMatrix m;
    quant_place(&m, &t->arena, options, rows, cols);
    upload_noise(t, &m.codes);
    if (options->double_quant) upload_noise(t, &m.absmax);
    return m;
}

static void reads_quantized(Traffic *t, const QuantMatrix *m)
{
    traffic_reads(t, &m->codes, 0);
    traffic_reads(t, &m->absmax, 0);
    if (m->options.double_quant) traffic_reads(t, &m->nested_absmax, 0);
}

static void decode(Traffic *t, const char *what, const QuantOptions *options, DType dtype, int64_t rows, int64_t cols,
                   int64_t spare)
{
    if (!traffic_scene(t, what, dtype, cols % 64 == 0, "%d x %d, block %d", (int)rows, (int)cols, options->block))
        return;
    const QuantMatrix m = quantized(t, options, rows, cols);
    const Tensor w = traffic_strided(t, dtype, rows, cols, cols + spare);
    traffic_start(t);
    reads_quantized(t, &m);
    traffic_writes(t, &w, 0);
    quant_decode(t->be, &w, &m);
    traffic_end(t, NULL);
}

static void encode(Traffic *t, const QuantOptions *options, int64_t n)
{
    if (!traffic_scene(t, "encode", DTYPE_F32, n % 4096 == 0, "%d, block %d", (int)n, options->block)) return;
    const QuantEncode e = {
        .values = traffic_vector(t, DTYPE_F32, n),
        .codes = arena_vector(&t->arena, DTYPE_U8, (n + 1) / 2),
        .absmax = arena_vector(&t->arena, DTYPE_F32, (n + options->block - 1) / options->block),
        .bad = arena_vector(&t->arena, DTYPE_I64, 1),
    };
    traffic_start(t);
    traffic_reads(t, &e.values, 0);
    traffic_writes(t, &e.codes, 0);
    traffic_writes(t, &e.absmax, 0);
    quant_encode_on(t->be, &e, options);
    traffic_end(t, NULL);
}

/* --- groups: query, key and value with adapters --- */

enum { PARTS = 3 };
static const int64_t part_rows[PARTS] = {256, 128, 128};

static void fill_group(Traffic *t, DType dtype, bool quant, bool weights, int64_t cols, int64_t rank)
{
    const char *what = !weights ? "fill strips" : quant ? "fill" : "fill plain";
    if (!traffic_scene(t, what, dtype, cols % 64 == 0, "512 x %d, rank %d", (int)cols, (int)rank)) return;
    const QuantOptions options = {QUANT_NF4, 64, true};
    QuantMatrix m[PARTS];
    Fill f = {.cols = cols, .side = (PARTS * rank + 15) / 16 * 16, .count = PARTS};
    for (int i = 0; i < PARTS; i++) {
        FillPart *p = &f.parts[i];
        m[i] = quantized(t, &options, part_rows[i], cols);
        *p = (FillPart){.rows = part_rows[i],
                        .first_row = f.rows,
                        .quant = quant ? &m[i] : NULL,
                        .rank = rank,
                        .first_side = i * rank,
                        .scale = 2.0f};
        p->a = traffic_matrix(t, DTYPE_F32, rank, cols);
        p->b = traffic_matrix(t, DTYPE_F32, part_rows[i], rank);
        if (!quant) p->plain = traffic_matrix(t, dtype, part_rows[i], cols);
        f.rows += part_rows[i];
    }
    f.buffer = arena_matrix(&t->arena, dtype, f.rows + f.side, cols + f.side);
    traffic_start(t);
    for (int i = 0; i < PARTS; i++) {
        traffic_reads(t, &f.parts[i].a, 0);
        traffic_reads(t, &f.parts[i].b, 0);
        if (weights && quant) reads_quantized(t, &m[i]);
        if (weights && !quant) traffic_reads(t, &f.parts[i].plain, 0);
    }
    const int64_t written = f.rows * (f.side + (weights ? cols : 0)) + f.side * cols;
    traffic_writes(t, &f.buffer, (uint64_t)written * dtype_bytes(dtype));
    fill_buffers(t->be, &f, 1, weights);
    traffic_end(t, NULL);
}

static void thin_group(Traffic *t, DType dtype, bool quant, int64_t n, int64_t rows, int64_t cols)
{
    const int64_t rank = 16;
    if (!traffic_scene(t, quant ? "thin" : "thin plain", dtype, cols % 1024 == 0, "%d x %d by %d, rank 16", (int)rows,
                       (int)cols, (int)n))
        return;
    const QuantOptions options = {QUANT_NF4, 64, true};
    const QuantMatrix m = quantized(t, &options, rows, cols);
    Thin g = {.count = 1};
    g.parts[0] = (ThinPart){.rows = rows, .quant = quant ? &m : NULL, .rank = rank, .scale = 2.0f};
    g.parts[0].a = traffic_matrix(t, DTYPE_F32, rank, cols);
    g.parts[0].b = traffic_matrix(t, DTYPE_F32, rows, rank);
    if (!quant) g.parts[0].plain = traffic_matrix(t, dtype, rows, cols);
    const Tensor x = traffic_matrix(t, dtype, n, cols), y = traffic_matrix(t, dtype, n, rows);
    const Tensor scratch = arena_vector(&t->arena, DTYPE_F32, thin_scratch(cols, rank));
    traffic_start(t);
    if (quant) {
        reads_quantized(t, &m);
    } else {
        traffic_reads(t, &g.parts[0].plain, 0);
    }
    traffic_reads(t, &g.parts[0].a, 0);
    traffic_writes(t, &y, 0);
    thin_forward(t->be, &g, &y, &x, &scratch);
    traffic_end(t, NULL);
}

void traffic_of_weights(Traffic *t)
{
    const QuantOptions nested = {QUANT_NF4, 64, true}, plain = {QUANT_NF4, 64, false};
    const QuantOptions fp4 = {QUANT_FP4, 64, true}, small = {QUANT_NF4, 32, true}, large = {QUANT_NF4, 4096, true};
    decode(t, "decode NF4 nested", &nested, DTYPE_BF16, 512, 1024, 0);
    decode(t, "decode NF4 nested", &nested, DTYPE_BF16, 512, 1024, 64);
    decode(t, "decode NF4 nested", &nested, DTYPE_F32, 512, 1024, 0);
    decode(t, "decode NF4", &plain, DTYPE_BF16, 512, 1024, 0);
    decode(t, "decode NF4", &plain, DTYPE_F32, 512, 1024, 0);
    decode(t, "decode FP4 nested", &fp4, DTYPE_BF16, 512, 1024, 0);
    decode(t, "decode NF4 nested", &small, DTYPE_BF16, 512, 1024, 0);
    decode(t, "decode NF4 nested", &large, DTYPE_BF16, 512, 1024, 0);
    decode(t, "decode NF4 nested", &nested, DTYPE_BF16, 201, 333, 0);
    encode(t, &nested, 1 << 18);
    encode(t, &large, 1 << 18);
    encode(t, &nested, 100001);
    fill_group(t, DTYPE_BF16, true, true, 1024, 16);
    fill_group(t, DTYPE_F32, true, true, 1024, 16);
    fill_group(t, DTYPE_BF16, false, true, 1024, 16);
    fill_group(t, DTYPE_BF16, true, false, 1024, 16);
    fill_group(t, DTYPE_BF16, true, true, 333, 5);
    thin_group(t, DTYPE_BF16, true, 1, 512, 2048);
    thin_group(t, DTYPE_BF16, true, 4, 512, 2048);
    thin_group(t, DTYPE_BF16, false, 1, 512, 2048);
    thin_group(t, DTYPE_BF16, true, 1, 101, 333);
}
