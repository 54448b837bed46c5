#include "base/tensor.h"

#include "base/arena.h"
#include "tests/support/scratch.h"

#include <math.h>

static void types_have_their_names_and_sizes(void **state)
{
    (void)state;
    static const struct {
        DType dtype;
        const char *name;
        size_t bytes;
    } cases[] = {
        {DTYPE_F32,  "F32",  4},
        {DTYPE_F16,  "F16",  2},
        {DTYPE_BF16, "BF16", 2},
        {DTYPE_U8,   "U8",   1},
        {DTYPE_I8,   "I8",   1},
        {DTYPE_I32,  "I32",  4},
        {DTYPE_I64,  "I64",  8},
        {DTYPE_F64,  "F64",  8},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        DType found;
        assert_true(dtype_from_name(&found, cases[i].name));
        assert_int_equal(found, cases[i].dtype);
        assert_string_equal(dtype_name(found), cases[i].name);
        assert_int_equal(dtype_bytes(found), cases[i].bytes);
    }
    DType none;
    assert_false(dtype_from_name(&none, "F8_E4M3"));
    assert_false(dtype_from_name(&none, "f32"));
}

static void slices_show_the_right_elements(void **state)
{
    (void)state;
    float data[6][8];
    for (int i = 0; i < 48; i++)
        ((float *)data)[i] = (float)i;
    const Tensor whole = tensor_matrix(data, DTYPE_F32, 6, 8);
    assert_true(tensor_dense(&whole));
    assert_int_equal(tensor_count(&whole), 48);
    assert_int_equal(tensor_bytes(&whole), sizeof data);
    const Tensor cols = tensor_slice_cols(&whole, 2, 3);
    const Tensor both = tensor_slice_rows(&cols, 1, 4);
    assert_ptr_equal(both.data, &data[1][2]);
    assert_int_equal(both.stride, 8);
    assert_int_equal(tensor_rows(&both), 4);
    assert_int_equal(tensor_cols(&both), 3);
    assert_int_equal(tensor_count(&both), 12);
    assert_int_equal(tensor_bytes(&both), (3 * 8 + 3) * sizeof(float));
    assert_false(tensor_dense(&both));
    const Tensor row = tensor_slice_rows(&both, 0, 1);
    assert_true(tensor_dense(&row)); /* a single row has no gaps */
    const Tensor flat = tensor_slice_flat(&whole, 10, 5);
    assert_ptr_equal(flat.data, &data[1][2]);
    const Tensor empty = tensor_slice_rows(&whole, 6, 0);
    assert_int_equal(tensor_bytes(&empty), 0);
}

static void a_tensor_without_data_stays_without(void **state)
{
    (void)state;
    const Tensor plan = tensor_matrix(NULL, DTYPE_BF16, 10, 20);
    assert_null(tensor_slice_rows(&plan, 3, 2).data);
    assert_null(tensor_slice_cols(&plan, 3, 2).data);
}

/* All 65,536 halves through the widening and back, and against their definition. */
static void halves_are_exact(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits < 65536; bits++) {
        const float wide = f16_to_f32((uint16_t)bits);
        const int exponent = (int)(bits >> 10 & 31);
        const double fraction = (double)(bits & 1023) / 1024;
        if (exponent == 31) {
            assert_true(fraction > 0 ? isnan(wide) : isinf(wide));
        } else {
            double value = exponent ? ldexp(1 + fraction, exponent - 15) : ldexp(fraction, -14);
            if (bits & 0x8000) value = -value;
            assert_true((double)wide == value && (signbit(wide) != 0) == (bits >> 15 != 0));
        }
        if (!isnan(wide)) assert_int_equal(f16_from_f32(wide), bits);
    }
}

/* Between two neighbours the nearer one wins, and the even one half way. */
static void rounding_to_halves_is_to_nearest_even(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits < 0x7bff; bits++) {
        const double low = (double)f16_to_f32((uint16_t)bits);
        const double high = (double)f16_to_f32((uint16_t)(bits + 1));
        const double middle = (low + high) / 2;
        assert_int_equal(f16_from_f32((float)middle), bits + (bits & 1));
        assert_int_equal(f16_from_f32(nextafterf((float)middle, 0)), bits);
        assert_int_equal(f16_from_f32(nextafterf((float)middle, INFINITY)), bits + 1);
        assert_int_equal(f16_from_f32(-(float)middle), 0x8000 | (bits + (bits & 1)));
    }
    assert_int_equal(f16_from_f32(65519.996f), 0x7bff);
    assert_int_equal(f16_from_f32(65520.0f), 0x7c00);
    assert_int_equal(f16_from_f32(-INFINITY), 0xfc00);
    assert_true(isnan(f16_to_f32(f16_from_f32(NAN))));
    assert_int_equal(f16_from_f32(1e-30f), 0);
    assert_int_equal(f16_from_f32(-1e-30f), 0x8000);
}

static void rounding_to_bfloat16_is_to_nearest_even(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits < 0x7f7f; bits++) {
        assert_int_equal(bf16_from_f32(bf16_to_f32((uint16_t)bits)), bits);
        const uint32_t middle = bits << 16 | 0x8000;
        float value;
        memcpy(&value, &middle, sizeof value);
        assert_int_equal(bf16_from_f32(value), bits + (bits & 1));
        assert_int_equal(bf16_from_f32(nextafterf(value, 0)), bits);
        assert_int_equal(bf16_from_f32(nextafterf(value, INFINITY)), bits + 1);
    }
    assert_int_equal(bf16_from_f32(3.4e38f), 0x7f80);
    const uint32_t quiet_in_low_bits = 0x7f800001;
    float nan;
    memcpy(&nan, &quiet_in_low_bits, sizeof nan);
    assert_true(isnan(bf16_to_f32(bf16_from_f32(nan)))); /* must not become infinity */
}

static void an_arena_measures_what_it_places(void **state)
{
    (void)state;
    Arena a = {.name = "test"};
    for (int pass = 0; pass < 2; pass++) {
        const Tensor first = arena_matrix(&a, DTYPE_BF16, 3, 5);
        const size_t mark = arena_mark(&a);
        const Tensor second = arena_vector(&a, DTYPE_F32, 7);
        arena_release(&a, mark);
        const Tensor third = arena_vector(&a, DTYPE_U8, 1);
        if (pass == 0) {
            assert_null(first.data);
            assert_int_equal(a.peak, 64 + 28);
            a.size = a.peak;
            a.base = malloc(a.size);
            assert_non_null(a.base);
            a.used = 0;
        } else {
            assert_ptr_equal(first.data, a.base);
            assert_ptr_equal(second.data, a.base + 64);
            assert_ptr_equal(third.data, a.base + 64);
            assert_int_equal(a.peak, a.size);
        }
    }
    free(a.base);
}

static void checked_arithmetic_never_wraps(void **state)
{
    (void)state;
    uint64_t out;
    assert_true(checked_add(UINT64_MAX - 1, 1, &out) && out == UINT64_MAX);
    assert_false(checked_add(UINT64_MAX, 1, &out));
    assert_true(checked_mul(1ull << 32, (1ull << 32) - 1, &out));
    assert_false(checked_mul(1ull << 32, 1ull << 32, &out));
    assert_true(checked_align(65, 64, &out) && out == 128);
    assert_true(checked_align(0, 64, &out) && out == 0);
    assert_false(checked_align(UINT64_MAX - 62, 64, &out)); /* the step that would wrap to 0 */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(types_have_their_names_and_sizes),
        cmocka_unit_test(slices_show_the_right_elements),
        cmocka_unit_test(a_tensor_without_data_stays_without),
        cmocka_unit_test(halves_are_exact),
        cmocka_unit_test(rounding_to_halves_is_to_nearest_even),
        cmocka_unit_test(rounding_to_bfloat16_is_to_nearest_even),
        cmocka_unit_test(an_arena_measures_what_it_places),
        cmocka_unit_test(checked_arithmetic_never_wraps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
