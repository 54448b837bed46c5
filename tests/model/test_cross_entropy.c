#include "model/cross_entropy.h"

#include "tests/support/kernel_test.h"

static const struct Case {
    const char *name;
    int64_t rows, cols, spare;
    DType logits, gradient;
    bool in_place;
    float smoothing, span;
    int moved; /* 1: the logits, 2: the gradient starts off a multiple of 16 bytes */
} cases[] = {
    {"one class",           1,  1,      0, DTYPE_F32,  DTYPE_F32,  false, 0.0f, 1.0f,   0},
    {"odd",                 5,  37,     3, DTYPE_F32,  DTYPE_F32,  false, 0.0f, 3.0f,   0},
    {"in place, smoothed",  5,  131,    0, DTYPE_F32,  DTYPE_F32,  true,  0.1f, 3.0f,   0},
    {"far apart",           5,  500,    0, DTYPE_F32,  DTYPE_F32,  true,  0.0f, 100.0f, 0},
    {"whole vocabulary",    3,  49152,  0, DTYPE_F32,  DTYPE_BF16, false, 0.0f, 4.0f,   0},
    {"large vocabulary",    2,  128256, 0, DTYPE_F32,  DTYPE_F32,  true,  0.0f, 4.0f,   0},
    {"bf16",                4,  1000,   8, DTYPE_BF16, DTYPE_BF16, true,  0.2f, 2.0f,   0},
    {"bf16 to f32",         4,  1001,   7, DTYPE_BF16, DTYPE_F32,  false, 0.2f, 2.0f,   0},
    {"bf16, odd rows",      3,  8501,   0, DTYPE_BF16, DTYPE_BF16, true,  0.0f, 2.0f,   0},
    {"logits moved",        3,  72,     8, DTYPE_F32,  DTYPE_F32,  false, 0.1f, 2.0f,   1},
    {"gradient moved",      3,  72,     8, DTYPE_F32,  DTYPE_F32,  false, 0.1f, 2.0f,   2},
    {"bf16 logits moved",   3,  72,     8, DTYPE_BF16, DTYPE_BF16, false, 0.1f, 2.0f,   1},
    {"bf16 gradient moved", 3,  72,     8, DTYPE_BF16, DTYPE_BF16, false, 0.1f, 2.0f,   2},
    {"over 48 KiB a row",   2,  13001,  0, DTYPE_F32,  DTYPE_F32,  true,  0.0f, 4.0f,   0},
    {"a large odd end",     1,  60001,  0, DTYPE_F32,  DTYPE_F32,  true,  0.0f, 4.0f,   0},
    {"many rows",           19, 4099,   1, DTYPE_F32,  DTYPE_F32,  true,  0.1f, 2.0f,   0},
};

/* Losses and gradient of one row in f64. */
static double exact_row(double *gradient, const double *x, int64_t n, int64_t target, double smoothing, double scale)
{
    double max = -INFINITY, sum = 0.0, mean = 0.0;
    for (int64_t j = 0; j < n; j++)
        max = fmax(max, x[j]);
    for (int64_t j = 0; j < n; j++) {
        sum += exp(x[j] - max);
        mean += x[j] / (double)n;
    }
    const double lse = max + log(sum);
    for (int64_t j = 0; j < n; j++)
        gradient[j] = scale * (exp(x[j] - lse) - (1.0 - smoothing) * (j == target) - smoothing / (double)n);
    return (1.0 - smoothing) * (lse - x[target]) + smoothing * (lse - mean);
}

static void check(Backend *be, const struct Case *c)
{
    const Tensor whole = kernel_random(c->logits, c->rows, c->cols + (c->moved == 1), c->cols + c->spare, 1, c->span);
    const Tensor wholes = kernel_matrix(c->gradient, c->rows, c->cols + (c->moved == 2), c->cols + c->spare);
    const Tensor logits = kernel_moved(&whole, c->moved == 1), other = kernel_moved(&wholes, c->moved == 2),
                 *gradient = c->in_place ? &logits : &other;
    const Tensor losses_row = kernel_matrix(DTYPE_F32, 1, c->rows, c->rows),
                 targets_row = kernel_matrix(DTYPE_I32, 1, c->rows, c->rows);
    const Tensor losses = tensor_vector(losses_row.data, DTYPE_F32, c->rows),
                 targets = tensor_vector(targets_row.data, DTYPE_I32, c->rows);
    const float scale = 0.125f;
    for (int64_t i = 0; i < c->rows; i++)
        ((int32_t *)targets.data)[i] = (int32_t)(i * 7919 % c->cols);
    double *x = kernel_values(&logits), *want = kernel_zeros(c->cols);
    cross_entropy(be, &losses, NULL, &logits, &targets, c->smoothing, scale);
    kernel_settle();
    const float first_alone = ((const float *)losses.data)[0];
    cross_entropy(be, &losses, gradient, &logits, &targets, c->smoothing, scale);
    kernel_settle();
    assert_true(((const float *)losses.data)[0] == first_alone); /* with or without gradient */
    for (int64_t i = 0; i < c->rows; i++) {
        const int64_t target = i * 7919 % c->cols;
        const double loss = exact_row(want, x + i * c->cols, c->cols, target, (double)c->smoothing, (double)scale);
        const double got = (double)((const float *)losses.data)[i];
        if (!(fabs(got - loss) <= 1e-6 * (fabs(loss) + (double)c->span * 8.0)))
            fail_msg("%s: loss %.9g, not %.9g", c->name, got, loss);
        for (int64_t j = 0; j < c->cols; j++) {
            const double g = kernel_get(gradient, i, j), size = fabs(want[j]);
            const double relative = kernel_unit(c->gradient) + 4e-6 * (1.0 + (double)c->span);
            const double allowed = relative * size + 1e-7 * (double)scale + kernel_least(c->gradient);
            if (!(fabs(g - want[j]) <= allowed)) fail_msg("%s: gradient %.9g, not %.9g", c->name, g, want[j]);
        }
    }
    const Tensor *all[] = {&whole, &wholes, &losses_row, &targets_row};
    for (size_t i = 0; i < ARRAY_COUNT(all); i++) {
        kernel_check_guards(all[i]);
        kernel_free(all[i]);
    }
    free(x);
    free(want);
}

static void losses_and_gradients_are_close_to_f64(void **state)
{
    (void)state;
    Backend *be = kernel_backend(2, false);
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++)
        check(be, &cases[i]);
    kernel_close(be);
}

static void the_formula_is_the_central_difference(void **state)
{
    (void)state;
    double x[5] = {0.3, -1.0, 2.0, 0.7, -0.2}, gradient[5], ignored[5];
    exact_row(gradient, x, 5, 3, 0.1, 1.0);
    for (int j = 0; j < 5; j++) {
        const double keep = x[j], h = 1e-6;
        x[j] = keep + h;
        const double up = exact_row(ignored, x, 5, 3, 0.1, 1.0);
        x[j] = keep - h;
        const double down = exact_row(ignored, x, 5, 3, 0.1, 1.0);
        x[j] = keep;
        assert_true(fabs((up - down) / (2.0 * h) - gradient[j]) < 1e-8);
    }
}

static void a_bad_logit_anywhere_makes_the_loss_bad(void **state)
{
    (void)state;
    Backend *be = kernel_backend(2, false);
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int64_t place = 0; place < 1000; place += 37) {
        const Tensor logits = kernel_random(DTYPE_F32, 2, 1000, 1000, 1, 1.0f),
                     losses_row = kernel_matrix(DTYPE_F32, 1, 2, 2), targets_row = kernel_matrix(DTYPE_I32, 1, 2, 2);
        const Tensor losses = tensor_vector(losses_row.data, DTYPE_F32, 2),
                     targets = tensor_vector(targets_row.data, DTYPE_I32, 2);
        ((float *)logits.data)[1000 + place] = bad[place % 3];
        cross_entropy(be, &losses, NULL, &logits, &targets, 0.0f, 1.0f);
        kernel_settle();
        assert_true(isfinite(((const float *)losses.data)[0]) && !isfinite(((const float *)losses.data)[1]));
        kernel_free(&logits);
        kernel_free(&losses_row);
        kernel_free(&targets_row);
    }
    kernel_close(be);
}

/* A row's end must not look like logits of zero. */
static void logits_far_below_zero_are_like_others(void **state)
{
    (void)state;
    Backend *be = kernel_backend(2, false);
    for (int64_t cols = 33; cols <= 41; cols++) {
        const Tensor logits = kernel_random(DTYPE_F32, 1, cols, 44, 1, 1.0f),
                     losses_row = kernel_matrix(DTYPE_F32, 1, 1, 1), targets_row = kernel_matrix(DTYPE_I32, 1, 1, 1);
        const Tensor losses = tensor_vector(losses_row.data, DTYPE_F32, 1),
                     targets = tensor_vector(targets_row.data, DTYPE_I32, 1);
        for (int64_t j = 0; j < cols; j++)
            kernel_set(&logits, 0, j, kernel_at(&logits, 0, j) - 1000.0);
        double *x = kernel_values(&logits), *ignored = kernel_zeros(cols);
        cross_entropy(be, &losses, NULL, &logits, &targets, 0.0f, 1.0f);
        assert_true(fabs(kernel_at(&losses_row, 0, 0) - exact_row(ignored, x, cols, 0, 0.0, 1.0)) < 2e-4);
        kernel_free(&logits);
        kernel_free(&losses_row);
        kernel_free(&targets_row);
        free(x);
        free(ignored);
    }
    kernel_close(be);
}

/* Whichever thread meets it: e^500 is no f32, so every sum must be taken from the largest of all. */
static void one_large_logit_anywhere_is_the_maximum(void **state)
{
    (void)state;
    static const int places[] = {0, 3, 127, 128, 2049, 3967, 3968, 4095, 4096, 5000, 5002};
    enum { COLS = 5003 };
    Backend *be = kernel_backend(2, false);
    for (size_t k = 0; k < 2 * ARRAY_COUNT(places); k++) {
        const int place = places[k / 2];
        const Tensor logits = kernel_matrix(k % 2 ? DTYPE_BF16 : DTYPE_F32, 1, COLS, COLS + 1),
                     losses_row = kernel_matrix(DTYPE_F32, 1, 1, 1), targets_row = kernel_matrix(DTYPE_I32, 1, 1, 1);
        const Tensor losses = tensor_vector(losses_row.data, DTYPE_F32, 1),
                     targets = tensor_vector(targets_row.data, DTYPE_I32, 1);
        ((int32_t *)targets.data)[0] = 200;
        kernel_put(&logits, 0, place, 500.0);
        cross_entropy(be, &losses, &logits, &logits, &targets, 0.0f, 1.0f);
        kernel_settle();
        assert_true(fabs((double)*(const float *)losses.data - 500.0) < 1e-3);
        for (int j = 0; j < COLS; j++)
            assert_true(kernel_get(&logits, 0, j) == (j == place ? 1.0 : j == 200 ? -1.0 : 0.0));
        kernel_free(&logits);
        kernel_free(&losses_row);
        kernel_free(&targets_row);
    }
    kernel_close(be);
}

static void loss_of_target(int target)
{
    Backend *be = kernel_backend(1, false);
    const Tensor logits = kernel_random(DTYPE_F32, 2, 40, 40, 1, 1.0f), losses_row = kernel_matrix(DTYPE_F32, 1, 2, 2),
                 targets_row = kernel_matrix(DTYPE_I32, 1, 2, 2);
    const Tensor losses = tensor_vector(losses_row.data, DTYPE_F32, 2),
                 targets = tensor_vector(targets_row.data, DTYPE_I32, 2);
    ((int32_t *)targets.data)[0] = target;
    cross_entropy(be, &losses, NULL, &logits, &targets, 0.0f, 1.0f);
    kernel_settle();
}

static void a_target_outside_of_the_vocabulary_is_noticed(void **state)
{
    (void)state;
    kernel_expect_trap(loss_of_target, 40);
    kernel_expect_trap(loss_of_target, -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(losses_and_gradients_are_close_to_f64),
        cmocka_unit_test(the_formula_is_the_central_difference),
        cmocka_unit_test(a_bad_logit_anywhere_makes_the_loss_bad),
        cmocka_unit_test(logits_far_below_zero_are_like_others),
        cmocka_unit_test(one_large_logit_anywhere_is_the_maximum),
        cmocka_unit_test(a_target_outside_of_the_vocabulary_is_noticed),
    };
    return cmocka_run_group_tests_name("cross_entropy", tests, NULL, NULL);
}
