/* The lanes of this build; test_simd_plain.c runs the same cases on the plain code. */
#include "backend/simd.h"

#include "tests/support/kernel_test.h"

static double ulps(float got, double want)
{
    const float near = (float)want;
    const double ulp = (double)(nextafterf(fabsf(near), INFINITY) - fabsf(near));
    return fabs((double)got - want) / ulp;
}

static void check_function(Lanes (*function)(Lanes), double (*exact)(double), float low, float high, double bound)
{
    double worst = 0.0;
    enum { STEPS = 400000 };
    for (int i = 0; i < STEPS; i += LANES) {
        float x[LANES], y[LANES];
        for (int k = 0; k < LANES; k++)
            x[k] = low + (high - low) * (float)(i + k) / STEPS;
        lanes_store_f32(y, function(lanes_load_f32(x)));
        for (int k = 0; k < LANES; k++)
            worst = isnan(y[k]) ? (double)INFINITY : fmax(worst, ulps(y[k], exact((double)x[k])));
    }
    if (!(worst <= bound)) fail_msg("off by %.2f ulp", worst);
}

static Lanes call_exp(Lanes x)
{
    return lanes_exp(x);
}

static Lanes call_exp2(Lanes x)
{
    return lanes_exp2(x);
}

static Lanes call_exp2_finite(Lanes x)
{
    return lanes_exp2_finite(x);
}

static void exponentials_are_within_two_ulp(void **state)
{
    (void)state;
    check_function(call_exp, exp, -87.0f, 88.0f, 2.0);
    check_function(call_exp, exp, -1.0f, 1.0f, 2.0);
    check_function(call_exp2, exp2, -125.0f, 127.0f, 2.0);
    check_function(call_exp2_finite, exp2, -125.0f, 127.0f, 2.0);
    check_function(call_exp2_finite, exp2, -1.0f, 1.0f, 2.0);
}

static float first_of(Lanes v)
{
    float x[LANES];
    lanes_store_f32(x, v);
    return x[0];
}

static void exponentials_end_in_zero_infinity_and_nan(void **state)
{
    (void)state;
    assert_true(first_of(lanes_exp(lanes_set(-1e30f))) == 0.0f);
    assert_true(first_of(lanes_exp(lanes_set(-INFINITY))) == 0.0f);
    assert_true(first_of(lanes_exp(lanes_set(-105.0f))) == 0.0f);
    assert_true(first_of(lanes_exp(lanes_set(0.0f))) == 1.0f);
    assert_true(isinf(first_of(lanes_exp(lanes_set(89.0f)))));
    assert_true(isinf(first_of(lanes_exp(lanes_set(INFINITY)))));
    assert_true(isnan(first_of(lanes_exp(lanes_set(NAN)))));
    assert_true(first_of(lanes_exp2(lanes_set(-1e30f))) == 0.0f);
    assert_true(first_of(lanes_exp2_finite(lanes_set(-1e30f))) == 0.0f);
    assert_true(isnan(first_of(lanes_exp2_finite(lanes_set(NAN)))));
    assert_true(first_of(lanes_exp2(lanes_set(-3.0f))) == 0.125f);
    assert_true(first_of(lanes_sigmoid(lanes_set(-1000.0f))) == 0.0f &&
                first_of(lanes_sigmoid(lanes_set(1000.0f))) == 1.0f);
}

static void parts_are_loaded_and_stored_alone(void **state)
{
    (void)state;
    for (int dtype = 0; dtype < 2; dtype++) {
        const DType t = dtype ? DTYPE_BF16 : DTYPE_F32;
        for (int n = 1; n <= LANES; n++) {
            const Tensor a = kernel_random(t, 1, n, n, 1, 1.0f), b = kernel_matrix(t, 1, n, n);
            float x[LANES];
            lanes_store_f32(x, lanes_load(a.data, t, n));
            for (int i = 0; i < LANES; i++)
                assert_true((double)x[i] == (i < n ? kernel_at(&a, 0, i) : 0.0));
            lanes_store_f32(x, lanes_load_or(a.data, t, n, lanes_set(7.0f)));
            for (int i = 0; i < LANES; i++)
                assert_true((double)x[i] == (i < n ? kernel_at(&a, 0, i) : 7.0));
            lanes_store(b.data, t, n, lanes_load(a.data, t, n));
            assert_true(kernel_equal(&a, &b));
            kernel_check_guards(&b);
            kernel_free(&a);
            kernel_free(&b);
        }
    }
}

static void bf16_pairs_interleave(void **state)
{
    (void)state;
    const Tensor a = kernel_random(DTYPE_F32, 2, LANES, LANES, 1, 1.0f);
    uint16_t row_a[LANES], row_b[LANES], pairs[2 * LANES], wide[2 * LANES];
    const float *x = a.data;
    lanes_store_two_bf16(row_a, row_b, pairs, lanes_load_f32(x), lanes_load_f32(x + LANES));
    lanes_store_wide_bf16(wide, lanes_load_f32(x), lanes_load_f32(x + LANES));
    for (int i = 0; i < LANES; i++) {
        const uint16_t low = bf16_from_f32(x[i]), high = bf16_from_f32(x[LANES + i]);
        assert_true(row_a[i] == low && row_b[i] == high && pairs[2 * i] == low && pairs[2 * i + 1] == high);
        assert_true(wide[i] == low && wide[LANES + i] == high);
    }
    kernel_free(&a);
}

static void sums_and_choices(void **state)
{
    (void)state;
    float x[LANES];
    for (int i = 0; i < LANES; i++)
        x[i] = (float)(i + 1);
    const Lanes v = lanes_load_f32(x);
    assert_true(lanes_sum(v) == 136.0f && lanes_largest(v) == 16.0f);
    assert_true(lanes_sum(lanes_where_less(v, lanes_set(3.0f), lanes_set(10.0f), lanes_zero())) == 20.0f);
    assert_true(lanes_sum(lanes_fma(v, lanes_set(2.0f), lanes_set(1.0f))) == 288.0f);
    assert_true(first_of(lanes_max(lanes_set(NAN), lanes_set(1.0f))) == 1.0f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exponentials_are_within_two_ulp),
        cmocka_unit_test(exponentials_end_in_zero_infinity_and_nan),
        cmocka_unit_test(parts_are_loaded_and_stored_alone),
        cmocka_unit_test(bf16_pairs_interleave),
        cmocka_unit_test(sums_and_choices),
    };
    return cmocka_run_group_tests_name("simd", tests, NULL, NULL);
}
