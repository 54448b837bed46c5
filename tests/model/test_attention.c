#include "model/attention.h"

#include "backend/tiles.h"
#include "tests/support/kernel_test.h"

enum { SEGMENTS_MAX = 48 };

/* One micro-batch: segment lengths end with 0. */
typedef struct Case {
    const char *name;
    int heads, kv_heads, head_dim;
    int lengths[SEGMENTS_MAX];
    int64_t spare; /* columns beyond the row of qkv, out and their gradients */
} Case;

/* Tiles have 32, 64 or 128 rows; kernels with vectors for 16-bit elements want strides and heads of 8. */
static const Case cases[] = {
    {"one token",                    2, 1, 16,  {1},                              0 },
    {"tokens on their own",          2, 2, 32,  {1, 1, 1, 1, 1},                  0 },
    {"grouped, odd lengths",         9, 3, 64,  {37, 1, 66, 3},                   64},
    {"one segment of 200",           2, 1, 64,  {200},                            0 },
    {"63 tokens",                    1, 1, 64,  {63},                             8 },
    {"64 tokens",                    1, 1, 64,  {64},                             0 },
    {"65 tokens, one after them",    1, 1, 64,  {65, 1},                          0 },
    {"129 tokens",                   2, 2, 64,  {129},                            2 },
    {"a segment that ends on tiles", 1, 1, 64,  {128, 128},                       0 },
    {"one segment of 300",           1, 1, 128, {300},                            0 },
    {"heads of 2",                   4, 2, 2,   {70, 3},                          0 },
    {"heads of 20",                  3, 3, 20,  {40, 71},                         2 },
    {"narrow heads",                 4, 2, 8,   {70, 71},                         2 },
    {"heads of 40",                  2, 1, 40,  {129},                            0 },
    {"heads of 72",                  2, 1, 72,  {65, 1, 30},                      0 },
    {"heads of 80",                  3, 1, 80,  {63, 70},                         16},
    {"heads of 96",                  2, 2, 96,  {33, 100},                        0 },
    {"heads of 100",                 2, 1, 100, {9, 66},                          4 },
    {"heads of 120",                 2, 2, 120, {64, 65},                         8 },
    {"heads of 128",                 2, 1, 128, {61, 70, 1},                      0 },
    {"heads of 200",                 1, 1, 200, {67},                             0 },
    {"wide heads",                   2, 1, 256, {65, 3},                          0 },
    {"a second one from row 2 on",   1, 1, 64,  {2, 160},                         0 },
    {"segments over the tiles",      2, 1, 16,  {60, 5, 127, 1, 128, 64, 32, 31}, 0 },
    {"many key heads",               6, 6, 24,  {33, 90},                         0 },
};

static int64_t rows_of(const Case *c, int32_t *starts, int *segments)
{
    *segments = 0;
    starts[0] = 0;
    for (int i = 0; i < SEGMENTS_MAX && c->lengths[i]; i++) {
        starts[i + 1] = starts[i] + c->lengths[i];
        ++*segments;
    }
    return starts[*segments];
}

/* --- the formula, step by step; stored results are rounded to `step`, running sums to `sum` --- */

typedef struct Naive {
    const Attention *at;
    int64_t n;
    DType step, sum;
    double *out, *lse, *dqkv;
} Naive;

static double dot(const Naive *x, const double *a, const double *b, int64_t n)
{
    double total = 0.0;
    for (int64_t i = 0; i < n; i++)
        total = kernel_round(total + a[i] * b[i], x->sum);
    return kernel_round(total, x->step);
}

static void add_scaled(const Naive *x, double *y, double a, const double *v, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = kernel_round(y[i] + a * v[i], x->sum);
}

static void naive_query(const Naive *x, const double *qkv, const double *dout, int64_t row, int64_t first, int h)
{
    const int H = x->at->heads, G = x->at->kv_heads, D = x->at->head_dim, g = h / (H / G);
    const int64_t width = (H + 2 * G) * D, keys = row - first + 1;
    const double *q = qkv + row * width + h * D, scale = (double)x->at->scale;
    const double *k = qkv + first * width + (H + g) * D, *v = k + G * D;
    double *p = kernel_zeros(keys), max = -INFINITY, total = 0.0;
    for (int64_t i = 0; i < keys; i++) {
        p[i] = kernel_round(scale * dot(x, q, k + i * width, D), x->step);
        max = fmax(max, p[i]);
    }
    for (int64_t i = 0; i < keys; i++)
        total = kernel_round(total + kernel_round(exp(p[i] - max), x->sum), x->sum);
    x->lse[row * H + h] = max + log(total);
    double *o = x->out + row * H * D + h * D;
    for (int64_t i = 0; i < keys; i++) {
        p[i] = kernel_round(exp(p[i] - max) / total, x->step);
        add_scaled(x, o, p[i], v + i * width, D);
    }
    for (int i = 0; i < D; i++)
        o[i] = kernel_round(o[i], x->step);
    const double *go = dout + row * H * D + h * D;
    const double delta = dot(x, go, o, D);
    double *dq = x->dqkv + row * width + h * D, *dk = x->dqkv + first * width + (H + g) * D, *dv = dk + G * D;
    for (int64_t i = 0; i < keys; i++) {
        const double ds = kernel_round(p[i] * (dot(x, go, v + i * width, D) - delta), x->step);
        add_scaled(x, dq, scale * ds, k + i * width, D);
        add_scaled(x, dk + i * width, scale * ds, q, D);
        add_scaled(x, dv + i * width, p[i], go, D);
    }
    free(p);
}

static Naive naive_run(const Attention *at, int64_t n, DType step, const double *qkv, const double *dout)
{
    const int64_t width = (at->heads + 2 * at->kv_heads) * at->head_dim, wide = at->heads * at->head_dim;
    Naive x = {.at = at, .n = n, .step = step, .sum = step == DTYPE_F64 ? DTYPE_F64 : DTYPE_F32};
    x.out = kernel_zeros(n * wide);
    x.lse = kernel_zeros(n * at->heads);
    x.dqkv = kernel_zeros(n * width);
    for (int s = 0; s < at->segments; s++) {
        for (int64_t row = at->starts[s]; row < at->starts[s + 1]; row++) {
            int64_t first = at->starts[s];
            if (at->window && row - at->window + 1 > first) first = row - at->window + 1;
            for (int h = 0; h < at->heads; h++)
                naive_query(&x, qkv, dout, row, first, h);
        }
    }
    for (int64_t i = 0; i < n * width; i++)
        x.dqkv[i] = kernel_round(x.dqkv[i], step);
    return x;
}

static void naive_free(Naive *x)
{
    free(x->out);
    free(x->lse);
    free(x->dqkv);
}

/* --- the operations on one case --- */

typedef struct Run {
    Tensor qkv, dout, out, lse, dqkv, scratch;
} Run;

static Run run_make(const Backend *be, const Case *c, int64_t n, DType dtype)
{
    const int64_t wide = c->heads * c->head_dim, width = wide + 2 * c->kv_heads * c->head_dim;
    Run r = {.qkv = kernel_random(dtype, n, width, width + c->spare, 1, 1.0f),
             .dout = kernel_random(dtype, n, wide, wide + c->spare, 2, 1.0f),
             .out = kernel_matrix(dtype, n, wide, wide + c->spare),
             .lse = kernel_matrix(DTYPE_F32, n, c->heads, c->heads + (c->spare ? 3 : 0)),
             .dqkv = kernel_matrix(dtype, n, width, width + c->spare)};
    const int64_t floats = attention_scratch(be, n, c->heads, c->kv_heads, c->head_dim);
    r.scratch = kernel_random(DTYPE_F32, 1, floats, floats, 3, NAN); /* nobody may count on zeros */
    return r;
}

static void run_both(Backend *be, const Attention *at, const Run *r)
{
    attention_forward(be, at, &r->out, &r->lse, &r->qkv, &r->scratch);
    attention_backward(be, at, &r->dqkv, &r->dout, &r->out, &r->lse, &r->qkv, &r->scratch);
}

static void run_free(const Run *r)
{
    const Tensor *all[] = {&r->qkv, &r->dout, &r->out, &r->lse, &r->dqkv, &r->scratch};
    for (size_t i = 0; i < ARRAY_COUNT(all); i++) {
        kernel_check_guards(all[i]);
        kernel_free(all[i]);
    }
}

static Attention attention_of(const Case *c, const int32_t *starts, int segments)
{
    return (Attention){.heads = c->heads,
                       .kv_heads = c->kv_heads,
                       .head_dim = c->head_dim,
                       .scale = 1.0f / sqrtf((float)c->head_dim),
                       .segments = segments,
                       .starts = starts};
}

static void check_run(Backend *be, const char *name, const Attention *at, const Run *r)
{
    run_both(be, at, r);
    double *qkv = kernel_values(&r->qkv), *dout = kernel_values(&r->dout);
    const int64_t n = r->qkv.shape[0];
    Naive exact = naive_run(at, n, DTYPE_F64, qkv, dout), plain = naive_run(at, n, r->qkv.dtype, qkv, dout);
    kernel_check_bound(name, &r->out, plain.out, exact.out, 1e-6);
    kernel_check_bound(name, &r->lse, plain.lse, exact.lse, 2e-6);
    /* With one key, dp and delta are the same sum: the plain formula cancels exactly, another order of adding does not. */
    kernel_check_bound(name, &r->dqkv, plain.dqkv, exact.dqkv, at->window == 1 ? 4e-6 : 2e-6);
    naive_free(&exact);
    naive_free(&plain);
    free(qkv);
    free(dout);
}

static void check_case(Backend *be, const Case *c, DType dtype)
{
    int32_t starts[SEGMENTS_MAX + 1];
    int segments;
    const int64_t n = rows_of(c, starts, &segments);
    const Attention at = attention_of(c, starts, segments);
    const Run r = run_make(be, c, n, dtype);
    check_run(be, c->name, &at, &r);
    run_free(&r);
}

static void both_passes_stay_within_twice_the_plain_error(void **state)
{
    (void)state;
    for (int reference = 0; reference < (QLORA_TEST_CUDA ? 1 : 2); reference++) {
        Backend *be = kernel_backend(2, reference);
        for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
            check_case(be, &cases[i], DTYPE_F32);
            check_case(be, &cases[i], DTYPE_BF16);
        }
        kernel_close(be);
    }
}

static void any_number_of_query_heads_shares_a_key_head(void **state)
{
    (void)state;
    Backend *be = kernel_backend(2, false);
    for (int group = 1; group <= 8; group++) {
        const Case c = {
            "grouped", 2 * group, 2, 16, {19, 22},
                  0
        };
        check_case(be, &c, DTYPE_F32);
        check_case(be, &c, DTYPE_BF16);
    }
    kernel_close(be);
}

static void short_segments_share_tiles(void **state)
{
    (void)state;
    Case c = {"short segments", 2, 1, 64, {0}, 0};
    for (int i = 0; i < 40; i++)
        c.lengths[i] = 1 + i * 7 % 11; /* 1, 8, 4, 11, 7, 3, 10, 6, 2, 9, 5, ... */
    c.lengths[20] = 70;
    Backend *be = kernel_backend(2, false);
    check_case(be, &c, DTYPE_F32);
    check_case(be, &c, DTYPE_BF16);
    kernel_close(be);
}

static void a_window_hides_older_keys(void **state)
{
    (void)state;
    static const int windows[] = {1, 5, 64, 90, 500};
    const Case c = {
        "window", 2, 1, 64, {50, 140},
            0
    };
    int32_t starts[SEGMENTS_MAX + 1];
    int segments;
    const int64_t n = rows_of(&c, starts, &segments);
    Attention at = attention_of(&c, starts, segments);
    Backend *be = kernel_backend(2, false);
    for (size_t i = 0; i < ARRAY_COUNT(windows); i++) {
        for (int d = 0; d < 2; d++) {
            const Run r = run_make(be, &c, n, d ? DTYPE_BF16 : DTYPE_F32);
            at.window = windows[i];
            check_run(be, c.name, &at, &r);
            run_free(&r);
        }
    }
    kernel_close(be);
}

static void empty_segments_change_nothing(void **state)
{
    (void)state;
    static const int32_t starts[] = {0, 0, 5, 5, 5, 70, 71, 71};
    const Case c = {"empty segments", 2, 1, 64, {71}, 0};
    Backend *be = kernel_backend(2, false);
    for (int d = 0; d < 2; d++) {
        const Run r = run_make(be, &c, 71, d ? DTYPE_BF16 : DTYPE_F32);
        const Attention at = attention_of(&c, starts, (int)ARRAY_COUNT(starts) - 1);
        check_run(be, c.name, &at, &r);
        run_free(&r);
    }
    kernel_close(be);
}

/* Rows that start 4 bytes into a line: nothing may be moved 16 bytes at a time, whichever tensor it is. */
static void tensors_may_start_anywhere(void **state)
{
    (void)state;
    const Case c = {
        "a tensor off its place", 2, 1, 64, {40, 27},
            8
    };
    int32_t starts[SEGMENTS_MAX + 1];
    int segments;
    const int64_t n = rows_of(&c, starts, &segments);
    const Attention at = attention_of(&c, starts, segments);
    Backend *be = kernel_backend(2, false);
    for (int which = 0; which < 4; which++) {
        for (int d = 0; d < 2; d++) {
            const Run whole = run_make(be, &c, n, d ? DTYPE_BF16 : DTYPE_F32);
            Run r = whole;
            Tensor *moved = which == 0 ? &r.qkv : which == 1 ? &r.out : which == 2 ? &r.dout : &r.dqkv;
            const Tensor from = kernel_random(moved->dtype, n, moved->stride, moved->stride, 11, 1.0f);
            *moved = tensor_slice_cols(&from, d ? 2 : 1, moved->shape[1]);
            check_run(be, c.name, &at, &r);
            kernel_check_guards(&from);
            kernel_free(&from);
            run_free(&whole);
        }
    }
    kernel_close(be);
}

static double objective(const Attention *at, int64_t n, const double *qkv, const double *dout)
{
    Naive x = naive_run(at, n, DTYPE_F64, qkv, dout);
    double sum = 0.0;
    for (int64_t i = 0; i < n * at->heads * at->head_dim; i++)
        sum += x.out[i] * dout[i];
    naive_free(&x);
    return sum;
}

/* The formula that the kernels are held against is itself the derivative of the forward pass. */
static void the_reference_gradient_is_the_central_difference(void **state)
{
    (void)state;
    const Case c = {
        "", 4, 2, 8, {5, 1, 4},
            0
    };
    int32_t starts[SEGMENTS_MAX + 1];
    int segments;
    const int64_t n = rows_of(&c, starts, &segments);
    const Attention at = attention_of(&c, starts, segments);
    const Tensor qkv_t = kernel_random(DTYPE_F32, n, 64, 64, 4, 1.0f),
                 dout_t = kernel_random(DTYPE_F32, n, 32, 32, 5, 1.0f);
    double *qkv = kernel_values(&qkv_t), *dout = kernel_values(&dout_t);
    Naive exact = naive_run(&at, n, DTYPE_F64, qkv, dout);
    for (int64_t i = 0; i < n * 64; i += 7) {
        const double keep = qkv[i], h = 1e-5;
        qkv[i] = keep + h;
        const double up = objective(&at, n, qkv, dout);
        qkv[i] = keep - h;
        const double down = objective(&at, n, qkv, dout);
        qkv[i] = keep;
        assert_true(fabs((up - down) / (2.0 * h) - exact.dqkv[i]) < 1e-7);
    }
    naive_free(&exact);
    free(qkv);
    free(dout);
    kernel_free(&qkv_t);
    kernel_free(&dout_t);
}

static void bits_depend_neither_on_the_run_nor_on_the_threads(void **state)
{
    (void)state;
    const Case *c = &cases[2]; /* grouped, odd lengths */
    int32_t starts[SEGMENTS_MAX + 1];
    int segments;
    const int64_t n = rows_of(c, starts, &segments);
    const Attention at = attention_of(c, starts, segments);
    for (int d = 0; d < 2; d++) {
        const DType dtype = d ? DTYPE_BF16 : DTYPE_F32;
        Backend *one = kernel_backend(1, false);
        const Run first = run_make(one, c, n, dtype);
        run_both(one, &at, &first);
        backend_close(one);
        for (int repeat = 0; repeat < (QLORA_TEST_CUDA ? 2 : 10); repeat++) {
            Backend *be = kernel_backend(1 + repeat % 4, false);
            const Run again = run_make(be, c, n, dtype);
            run_both(be, &at, &again);
            assert_true(kernel_equal(&first.out, &again.out) && kernel_equal(&first.lse, &again.lse));
            assert_true(kernel_equal(&first.dqkv, &again.dqkv));
            run_free(&again);
            kernel_close(be);
        }
        run_free(&first);
    }
}

/* A segment in a packed micro-batch against the same segment alone. */
static void packed_segments_equal_lone_ones_within_rounding(void **state)
{
    (void)state;
    Backend *be = kernel_backend(2, false);
    const Case packed =
                   {
                       "", 3, 1, 32, {50, 77, 130},
                           0
    },
               lone = {"", 3, 1, 32, {77}, 0};
    int32_t starts[SEGMENTS_MAX + 1], lone_starts[SEGMENTS_MAX + 1];
    int segments, one;
    const int64_t n = rows_of(&packed, starts, &segments), m = rows_of(&lone, lone_starts, &one);
    const Attention at = attention_of(&packed, starts, segments), at_lone = attention_of(&lone, lone_starts, one);
    const Run a = run_make(be, &packed, n, DTYPE_F32), b = run_make(be, &lone, m, DTYPE_F32);
    memcpy(b.qkv.data, (const float *)a.qkv.data + 50 * a.qkv.stride, (size_t)(m * a.qkv.stride) * sizeof(float));
    memcpy(b.dout.data, (const float *)a.dout.data + 50 * a.dout.stride, (size_t)(m * a.dout.stride) * sizeof(float));
    run_both(be, &at, &a);
    run_both(be, &at_lone, &b);
    for (int64_t i = 0; i < m; i++) {
        for (int64_t j = 0; j < 160; j++)
            assert_true(fabs(kernel_at(&a.dqkv, 50 + i, j) - kernel_at(&b.dqkv, i, j)) < 1e-5);
        for (int64_t j = 0; j < 96; j++)
            assert_true(fabs(kernel_at(&a.out, 50 + i, j) - kernel_at(&b.out, i, j)) < 1e-6);
    }
    run_free(&a);
    run_free(&b);
    kernel_close(be);
}

/* Decoding row by row gives what one forward pass gives. */
static void decoding_agrees_with_the_forward_pass(void **state)
{
    (void)state;
    enum { HEADS = 6, GROUPS = 2, DIM = 40, CAPACITY = 600, SEQUENCES = 3 };
    static const int32_t lengths[SEQUENCES] = {1, 257, 600};
    for (int d = 0; d < 2; d++) {
        const DType dtype = d ? DTYPE_BF16 : DTYPE_F32;
        Backend *be = kernel_backend(2, false);
        const int64_t floats = attention_scratch(be, CAPACITY, HEADS, GROUPS, DIM);
        const Tensor q = kernel_random(dtype, SEQUENCES, HEADS * DIM, HEADS * DIM + 8, 6, 1.0f);
        const Tensor out = kernel_matrix(dtype, SEQUENCES, HEADS * DIM, HEADS * DIM + 8);
        const Tensor keys = kernel_random(dtype, SEQUENCES * CAPACITY, GROUPS * DIM, GROUPS * DIM, 7, 1.0f);
        const Tensor values = kernel_random(dtype, SEQUENCES * CAPACITY, GROUPS * DIM, GROUPS * DIM, 8, 1.0f);
        const Tensor scratch = kernel_matrix(DTYPE_F32, 1, floats, floats);
        Attention at = {.heads = HEADS, .kv_heads = GROUPS, .head_dim = DIM, .scale = 0.2f};
        /* room for the parts of one sequence: the others wait for their turn */
        const Tensor tight = tensor_slice_flat(&scratch, 0, 1300);
        attention_decode(be, &at, &out, &q, &keys, &values, CAPACITY, lengths, &tight);
        for (int b = 0; b < SEQUENCES; b++) {
            const int64_t n = lengths[b], width = (HEADS + 2 * GROUPS) * DIM;
            const int32_t starts[2] = {0, lengths[b]};
            at.segments = 1;
            at.starts = starts;
            double *qkv = kernel_zeros(n * width), *dout = kernel_zeros(n * HEADS * DIM);
            for (int64_t i = 0; i < n; i++) {
                for (int64_t j = 0; j < GROUPS * DIM; j++) {
                    qkv[i * width + HEADS * DIM + j] = kernel_at(&keys, b * CAPACITY + i, j);
                    qkv[i * width + (HEADS + GROUPS) * DIM + j] = kernel_at(&values, b * CAPACITY + i, j);
                }
            }
            for (int64_t j = 0; j < HEADS * DIM; j++)
                qkv[(n - 1) * width + j] = kernel_at(&q, b, j);
            Naive exact = naive_run(&at, n, DTYPE_F64, qkv, dout);
            for (int64_t j = 0; j < HEADS * DIM; j++) {
                const double want = exact.out[(n - 1) * HEADS * DIM + j];
                assert_true(fabs(kernel_at(&out, b, j) - want) <= (d ? 0.004 * fabs(want) + 1e-6 : 1e-6));
            }
            naive_free(&exact);
            free(qkv);
            free(dout);
        }
        const Tensor *all[] = {&q, &out, &keys, &values, &scratch};
        for (size_t i = 0; i < ARRAY_COUNT(all); i++) {
            kernel_check_guards(all[i]);
            kernel_free(all[i]);
        }
        kernel_close(be);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_passes_stay_within_twice_the_plain_error),
        cmocka_unit_test(any_number_of_query_heads_shares_a_key_head),
        cmocka_unit_test(short_segments_share_tiles),
        cmocka_unit_test(a_window_hides_older_keys),
        cmocka_unit_test(empty_segments_change_nothing),
        cmocka_unit_test(tensors_may_start_anywhere),
        cmocka_unit_test(the_reference_gradient_is_the_central_difference),
        cmocka_unit_test(bits_depend_neither_on_the_run_nor_on_the_threads),
        cmocka_unit_test(packed_segments_equal_lone_ones_within_rounding),
        cmocka_unit_test(decoding_agrees_with_the_forward_pass),
    };
    return cmocka_run_group_tests_name("attention", tests, NULL, NULL);
}
