/* Masks: a function of the key, of the right density, the same for values and gradients. */
#include "lora/lora.h"

#include "tests/support/kernel_test.h"

enum { ROWS = 203 /* odd: the last block of random numbers is not whole */, COLS = 100, STRIDE = 112 };

static const RngKey key = {.seed = 1, .purpose = RNG_LORA_DROPOUT, .stream = 5, .step = 9};

static Tensor ones(DType dtype, int64_t cols, int64_t stride)
{
    const Tensor t = kernel_matrix(dtype, ROWS, cols, stride);
    for (int64_t i = 0; i < ROWS; i++) {
        for (int64_t j = 0; j < cols; j++)
            kernel_set(&t, i, j, 1);
    }
    return t;
}

/* Element e is decided by 16 bits: half e % 2 of word e / 2 % 4 of block e / 8. */
static uint32_t half_of(int64_t element, RngKey k)
{
    const Rng4 words = rng_block(k, (uint64_t)element / 8);
    return words.word[element % 8 / 2] >> (element % 2 * 16) & 0xffffu;
}

static bool kept_by_key(int64_t element, float p, RngKey k)
{
    return half_of(element, k) >= (uint32_t)lrintf(p * 65536.0f);
}

static void kept_elements_are_scaled_and_the_share_is_right(void **state)
{
    (void)state;
    static const float shares[] = {0, 0.05f, 0.1f, 0.5f, 0.9f};
    Backend *be = kernel_backend(0, false);
    for (size_t s = 0; s < ARRAY_COUNT(shares); s++) {
        const float p = shares[s];
        const Tensor t = ones(DTYPE_F32, COLS, COLS);
        lora_dropout(be, &t, &t, p, key);
        double *x = kernel_values(&t), dropped = 0;
        for (int64_t i = 0; i < ROWS * COLS; i++) {
            assert_true(x[i] == 0 || fabs(x[i] * (1 - (double)p) - 1) < 1e-6);
            dropped += x[i] == 0;
        }
        const double expected = (double)p * ROWS * COLS, deviation = sqrt(expected * (1 - (double)p));
        assert_true(fabs(dropped - expected) <= 5 * deviation + 1e-9);
        free(x);
        kernel_free(&t);
    }
    kernel_close(be);
}

/* Odd widths, whole packs, and rows that start anywhere: the mask is that of the dense matrix. */
static void the_mask_is_a_function_of_the_key_alone(void **state)
{
    (void)state;
    static const int64_t widths[][2] = {
        {COLS, COLS  },
        {96,   STRIDE}, /* in moved */
        {96,   96    },
        {96,   STRIDE}, /* out moved */
        {COLS, STRIDE},
        {96,   STRIDE},
        {96,   101   },
        {92,   96    },
        {7,    7     },
        {1,    3     },
        {400,  400   }, /* several rounds of a grid */
        {401,  403   }
    };
    static const DType dtypes[] = {DTYPE_F32, DTYPE_BF16};
    Backend *be = kernel_backend(0, false);
    for (size_t w = 0; w < 2 * ARRAY_COUNT(widths); w++) {
        const int64_t cols = widths[w / 2][0];
        const size_t moved = widths[w / 2][1] == STRIDE ? w / 2 : 0; /* 1: in, 3: out, off a multiple of 16 bytes */
        const Tensor ins = kernel_random(dtypes[w % 2], ROWS, cols + (moved == 1), widths[w / 2][1], 3, 1.0f);
        const Tensor outs = kernel_matrix(dtypes[w % 2], ROWS, cols + (moved == 3), widths[w / 2][1]);
        const Tensor in = kernel_moved(&ins, moved == 1), out = kernel_moved(&outs, moved == 3);
        lora_dropout(be, &out, &in, 0.3f, key);
        for (int64_t i = 0; i < ROWS; i++) {
            for (int64_t j = 0; j < cols; j++) {
                const float scaled = (float)kernel_at(&in, i, j) * (1.0f / (1.0f - 0.3f));
                const double want = kept_by_key(i * cols + j, 0.3f, key) ? kernel_round((double)scaled, in.dtype) : 0;
                assert_true(kernel_at(&out, i, j) == want);
            }
        }
        kernel_check_guards(&outs);
        kernel_free(&ins);
        kernel_free(&outs);
    }
    kernel_close(be);
}

/* It is left out, not multiplied by zero. */
static void what_is_dropped_may_be_anything(void **state)
{
    (void)state;
    static const int64_t strides[] = {96, 97};
    Backend *be = kernel_backend(0, false);
    for (int k = 0; k < 4; k++) {
        const Tensor t = kernel_matrix(k % 2 ? DTYPE_BF16 : DTYPE_F32, 9, 96, strides[k / 2]);
        for (int64_t i = 0; i < 9; i++) {
            for (int64_t j = 0; j < 96; j++)
                kernel_set(&t, i, j, kept_by_key(i * 96 + j, 0.5f, key) ? 1.0 : (double)INFINITY);
        }
        lora_dropout(be, &t, &t, 0.5f, key);
        for (int64_t i = 0; i < 9; i++) {
            for (int64_t j = 0; j < 96; j++)
                assert_true(kernel_at(&t, i, j) == (kept_by_key(i * 96 + j, 0.5f, key) ? 2.0 : 0.0));
        }
        kernel_check_guards(&t);
        kernel_free(&t);
    }
    kernel_close(be);
}

/* A share is a number of 65,536ths: as many values of the 16 bits drop an element, from 0 on. */
static void an_element_at_the_threshold_is_kept(void **state)
{
    (void)state;
    Backend *be = kernel_backend(0, false);
    for (int64_t i = 0; i < 16; i++) {
        const float at = (float)half_of(i, key) / 65536.0f, above = at + 1.0f / 65536.0f;
        const Tensor a = ones(DTYPE_F32, COLS, COLS), b = ones(DTYPE_F32, COLS, COLS);
        lora_dropout(be, &a, &a, at, key);
        lora_dropout(be, &b, &b, above, key);
        assert_true(kernel_at(&a, 0, i) != 0 && kernel_at(&b, 0, i) == 0);
        kernel_free(&a);
        kernel_free(&b);
    }
    kernel_close(be);
}

static void another_step_draws_another_mask(void **state)
{
    (void)state;
    Backend *be = kernel_backend(0, false);
    const Tensor a = ones(DTYPE_F32, COLS, COLS), b = ones(DTYPE_F32, COLS, STRIDE);
    RngKey other = key;
    other.step++;
    lora_dropout(be, &a, &a, 0.3f, key);
    lora_dropout(be, &b, &b, 0.3f, other);
    int differ = 0;
    for (int64_t i = 0; i < ROWS; i++) {
        for (int64_t j = 0; j < COLS; j++)
            differ += (kernel_at(&a, i, j) != 0) != (kernel_at(&b, i, j) != 0);
    }
    assert_true(differ > ROWS * COLS / 3); /* 0.42 of them by chance */
    kernel_check_guards(&b);
    kernel_free(&a);
    kernel_free(&b);
    kernel_close(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kept_elements_are_scaled_and_the_share_is_right),
        cmocka_unit_test(the_mask_is_a_function_of_the_key_alone),
        cmocka_unit_test(what_is_dropped_may_be_anything),
        cmocka_unit_test(an_element_at_the_threshold_is_kept),
        cmocka_unit_test(another_step_draws_another_mask),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
