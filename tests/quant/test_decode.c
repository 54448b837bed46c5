/* Decoding into rows of a buffer, against the formula of quant/nf4.h element by element. */
#include "quant/nested.h"
#include "quant/nf4.h"

#include "tests/support/kernel_test.h"

typedef struct Shape {
    int64_t rows, cols, spare; /* of the buffer behind each row */
} Shape;

static const Shape shapes[] = {
    {1,  64,   0 },
    {3,  64,   16},
    {5,  96,   8 }, /* blocks straddle rows */
    {37, 200,  0 },
    {9,  1000, 24},
    {7,  33,   0 }, /* odd: half a byte into the codes */
    {4,  90,   3 },
    {2,  5000, 8 },
    {1,  1,    0 },
};

static void *copied(const void *from, size_t bytes)
{
    void *to = kernel_memory(bytes + 16);
    memcpy(to, from, bytes);
    return to;
}

/* A matrix whose arrays host and device reach; values are normal, block 1 is all zero and block 2 tiny. */
static QuantMatrix encoded(const Shape *s, const QuantOptions *options)
{
    QuantMatrix m;
    Arena measure = {.name = "weights"};
    Err err = {0};
    const int64_t count = s->rows * s->cols;
    quant_place(&m, &measure, options, s->rows, s->cols);
    const size_t blocks = (size_t)quant_blocks(&m);
    float *values = malloc((size_t)count * sizeof *values);
    QuantHost host = {
        .codes = malloc((size_t)(count + 1) / 2),
        .absmax = malloc(blocks * 4),
        .nested_absmax = malloc((blocks / 256 + 1) * 4),
        .scratch_absmax = malloc(blocks * 4),
    };
    assert_true(values && host.codes && host.absmax && host.nested_absmax && host.scratch_absmax);
    for (int64_t i = 0; i < count; i++) {
        const int64_t block = i / options->block;
        const float scale = block == 1 ? 0.0f : block == 2 ? 1e-30f : 0.02f;
        values[i] = scale * rng_normal((RngKey){.seed = 9, .purpose = RNG_TEST}, (uint64_t)i);
    }
    assert_true(quant_encode(&host, values, count, options, &err));
    m.offset = host.offset;
    m.codes.data = copied(host.codes, (size_t)(count + 1) / 2);
    m.absmax.data = copied(host.absmax, blocks * (options->double_quant ? 1 : 4));
    m.nested_absmax.data = copied(host.nested_absmax, (blocks / 256 + 1) * 4);
    free(values);
    free(host.codes);
    free(host.absmax);
    free(host.nested_absmax);
    free(host.scratch_absmax);
    return m;
}

static void matrix_free(const QuantMatrix *m)
{
    kernel_memory_free(m->codes.data);
    kernel_memory_free(m->absmax.data);
    kernel_memory_free(m->nested_absmax.data);
}

static float value_at(const QuantMatrix *m, int64_t flat)
{
    const int64_t block = flat / m->options.block;
    const uint8_t byte = ((const uint8_t *)m->codes.data)[flat / 2];
    float absmax = m->options.double_quant ? 0 : ((const float *)m->absmax.data)[block];
    if (m->options.double_quant) {
        absmax = nested_value(m->map, ((const uint8_t *)m->absmax.data)[block],
                              ((const float *)m->nested_absmax.data)[block / NESTED_BLOCK], m->offset);
    }
    return quant_levels[m->options.type][flat % 2 == 0 ? byte >> 4 : byte & 15] * absmax;
}

static void check(Backend *be, const Shape *s, const QuantOptions *options, DType dtype)
{
    const QuantMatrix m = encoded(s, options);
    const Tensor w = kernel_matrix(dtype, s->rows, s->cols, s->cols + s->spare);
    quant_decode(be, &w, &m);
    kernel_settle();
    for (int64_t r = 0; r < s->rows; r++) {
        for (int64_t c = 0; c < s->cols; c++) {
            const double want = kernel_round((double)value_at(&m, r * s->cols + c), dtype);
            if (kernel_at(&w, r, c) != want) {
                fail_msg("%lld x %lld, block %d, row %lld, column %lld: %.9g instead of %.9g", (long long)s->rows,
                         (long long)s->cols, options->block, (long long)r, (long long)c, kernel_at(&w, r, c), want);
            }
        }
    }
    kernel_check_guards(&w);
    kernel_free(&w);
    matrix_free(&m);
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

/* More than one block of nested absmax, and more packs than threads that run at once. */
static void a_matrix_of_many_nested_blocks_decodes(void **state)
{
    (void)state;
    Backend *be = kernel_backend(2, false);
    check(be, &(Shape){70, 520, 8}, &(QuantOptions){QUANT_NF4, 32, true}, DTYPE_BF16);
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
