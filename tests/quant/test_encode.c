/* Encoding on a device, in runs of blocks, against quant_encode of the whole on the host: every byte equal. */
#include "quant/nf4.h"

#include "tests/support/kernel_test.h"

static Tensor vector(DType dtype, int64_t n)
{
    const Tensor row = kernel_matrix(dtype, 1, n, n);
    return tensor_vector(row.data, dtype, n);
}

/* Normal values of very different sizes: zeros, subnormals, blocks near the largest number. */
static float value_of(int64_t i, int block)
{
    static const float scales[] = {1.0f, 0.02f, 0.0f, 1e-37f, 1e-41f, 5e37f, 3e-39f};
    const float scale = scales[i / block % (int64_t)ARRAY_COUNT(scales)];
    const float x = rng_normal((RngKey){.seed = 3, .purpose = RNG_TEST}, (uint64_t)i);
    return i % 13 == 0 ? -0.0f : scale * x;
}

typedef struct Device {
    Tensor values, codes, absmax, bad;
} Device;

static Device device_make(int64_t count, int block)
{
    Device d = {vector(DTYPE_F32, count), vector(DTYPE_U8, (count + 1) / 2), vector(DTYPE_F32, ceil_div(count, block)),
                vector(DTYPE_I64, 1)};
    float *values = d.values.data;
    for (int64_t i = 0; i < count; i++)
        values[i] = value_of(i, block);
    *(int64_t *)d.bad.data = INT64_MAX;
    return d;
}

static void device_free(Device *d)
{
    const Tensor *all[] = {&d->values, &d->codes, &d->absmax, &d->bad};
    for (size_t i = 0; i < ARRAY_COUNT(all); i++) {
        const Tensor row = tensor_matrix(all[i]->data, all[i]->dtype, 1, tensor_count(all[i]));
        kernel_check_guards(&row);
        kernel_free(&row);
    }
}

/* In runs of `run` values. */
static void encode_in_runs(Backend *be, const Device *d, const QuantOptions *options, int64_t run)
{
    const int64_t count = tensor_count(&d->values);
    for (int64_t first = 0; first < count; first += run) {
        const int64_t n = count - first < run ? count - first : run, block = options->block;
        const QuantEncode e = {
            .values = tensor_slice_flat(&d->values, first, n),
            .codes = tensor_slice_flat(&d->codes, first / 2, (n + 1) / 2),
            .absmax = tensor_slice_flat(&d->absmax, first / block, ceil_div(n, block)),
            .bad = d->bad,
            .first = first,
        };
        quant_encode_on(be, &e, options);
    }
    kernel_settle();
}

static void check(Backend *be, int64_t count, const QuantOptions *options, int64_t run)
{
    Device d = device_make(count, options->block);
    const size_t blocks = (size_t)ceil_div(count, options->block);
    QuantHost host = {.codes = malloc((size_t)(count + 1) / 2), .absmax = malloc(blocks * 4)};
    Err err = {0};
    assert_true(host.codes && host.absmax);
    assert_true(quant_encode(&host, d.values.data, count, options, &err));
    encode_in_runs(be, &d, options, run);
    assert_memory_equal(d.codes.data, host.codes, (size_t)(count + 1) / 2);
    assert_memory_equal(d.absmax.data, host.absmax, blocks * 4);
    assert_true(*(const int64_t *)d.bad.data == INT64_MAX);
    free(host.codes);
    free(host.absmax);
    device_free(&d);
}

static void every_byte_equals_the_host(void **state)
{
    (void)state;
    static const int blocks[] = {32, 64, 128, 256, 1024, 2048, 4096};
    static const int64_t counts[] = {1, 31, 64, 66, 1003, 4097, 12289};
    Backend *be = kernel_backend(2, false);
    for (size_t b = 0; b < 2 * ARRAY_COUNT(blocks); b++) {
        const QuantOptions options = {b % 2 ? QUANT_FP4 : QUANT_NF4, blocks[b / 2], false};
        for (size_t c = 0; c < ARRAY_COUNT(counts); c++) {
            check(be, counts[c], &options, counts[c]);
            check(be, counts[c], &options, 3 * options.block);
        }
    }
    kernel_close(be);
}

/* More blocks than run at once: each takes several rounds. */
static void a_large_matrix_is_encoded_in_one_run(void **state)
{
    (void)state;
    static const int blocks[] = {64, 512, 4096};
    Backend *be = kernel_backend(2, false);
    for (size_t b = 0; b < ARRAY_COUNT(blocks); b++) {
        const QuantOptions options = {QUANT_NF4, blocks[b], false};
        check(be, 150001, &options, 150001);
    }
    kernel_close(be);
}

static void the_first_value_that_is_not_finite_is_found(void **state)
{
    (void)state;
    static const int64_t places[][2] = {
        {700, 650},
        {650, 3  },
        {999, 999},
        {64,  65 }
    };
    Backend *be = kernel_backend(2, false);
    for (size_t i = 0; i < 2 * ARRAY_COUNT(places); i++) {
        const QuantOptions options = {QUANT_NF4, i % 2 ? 64 : 256, false};
        const int64_t *place = places[i / 2];
        Device d = device_make(1000, options.block);
        ((float *)d.values.data)[place[0]] = NAN;
        ((float *)d.values.data)[place[1]] = -INFINITY;
        encode_in_runs(be, &d, &options, 256);
        assert_int_equal(*(const int64_t *)d.bad.data, place[0] < place[1] ? place[0] : place[1]);
        device_free(&d);
    }
    kernel_close(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_byte_equals_the_host),
        cmocka_unit_test(a_large_matrix_is_encoded_in_one_run),
        cmocka_unit_test(the_first_value_that_is_not_finite_is_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
