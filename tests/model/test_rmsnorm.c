#include "model/rmsnorm.h"

#include "backend/elementwise.h"
#include "tests/support/kernel_test.h"

enum { X = 1, DY, OUT, GAIN, AGAIN };

static const struct Case {
    const char *name;
    int64_t rows, cols, spare;
    float span;
    DType dtype, gain;
    int moved; /* which tensor starts off a multiple of 16 bytes */
} cases[] = {
    {"one element",                    1,   1,     0,  1.0f,  DTYPE_F32,  DTYPE_F32,  0    },
    {"odd width",                      3,   37,    5,  1.0f,  DTYPE_F32,  DTYPE_F32,  0    },
    {"model width",                    70,  576,   64, 1.0f,  DTYPE_F32,  DTYPE_F32,  0    },
    {"large values",                   3,   64,    0,  1e15f, DTYPE_F32,  DTYPE_F32,  0    },
    {"tiny values",                    3,   64,    0,  1e-4f, DTYPE_F32,  DTYPE_F32,  0    },
    {"bf16",                           70,  576,   64, 1.0f,  DTYPE_BF16, DTYPE_BF16, 0    },
    {"bf16 with f32 gain",             5,   100,   0,  3.0f,  DTYPE_BF16, DTYPE_F32,  0    },
    {"many narrow rows",               150, 12,    1,  1.0f,  DTYPE_F32,  DTYPE_F32,  0    },
    {"many wide rows",                 40,  2052,  4,  1.0f,  DTYPE_F32,  DTYPE_F32,  0    },
    {"wide, odd",                      3,   1155,  2,  1.0f,  DTYPE_BF16, DTYPE_BF16, 0    },
    {"what a launch has by itself",    1,   12288, 0,  1.0f,  DTYPE_BF16, DTYPE_F32,  0    },
    {"the same in f32",                2,   6144,  0,  1.0f,  DTYPE_F32,  DTYPE_F32,  0    },
    {"wider than shared memory holds", 1,   61446, 2,  1.0f,  DTYPE_F32,  DTYPE_F32,  0    },
    {"x moved",                        3,   40,    8,  1.0f,  DTYPE_F32,  DTYPE_F32,  X    },
    {"dy moved",                       3,   40,    8,  1.0f,  DTYPE_F32,  DTYPE_F32,  DY   },
    {"out moved",                      3,   40,    8,  1.0f,  DTYPE_F32,  DTYPE_F32,  OUT  },
    {"gain moved",                     3,   40,    8,  1.0f,  DTYPE_F32,  DTYPE_F32,  GAIN },
    {"x moved, bf16",                  3,   40,    8,  1.0f,  DTYPE_BF16, DTYPE_BF16, X    },
    {"dy moved, bf16",                 3,   40,    8,  1.0f,  DTYPE_BF16, DTYPE_BF16, DY   },
    {"out moved, bf16",                3,   40,    8,  1.0f,  DTYPE_BF16, DTYPE_BF16, OUT  },
    {"gain moved, bf16",               3,   40,    8,  1.0f,  DTYPE_BF16, DTYPE_BF16, GAIN },
    {"y or sum moved",                 3,   40,    8,  1.0f,  DTYPE_F32,  DTYPE_F32,  AGAIN},
    {"y or sum moved, bf16",           3,   40,    8,  1.0f,  DTYPE_BF16, DTYPE_BF16, AGAIN},
};

enum { FORWARD, BACKWARD, ACCUMULATED, RESULTS };

/* The formulas; stored results are rounded to `step`, statistics to f32 unless all is f64. */
static double *naive(const struct Case *c, DType step, const double *x, const double *w, const double *dy,
                     const double *before, int result)
{
    const double eps = (double)1e-5f;
    double *out = kernel_zeros(c->rows * c->cols);
    for (int64_t i = 0; i < c->rows; i++) {
        double square = 0.0, dot = 0.0;
        for (int64_t j = 0; j < c->cols; j++) {
            const int64_t at = i * c->cols + j;
            square = kernel_round(square + x[at] * x[at], step == DTYPE_F64 ? DTYPE_F64 : DTYPE_F32);
            dot = kernel_round(dot + dy[at] * w[j] * x[at], step == DTYPE_F64 ? DTYPE_F64 : DTYPE_F32);
        }
        const double r = 1.0 / sqrt(square / (double)c->cols + eps);
        for (int64_t j = 0; j < c->cols; j++) {
            const int64_t at = i * c->cols + j;
            const double g = kernel_round(dy[at] * w[j], step);
            double value = kernel_round(x[at] * r, step) * w[j];
            if (result != FORWARD) value = r * (g - kernel_round(x[at] * r, step) * r * (dot / (double)c->cols));
            if (result == ACCUMULATED) value = kernel_round(value, step) + before[at];
            out[at] = kernel_round(value, step);
        }
    }
    return out;
}

static void check_result(Backend *be, const struct Case *c, int result)
{
    const int64_t stride = c->cols + c->spare;
    const int64_t width[] = {c->cols, c->cols + (c->moved == X), c->cols + (c->moved == DY),
                             c->cols + (c->moved == OUT), c->cols + (c->moved == GAIN)};
    const Tensor xs = kernel_random(c->dtype, c->rows, width[X], stride, 1, c->span),
                 dys = kernel_random(c->dtype, c->rows, width[DY], stride, 2, 1.0f);
    const Tensor outs = kernel_random(c->dtype, c->rows, width[OUT], stride, 3, 1.0f),
                 gains = kernel_random(c->gain, 1, width[GAIN], width[GAIN], 4, 1.0f);
    const Tensor x = kernel_moved(&xs, c->moved == X), dy = kernel_moved(&dys, c->moved == DY),
                 out = kernel_moved(&outs, c->moved == OUT), gain = kernel_moved(&gains, c->moved == GAIN);
    const Tensor w = tensor_vector(gain.data, gain.dtype, c->cols);
    double *values[] = {kernel_values(&x), kernel_values(&gain), kernel_values(&dy), kernel_values(&out)};
    double *exact = naive(c, DTYPE_F64, values[0], values[1], values[2], values[3], result);
    double *plain = naive(c, c->dtype, values[0], values[1], values[2], values[3], result);
    if (result == FORWARD) {
        rmsnorm_forward(be, &out, &x, &w, 1e-5f);
    } else {
        rmsnorm_backward(be, &out, NULL, &dy, &x, &w, 1e-5f, result == ACCUMULATED);
    }
    kernel_check_bound(c->name, &out, plain, exact,
                       result == FORWARD ? 1e-6 : 1e-6 / fmin(1.0, (double)c->span) / 0.01);
    const Tensor *all[] = {&xs, &dys, &outs, &gains};
    for (size_t i = 0; i < ARRAY_COUNT(all); i++) {
        kernel_check_guards(all[i]);
        kernel_free(all[i]);
        free(values[i]);
    }
    free(exact);
    free(plain);
}

static void results_stay_within_twice_the_plain_error(void **state)
{
    (void)state;
    Backend *be = kernel_backend(2, false);
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        for (int result = 0; result < RESULTS; result++)
            check_result(be, &cases[i], result);
    }
    kernel_close(be);
}

/* The sum and the norm after it, and what backward gives once more: the bits of one operation after the other. */
static void check_joined(Backend *be, const struct Case *c)
{
    const int64_t stride = c->cols + c->spare, moved = c->cols + (c->moved == AGAIN);
    const Tensor x = kernel_random(c->dtype, c->rows, c->cols, stride, 1, c->span),
                 adds = kernel_random(c->dtype, c->rows, moved, stride + 8, 2, c->span);
    const Tensor gain = kernel_random(c->gain, 1, c->cols, c->cols, 4, 1.0f),
                 y = kernel_matrix(c->dtype, c->rows, c->cols, stride),
                 dx = kernel_matrix(c->dtype, c->rows, c->cols, stride);
    const Tensor joined = kernel_matrix(c->dtype, c->rows, c->cols, stride),
                 sum = kernel_matrix(c->dtype, c->rows, c->cols, stride);
    const Tensor agains = kernel_matrix(c->dtype, c->rows, moved, stride + 8);
    const Tensor add = kernel_moved(&adds, c->moved == AGAIN), again = kernel_moved(&agains, c->moved == AGAIN);
    const Tensor w = tensor_vector(gain.data, gain.dtype, c->cols);
    tensor_copy(be, &sum, &x);
    rmsnorm_add_forward(be, &joined, &sum, &add, &w, 1e-5f);
    tensor_add(be, &x, &x, &add);
    rmsnorm_forward(be, &y, &x, &w, 1e-5f);
    rmsnorm_backward(be, &dx, &again, &joined, &x, &w, 1e-5f, false);
    kernel_settle();
    if (!kernel_equal(&sum, &x) || !kernel_equal(&joined, &y) || !kernel_equal(&again, &y)) fail_msg("%s", c->name);
    const Tensor *all[] = {&x, &adds, &gain, &y, &dx, &joined, &sum, &agains};
    for (size_t i = 0; i < ARRAY_COUNT(all); i++) {
        kernel_check_guards(all[i]);
        kernel_free(all[i]);
    }
}

static void joined_passes_give_the_bits_of_single_ones(void **state)
{
    (void)state;
    Backend *be = kernel_backend(2, false);
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++)
        check_joined(be, &cases[i]);
    kernel_close(be);
}

/* bf16: x * r is rounded before the gain, as transformers does it. */
static void bf16_rounds_before_the_gain(void **state)
{
    (void)state;
    Backend *be = kernel_backend(1, false);
    const Tensor x = kernel_random(DTYPE_BF16, 1, 64, 64, 1, 1.0f), y = kernel_matrix(DTYPE_BF16, 1, 64, 64),
                 gain = kernel_random(DTYPE_BF16, 1, 64, 64, 2, 1.0f);
    const Tensor w = tensor_vector(gain.data, gain.dtype, 64);
    rmsnorm_forward(be, &y, &x, &w, 1e-5f);
    double square = 0.0;
    for (int j = 0; j < 64; j++)
        square += kernel_at(&x, 0, j) * kernel_at(&x, 0, j);
    const double r = 1.0 / sqrt(square / 64.0 + 1e-5);
    for (int j = 0; j < 64; j++) {
        const double unit = kernel_round(kernel_at(&x, 0, j) * r, DTYPE_BF16);
        assert_true(kernel_at(&y, 0, j) == kernel_round(unit * kernel_at(&gain, 0, j), DTYPE_BF16));
    }
    kernel_free(&x);
    kernel_free(&y);
    kernel_free(&gain);
    kernel_close(be);
}

static void the_gradient_is_the_central_difference(void **state)
{
    (void)state;
    const struct Case c = {"", 2, 9, 0, 1.0f, DTYPE_F64, DTYPE_F64, 0};
    double x[18], w[9], dy[18], none[18] = {0};
    for (int i = 0; i < 18; i++) {
        x[i] = sin(3.0 * i + 1.0);
        dy[i] = cos(5.0 * i);
        w[i % 9] = 1.0 + 0.1 * i;
    }
    double *dx = naive(&c, DTYPE_F64, x, w, dy, none, BACKWARD);
    for (int i = 0; i < 18; i++) {
        double value[2];
        for (int side = 0; side < 2; side++) {
            const double keep = x[i];
            x[i] += side ? -1e-6 : 1e-6;
            double *y = naive(&c, DTYPE_F64, x, w, dy, none, FORWARD);
            value[side] = 0.0;
            for (int k = 0; k < 18; k++)
                value[side] += y[k] * dy[k];
            free(y);
            x[i] = keep;
        }
        assert_true(fabs((value[0] - value[1]) / 2e-6 - dx[i]) < 1e-7);
    }
    free(dx);
}

static void bits_depend_neither_on_the_run_nor_on_the_threads(void **state)
{
    (void)state;
    const Tensor x = kernel_random(DTYPE_F32, 200, 576, 576, 1, 1.0f),
                 gain = kernel_random(DTYPE_F32, 1, 576, 576, 2, 1.0f);
    const Tensor w = tensor_vector(gain.data, DTYPE_F32, 576), first = kernel_matrix(DTYPE_F32, 200, 576, 576),
                 y = kernel_matrix(DTYPE_F32, 200, 576, 576);
    for (int repeat = 0; repeat < 10; repeat++) {
        Backend *be = kernel_backend(1 + repeat % 3, false);
        rmsnorm_forward(be, repeat ? &y : &first, &x, &w, 1e-5f);
        assert_true(repeat == 0 || kernel_equal(&first, &y));
        kernel_close(be);
    }
    const Tensor *all[] = {&x, &gain, &first, &y};
    for (size_t i = 0; i < ARRAY_COUNT(all); i++)
        kernel_free(all[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(results_stay_within_twice_the_plain_error),
        cmocka_unit_test(joined_passes_give_the_bits_of_single_ones),
        cmocka_unit_test(bf16_rounds_before_the_gain),
        cmocka_unit_test(the_gradient_is_the_central_difference),
        cmocka_unit_test(bits_depend_neither_on_the_run_nor_on_the_threads),
    };
    return cmocka_run_group_tests_name("rmsnorm", tests, NULL, NULL);
}
