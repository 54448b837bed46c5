/*
 * bench_kernels.c - rates of every kernel at the shapes of SmolLM2-135M.
 *
 *   bench_kernels [THREADS [ROWS]]
 *
 * Best of several runs. Not a test: nothing passes or fails here. Matrix products and attention print GFLOP/s (a
 * causal pass counts half of the square), the others GB/s of what they must read and write.
 */
#include "backend/elementwise.h"
#include "backend/matmul.h"
#include "base/rng.h"
#include "model/attention.h"
#include "model/cross_entropy.h"
#include "model/embedding.h"
#include "model/rmsnorm.h"
#include "model/rope.h"
#include "model/swiglu.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { HIDDEN = 576, QKV = 960, HEADS = 9, KV_HEADS = 3, HEAD_DIM = 64, INNER = 1536, SPARE = 64, VOCABULARY = 49152 };

typedef struct Bench {
    Backend *be;
    Arena arena;
    int64_t rows;
    DType dtype;
} Bench;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Small numbers of a fixed pattern, so that nothing overflows and no value is special. */
static Tensor filled(Bench *b, DType dtype, int64_t rows, int64_t cols)
{
    const Tensor t = arena_matrix(&b->arena, dtype, rows, cols);
    const RngKey key = {.seed = 1, .purpose = RNG_TEST};
    enum { PERIOD = 4096 };
    float pattern[PERIOD];
    for (int i = 0; i < PERIOD; i++)
        pattern[i] = rng_uniform(key, (uint64_t)i) - 0.5f;
    const Tensor source = tensor_vector(pattern, DTYPE_F32, PERIOD);
    for (int64_t at = 0; at < rows * cols; at += PERIOD) {
        const int64_t n = rows * cols - at < PERIOD ? rows * cols - at : PERIOD;
        const Tensor part = tensor_slice_flat(&t, at, n), from = tensor_slice_flat(&source, 0, n);
        tensor_copy(b->be, &part, &from);
    }
    return t;
}

/* Best seconds of `body`; at least 5 runs and about half a second. */
#define BEST(seconds, body)                                                                                            \
    do {                                                                                                               \
        const double begin_ = now();                                                                                   \
        (seconds) = 1e9;                                                                                               \
        for (int run_ = 0; run_ < 5 || now() - begin_ < 0.4; run_++) {                                                 \
            const double start_ = now();                                                                               \
            body;                                                                                                      \
            const double took_ = now() - start_;                                                                       \
            if (took_ < (seconds)) (seconds) = took_;                                                                  \
        }                                                                                                              \
    } while (0)

static void report(const Bench *b, const char *what, double seconds, double amount, const char *unit)
{
    printf("%-28s %-4s %5ld rows %9.3f ms %9.1f %s\n", what, b->dtype == DTYPE_F32 ? "f32" : "bf16", (long)b->rows,
           seconds * 1e3, amount / seconds * 1e-9, unit);
    fflush(stdout);
}

typedef struct Shape {
    const char *what;
    int64_t n, k, spare_k, spare_n; /* spare columns beside k and n */
    bool transpose_b, wide_out;     /* wide: f32 out whatever the inputs */
} Shape;

static const Shape shapes[] = {
    {"qkv forward",      QKV,        HIDDEN + SPARE,    0,     SPARE,  true,  false},
    {"qkv backward",     HIDDEN,     QKV + SPARE,       0,     SPARE,  false, false},
    {"o forward",        HIDDEN,     HIDDEN + SPARE,    0,     SPARE,  true,  false},
    {"gate+up forward",  2 * INNER,  HIDDEN + SPARE,    0,     SPARE,  true,  false},
    {"gate+up backward", HIDDEN,     2 * INNER + SPARE, 0,     SPARE,  false, false},
    {"down forward",     HIDDEN,     INNER + SPARE,     0,     SPARE,  true,  false},
    {"down backward",    INNER,      HIDDEN + SPARE,    0,     SPARE,  false, false},
    {"x A^T",            SPARE,      HIDDEN,            SPARE, HIDDEN, true,  false},
    {"head forward",     VOCABULARY, HIDDEN,            SPARE, 0,      true,  true },
    {"head backward",    HIDDEN,     VOCABULARY,        0,     SPARE,  false, false},
};

static void bench_matmul(Bench *b, const Shape *s)
{
    const size_t mark = arena_mark(&b->arena);
    const int64_t rows = s->n == VOCABULARY || s->k == VOCABULARY ? (b->rows < 512 ? b->rows : 512) : b->rows;
    const DType to = s->wide_out ? DTYPE_F32 : b->dtype;
    const Tensor a_all = filled(b, b->dtype, rows, s->k + s->spare_k), a = tensor_slice_cols(&a_all, 0, s->k);
    const Tensor w =
        s->transpose_b ? filled(b, b->dtype, s->n, s->k + s->spare_k) : filled(b, b->dtype, s->k, s->n + s->spare_n);
    const Tensor w_used = tensor_slice_cols(&w, 0, s->transpose_b ? s->k : s->n);
    const Tensor out_all = arena_matrix(&b->arena, to, rows, s->n + s->spare_n),
                 out = tensor_slice_cols(&out_all, 0, s->n);
    const Matmul op = {.out = &out, .a = &a, .b = &w_used, .transpose_b = s->transpose_b};
    double t;
    BEST(t, matmul(b->be, &op));
    Bench shown = *b;
    shown.rows = rows;
    report(&shown, s->what, t, 2.0 * (double)rows * (double)s->n * (double)s->k, "GFLOP/s");
    arena_release(&b->arena, mark);
}

static void bench_gradient(Bench *b, const char *what, int64_t p, int64_t q)
{
    const size_t mark = arena_mark(&b->arena);
    const Tensor x = filled(b, b->dtype, b->rows, p), y = filled(b, b->dtype, b->rows, q);
    const Tensor dw = filled(b, DTYPE_F32, p, q);
    const Tensor scratch = arena_vector(&b->arena, DTYPE_F32, matmul_gradient_scratch(b->rows, p, q));
    double t;
    BEST(t, matmul_gradient(b->be, &dw, &x, &y, 1.0f, &scratch));
    report(b, what, t, 2.0 * (double)(b->rows * p * q), "GFLOP/s");
    arena_release(&b->arena, mark);
}

static void bench_attention(Bench *b)
{
    const size_t mark = arena_mark(&b->arena);
    const int32_t starts[2] = {0, (int32_t)b->rows};
    const Attention at = {
        .heads = HEADS, .kv_heads = KV_HEADS, .head_dim = HEAD_DIM, .scale = 0.125f, .segments = 1, .starts = starts};
    const Tensor qkv_all = filled(b, b->dtype, b->rows, QKV + SPARE), qkv = tensor_slice_cols(&qkv_all, 0, QKV);
    const Tensor dqkv_all = filled(b, b->dtype, b->rows, QKV + SPARE), dqkv = tensor_slice_cols(&dqkv_all, 0, QKV);
    const Tensor out = filled(b, b->dtype, b->rows, HIDDEN), dout = filled(b, b->dtype, b->rows, HIDDEN);
    const Tensor lse = arena_matrix(&b->arena, DTYPE_F32, b->rows, HEADS);
    const Tensor scratch =
        arena_vector(&b->arena, DTYPE_F32, attention_scratch(b->be, b->rows, HEADS, KV_HEADS, HEAD_DIM));
    const double product = (double)b->rows * (double)b->rows * HEADS * HEAD_DIM; /* one of them, half a square */
    double t;
    BEST(t, attention_forward(b->be, &at, &out, &lse, &qkv, &scratch));
    report(b, "attention forward", t, 2.0 * product, "GFLOP/s");
    BEST(t, attention_backward(b->be, &at, &dqkv, &dout, &out, &lse, &qkv, &scratch));
    report(b, "attention backward", t, 5.0 * product, "GFLOP/s");
    arena_release(&b->arena, mark);
}

static void bench_decode(Bench *b)
{
    const size_t mark = arena_mark(&b->arena);
    const Attention at = {.heads = HEADS, .kv_heads = KV_HEADS, .head_dim = HEAD_DIM, .scale = 0.125f};
    const Tensor q = filled(b, b->dtype, 1, HIDDEN), out = filled(b, b->dtype, 1, HIDDEN);
    const Tensor keys = filled(b, b->dtype, b->rows, KV_HEADS * HEAD_DIM),
                 values = filled(b, b->dtype, b->rows, KV_HEADS * HEAD_DIM);
    const Tensor scratch =
        arena_vector(&b->arena, DTYPE_F32, attention_scratch(b->be, b->rows, HEADS, KV_HEADS, HEAD_DIM));
    const int32_t length = (int32_t)b->rows;
    double t;
    BEST(t, attention_decode(b->be, &at, &out, &q, &keys, &values, b->rows, &length, &scratch));
    report(b, "attention decode, 1 query", t, 2.0 * (double)tensor_bytes(&keys), "GB/s");
    arena_release(&b->arena, mark);
}

static void bench_rows(Bench *b)
{
    const size_t mark = arena_mark(&b->arena);
    const Tensor x = filled(b, b->dtype, b->rows, HIDDEN), y = filled(b, b->dtype, b->rows, HIDDEN),
                 z = filled(b, b->dtype, b->rows, HIDDEN);
    const Tensor w_row = filled(b, DTYPE_F32, 1, HIDDEN), w = tensor_slice_flat(&w_row, 0, HIDDEN);
    const Tensor gu = filled(b, b->dtype, b->rows, 2 * INNER), h = filled(b, b->dtype, b->rows, INNER);
    const Tensor qk = filled(b, b->dtype, b->rows, QKV), table = arena_matrix(&b->arena, DTYPE_F32, b->rows, HEAD_DIM);
    const Tensor positions = arena_vector(&b->arena, DTYPE_I32, b->rows);
    tensor_zero(b->be, &table);
    tensor_zero(b->be, &positions);
    const double hidden = (double)tensor_bytes(&x), inner = (double)tensor_bytes(&h);
    double t;
    BEST(t, rmsnorm_forward(b->be, &y, &x, &w, 1e-5f));
    report(b, "rmsnorm forward", t, 2.0 * hidden, "GB/s");
    BEST(t, rmsnorm_backward(b->be, &z, &y, &x, &w, 1e-5f, true));
    report(b, "rmsnorm backward", t, 4.0 * hidden, "GB/s");
    BEST(t, swiglu_forward(b->be, &h, &gu));
    report(b, "swiglu forward", t, 3.0 * inner, "GB/s");
    BEST(t, swiglu_backward(b->be, &gu, &h, &gu));
    report(b, "swiglu backward", t, 5.0 * inner, "GB/s");
    BEST(t, rope_apply(b->be, &qk, &table, &positions, HEADS + KV_HEADS, HEAD_DIM, false));
    report(b, "rope", t, 2.0 * (HEADS + KV_HEADS) * HEAD_DIM / QKV * (double)tensor_bytes(&qk), "GB/s");
    BEST(t, tensor_add(b->be, &z, &x, &y));
    report(b, "add", t, 3.0 * hidden, "GB/s");
    arena_release(&b->arena, mark);
}

static void bench_loss(Bench *b)
{
    const size_t mark = arena_mark(&b->arena);
    const int64_t rows = b->rows < 512 ? b->rows : 512;
    const Tensor logits = filled(b, DTYPE_F32, rows, VOCABULARY),
                 gradient = b->dtype == DTYPE_F32 ? logits : arena_matrix(&b->arena, b->dtype, rows, VOCABULARY);
    const Tensor losses = arena_vector(&b->arena, DTYPE_F32, rows), targets = arena_vector(&b->arena, DTYPE_I32, rows);
    tensor_zero(b->be, &targets);
    double t;
    Bench shown = *b;
    shown.rows = rows;
    BEST(t, cross_entropy(b->be, &losses, &gradient, &logits, &targets, 0.0f, 1.0f));
    report(&shown, "cross entropy with gradient", t,
           2.0 * (double)tensor_bytes(&logits) + (double)tensor_bytes(&gradient), "GB/s");
    arena_release(&b->arena, mark);
}

static void bench_norm(Bench *b)
{
    const size_t mark = arena_mark(&b->arena);
    const Tensor x = filled(b, DTYPE_F32, 1, 4884480);
    double t;
    BEST(t, (void)tensor_norm(b->be, &x));
    report(b, "norm of 4.9 M gradients", t, (double)tensor_bytes(&x), "GB/s");
    arena_release(&b->arena, mark);
}

int main(int argc, char **argv)
{
    const BackendOptions options = {.kind = BACKEND_CPU, .threads = argc > 1 ? atoi(argv[1]) : 0};
    const int64_t only = argc > 2 ? atoll(argv[2]) : 0;
    Bench b = {.arena = {.name = "bench"}};
    Err err = {0};
    if (!backend_open(&b.be, &options, &err) || !backend_arena_reserve(b.be, &b.arena, (size_t)900 << 20, &err)) {
        fprintf(stderr, "bench_kernels: %s\n", err.text);
        return 1;
    }
    printf("%s\n", backend_name(b.be));
    for (int d = 0; d < 2; d++) {
        b.dtype = d ? DTYPE_BF16 : DTYPE_F32;
        for (b.rows = 512; b.rows <= 2048; b.rows *= 4) {
            if (only && only != b.rows) continue;
            bench_attention(&b);
            for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
                bench_matmul(&b, &shapes[i]);
            bench_gradient(&b, "gradient of A, r 16", 16, HIDDEN);
            bench_gradient(&b, "gradient of A, r 64", 64, HIDDEN);
            bench_gradient(&b, "gradient of B, r 16", 3072, 16);
            bench_rows(&b);
            bench_loss(&b);
            bench_decode(&b);
        }
        bench_norm(&b);
    }
    backend_arena_release(b.be, &b.arena);
    backend_close(b.be);
    return 0;
}
