#include "backend/tiles.h"

#include "tests/support/kernel_test.h"

static const TileKernel kernels[] = {TILE_F32, TILE_F32_PLAIN, TILE_BF16_AMX, TILE_BF16_DOT, TILE_BF16_PLAIN};

static const struct Case {
    int64_t rows, cols;           /* of a source */
    int64_t full_rows, full_cols; /* packed */
} cases[] = {
    {32, 32, 32, 32},
    {1,  2,  32, 32},
    {33, 40, 64, 64},
    {64, 64, 64, 96},
    {31, 62, 32, 64},
    {47, 16, 64, 32},
};

static double packed(const void *data, DType dtype, int64_t i)
{
    return dtype == DTYPE_F32 ? (double)((const float *)data)[i] : (double)bf16_to_f32(((const uint16_t *)data)[i]);
}

static double packed_b(const void *data, DType dtype, int64_t k, int64_t j, int64_t ld)
{
    return packed(data, dtype, dtype == DTYPE_F32 ? k * ld + j : k / 2 * 2 * ld + 2 * j + k % 2);
}

/* Every form holds the elements where the header says, and zeros around them. */
static void packing_puts_elements_where_the_header_says(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2 * ARRAY_COUNT(cases); i++) {
        const struct Case *c = &cases[i / 2];
        const DType t = i % 2 ? DTYPE_BF16 : DTYPE_F32;
        const Tensor src = kernel_random(t, c->rows, c->cols, c->cols + 6, 1, 1.0f);
        const TileSource source = {src.data, src.stride, c->rows, c->cols, c->full_rows, c->full_cols};
        const int64_t n = c->full_rows * c->full_cols;
        const Tensor forms[5] = {kernel_random(t, 1, n, n, 2, 1.0f), kernel_random(t, 1, n, n, 3, 1.0f),
                                 kernel_random(t, 1, n, n, 4, 1.0f), kernel_random(t, 1, n, n, 5, 1.0f),
                                 kernel_random(t, 1, n, n, 6, 1.0f)};
        tile_pack_a(forms[0].data, t, &source);
        tile_pack_b(forms[1].data, t, &source);
        tile_pack_b_transposed(forms[2].data, t, &source);
        tile_pack_a_transposed(forms[3].data, t, &source, forms[4].data);
        for (int64_t r = 0; r < c->full_rows; r++) {
            for (int64_t j = 0; j < c->full_cols; j++) {
                const double want = r < c->rows && j < c->cols ? kernel_at(&src, r, j) : 0.0;
                assert_true(packed(forms[0].data, t, r * c->full_cols + j) == want);
                assert_true(packed_b(forms[1].data, t, r, j, c->full_cols) == want);
                assert_true(packed_b(forms[2].data, t, j, r, c->full_rows) == want);
                assert_true(packed(forms[3].data, t, j * c->full_rows + r) == want);
            }
        }
        for (int k = 0; k < 5; k++) {
            kernel_check_guards(&forms[k]);
            kernel_free(&forms[k]);
        }
        kernel_free(&src);
    }
}

static void check_product(TileKernel kernel, int64_t m, int64_t n, int64_t k, bool accumulate)
{
    const DType t = tile_dtype(kernel);
    const Tensor a = kernel_random(t, m, k, k + 32, 1, 1.0f), b = kernel_random(t, k, n, n, 2, 1.0f);
    const Tensor b_packed = kernel_matrix(t, k, n, n), c = kernel_random(DTYPE_F32, m, n, n + 16, 3, 1.0f);
    const TileSource source = {b.data, n, k, n, k, n};
    tile_pack_b(b_packed.data, t, &source);
    double *want = kernel_values(&c);
    for (int64_t i = 0; i < m; i++) {
        for (int64_t j = 0; j < n; j++) {
            double sum = accumulate ? want[i * n + j] : 0.0;
            for (int64_t l = 0; l < k; l++)
                sum += kernel_at(&a, i, l) * kernel_at(&b, l, j);
            want[i * n + j] = sum;
        }
    }
    const TileProduct p = {.c = c.data,
                           .a = a.data,
                           .b = b_packed.data,
                           .m = m,
                           .n = n,
                           .k = k,
                           .ldc = c.stride,
                           .lda = a.stride,
                           .ldb = n,
                           .accumulate = accumulate};
    tile_begin(kernel);
    tile_product(kernel, &p);
    tile_end(kernel);
    for (int64_t i = 0; i < m; i++) {
        for (int64_t j = 0; j < n; j++)
            assert_true(fabs(kernel_at(&c, i, j) - want[i * n + j]) < 3e-6 * sqrt((double)k));
    }
    const Tensor *all[] = {&a, &b, &b_packed, &c};
    for (size_t i = 0; i < ARRAY_COUNT(all); i++) {
        kernel_check_guards(all[i]);
        kernel_free(all[i]);
    }
    free(want);
}

static void every_kernel_of_this_processor_multiplies(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(kernels); i++) {
        if (!tile_kernel_available(kernels[i])) {
            print_message("SKIPPED: tile kernel %d is not on this processor\n", (int)kernels[i]);
            continue;
        }
        for (int accumulate = 0; accumulate < 2; accumulate++) {
            check_product(kernels[i], 32, 32, 32, accumulate);
            check_product(kernels[i], 64, 96, 160, accumulate);
            check_product(kernels[i], 128, 64, 64, accumulate);
        }
    }
}

static void a_reference_backend_takes_plain_kernels(void **state)
{
    (void)state;
    Backend *be = kernel_backend(1, true);
    assert_int_equal(tile_kernel(be, DTYPE_F32), TILE_F32_PLAIN);
    assert_int_equal(tile_kernel(be, DTYPE_BF16), TILE_BF16_PLAIN);
    backend_close(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packing_puts_elements_where_the_header_says),
        cmocka_unit_test(every_kernel_of_this_processor_multiplies),
        cmocka_unit_test(a_reference_backend_takes_plain_kernels),
    };
    return cmocka_run_group_tests_name("tiles", tests, NULL, NULL);
}
