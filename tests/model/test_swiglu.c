#include "model/swiglu.h"

#include "tests/support/kernel_test.h"

static double sigmoid(double x)
{
    return 1.0 / (1.0 + exp(-x));
}

static double forward_exact(double gate, double up)
{
    return gate * sigmoid(gate) * up;
}

static void backward_exact(double *dgate, double *dup, double dy, double gate, double up)
{
    const double s = sigmoid(gate);
    *dgate = dy * up * (s + gate * s * (1.0 - s));
    *dup = dy * gate * s;
}

static void check(Backend *be, DType t, int64_t rows, int64_t width, int64_t spare, bool in_place)
{
    const Tensor gu = kernel_random(t, rows, 2 * width, 2 * width + spare, 1, 3.0f),
                 dy = kernel_random(t, rows, width, width + spare, 2, 1.0f);
    const Tensor y = kernel_matrix(t, rows, width, width + spare), again = kernel_matrix(t, rows, width, width + spare),
                 dgu = kernel_matrix(t, rows, 2 * width, 2 * width + spare);
    /* half of the last place; f32 has some roundings inside */
    const double half = t == DTYPE_F32 ? 0x1p-22 : kernel_unit(t);
    const double least = 1e-30 + kernel_least(t);
    double *in = kernel_values(&gu);
    swiglu_forward(be, &y, &gu);
    swiglu_backward(be, in_place ? &gu : &dgu, &again, &dy, &gu);
    kernel_settle();
    assert_true(kernel_equal(&again, &y));
    const Tensor *got = in_place ? &gu : &dgu;
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < width; j++) {
            const double gate = in[i * 2 * width + j], up = in[i * 2 * width + width + j];
            double dgate, dup;
            backward_exact(&dgate, &dup, kernel_get(&dy, i, j), gate, up);
            const double want = forward_exact(gate, up);
            assert_true(fabs(kernel_get(&y, i, j) - want) <= 1.01 * half * fabs(want) + least);
            assert_true(fabs(kernel_get(got, i, width + j) - dup) <= 1.01 * half * fabs(dup) + least);
            /* 1 - s is a difference, and the slope passes through zero: what the plain formula loses there */
            const double scale = fabs(kernel_get(&dy, i, j) * up) * 1.1;
            assert_true(fabs(kernel_get(got, i, j) - dgate) <=
                        1.01 * half * fabs(dgate) + 2e-7 * (1.0 + fabs(gate)) * scale + least);
        }
    }
    const Tensor *all[] = {&gu, &dy, &y, &again, &dgu};
    for (size_t i = 0; i < ARRAY_COUNT(all); i++) {
        kernel_check_guards(all[i]);
        kernel_free(all[i]);
    }
    free(in);
}

static void both_passes_are_rounded_formulas(void **state)
{
    (void)state;
    Backend *be = kernel_backend(2, false);
    for (int k = 0; k < 4; k++) {
        const DType t = k % 2 ? DTYPE_BF16 : DTYPE_F32;
        check(be, t, 1, 1, 0, k / 2);
        check(be, t, 3, 37, 6, k / 2);
        check(be, t, 40, 1536, 64, k / 2);
    }
    kernel_close(be);
}

/* Each tensor in turn starts off a multiple of 16 bytes; 71: gate alone does, up then starts on one. */
static void any_tensor_may_start_anywhere(void **state)
{
    (void)state;
    enum { ROWS = 5, GU, Y, DY, DGU, AGAIN, TENSORS = 5 };
    Backend *be = kernel_backend(2, false);
    for (int k = 0; k < (TENSORS + 1) * 2 * 2; k++) {
        const DType t = k % 2 ? DTYPE_BF16 : DTYPE_F32;
        const int64_t width = k / 2 % 2 ? 71 : 64, stride = 2 * width + (k / 2 % 2 ? 10 : 8);
        const int moved = k / 4 + GU - 1;
        const Tensor whole[] = {kernel_random(t, ROWS, 2 * width + (moved == GU), stride, 1, 2.0f),
                                kernel_matrix(t, ROWS, width + (moved == Y), 80),
                                kernel_random(t, ROWS, width + (moved == DY), 80, 2, 1.0f),
                                kernel_matrix(t, ROWS, 2 * width + (moved == DGU), stride),
                                kernel_matrix(t, ROWS, width + (moved == AGAIN), 80)};
        Tensor part[TENSORS];
        for (int i = 0; i < TENSORS; i++)
            part[i] = kernel_moved(&whole[i], moved == GU + i);
        swiglu_forward(be, &part[1], &part[0]);
        swiglu_backward(be, &part[3], k % 3 ? &part[4] : NULL, &part[2], &part[0]);
        kernel_settle();
        assert_true(k % 3 == 0 || kernel_equal(&part[4], &part[1]));
        const double unit = t == DTYPE_F32 ? 0x1p-20 : 1.01 * kernel_unit(t), least = 1e-6 + kernel_least(t);
        for (int64_t i = 0; i < ROWS; i++) {
            for (int64_t j = 0; j < width; j++) {
                double dgate, dup;
                const double gate = kernel_get(&part[0], i, j), up = kernel_get(&part[0], i, width + j);
                const double want = forward_exact(gate, up);
                backward_exact(&dgate, &dup, kernel_get(&part[2], i, j), gate, up);
                assert_true(fabs(kernel_get(&part[1], i, j) - want) <= unit * fabs(want) + least);
                assert_true(fabs(kernel_get(&part[3], i, j) - dgate) <= unit * fabs(dgate) + least);
                assert_true(fabs(kernel_get(&part[3], i, width + j) - dup) <= unit * fabs(dup) + least);
            }
        }
        for (int i = 0; i < TENSORS; i++) {
            kernel_check_guards(&whole[i]);
            kernel_free(&whole[i]);
        }
    }
    kernel_close(be);
}

static void extreme_gates_saturate(void **state)
{
    (void)state;
    Backend *be = kernel_backend(1, false);
    const Tensor gu = kernel_matrix(DTYPE_F32, 1, 8, 8), y = kernel_matrix(DTYPE_F32, 1, 4, 4),
                 dgu = kernel_matrix(DTYPE_F32, 1, 8, 8);
    static const double in[8] = {-1e4, 1e4, -90.0, 0.0, 2.0, 2.0, 2.0, 2.0};
    for (int j = 0; j < 8; j++)
        kernel_set(&gu, 0, j, in[j]);
    swiglu_forward(be, &y, &gu);
    assert_true(fabs(kernel_at(&y, 0, 0)) == 0.0 && kernel_at(&y, 0, 1) == 2e4 && fabs(kernel_at(&y, 0, 2)) < 1e-36 &&
                kernel_at(&y, 0, 3) == 0.0);
    kernel_set(&y, 0, 0, 1.0);
    kernel_set(&y, 0, 1, 1.0);
    swiglu_backward(be, &dgu, NULL, &y, &gu);
    assert_true(kernel_at(&dgu, 0, 0) == 0.0 && kernel_at(&dgu, 0, 1) == 2.0);
    kernel_free(&gu);
    kernel_free(&y);
    kernel_free(&dgu);
    kernel_close(be);
}

static void the_formula_is_the_central_difference(void **state)
{
    (void)state;
    for (double gate = -6.0; gate < 6.0; gate += 0.37) {
        double dgate, dup;
        const double up = 1.7, h = 1e-5;
        backward_exact(&dgate, &dup, 1.0, gate, up);
        assert_true(fabs((forward_exact(gate + h, up) - forward_exact(gate - h, up)) / (2 * h) - dgate) < 1e-8);
        assert_true(fabs((forward_exact(gate, up + h) - forward_exact(gate, up - h)) / (2 * h) - dup) < 1e-8);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_passes_are_rounded_formulas),
        cmocka_unit_test(any_tensor_may_start_anywhere),
        cmocka_unit_test(extreme_gates_saturate),
        cmocka_unit_test(the_formula_is_the_central_difference),
    };
    return cmocka_run_group_tests_name("swiglu", tests, NULL, NULL);
}
