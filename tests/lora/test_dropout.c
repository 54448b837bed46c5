/* Masks: a function of the key, of the right density, the same for values and gradients. */
#include "tests/lora/rig.h"

enum { ROWS = 200, COLS = 100, STRIDE = 112 };

static Backend *open_backend(void)
{
    Backend *be;
    const BackendOptions options = {.kind = BACKEND_CPU};
    MUST(backend_open(&be, &options, &rig_err));
    return be;
}

static const RngKey key = {.seed = 1, .purpose = RNG_LORA_DROPOUT, .stream = 5, .step = 9};

static void ones(float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = 1;
}

static void kept_elements_are_scaled_and_the_share_is_right(void **state)
{
    (void)state;
    static float x[ROWS * COLS];
    static const float shares[] = {0, 0.05f, 0.1f, 0.5f, 0.9f};
    Backend *be = open_backend();
    for (size_t s = 0; s < ARRAY_COUNT(shares); s++) {
        const float p = shares[s];
        const Tensor t = tensor_matrix(x, DTYPE_F32, ROWS, COLS);
        ones(x, ROWS * COLS);
        lora_dropout(be, &t, &t, p, key);
        double dropped = 0;
        for (int64_t i = 0; i < ROWS * COLS; i++) {
            assert_true(x[i] == 0 || fabs((double)x[i] * (1 - (double)p) - 1) < 1e-6);
            dropped += x[i] == 0;
        }
        const double expected = (double)p * ROWS * COLS, deviation = sqrt(expected * (1 - (double)p));
        assert_true(fabs(dropped - expected) <= 5 * deviation + 1e-9);
    }
    backend_close(be);
}

static void the_mask_is_a_function_of_the_key_alone(void **state)
{
    (void)state;
    static float dense[ROWS * COLS], strided[ROWS * STRIDE];
    static uint16_t narrow[ROWS * COLS];
    Backend *be = open_backend();
    const Tensor t = tensor_matrix(dense, DTYPE_F32, ROWS, COLS),
                 wide = tensor_matrix(strided, DTYPE_F32, ROWS, STRIDE);
    const Tensor inner = tensor_slice_cols(&wide, 0, COLS), half = tensor_matrix(narrow, DTYPE_BF16, ROWS, COLS);
    ones(dense, ROWS * COLS);
    ones(strided, ROWS * STRIDE);
    for (int64_t i = 0; i < ROWS * COLS; i++)
        narrow[i] = bf16_from_f32(1);
    lora_dropout(be, &t, &t, 0.3f, key);
    lora_dropout(be, &inner, &inner, 0.3f, key);
    lora_dropout(be, &half, &half, 0.3f, key);
    for (int64_t i = 0; i < ROWS; i++) {
        for (int64_t j = 0; j < COLS; j++) {
            const bool kept = dense[i * COLS + j] != 0;
            assert_true((strided[i * STRIDE + j] != 0) == kept && (narrow[i * COLS + j] != 0) == kept);
        }
        assert_true(strided[i * STRIDE + COLS] == 1); /* spare columns are nobody's */
    }
    RngKey other = key;
    other.step++;
    int differ = 0;
    ones(strided, ROWS * STRIDE);
    lora_dropout(be, &inner, &inner, 0.3f, other);
    for (int64_t i = 0; i < ROWS * COLS; i++)
        differ += (dense[i] != 0) != (strided[i / COLS * STRIDE + i % COLS] != 0);
    assert_true(differ > ROWS * COLS / 3); /* 0.42 of them by chance */
    backend_close(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kept_elements_are_scaled_and_the_share_is_right),
        cmocka_unit_test(the_mask_is_a_function_of_the_key_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
