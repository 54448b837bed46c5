#include "model/rows.h"

#include "tests/support/kernel_test.h"

/* Widths and strides that give words of 16, 8, 4 and 2 bytes, with and without gaps. */
static const struct Case {
    DType dtype;
    int64_t many, cols, spare, others_spare;
} cases[] = {
    {DTYPE_F32,  9,   64,  0, 0},
    {DTYPE_F32,  30,  37,  5, 3},
    {DTYPE_BF16, 30,  64,  8, 0},
    {DTYPE_BF16, 30,  100, 4, 0},
    {DTYPE_BF16, 30,  101, 2, 3},
    {DTYPE_BF16, 7,   1,   0, 0},
    {DTYPE_F32,  20,  39,  1, 1},
    {DTYPE_BF16, 20,  39,  1, 1},
    {DTYPE_F32,  30,  64,  1, 0},
    {DTYPE_F32,  30,  64,  0, 1},
    {DTYPE_F32,  120, 900, 0, 8},
    {DTYPE_BF16, 5,   24,  0, 0}, /* an odd number: its vector is not aligned, all else is */
    {DTYPE_BF16, 5,   24,  1, 0}, /* the other way round */
};

/* Every third row, from the last one on. */
static Tensor index_make(int64_t many, int64_t *count)
{
    *count = (many + 2) / 3;
    const Tensor row = kernel_matrix(DTYPE_I32, 1, *count, *count);
    for (int64_t i = 0; i < *count; i++)
        ((int32_t *)row.data)[i] = (int32_t)(many - 1 - 3 * i);
    return row;
}

static bool rows_equal(const Tensor *a, int64_t i, const Tensor *b, int64_t k)
{
    const Tensor left = tensor_slice_rows(a, i, 1), right = tensor_slice_rows(b, k, 1);
    return kernel_equal(&left, &right);
}

static void gather_takes_the_rows_of_the_index(void **state)
{
    (void)state;
    Backend *be = kernel_backend(2, false);
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        const struct Case *c = &cases[i];
        int64_t n;
        const Tensor row = index_make(c->many, &n), index = tensor_vector(row.data, DTYPE_I32, n);
        const Tensor in = kernel_random(c->dtype, c->many, c->cols, c->cols + c->spare, 1, 1.0f),
                     out = kernel_matrix(c->dtype, n, c->cols, c->cols + c->others_spare);
        rows_gather(be, &out, &in, &index);
        for (int64_t k = 0; k < n; k++)
            assert_true(rows_equal(&out, k, &in, c->many - 1 - 3 * k));
        kernel_check_guards(&out);
        const Tensor *all[] = {&row, &in, &out};
        for (size_t k = 0; k < ARRAY_COUNT(all); k++)
            kernel_free(all[k]);
    }
    kernel_close(be);
}

static void scatter_writes_the_rows_of_the_index_and_no_other(void **state)
{
    (void)state;
    Backend *be = kernel_backend(2, false);
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        const struct Case *c = &cases[i];
        int64_t n;
        const Tensor row = index_make(c->many, &n), index = tensor_vector(row.data, DTYPE_I32, n);
        const Tensor in = kernel_random(c->dtype, n, c->cols, c->cols + c->others_spare, 1, 1.0f),
                     out = kernel_random(c->dtype, c->many, c->cols, c->cols + c->spare, 2, 1.0f),
                     before = kernel_random(c->dtype, c->many, c->cols, c->cols + c->spare, 2, 1.0f);
        rows_scatter(be, &out, &in, &index);
        for (int64_t r = 0; r < c->many; r++) {
            const int64_t k = (c->many - 1 - r) / 3;
            const bool written = (c->many - 1 - r) % 3 == 0;
            assert_true(rows_equal(&out, r, written ? &in : &before, written ? k : r));
        }
        kernel_check_guards(&out);
        const Tensor *all[] = {&row, &in, &out, &before};
        for (size_t k = 0; k < ARRAY_COUNT(all); k++)
            kernel_free(all[k]);
    }
    kernel_close(be);
}

static void a_vector_is_added_to_every_row_and_rounded_once(void **state)
{
    (void)state;
    Backend *be = kernel_backend(2, false);
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        const struct Case *c = &cases[i];
        const Tensor y = kernel_random(c->dtype, c->many, c->cols, c->cols + c->spare, 1, 1.0f),
                     row = kernel_random(c->dtype, 1, c->cols + 1, c->cols + 1, 2, 1.0f);
        const Tensor all = tensor_vector(row.data, row.dtype, c->cols + 1);
        const int64_t at = (int64_t)i % 2; /* so that the vector may start anywhere */
        const Tensor vector = tensor_slice_flat(&all, at, c->cols);
        double *before = kernel_values(&y);
        rows_add_vector(be, &y, &vector);
        kernel_settle();
        for (int64_t r = 0; r < c->many; r++) {
            for (int64_t j = 0; j < c->cols; j++) {
                const float sum = (float)before[r * c->cols + j] + (float)kernel_get(&row, 0, at + j);
                assert_true(kernel_get(&y, r, j) == kernel_round((double)sum, c->dtype));
            }
        }
        kernel_check_guards(&y);
        kernel_free(&y);
        kernel_free(&row);
        free(before);
    }
    kernel_close(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gather_takes_the_rows_of_the_index),
        cmocka_unit_test(scatter_writes_the_rows_of_the_index_and_no_other),
        cmocka_unit_test(a_vector_is_added_to_every_row_and_rounded_once),
    };
    return cmocka_run_group_tests_name("rows", tests, NULL, NULL);
}
