#include "model/rope.h"

#include "tests/support/kernel_test.h"

enum { POSITIONS = 300 };

static Tensor table_make(Backend *be, int head_dim, float factor)
{
    const Tensor table = kernel_matrix(DTYPE_F32, POSITIONS, head_dim, head_dim);
    float frequencies[128];
    for (int i = 0; i < head_dim / 2; i++)
        frequencies[i] = powf(10000.0f, -2.0f * (float)i / (float)head_dim);
    rope_table(be, &table, frequencies, factor);
    return table;
}

/* 256: the table is wider than what the CUDA backend uploads at once. */
static void the_table_holds_cosines_and_sines(void **state)
{
    (void)state;
    Backend *be = kernel_backend(2, false);
    for (int head_dim = 10; head_dim <= 256; head_dim += 246) {
        const int half = head_dim / 2;
        const Tensor table = table_make(be, head_dim, 1.5f);
        double *values = kernel_values(&table);
        for (int p = 0; p < POSITIONS; p++) {
            for (int i = 0; i < half; i++) {
                const float angle = (float)p * powf(10000.0f, -2.0f * (float)i / (float)head_dim);
                assert_true(fabs(values[p * head_dim + i] - 1.5 * cos((double)angle)) < 2e-7);
                assert_true(fabs(values[p * head_dim + half + i] - 1.5 * sin((double)angle)) < 2e-7);
            }
        }
        kernel_check_guards(&table);
        kernel_free(&table);
        free(values);
    }
    kernel_close(be);
}

static void check(Backend *be, DType t, int rows, int heads, int head_dim, int64_t spare)
{
    const Tensor table = table_make(be, head_dim, 1.0f), positions_row = kernel_matrix(DTYPE_I32, 1, rows, rows);
    const Tensor positions = tensor_vector(positions_row.data, DTYPE_I32, rows);
    for (int i = 0; i < rows; i++)
        ((int32_t *)positions.data)[i] = i * 7 % POSITIONS;
    const int64_t cols = heads * head_dim + 16; /* value heads stay as they are */
    const Tensor x = kernel_random(t, rows, cols, cols + spare, 1, 1.0f);
    double *before = kernel_values(&x);
    rope_apply(be, &x, &table, &positions, heads, head_dim, false);
    kernel_settle();
    const double half = t == DTYPE_F32 ? 0x1p-23 : kernel_unit(t);
    for (int r = 0; r < rows; r++) {
        const double *in = before + r * cols;
        for (int h = 0; h < heads; h++) {
            for (int i = 0; i < head_dim / 2; i++) {
                const int64_t low = h * head_dim + i, high = low + head_dim / 2;
                const double c = kernel_get(&table, r * 7 % POSITIONS, i),
                             s = kernel_get(&table, r * 7 % POSITIONS, head_dim / 2 + i);
                const double size = fabs(in[low]) + fabs(in[high]);
                assert_true(fabs(kernel_get(&x, r, low) - (in[low] * c - in[high] * s)) <= 1.5 * half * size);
                assert_true(fabs(kernel_get(&x, r, high) - (in[high] * c + in[low] * s)) <= 1.5 * half * size);
            }
        }
        for (int64_t j = heads * head_dim; j < cols; j++)
            assert_true(kernel_get(&x, r, j) == in[j]);
    }
    rope_apply(be, &x, &table, &positions, heads, head_dim, true); /* the rotation back */
    double *after = kernel_values(&x);
    assert_true(kernel_max_diff(before, after, rows * cols) <= (t == DTYPE_F32 ? 2e-6 : 0.05));
    const Tensor *all[] = {&table, &positions_row, &x};
    for (size_t i = 0; i < ARRAY_COUNT(all); i++) {
        kernel_check_guards(all[i]);
        kernel_free(all[i]);
    }
    free(before);
    free(after);
}

static void pairs_rotate_and_rotate_back(void **state)
{
    (void)state;
    Backend *be = kernel_backend(2, false);
    for (int d = 0; d < 2; d++) {
        check(be, d ? DTYPE_BF16 : DTYPE_F32, 50, 12, 64, 48);
        check(be, d ? DTYPE_BF16 : DTYPE_F32, 50, 3, 8, 0);
        check(be, d ? DTYPE_BF16 : DTYPE_F32, 50, 1, 72, 1);
        check(be, d ? DTYPE_BF16 : DTYPE_F32, 50, 2, 12, 0); /* 16-byte rows, but half a head is none */
        check(be, d ? DTYPE_BF16 : DTYPE_F32, 400, 9, 64, 0);
        check(be, d ? DTYPE_BF16 : DTYPE_F32, 100, 9, 80, 16); /* halves of heads that are no whole sectors: */
        check(be, d ? DTYPE_BF16 : DTYPE_F32, 50, 19, 48, 0);
        check(be, d ? DTYPE_BF16 : DTYPE_F32, 50, 14, 40, 8);
        check(be, d ? DTYPE_BF16 : DTYPE_F32, 9, 3, 144, 0); /* a head that no warp holds */
    }
    kernel_close(be);
}

/* Rows of 3 heads; the tensor or the table starts off a multiple of 16 bytes, or has rows that do. */
static void tensors_and_tables_may_start_anywhere(void **state)
{
    (void)state;
    enum { ROWS = 20, DIM = 32, COLS = 3 * DIM };
    Backend *be = kernel_backend(2, false);
    float frequencies[DIM / 2];
    for (int i = 0; i < DIM / 2; i++)
        frequencies[i] = 1.0f / (float)(i + 1);
    for (int k = 0; k < 8; k++) {
        const DType t = k % 2 ? DTYPE_BF16 : DTYPE_F32;
        const Tensor tables = kernel_matrix(DTYPE_F32, 64, DIM + (k / 2 == 1), k / 2 == 3 ? DIM + 3 : DIM + 4);
        const Tensor xs = kernel_random(t, ROWS, COLS + (k / 2 == 2), COLS + 8, 1, 1.0f),
                     ys = kernel_random(t, ROWS, COLS, COLS + 8, 1, 1.0f);
        const Tensor table = kernel_moved(&tables, k / 2 == 1), x = kernel_moved(&xs, k / 2 == 2);
        const Tensor dense = kernel_matrix(DTYPE_F32, 64, DIM, DIM),
                     positions_row = kernel_matrix(DTYPE_I32, 1, ROWS, ROWS);
        const Tensor positions = tensor_vector(positions_row.data, DTYPE_I32, ROWS);
        for (int i = 0; i < ROWS; i++) {
            ((int32_t *)positions.data)[i] = 63 - 3 * i;
            for (int j = 0; j < COLS; j++)
                kernel_put(&ys, i, j, kernel_get(&x, i, j));
        }
        rope_table(be, &table, frequencies, 1.0f);
        rope_table(be, &dense, frequencies, 1.0f);
        rope_apply(be, &x, &table, &positions, 3, DIM, false);
        rope_apply(be, &ys, &dense, &positions, 3, DIM, false);
        assert_true(kernel_equal(&table, &dense) && kernel_equal(&x, &ys));
        const Tensor *all[] = {&tables, &xs, &ys, &dense, &positions_row};
        for (size_t i = 0; i < ARRAY_COUNT(all); i++) {
            kernel_check_guards(all[i]);
            kernel_free(all[i]);
        }
    }
    kernel_close(be);
}

static void apply_at(int position)
{
    Backend *be = kernel_backend(1, false);
    const Tensor table = table_make(be, 8, 1.0f), row = kernel_matrix(DTYPE_I32, 1, 1, 1),
                 x = kernel_random(DTYPE_F32, 1, 8, 8, 1, 1.0f);
    const Tensor positions = tensor_vector(row.data, DTYPE_I32, 1);
    kernel_settle();
    *(int32_t *)row.data = position;
    rope_apply(be, &x, &table, &positions, 1, 8, false);
    kernel_settle();
}

static void a_position_outside_of_the_table_is_noticed(void **state)
{
    (void)state;
    kernel_expect_trap(apply_at, POSITIONS);
    kernel_expect_trap(apply_at, -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_table_holds_cosines_and_sines),
        cmocka_unit_test(pairs_rotate_and_rotate_back),
        cmocka_unit_test(tensors_and_tables_may_start_anywhere),
        cmocka_unit_test(a_position_outside_of_the_table_is_noticed),
    };
    return cmocka_run_group_tests_name("rope", tests, NULL, NULL);
}
