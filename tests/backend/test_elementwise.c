#include "backend/elementwise.h"

#include "tests/support/kernel_test.h"

/* Emulated threads are slow: enough for a few rounds of a grid, and a few repeats. */
enum {
    MANY = QLORA_TEST_CUDA ? 14 : 40,
    REPEATS = QLORA_TEST_CUDA ? 3 : 10,
    NEXT_PLACE = QLORA_TEST_CUDA ? 3331 : 777
};

static const struct Case {
    int64_t rows, cols, spare;
} cases[] = {
    {1,    1,     0 },
    {1,    15,    0 },
    {3,    17,    0 },
    {5,    64,    64},
    {7,    100,   3 },
    {6,    70,    10}, /* rows end in a part of 16 bytes and start on whole ones */
    {MANY, 9000,  0 },
    {3,    20000, 5 },
};
static const DType dtypes[] = {DTYPE_F32, DTYPE_BF16};

static void add_and_scale_round_once(void **state)
{
    (void)state;
    Backend *be = kernel_backend(2, false);
    for (size_t i = 0; i < ARRAY_COUNT(cases) * 8; i++) {
        const struct Case *c = &cases[i / 8];
        const DType from = dtypes[i % 2], to = dtypes[i / 2 % 2], other = dtypes[i / 4 % 2];
        const int64_t stride = c->cols + c->spare;
        const Tensor a = kernel_random(from, c->rows, c->cols, stride, 1, 1.0f),
                     b = kernel_random(other, c->rows, c->cols, stride, 2, 1.0f);
        const Tensor sum = kernel_matrix(to, c->rows, c->cols, stride),
                     scaled = kernel_matrix(to, c->rows, c->cols, stride);
        const Tensor copy = kernel_matrix(to, c->rows, c->cols, stride);
        tensor_add(be, &sum, &a, &b);
        tensor_scale(be, &scaled, &a, 0.3f);
        tensor_copy(be, &copy, &a);
        kernel_settle();
        for (int64_t r = 0; r < c->rows; r++) {
            for (int64_t j = 0; j < c->cols; j++) {
                const float x = (float)kernel_get(&a, r, j), y = (float)kernel_get(&b, r, j);
                assert_true(kernel_get(&sum, r, j) == kernel_round((double)(x + y), to));
                assert_true(kernel_get(&scaled, r, j) == kernel_round((double)(0.3f * x), to));
                assert_true(kernel_get(&copy, r, j) == kernel_round((double)x, to));
            }
        }
        tensor_add(be, &a, &a, &b); /* in place */
        assert_true(kernel_at(&a, 0, 0) ==
                        kernel_round((double)((float)kernel_at(&copy, 0, 0) + (float)kernel_at(&b, 0, 0)), from) ||
                    to != from);
        tensor_zero(be, &sum);
        kernel_settle();
        for (int64_t r = 0; r < c->rows; r++) {
            for (int64_t j = 0; j < c->cols; j++)
                assert_true(kernel_get(&sum, r, j) == 0.0);
        }
        const Tensor *all[] = {&a, &b, &sum, &scaled, &copy};
        for (size_t k = 0; k < ARRAY_COUNT(all); k++) {
            kernel_check_guards(all[k]);
            kernel_free(all[k]);
        }
    }
    kernel_close(be);
}

/* Of the two inputs and the result of whole packs, each has gaps alone, or starts off a multiple of 16 bytes alone. */
static void each_tensor_has_a_place_of_its_own(void **state)
{
    (void)state;
    enum { ROWS = 6, COLS = 40 };
    Backend *be = kernel_backend(2, false);
    for (int k = 0; k < 4 * 9; k++) {
        const DType from = dtypes[k % 2], to = dtypes[k / 2 % 2];
        const int apart = k / 4 % 3, how = k / 12; /* how 0: a gap; 1: a gap that is no pack; 2: moved */
        Tensor whole[3], part[3];
        for (int i = 0; i < 3; i++) {
            const bool moved = how == 2 && i == apart;
            const int64_t spare = i != apart ? (how == 2 ? 8 : 0) : how == 1 ? 3 : 8;
            whole[i] = kernel_random(i == 2 ? to : from, ROWS, COLS + moved, COLS + spare, (uint64_t)i, 1.0f);
            part[i] = kernel_moved(&whole[i], moved);
        }
        for (int op = 0; op < 4; op++) {
            switch (op) {
            case 0: tensor_add(be, &part[2], &part[0], &part[1]); break;
            case 1: tensor_scale(be, &part[2], &part[0], 0.3f); break;
            case 2: tensor_copy(be, &part[2], &part[1]); break;
            default: tensor_zero(be, &part[2]);
            }
            kernel_settle();
            for (int i = 0; i < ROWS; i++) {
                for (int j = 0; j < COLS; j++) {
                    const float x = (float)kernel_get(&part[0], i, j), y = (float)kernel_get(&part[1], i, j);
                    const float want = op == 0 ? x + y : op == 1 ? 0.3f * x : op == 2 ? y : 0.0f;
                    assert_true(kernel_get(&part[2], i, j) == kernel_round((double)want, to));
                }
            }
            for (int i = 0; i < 3; i++)
                kernel_check_guards(&whole[i]);
        }
        for (int i = 0; i < 3; i++)
            kernel_free(&whole[i]);
    }
    kernel_close(be);
}

static void copies_of_one_type_keep_every_bit(void **state)
{
    (void)state;
    Backend *be = kernel_backend(2, false);
    const Tensor a = kernel_matrix(DTYPE_F32, 3, 5, 7), b = kernel_matrix(DTYPE_F32, 3, 5, 5);
    ((uint32_t *)a.data)[0] = 0x7f800001u; /* a signalling NaN */
    ((uint32_t *)a.data)[8] = 0x00000001u; /* the least subnormal */
    tensor_copy(be, &b, &a);
    assert_true(kernel_equal(&a, &b));
    kernel_free(&a);
    kernel_free(&b);
    kernel_close(be);
}

static void conversions_keep_nan_infinity_and_ties(void **state)
{
    (void)state;
    static const uint32_t bits[] = {0x7f800000u, 0xff800000u, 0x7f800001u, 0x7fffffffu, 0x3f808000u, 0x3f818000u,
                                    0x3f808001u, 0x7f7fffffu, 0x00000001u, 0x80000000u, 0x00018000u};
    Backend *be = kernel_backend(1, false);
    const Tensor a = kernel_matrix(DTYPE_F32, 1, ARRAY_COUNT(bits), ARRAY_COUNT(bits)),
                 b = kernel_matrix(DTYPE_BF16, 1, ARRAY_COUNT(bits), ARRAY_COUNT(bits));
    memcpy(a.data, bits, sizeof bits);
    tensor_copy(be, &b, &a);
    kernel_settle();
    for (size_t i = 0; i < ARRAY_COUNT(bits); i++) {
        if (i == 2 || i == 3) {
            assert_true(isnan(kernel_at(&b, 0, (int64_t)i)));
        } else {
            const float x = ((const float *)a.data)[i];
            assert_int_equal(((const uint16_t *)b.data)[i], b.dtype == DTYPE_F16 ? f16_from_f32(x) : bf16_from_f32(x));
        }
    }
    kernel_free(&a);
    kernel_free(&b);
    kernel_close(be);
}

static void norms_are_exact_to_f64_and_independent_of_threads(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        const struct Case *c = &cases[i];
        const Tensor a = kernel_random(DTYPE_F32, c->rows, c->cols, c->cols + c->spare, 5, 3.0f);
        double want = 0.0, first = 0.0;
        for (int64_t r = 0; r < c->rows; r++) {
            for (int64_t j = 0; j < c->cols; j++)
                want += kernel_get(&a, r, j) * kernel_get(&a, r, j);
        }
        for (int repeat = 0; repeat < REPEATS; repeat++) {
            Backend *be = kernel_backend(1 + repeat % 4, false);
            const TensorNorm norm = tensor_norm(be, &a);
            if (repeat == 0) first = norm.sum_squares;
            assert_true(norm.finite && norm.sum_squares == first && fabs(first - want) <= 1e-12 * want);
            kernel_close(be);
        }
        kernel_free(&a);
    }
}

/* More parts than blocks of a grid, and than threads of the block that adds them up. */
static void norms_of_many_elements_count_each_once(void **state)
{
    (void)state;
    enum { ROWS = 530, COLS = 1001 };
    const Tensor a = kernel_matrix(DTYPE_F32, ROWS, COLS, COLS + 2);
    double want = 0.0;
    for (int i = 0; i < ROWS; i++) {
        for (int j = 0; j < COLS; j++) {
            kernel_put(&a, i, j, (i * COLS + j) % 97);
            want += kernel_get(&a, i, j) * kernel_get(&a, i, j);
        }
    }
    Backend *be = kernel_backend(2, false);
    assert_true(tensor_norm(be, &a).sum_squares == want); /* whole numbers: exact in any order */
    kernel_close(be);
    kernel_free(&a);
}

static void one_bad_element_anywhere_is_noticed(void **state)
{
    (void)state;
    Backend *be = kernel_backend(2, false);
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int64_t place = 0; place < 20000; place += NEXT_PLACE) {
        const Tensor a = kernel_random(DTYPE_F32, 1, 20000, 20000, 5, 1.0f);
        assert_true(tensor_norm(be, &a).finite);
        ((float *)a.data)[place] = bad[place % 3];
        assert_false(tensor_norm(be, &a).finite);
        ((float *)a.data)[place] = 3e38f; /* its square is no f32, but it is finite */
        assert_true(tensor_norm(be, &a).finite);
        kernel_free(&a);
    }
    kernel_close(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(add_and_scale_round_once),
        cmocka_unit_test(each_tensor_has_a_place_of_its_own),
        cmocka_unit_test(copies_of_one_type_keep_every_bit),
        cmocka_unit_test(conversions_keep_nan_infinity_and_ties),
        cmocka_unit_test(norms_are_exact_to_f64_and_independent_of_threads),
        cmocka_unit_test(norms_of_many_elements_count_each_once),
        cmocka_unit_test(one_bad_element_anywhere_is_noticed),
    };
    return cmocka_run_group_tests_name("elementwise", tests, NULL, NULL);
}
