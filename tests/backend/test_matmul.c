#include "backend/matmul.h"

#include "base/mem.h"
#include "tests/support/kernel_test.h"

static const struct Case {
    const char *name;
    int64_t m, n, k;
    bool transpose_a, transpose_b, accumulate;
    float alpha;
    int64_t spare; /* columns beyond the rows of all three */
} cases[] = {
    {"one by one",               1,  1,   1,    false, false, false, 0.0f,  0 },
    {"odd sizes",                37, 130, 33,   false, false, false, 0.0f,  3 },
    {"whole tiles",              64, 128, 96,   false, false, false, 1.0f,  0 },
    {"tiles, weight as it lies", 96, 160, 320,  false, true,  false, 0.0f,  64},
    {"tiles and a rest",         77, 83,  128,  false, true,  false, 0.5f,  2 },
    {"rest without transposing", 45, 70,  64,   false, false, false, -2.0f, 2 },
    {"adding up",                70, 65,  96,   false, true,  true,  0.25f, 4 },
    {"one row",                  1,  960, 640,  false, true,  false, 0.0f,  64},
    {"three rows",               3,  77,  100,  false, true,  true,  3.0f,  2 },
    {"weight gradient",          16, 192, 300,  true,  false, true,  0.5f,  8 },
    {"both transposed",          20, 33,  50,   true,  true,  false, 0.0f,  1 },
    {"deep",                     40, 48,  3136, false, false, false, 0.0f,  64},
};

typedef struct Run {
    Tensor a, b, out;
    Matmul op;
} Run;

static void run_make(Run *r, const struct Case *c, DType in, DType to)
{
    const int64_t a_rows = c->transpose_a ? c->k : c->m, a_cols = c->transpose_a ? c->m : c->k;
    const int64_t b_rows = c->transpose_b ? c->n : c->k, b_cols = c->transpose_b ? c->k : c->n;
    r->a = kernel_random(in, a_rows, a_cols, a_cols + c->spare, 1, 1.0f);
    r->b = kernel_random(in, b_rows, b_cols, b_cols + c->spare, 2, 1.0f);
    r->out = kernel_random(to, c->m, c->n, c->n + c->spare, 3, 1.0f);
    r->op = (Matmul){.out = &r->out,
                     .a = &r->a,
                     .b = &r->b,
                     .transpose_a = c->transpose_a,
                     .transpose_b = c->transpose_b,
                     .accumulate = c->accumulate && to == DTYPE_F32,
                     .alpha = c->alpha};
}

static void run_free(const Run *r)
{
    const Tensor *all[] = {&r->a, &r->b, &r->out};
    for (size_t i = 0; i < ARRAY_COUNT(all); i++) {
        kernel_check_guards(all[i]);
        kernel_free(all[i]);
    }
}

/* In f64 for dtype F64; otherwise sums rounded at each step to f32, the result to `dtype`. */
static double *naive(const Run *r, const struct Case *c, DType dtype)
{
    double *out = kernel_values(&r->out);
    const DType sum_type = dtype == DTYPE_F64 ? DTYPE_F64 : DTYPE_F32;
    const double alpha = c->alpha == 0.0f ? 1.0 : (double)c->alpha;
    double *a = kernel_values(&r->a), *b = kernel_values(&r->b);
    const int64_t a_row = c->transpose_a ? 1 : c->k, a_step = c->transpose_a ? c->m : 1;
    const int64_t b_column = c->transpose_b ? c->k : 1, b_step = c->transpose_b ? 1 : c->n;
    for (int64_t i = 0; i < c->m; i++) {
        for (int64_t j = 0; j < c->n; j++) {
            double sum = 0.0;
            for (int64_t k = 0; k < c->k; k++)
                sum = kernel_round(sum + a[i * a_row + k * a_step] * b[j * b_column + k * b_step], sum_type);
            const double before = r->op.accumulate ? out[i * c->n + j] : 0.0;
            out[i * c->n + j] = kernel_round(before + kernel_round(alpha * sum, sum_type), dtype);
        }
    }
    free(a);
    free(b);
    return out;
}

static void check_case(Backend *be, const struct Case *c, DType in, DType to)
{
    Run r;
    run_make(&r, c, in, to);
    double *exact = naive(&r, c, DTYPE_F64), *plain = naive(&r, c, to);
    matmul(be, &r.op);
    kernel_check_bound(c->name, &r.out, plain, exact, 1e-6 * sqrt((double)c->k));
    free(exact);
    free(plain);
    run_free(&r);
}

static void products_stay_within_twice_the_plain_error(void **state)
{
    (void)state;
    for (int reference = 0; reference < 2; reference++) {
        Backend *be = kernel_backend(2, reference);
        for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
            check_case(be, &cases[i], DTYPE_F32, DTYPE_F32);
            check_case(be, &cases[i], DTYPE_BF16, DTYPE_F32);
            check_case(be, &cases[i], DTYPE_BF16, DTYPE_BF16);
        }
        kernel_close(be);
    }
}

/* Rows of a product alone and among others, also with another number of threads: the same bits. */
static void rows_and_threads_leave_the_bits_alone(void **state)
{
    (void)state;
    struct Case whole = {"whole", 300, 200, 640, false, true, false, 0.0f, 64};
    for (int d = 0; d < 2; d++) {
        const DType dtype = d ? DTYPE_BF16 : DTYPE_F32;
        Backend *two = kernel_backend(2, false);
        Run r;
        run_make(&r, &whole, dtype, dtype);
        matmul(two, &r.op);
        kernel_settle(); /* while `two` is the current one */
        for (int repeat = 0; repeat < 10; repeat++) {
            Backend *be = kernel_backend(1 + repeat % 3, false);
            Run again;
            run_make(&again, &whole, dtype, dtype);
            matmul(be, &again.op);
            assert_true(kernel_equal(&r.out, &again.out));
            /* f32: the library's own promise ends with the thread count; cuBLAS chooses kernels by shape */
            if (!QLORA_TEST_CUDA && (d == 1 || repeat == 0)) {
                const Tensor a = tensor_slice_rows(&again.a, 100, 60 + repeat),
                             out = tensor_slice_rows(&again.out, 100, 60 + repeat);
                const Matmul part = {.out = &out, .a = &a, .b = &again.b, .transpose_b = true};
                matmul(be, &part);
                const Tensor want = tensor_slice_rows(&r.out, 100, 60 + repeat);
                assert_true(kernel_equal(&want, &out));
            }
            run_free(&again);
            kernel_close(be);
        }
        run_free(&r);
        backend_close(two);
    }
}

static void check_gradient(DType dtype, int64_t n, int64_t p, int64_t q)
{
    const Tensor a = kernel_random(dtype, n, p, p + 2, 4, 1.0f), b = kernel_random(dtype, n, q, q + 4, 5, 1.0f);
    const int64_t floats = matmul_gradient_scratch(n, p, q);
    /* The CPU adds chunks of 512 rows; a library that adds all rows in turn drifts with their number. */
    const double bound = 2e-6 * sqrt((double)n) + (QLORA_TEST_CUDA ? 4e-8 * (double)n : 0.0) + 2e-6;
    Tensor first = {0};
    for (int repeat = 0; repeat < 10; repeat++) {
        Backend *be = kernel_backend(1 + repeat % 4, false);
        const Tensor dw = kernel_random(DTYPE_F32, p, q, q, 6, 1.0f),
                     scratch = kernel_random(DTYPE_F32, 1, floats, floats, 7, 1e9f);
        double *exact = kernel_values(&dw);
        matmul_gradient(be, &dw, &a, &b, 0.5f, &scratch);
        for (int64_t i = 0; i < p && repeat == 0; i++) {
            for (int64_t j = 0; j < q; j++) {
                double sum = 0.0;
                for (int64_t k = 0; k < n; k++)
                    sum += kernel_at(&a, k, i) * kernel_at(&b, k, j);
                const double error = fabs(kernel_at(&dw, i, j) - (exact[i * q + j] + 0.5 * sum));
                if (!(error < bound)) fail_msg("%lld rows: error %g, allowed %g", (long long)n, error, bound);
            }
        }
        free(exact);
        kernel_check_guards(&dw);
        kernel_check_guards(&scratch);
        kernel_free(&scratch);
        if (repeat == 0) {
            first = dw;
        } else {
            assert_true(kernel_equal(&first, &dw));
            kernel_free(&dw);
        }
        kernel_close(be);
    }
    kernel_free(&first);
    kernel_free(&a);
    kernel_free(&b);
}

static void weight_gradients_do_not_depend_on_the_threads(void **state)
{
    (void)state;
    for (int d = 0; d < 2; d++) {
        const DType dtype = d ? DTYPE_BF16 : DTYPE_F32;
        check_gradient(dtype, 1, 4, 5);
        check_gradient(dtype, 511, 16, 576);
        check_gradient(dtype, 1100, 16, 65);
        check_gradient(dtype, 1300, 600, 8);
    }
}

/* The number of rows changes with every micro-batch; so may widths, beyond what the table of primitives holds. */
static void many_shapes_pass_through_one_backend(void **state)
{
    (void)state;
    Backend *be = kernel_backend(2, false);
    for (int64_t n = 1; n < 150; n++) {
        const struct Case c = {"many", 1 + n % 40, n, 1 + n % 7, false, n % 2 == 0, false, 0.0f, 0};
        check_case(be, &c, DTYPE_F32, DTYPE_F32);
    }
    kernel_close(be);
}

/* Widths as in a model, rows as they come: the first micro-batch takes what all need. */
static void nothing_is_allocated_once_each_width_was_seen(void **state)
{
    (void)state;
    for (int reference = 0; reference < 2; reference++) {
        Backend *be = kernel_backend(2, reference);
        uint64_t after_first = 0;
        for (int64_t m = 40; m > 0; m -= 3) {
            for (int k = 0; k < 3; k++) {
                const struct Case forward = {"", m, 96, 64, false, true, false, 0.0f, 0},
                                  gradient = {"", 16, 64, m, true, false, true, 0.5f, 0};
                check_case(be, &forward, k ? DTYPE_BF16 : DTYPE_F32, k == 2 ? DTYPE_BF16 : DTYPE_F32);
                check_case(be, &gradient, k ? DTYPE_BF16 : DTYPE_F32, k == 2 ? DTYPE_BF16 : DTYPE_F32);
            }
            if (m == 40) after_first = mem_alloc_count();
        }
        assert_int_equal(mem_alloc_count(), after_first);
        kernel_close(be);
    }
}

static void an_empty_sum_is_zero_or_nothing(void **state)
{
    (void)state;
    Backend *be = kernel_backend(1, false);
    const Tensor a = kernel_matrix(DTYPE_F32, 3, 0, 1), b = kernel_matrix(DTYPE_F32, 0, 4, 4);
    const Tensor out = kernel_random(DTYPE_F32, 3, 4, 4, 1, 1.0f);
    Matmul op = {.out = &out, .a = &a, .b = &b, .accumulate = true};
    const double keep = kernel_at(&out, 2, 3);
    matmul(be, &op);
    assert_true(kernel_at(&out, 2, 3) == keep);
    op.accumulate = false;
    matmul(be, &op);
    assert_true(kernel_at(&out, 2, 3) == 0.0);
    kernel_free(&a);
    kernel_free(&b);
    kernel_free(&out);
    kernel_close(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_stay_within_twice_the_plain_error),
        cmocka_unit_test(rows_and_threads_leave_the_bits_alone),
        cmocka_unit_test(weight_gradients_do_not_depend_on_the_threads),
        cmocka_unit_test(many_shapes_pass_through_one_backend),
        cmocka_unit_test(nothing_is_allocated_once_each_width_was_seen),
        cmocka_unit_test(an_empty_sum_is_zero_or_nothing),
    };
    return cmocka_run_group_tests_name("matmul", tests, NULL, NULL);
}
