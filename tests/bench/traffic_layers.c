/*
 * traffic_layers.c - what runs between the matrix products of a layer: norms, SwiGLU, RoPE, rows, losses, dropout.
 */
#include "tests/bench/traffic.h"

#include "backend/elementwise.h"
#include "lora/lora.h"
#include "model/cross_entropy.h"
#include "model/embedding.h"
#include "model/rmsnorm.h"
#include "model/rope.h"
#include "model/rows.h"
#include "model/swiglu.h"

static bool aligned(int64_t cols)
{
    return cols % 64 == 0;
}

static void norms(Traffic *t, DType dtype, int64_t rows, int64_t cols)
{
    if (traffic_scene(t, "rmsnorm", dtype, aligned(cols), "%d x %d", (int)rows, (int)cols)) {
        const Tensor x = traffic_matrix(t, dtype, rows, cols), y = traffic_matrix(t, dtype, rows, cols);
        const Tensor w = traffic_vector(t, DTYPE_F32, cols);
        traffic_start(t);
        traffic_reads(t, &x, 0);
        traffic_writes(t, &y, 0);
        rmsnorm_forward(t->be, &y, &x, &w, 1e-5f);
        traffic_end(t, NULL);
    }
    if (traffic_scene(t, "sum and rmsnorm", dtype, aligned(cols), "%d x %d", (int)rows, (int)cols)) {
        const Tensor x = traffic_matrix(t, dtype, rows, cols), add = traffic_matrix(t, dtype, rows, cols);
        const Tensor y = traffic_matrix(t, dtype, rows, cols), w = traffic_vector(t, DTYPE_F32, cols);
        traffic_start(t);
        traffic_reads(t, &x, 0);
        traffic_reads(t, &add, 0);
        traffic_writes(t, &x, 0);
        traffic_writes(t, &y, 0);
        rmsnorm_add_forward(t->be, &y, &x, &add, &w, 1e-5f);
        traffic_end(t, NULL);
    }
    if (traffic_scene(t, "rmsnorm backward", dtype, aligned(cols), "%d x %d, added, y", (int)rows, (int)cols)) {
        const Tensor x = traffic_matrix(t, dtype, rows, cols), dy = traffic_matrix(t, dtype, rows, cols);
        const Tensor dx = traffic_matrix(t, dtype, rows, cols), w = traffic_vector(t, DTYPE_F32, cols);
        const Tensor y = traffic_matrix(t, dtype, rows, cols);
        traffic_start(t);
        traffic_reads(t, &x, 0);
        traffic_reads(t, &dy, 0);
        traffic_reads(t, &dx, 0);
        traffic_writes(t, &dx, 0);
        traffic_writes(t, &y, 0);
        rmsnorm_backward(t->be, &dx, &y, &dy, &x, &w, 1e-5f, true);
        traffic_end(t, NULL);
    }
}

static void swiglu(Traffic *t, DType dtype, int64_t rows, int64_t cols)
{
    if (traffic_scene(t, "swiglu", dtype, aligned(cols), "%d x %d", (int)rows, (int)cols)) {
        const Tensor gu = traffic_matrix(t, dtype, rows, 2 * cols), y = traffic_matrix(t, dtype, rows, cols);
        traffic_start(t);
        traffic_reads(t, &gu, 0);
        traffic_writes(t, &y, 0);
        swiglu_forward(t->be, &y, &gu);
        traffic_end(t, NULL);
    }
    if (traffic_scene(t, "swiglu backward", dtype, aligned(cols), "%d x %d, in place, y", (int)rows, (int)cols)) {
        const Tensor gu = traffic_matrix(t, dtype, rows, 2 * cols), dy = traffic_matrix(t, dtype, rows, cols);
        const Tensor y = traffic_matrix(t, dtype, rows, cols);
        traffic_start(t);
        traffic_reads(t, &gu, 0);
        traffic_reads(t, &dy, 0);
        traffic_writes(t, &gu, 0);
        traffic_writes(t, &y, 0);
        swiglu_backward(t->be, &gu, &y, &dy, &gu);
        traffic_end(t, NULL);
    }
}

/* Queries and keys of rows that hold values too, and spare columns. */
static void rope(Traffic *t, DType dtype, int heads, int kv_heads, int dim)
{
    enum { ROWS = 128 };
    const int64_t rotated = (heads + kv_heads) * dim, all = rotated + kv_heads * dim;
    if (!traffic_scene(t, "rope", dtype, dim % 16 == 0, "%d x %d heads of %d", ROWS, heads + kv_heads, dim)) return;
    const Tensor qkv = traffic_strided(t, dtype, ROWS, all, all + 48), table = traffic_matrix(t, DTYPE_F32, ROWS, dim);
    const Tensor positions = traffic_indices(t, ROWS, ROWS);
    traffic_start(t);
    const uint64_t bytes = (uint64_t)(ROWS * rotated) * dtype_bytes(dtype);
    traffic_reads(t, &qkv, bytes);
    traffic_writes(t, &qkv, bytes);
    rope_apply(t->be, &qkv, &table, &positions, heads + kv_heads, dim, false);
    traffic_end(t, NULL);
}

static void rows_moved(Traffic *t, DType dtype, int64_t cols)
{
    enum { TABLE = 256, ROWS = 128 };
    const uint64_t bytes = (uint64_t)(ROWS * cols) * dtype_bytes(dtype);
    for (int k = 0; k < 4; k++) {
        static const char *const names[] = {"embedding", "NEFTune", "gather", "scatter"};
        if (!traffic_scene(t, names[k], dtype, aligned(cols), "%d x %d", ROWS, (int)cols)) continue;
        const Tensor table = traffic_matrix(t, dtype, TABLE, cols), out = traffic_matrix(t, dtype, ROWS, cols);
        const Tensor index = traffic_indices(t, ROWS, TABLE);
        const int32_t starts[] = {0, 50, ROWS};
        const Neftune noise = {.alpha = k == 1 ? 5.0f : 0.0f, .segments = 2, .starts = starts};
        traffic_start(t);
        traffic_reads(t, k == 3 ? &out : &table, bytes);
        traffic_writes(t, k == 3 ? &table : &out, bytes);
        if (k == 1) { /* a second kernel over the rows */
            traffic_reads(t, &out, 0);
            traffic_writes(t, &out, 0);
        }
        if (k < 2) embedding_forward(t->be, &out, &table, &index, &noise);
        if (k == 2) rows_gather(t->be, &out, &table, &index);
        if (k == 3) rows_scatter(t->be, &table, &out, &index);
        traffic_end(t, NULL);
    }
    if (!traffic_scene(t, "bias", dtype, aligned(cols), "%d x %d", ROWS, (int)cols)) return;
    const Tensor y = traffic_matrix(t, dtype, ROWS, cols), bias = traffic_vector(t, dtype, cols);
    traffic_start(t);
    traffic_reads(t, &y, 0);
    traffic_writes(t, &y, 0);
    rows_add_vector(t->be, &y, &bias);
    traffic_end(t, NULL);
}

static void losses(Traffic *t, const char *what, DType in, DType out, int64_t rows, int64_t vocabulary)
{
    if (!traffic_scene(t, what, out, aligned(vocabulary), "%d x %d", (int)rows, (int)vocabulary)) return;
    const Tensor logits = traffic_matrix(t, in, rows, vocabulary), targets = traffic_indices(t, rows, 1000);
    const Tensor gradient = in == out ? logits : traffic_matrix(t, out, rows, vocabulary);
    const Tensor loss = traffic_vector(t, DTYPE_F32, rows);
    traffic_start(t);
    traffic_reads(t, &logits, 0);
    traffic_writes(t, &gradient, 0);
    cross_entropy(t->be, &loss, &gradient, &logits, &targets, 0.1f, 0.01f);
    traffic_end(t, NULL);
}

static void elements(Traffic *t, DType dtype, int64_t rows, int64_t cols)
{
    static const char *const names[] = {"zero", "copy to f32", "add", "scale", "dropout"};
    for (int k = 0; k < 5; k++) {
        if (!traffic_scene(t, names[k], dtype, aligned(cols), "%d x %d", (int)rows, (int)cols)) continue;
        const Tensor x = traffic_matrix(t, dtype, rows, cols), y = traffic_matrix(t, dtype, rows, cols);
        const Tensor out = traffic_matrix(t, k == 1 ? DTYPE_F32 : dtype, rows, cols);
        traffic_start(t);
        if (k != 0) traffic_reads(t, &x, 0);
        if (k == 2) traffic_reads(t, &y, 0);
        traffic_writes(t, &out, 0);
        if (k == 0) tensor_zero(t->be, &out);
        if (k == 1) tensor_copy(t->be, &out, &x);
        if (k == 2) tensor_add(t->be, &out, &x, &y);
        if (k == 3) tensor_scale(t->be, &out, &x, 0.5f);
        if (k == 4) lora_dropout(t->be, &out, &x, 0.1f, (RngKey){.seed = 1, .purpose = RNG_LORA_DROPOUT});
        traffic_end(t, NULL);
    }
}

void traffic_of_layers(Traffic *t)
{
    static const DType types[] = {DTYPE_BF16, DTYPE_F32};
    for (int i = 0; i < 2; i++) {
        norms(t, types[i], 64, 2048);
        norms(t, types[i], 64, 576);
        swiglu(t, types[i], 64, 1536);
        rope(t, types[i], 9, 3, 64);
        rope(t, types[i], 4, 2, 128);
        rope(t, types[i], 8, 8, 80);
        rope(t, types[i], 8, 4, 96);
        rope(t, types[i], 4, 1, 256);
        rows_moved(t, types[i], 1024);
        elements(t, types[i], 128, 1024);
    }
    norms(t, DTYPE_BF16, 33, 331);
    swiglu(t, DTYPE_BF16, 33, 331);
    rope(t, DTYPE_BF16, 3, 1, 36);
    rows_moved(t, DTYPE_BF16, 331);
    elements(t, DTYPE_BF16, 33, 331);
    losses(t, "cross entropy", DTYPE_F32, DTYPE_BF16, 12, 49152);
    losses(t, "cross entropy in place", DTYPE_F32, DTYPE_F32, 12, 49152);
    losses(t, "cross entropy", DTYPE_F32, DTYPE_BF16, 7, 5003);
}
