/*
 * bench_kernels.c - rates of every kernel at the shapes of a model.
 *
 *   bench_kernels [cpu|cuda[:N] [smollm2|8b [ROWS [THREADS]]]]
 *
 * Best of several runs; on a GPU one run is many launches and the wait for the last. Not a test: nothing passes or fails
 * here. Matrix products and attention print GFLOP/s (a causal pass counts half of the square), the others GB/s of what
 * they must read and write and, in percent, beside a copy of the same device.
 */
#include "backend/elementwise.h"
#include "backend/matmul.h"
#include "base/rng.h"
#include "model/attention.h"
#include "model/cross_entropy.h"
#include "model/embedding.h"
#include "model/fill.h"
#include "model/rmsnorm.h"
#include "model/rope.h"
#include "model/swiglu.h"
#include "optim/adamw.h"
#include "trainer/device.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SPARE = 64, LOSS_ROWS = 512, MEBIBYTE = 1 << 20 };

typedef struct Shapes {
    const char *name;
    int64_t hidden, inner, vocabulary, adapters; /* adapters: parameters of rank 16 on all linear modules */
    int heads, kv_heads, head_dim;
    int64_t rows[3]; /* 0: none */
    size_t arena;
} Shapes;

static const Shapes models[] = {
    {"smollm2", 576,  1536,  49152,  4884480,  9,  3, 64,  {512, 2048, 0},      (size_t)900 * MEBIBYTE },
    {"8b",      4096, 14336, 128256, 41943040, 32, 8, 128, {2048, 8192, 16384}, (size_t)8000 * MEBIBYTE},
};

typedef struct Bench {
    Backend *be;
    Arena arena;
    const Shapes *m;
    int64_t rows;
    DType dtype;
    int launches; /* of one run */
    double copy;  /* GB/s of a copy, read and written bytes */
} Bench;

static Err err;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int64_t qkv_of(const Shapes *m)
{
    return (int64_t)(m->heads + 2 * m->kv_heads) * m->head_dim;
}

static int64_t query_of(const Shapes *m)
{
    return (int64_t)m->heads * m->head_dim;
}

static void settle(const Bench *b)
{
    if (backend_sync(b->be, &err)) return;
    fprintf(stderr, "bench_kernels: %s\n", err.text);
    exit(6);
}

/* Small numbers of a fixed pattern, so that nothing overflows and no value is special. */
static Tensor filled(Bench *b, DType dtype, int64_t rows, int64_t cols)
{
    enum { PERIOD = 1 << 16 };
    static float wide[PERIOD];
    static uint16_t narrow[PERIOD];
    const Tensor t = arena_matrix(&b->arena, dtype, rows, cols);
    const RngKey key = {.seed = 1, .purpose = RNG_TEST};
    for (int i = 0; wide[0] == 0 && i < PERIOD; i++) {
        wide[i] = rng_uniform(key, (uint64_t)i) - 0.5f;
        narrow[i] = bf16_from_f32(wide[i]);
    }
    for (int64_t at = 0; at < rows * cols; at += PERIOD) {
        const int64_t n = rows * cols - at < PERIOD ? rows * cols - at : PERIOD;
        const Tensor part = tensor_slice_flat(&t, at, n);
        backend_upload(b->be, &part, dtype == DTYPE_F32 ? (const void *)wide : narrow);
    }
    return t;
}

/* Best seconds of one `body`; at least 5 runs and about half a second. */
#define BEST(b, seconds, body)                                                                                         \
    do {                                                                                                               \
        const double begin_ = now();                                                                                   \
        (seconds) = 1e9;                                                                                               \
        settle(b);                                                                                                     \
        for (int run_ = 0; run_ < 5 || now() - begin_ < 0.4; run_++) {                                                 \
            const double start_ = now();                                                                               \
            for (int launch_ = 0; launch_ < (b)->launches; launch_++) {                                                \
                body;                                                                                                  \
            }                                                                                                          \
            settle(b);                                                                                                 \
            const double took_ = (now() - start_) / (b)->launches;                                                     \
            if (took_ < (seconds)) (seconds) = took_;                                                                  \
        }                                                                                                              \
    } while (0)

static void report(const Bench *b, const char *what, double seconds, double amount, const char *unit)
{
    const double rate = amount / seconds * 1e-9;
    printf("%-28s %-4s %5ld rows %9.3f ms %9.1f %s", what, b->dtype == DTYPE_F32 ? "f32" : "bf16", (long)b->rows,
           seconds * 1e3, rate, unit);
    if (strcmp(unit, "GB/s") == 0 && b->copy > 0) printf(" %5.0f %% of copy", 100 * rate / b->copy);
    putchar('\n');
    fflush(stdout);
}

static void bench_copy(Bench *b)
{
    const size_t mark = arena_mark(&b->arena);
    const int64_t count = (int64_t)(b->arena.size / 16 / sizeof(float));
    const Tensor from = filled(b, DTYPE_F32, 1, count), to = arena_matrix(&b->arena, DTYPE_F32, 1, count);
    double t;
    BEST(b, t, tensor_copy(b->be, &to, &from));
    b->copy = 0;
    report(b, "copy", t, 2.0 * (double)tensor_bytes(&from), "GB/s");
    b->copy = 2.0 * (double)tensor_bytes(&from) / t * 1e-9;
    arena_release(&b->arena, mark);
}

typedef struct Shape {
    const char *what;
    int64_t n, k, spare_k, spare_n; /* spare columns beside k and n */
    bool transpose_b, wide_out;     /* wide: f32 out whatever the inputs */
} Shape;

static void bench_matmul(Bench *b, const Shape *s)
{
    const size_t mark = arena_mark(&b->arena);
    const bool head = s->n == b->m->vocabulary || s->k == b->m->vocabulary;
    const int64_t rows = head && b->rows > LOSS_ROWS ? LOSS_ROWS : b->rows;
    const DType to = s->wide_out ? DTYPE_F32 : b->dtype;
    const Tensor a_all = filled(b, b->dtype, rows, s->k + s->spare_k), a = tensor_slice_cols(&a_all, 0, s->k);
    const Tensor w =
        s->transpose_b ? filled(b, b->dtype, s->n, s->k + s->spare_k) : filled(b, b->dtype, s->k, s->n + s->spare_n);
    const Tensor w_used = tensor_slice_cols(&w, 0, s->transpose_b ? s->k : s->n);
    const Tensor out_all = arena_matrix(&b->arena, to, rows, s->n + s->spare_n),
                 out = tensor_slice_cols(&out_all, 0, s->n);
    const Matmul op = {.out = &out, .a = &a, .b = &w_used, .transpose_b = s->transpose_b};
    double t;
    BEST(b, t, matmul(b->be, &op));
    Bench shown = *b;
    shown.rows = rows;
    report(&shown, s->what, t, 2.0 * (double)rows * (double)s->n * (double)s->k, "GFLOP/s");
    arena_release(&b->arena, mark);
}

static void bench_products(Bench *b)
{
    const Shapes *m = b->m;
    const int64_t hidden = m->hidden, qkv = qkv_of(m), query = query_of(m), inner = m->inner, all = m->vocabulary;
    const Shape shapes[] = {
        {"qkv forward",      qkv,       hidden + SPARE,    0,     SPARE,  true,  false},
        {"qkv backward",     hidden,    qkv + SPARE,       0,     SPARE,  false, false},
        {"o forward",        hidden,    query + SPARE,     0,     SPARE,  true,  false},
        {"gate+up forward",  2 * inner, hidden + SPARE,    0,     SPARE,  true,  false},
        {"gate+up backward", hidden,    2 * inner + SPARE, 0,     SPARE,  false, false},
        {"down forward",     hidden,    inner + SPARE,     0,     SPARE,  true,  false},
        {"down backward",    inner,     hidden + SPARE,    0,     SPARE,  false, false},
        {"x A^T",            SPARE,     hidden,            SPARE, hidden, true,  false},
        {"head forward",     all,       hidden,            SPARE, 0,      true,  true },
        {"head backward",    hidden,    all,               0,     SPARE,  false, false},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        bench_matmul(b, &shapes[i]);
}

static void bench_gradient(Bench *b, const char *what, int64_t p, int64_t q)
{
    const size_t mark = arena_mark(&b->arena);
    const Tensor x = filled(b, b->dtype, b->rows, p), y = filled(b, b->dtype, b->rows, q);
    const Tensor dw = filled(b, DTYPE_F32, p, q);
    const Tensor scratch = arena_vector(&b->arena, DTYPE_F32, matmul_gradient_scratch(b->rows, p, q));
    double t;
    BEST(b, t, matmul_gradient(b->be, &dw, &x, &y, 1.0f, &scratch));
    report(b, what, t, 2.0 * (double)(b->rows * p * q), "GFLOP/s");
    arena_release(&b->arena, mark);
}

static void bench_attention(Bench *b)
{
    const size_t mark = arena_mark(&b->arena);
    const int32_t starts[2] = {0, (int32_t)b->rows};
    const Attention at = {.heads = b->m->heads,
                          .kv_heads = b->m->kv_heads,
                          .head_dim = b->m->head_dim,
                          .scale = 0.125f,
                          .segments = 1,
                          .starts = starts};
    const Tensor qkv_all = filled(b, b->dtype, b->rows, qkv_of(b->m) + SPARE),
                 qkv = tensor_slice_cols(&qkv_all, 0, qkv_of(b->m));
    const Tensor dqkv_all = filled(b, b->dtype, b->rows, qkv_of(b->m) + SPARE),
                 dqkv = tensor_slice_cols(&dqkv_all, 0, qkv_of(b->m));
    const Tensor out = filled(b, b->dtype, b->rows, query_of(b->m)),
                 dout = filled(b, b->dtype, b->rows, query_of(b->m));
    const Tensor lse = arena_matrix(&b->arena, DTYPE_F32, b->rows, at.heads);
    const Tensor scratch =
        arena_vector(&b->arena, DTYPE_F32, attention_scratch(b->be, b->rows, at.heads, at.kv_heads, at.head_dim));
    const double product = (double)b->rows * (double)b->rows * (double)query_of(b->m); /* one of them, half a square */
    double t;
    BEST(b, t, attention_forward(b->be, &at, &out, &lse, &qkv, &scratch));
    report(b, "attention forward", t, 2.0 * product, "GFLOP/s");
    BEST(b, t, attention_backward(b->be, &at, &dqkv, &dout, &out, &lse, &qkv, &scratch));
    report(b, "attention backward", t, 5.0 * product, "GFLOP/s");
    arena_release(&b->arena, mark);
}

static void bench_decode(Bench *b)
{
    const size_t mark = arena_mark(&b->arena);
    const Attention at = {
        .heads = b->m->heads, .kv_heads = b->m->kv_heads, .head_dim = b->m->head_dim, .scale = 0.125f};
    const Tensor q = filled(b, b->dtype, 1, query_of(b->m)), out = filled(b, b->dtype, 1, query_of(b->m));
    const int64_t width = (int64_t)at.kv_heads * at.head_dim;
    const Tensor keys = filled(b, b->dtype, b->rows, width), values = filled(b, b->dtype, b->rows, width);
    const Tensor scratch =
        arena_vector(&b->arena, DTYPE_F32, attention_scratch(b->be, b->rows, at.heads, at.kv_heads, at.head_dim));
    const int32_t length = (int32_t)b->rows;
    double t;
    BEST(b, t, attention_decode(b->be, &at, &out, &q, &keys, &values, b->rows, &length, &scratch));
    report(b, "attention decode, 1 query", t, 2.0 * (double)tensor_bytes(&keys), "GB/s");
    arena_release(&b->arena, mark);
}

static void bench_rows(Bench *b)
{
    const size_t mark = arena_mark(&b->arena);
    const Shapes *m = b->m;
    const int64_t turned = (int64_t)(m->heads + m->kv_heads) * m->head_dim;
    const Tensor x = filled(b, b->dtype, b->rows, m->hidden), y = filled(b, b->dtype, b->rows, m->hidden),
                 z = filled(b, b->dtype, b->rows, m->hidden), again = filled(b, b->dtype, b->rows, m->hidden);
    const Tensor w_row = filled(b, DTYPE_F32, 1, m->hidden), w = tensor_slice_flat(&w_row, 0, m->hidden);
    const Tensor gu = filled(b, b->dtype, b->rows, 2 * m->inner), h = filled(b, b->dtype, b->rows, m->inner),
                 h_again = filled(b, b->dtype, b->rows, m->inner);
    const Tensor qk = filled(b, b->dtype, b->rows, qkv_of(m)),
                 table = arena_matrix(&b->arena, DTYPE_F32, b->rows, m->head_dim);
    const Tensor positions = arena_vector(&b->arena, DTYPE_I32, b->rows);
    tensor_zero(b->be, &table);
    tensor_zero(b->be, &positions);
    const double hidden = (double)tensor_bytes(&x), inner = (double)tensor_bytes(&h);
    double t;
    BEST(b, t, rmsnorm_forward(b->be, &y, &x, &w, 1e-5f));
    report(b, "rmsnorm forward", t, 2.0 * hidden, "GB/s");
    BEST(b, t, rmsnorm_add_forward(b->be, &y, &x, &z, &w, 1e-5f));
    report(b, "sum and rmsnorm", t, 4.0 * hidden, "GB/s");
    BEST(b, t, rmsnorm_backward(b->be, &z, &again, &y, &x, &w, 1e-5f, true));
    report(b, "rmsnorm backward, y", t, 5.0 * hidden, "GB/s");
    BEST(b, t, swiglu_forward(b->be, &h, &gu));
    report(b, "swiglu forward", t, 3.0 * inner, "GB/s");
    BEST(b, t, swiglu_backward(b->be, &gu, &h_again, &h, &gu));
    report(b, "swiglu backward, y", t, 6.0 * inner, "GB/s");
    BEST(b, t, rope_apply(b->be, &qk, &table, &positions, m->heads + m->kv_heads, m->head_dim, false));
    report(b, "rope", t, 2.0 * (double)(b->rows * turned) * (double)dtype_bytes(b->dtype), "GB/s");
    BEST(b, t, tensor_add(b->be, &z, &x, &y));
    report(b, "add", t, 3.0 * hidden, "GB/s");
    arena_release(&b->arena, mark);
}

static void bench_loss(Bench *b)
{
    const size_t mark = arena_mark(&b->arena);
    const int64_t rows = b->rows < 512 ? b->rows : 512;
    const Tensor logits = filled(b, DTYPE_F32, rows, b->m->vocabulary),
                 gradient = b->dtype == DTYPE_F32 ? logits : arena_matrix(&b->arena, b->dtype, rows, b->m->vocabulary);
    const Tensor losses = arena_vector(&b->arena, DTYPE_F32, rows), targets = arena_vector(&b->arena, DTYPE_I32, rows);
    tensor_zero(b->be, &targets);
    double t;
    Bench shown = *b;
    shown.rows = rows;
    BEST(b, t, cross_entropy(b->be, &losses, &gradient, &logits, &targets, 0.0f, 1.0f));
    report(&shown, "cross entropy with gradient", t,
           2.0 * (double)tensor_bytes(&logits) + (double)tensor_bytes(&gradient), "GB/s");
    arena_release(&b->arena, mark);
}

/* A group's buffer from codes, and the update of all adapters of a model. */
static void bench_weights(Bench *b)
{
    const size_t mark = arena_mark(&b->arena);
    Fill f = {.rows = 2 * b->m->inner, .cols = b->m->hidden, .count = 2};
    QuantMatrix parts[2];
    for (int i = 0; i < 2; i++) {
        quant_place(&parts[i], &b->arena, &(QuantOptions){QUANT_NF4, 64, true}, b->m->inner, b->m->hidden);
        f.parts[i] = (FillPart){.rows = b->m->inner, .first_row = i * b->m->inner, .quant = &parts[i]};
    }
    f.buffer = arena_matrix(&b->arena, b->dtype, f.rows, f.cols);
    const double codes = 0.516 * (double)(f.rows * f.cols);
    double t;
    BEST(b, t, fill_buffers(b->be, &f, 1, true));
    Bench shown = *b;
    shown.rows = f.rows;
    report(&shown, "decode of gate and up", t, codes + (double)tensor_bytes(&f.buffer), "GB/s");
    arena_release(&b->arena, mark);
}

static void bench_optimizer(Bench *b, const char *what, bool eight_bit)
{
    const size_t mark = arena_mark(&b->arena);
    const int64_t n = b->m->adapters;
    char name[] = "all";
    Param param = {.name = name, .rows = n / 64, .cols = 64, .lr_scale = 1};
    const ParamTable table = {.items = &param, .count = 1, .total = n, .trainable = n};
    const AdamwOptions options = {
        .eight_bit = eight_bit, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .max_grad_norm = 1};
    Adamw *opt = NULL;
    if (!adamw_create(&opt, b->be, &table, &options, &err)) settle(b);
    const Tensor params = filled(b, DTYPE_F32, 1, n), grads = filled(b, DTYPE_F32, 1, n);
    const Tensor p = tensor_slice_flat(&params, 0, n), g = tensor_slice_flat(&grads, 0, n);
    double t;
    adamw_place(opt, &b->arena, &b->arena);
    if (!adamw_start(opt, &err)) settle(b);
    BEST(b, t, (void)adamw_step(opt, &p, &g, 1e-4));
    report(b, what, t, (4.0 + 4.0 + 8.0 + 2 * (eight_bit ? 2.03 : 8.0)) * (double)n, "GB/s");
    BEST(b, t, (void)tensor_norm(b->be, &g));
    report(b, "norm of the gradients", t, (double)tensor_bytes(&g), "GB/s");
    adamw_free(opt);
    arena_release(&b->arena, mark);
}

static void bench_shapes(Bench *b, int64_t only)
{
    for (size_t i = 0; i < sizeof b->m->rows / sizeof *b->m->rows; i++) {
        b->rows = b->m->rows[i];
        if (b->rows == 0 || (only && only != b->rows)) continue;
        bench_attention(b);
        bench_products(b);
        bench_gradient(b, "gradient of A, r 16", 16, b->m->hidden);
        bench_gradient(b, "gradient of A, r 64", 64, b->m->hidden);
        bench_gradient(b, "gradient of B, r 16", 2 * b->m->inner, 16);
        bench_rows(b);
        bench_loss(b);
        bench_decode(b);
    }
}

int main(int argc, char **argv)
{
    const char *device = argc > 1 ? argv[1] : "cpu", *shape = argc > 2 ? argv[2] : "smollm2";
    Bench b = {.arena = {.name = "bench"}};
    DeviceChoice choice;
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        if (strcmp(shape, models[i].name) == 0) b.m = &models[i];
    }
    if (!b.m || !device_parse(&choice, device)) {
        fprintf(stderr, "usage: bench_kernels [cpu|cuda[:N] [smollm2|8b [ROWS [THREADS]]]]\n");
        return 2;
    }
    const BackendOptions options = {.threads = argc > 4 ? atoi(argv[4]) : 0};
    if (!device_open(&b.be, &choice, &options, &err) || !backend_arena_reserve(b.be, &b.arena, b.m->arena, &err)) {
        fprintf(stderr, "bench_kernels: %s\n", err.text);
        return 1;
    }
    const bool gpu = backend_kind(b.be) == BACKEND_CUDA;
    b.launches = gpu ? 20 : 1;
    printf("%s, shapes of %s\n", backend_name(b.be), b.m->name);
    bench_copy(&b);
    for (int d = gpu && b.m->hidden > 1024 ? 1 : 0; d < 2; d++) {
        b.dtype = d ? DTYPE_BF16 : DTYPE_F32;
        bench_shapes(&b, argc > 3 ? atoll(argv[3]) : 0);
        bench_weights(&b);
    }
    b.dtype = DTYPE_F32;
    b.rows = 1;
    bench_optimizer(&b, "AdamW, 32 bits", false);
    bench_optimizer(&b, "AdamW, 8 bits", true);
    backend_arena_release(b.be, &b.arena);
    backend_close(b.be);
    return 0;
}
