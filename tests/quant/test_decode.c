/* Decoding into rows of a buffer, against the formula of quant/nf4.h element by element. */
#include "tests/support/quantized.h"

typedef struct Shape {
    int64_t rows, cols, spare; /* of the buffer behind each row */
} Shape;

static const Shape shapes[] = {
    {1,  64,   0 },
    {3,  64,   16},
    {5,  96,   8 }, /* blocks straddle rows */
    {37, 200,  0 },
    {9,  1000, 24},
    {3,  64,   32}, /* starts off a multiple of 16 bytes */
    {7,  33,   0 }, /* odd: half a byte into the codes */
    {4,  90,   3 },
    {2,  5000, 8 },
    {1,  1,    0 },
};

static void check(Backend *be, const Shape *s, const QuantOptions *options, DType dtype)
{
    const QuantMatrix m = quantized_make(s->rows, s->cols, options);
    const bool moved = s->spare == 32;
    const Tensor whole = kernel_matrix(dtype, s->rows, s->cols + moved, s->cols + s->spare);
    const Tensor w = kernel_moved(&whole, moved);
    quant_decode(be, &w, &m);
    kernel_settle();
    for (int64_t r = 0; r < s->rows; r++) {
        for (int64_t c = 0; c < s->cols; c++) {
            const double want = kernel_round((double)quantized_at(&m, r * s->cols + c), dtype);
            if (kernel_at(&w, r, c) != want) {
                fail_msg("%lld x %lld, block %d, row %lld, column %lld: %.9g instead of %.9g", (long long)s->rows,
                         (long long)s->cols, options->block, (long long)r, (long long)c, kernel_at(&w, r, c), want);
            }
        }
    }
    kernel_check_guards(&whole);
    kernel_free(&whole);
    quantized_free(&m);
}

static void every_layout_decodes_as_the_formula_says(void **state)
{
    (void)state;
    static const int blocks[] = {32, 64, 128, 4096};
    Backend *be = kernel_backend(2, false);
    for (size_t s = 0; s < ARRAY_COUNT(shapes); s++) {
        for (int i = 0; i < 4 * 2 * 2; i++) {
            const QuantOptions options = {i / 8 ? QUANT_FP4 : QUANT_NF4, blocks[i / 2 % 4], i % 2 != 0};
            check(be, &shapes[s], &options, DTYPE_F32);
            check(be, &shapes[s], &options, DTYPE_BF16);
        }
    }
    kernel_close(be);
}

/* More than one block of nested absmax, and more spans than warps that run at once. */
static void a_matrix_of_many_nested_blocks_decodes(void **state)
{
    (void)state;
    Backend *be = kernel_backend(2, false);
    check(be, &(Shape){70, 520, 8}, &(QuantOptions){QUANT_NF4, 32, true}, DTYPE_BF16);
    check(be, &(Shape){301, 904, 0}, &(QuantOptions){QUANT_NF4, 32, true}, DTYPE_F32);
    check(be, &(Shape){301, 64, 0}, &(QuantOptions){QUANT_NF4, 64, true}, DTYPE_F32);
    kernel_close(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_layout_decodes_as_the_formula_says),
        cmocka_unit_test(a_matrix_of_many_nested_blocks_decodes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
