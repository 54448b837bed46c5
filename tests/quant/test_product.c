/* Rows of 4-bit matrices times a few vectors: against decoding first, in every alignment of rows and blocks. */
#include "base/rng.h"
#include "quant/product.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct Case {
    int64_t rows, cols;
    int block;
    bool double_quant;
    QuantType type;
} cases[] = {
    {5,  64,  64,   true,  QUANT_NF4},
    {7,  33,  32,   false, QUANT_NF4}, /* odd rows: blocks and bytes straddle them */
    {3,  96,  64,   true,  QUANT_NF4}, /* blocks straddle rows, groups of 32 do not */
    {9,  576, 64,   true,  QUANT_NF4},
    {4,  64,  4096, false, QUANT_FP4}, /* one block */
    {40, 32,  32,   true,  QUANT_FP4},
    {2,  50,  64,   true,  QUANT_NF4},
};

static void *need(size_t count, size_t size)
{
    void *p = calloc(count + 1, size);
    assert_non_null(p);
    return p;
}

typedef struct Sample {
    QuantMatrix m;
    Arena arena;
    float *decoded; /* (rows, cols) */
    float *x;       /* (QUANT_PRODUCT_VECTORS, cols) */
    float *ordered; /* the same as the product wants it */
} Sample;

static Sample make(Backend *be, const struct Case *c)
{
    Sample s = {0};
    Err err = {0};
    const QuantOptions options = {.type = c->type, .block = c->block, .double_quant = c->double_quant};
    const int64_t n = c->rows * c->cols;
    quant_place(&s.m, &s.arena, &options, c->rows, c->cols);
    const size_t bytes = s.arena.peak;
    s.arena.used = 0;
    assert_true(backend_arena_reserve(be, &s.arena, bytes, &err));
    quant_place(&s.m, &s.arena, &options, c->rows, c->cols);
    float *w = need((size_t)n, sizeof *w);
    for (int64_t i = 0; i < n; i++)
        w[i] = rng_normal((RngKey){.seed = 1, .purpose = RNG_TEST}, (uint64_t)i);
    const size_t blocks = (size_t)quant_blocks(&s.m);
    QuantHost host = {need((size_t)n, 1), need(blocks, 4), need(blocks, 4), need(blocks, 4), 0};
    assert_true(quant_encode(&host, w, n, &options, &err));
    backend_upload(be, &s.m.codes, host.codes);
    backend_upload(be, &s.m.absmax, host.absmax);
    if (c->double_quant) backend_upload(be, &s.m.nested_absmax, host.nested_absmax);
    s.m.offset = c->double_quant ? host.offset : 0;
    s.decoded = w;
    const Tensor t = tensor_matrix(s.decoded, DTYPE_F32, c->rows, c->cols);
    quant_decode(be, &t, &s.m);
    s.x = need((size_t)(QUANT_PRODUCT_VECTORS * c->cols), sizeof *s.x);
    s.ordered = need((size_t)(QUANT_PRODUCT_VECTORS * c->cols), sizeof *s.ordered);
    for (int64_t i = 0; i < QUANT_PRODUCT_VECTORS * c->cols; i++)
        s.x[i] = rng_normal((RngKey){.seed = 2, .purpose = RNG_TEST}, (uint64_t)i);
    for (int i = 0; i < QUANT_PRODUCT_VECTORS; i++)
        quant_product_order(s.ordered + i * c->cols, s.x + i * c->cols, c->cols);
    free(host.codes);
    free(host.absmax);
    free(host.nested_absmax);
    free(host.scratch_absmax);
    return s;
}

typedef void (*RowProduct)(float *out, const QuantMatrix *m, int64_t row, const float *x, int n);

static void compare(const Sample *s, RowProduct product, int n)
{
    for (int64_t row = 0; row < s->m.rows; row++) {
        float out[QUANT_PRODUCT_VECTORS];
        product(out, &s->m, row, s->ordered, n);
        for (int i = 0; i < n; i++) {
            double exact = 0, size = 0;
            for (int64_t k = 0; k < s->m.cols; k++) {
                const double term = (double)s->decoded[row * s->m.cols + k] * (double)s->x[i * s->m.cols + k];
                exact += term;
                size += fabs(term);
            }
            assert_true(fabs((double)out[i] - exact) <= 1e-6 * size);
        }
    }
}

static void products_equal_decoding_first(void **state)
{
    (void)state;
    Backend *be;
    Err err = {0};
    const BackendOptions options = {.kind = BACKEND_CPU};
    assert_true(backend_open(&be, &options, &err));
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        Sample s = make(be, &cases[c]);
        for (int n = 1; n <= QUANT_PRODUCT_VECTORS; n++) {
            compare(&s, quant_row_product, n);
            compare(&s, quant_row_product_plain, n);
        }
        free(s.decoded);
        free(s.x);
        free(s.ordered);
        backend_arena_release(be, &s.arena);
    }
    backend_close(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_equal_decoding_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
