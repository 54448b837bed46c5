/*
 * Bytes of bitsandbytes 0.50.2 on the CPU (tests/golden/nf4.py) against ours, which follow its CUDA kernels. The two
 * differ where their sources do, and only there:
 *   NF4     four CPU thresholds lie one ulp away (averages of neighbours): |y - threshold| within 2 ulp
 * FP4 codes, nested codes, absmax and offset are equal byte for byte (quant/blockwise.h).
 */
#include "quant/nf4.h"

#include "base/safetensors.h"
#include "quant/nested.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static Safetensors golden;

static int open_golden(void **state)
{
    Err err = {0};
    (void)state;
    if (safetensors_open(&golden, "golden/data/quant/nf4.safetensors", &err)) return 0;
    print_error("%s\n", err.text);
    return -1;
}

static int close_golden(void **state)
{
    (void)state;
    safetensors_close(&golden);
    return 0;
}

/* --- reading --- */

static const SafetensorsEntry *entry(const char *name)
{
    const SafetensorsEntry *e = safetensors_find(&golden, name);
    if (!e) fail_msg("no golden tensor %s", name);
    return e;
}

static void *bytes_of(const char *name)
{
    const SafetensorsEntry *e = entry(name);
    Err err = {0};
    void *bytes = malloc(e->bytes);
    assert_non_null(bytes);
    assert_true(safetensors_read(&golden, e, 0, e->bytes, bytes, &err));
    return bytes;
}

static float *values_of(const char *name)
{
    const SafetensorsEntry *e = entry(name);
    void *raw = bytes_of(name);
    if (e->dtype == DTYPE_F32) return raw;
    float *x = malloc((size_t)e->count * sizeof *x);
    for (int64_t i = 0; i < e->count; i++)
        x[i] = bf16_to_f32(((uint16_t *)raw)[i]);
    free(raw);
    return x;
}

static void *tensor_bytes_of(const char *key, const char *part)
{
    char name[96];
    snprintf(name, sizeof name, "%s.%s", key, part);
    return bytes_of(name);
}

/* --- encoding --- */

typedef struct Ours {
    QuantHost host;
    int64_t count, blocks;
} Ours;

static Ours encode(const float *x, int64_t count, QuantType type, int block, bool nested)
{
    const QuantOptions options = {type, block, nested};
    Ours o = {.count = count, .blocks = ceil_div(count, block)};
    Err err = {0};
    o.host = (QuantHost){
        .codes = malloc((size_t)ceil_div(count, 2)),
        .absmax = malloc((size_t)o.blocks * sizeof(float)),
        .nested_absmax = malloc((size_t)ceil_div(o.blocks, 256) * sizeof(float)),
        .scratch_absmax = malloc((size_t)o.blocks * sizeof(float)),
    };
    assert_true(quant_encode(&o.host, x, count, &options, &err));
    return o;
}

static void ours_free(Ours *o)
{
    free(o->host.codes);
    free(o->host.absmax);
    free(o->host.nested_absmax);
    free(o->host.scratch_absmax);
}

/* --- which differences are known --- */

static bool near_any(float y, const float *points, int count, int ulps)
{
    for (int i = 0; i < count; i++) {
        const float step = nextafterf(fabsf(points[i]), 2.0f) - fabsf(points[i]);
        if (fabsf(y - points[i]) <= (float)ulps * step) return true;
    }
    return false;
}

static bool known_nf4(float y)
{
    float middles[15];
    for (int i = 0; i < 15; i++)
        middles[i] = (quant_levels[QUANT_NF4][i] + quant_levels[QUANT_NF4][i + 1]) / 2.0f;
    return near_any(y, middles, 15, 2);
}

static unsigned nibble(const uint8_t *codes, int64_t i)
{
    return (i % 2 == 0 ? codes[i / 2] >> 4 : codes[i / 2]) & 15u;
}

static void check_codes(const char *key, const float *x, QuantType type, int block, const Ours *o)
{
    uint8_t *expected = bytes_of(key);
    const float *absmax = o->host.absmax;
    int64_t different = 0;
    for (int64_t i = 0; i < o->count; i++) {
        const unsigned a = nibble(expected, i), b = nibble(o->host.codes, i);
        const float y = x[i] * (1.0f / absmax[i / block]);
        if (a == b) continue;
        different++;
        if (type == QUANT_FP4 || !known_nf4(y))
            fail_msg("%s: element %lld, y = %.9g, is %u and should be %u", key, (long long)i, (double)y, b, a);
    }
    print_message("%s: %lld of %lld codes differ, all as documented\n", key, (long long)different, (long long)o->count);
    assert_int_equal(different, 0);
    free(expected);
}

static void check_plain(const char *name, const char *kind, int block)
{
    char key[64];
    const QuantType type = strcmp(kind, "nf4") == 0 ? QUANT_NF4 : QUANT_FP4;
    float *x = values_of(name);
    Ours o = encode(x, entry(name)->count, type, block, false);
    snprintf(key, sizeof key, "%s.%s.%d", name, kind, block);
    float *absmax = tensor_bytes_of(key, "absmax");
    assert_memory_equal(o.host.absmax, absmax, (size_t)o.blocks * sizeof(float));
    check_codes(key, x, type, block, &o);
    free(absmax);
    free(x);
    ours_free(&o);
}

static const char *const inputs[] = {"k_proj", "down_proj", "normal"};

static void codes_and_absmax_equal_bitsandbytes(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(inputs); i++) {
        check_plain(inputs[i], "nf4", 32);
        check_plain(inputs[i], "nf4", 64);
        check_plain(inputs[i], "nf4", 256);
        check_plain(inputs[i], "fp4", 64);
        check_plain(inputs[i], "fp4", 4096);
    }
}

static void check_nested(const char *name, const char *kind)
{
    char key[64];
    const QuantType type = strcmp(kind, "nf4") == 0 ? QUANT_NF4 : QUANT_FP4;
    float *x = values_of(name);
    Ours o = encode(x, entry(name)->count, type, 64, true);
    snprintf(key, sizeof key, "%s.%s.64", name, kind);
    uint8_t *codes = tensor_bytes_of(key, "nested_codes");
    float *nested = tensor_bytes_of(key, "nested_absmax"), *offset = tensor_bytes_of(key, "offset");
    assert_memory_equal(&o.host.offset, offset, sizeof *offset);
    assert_memory_equal(o.host.nested_absmax, nested, (size_t)ceil_div(o.blocks, 256) * sizeof(float));
    assert_memory_equal(o.host.absmax, codes, (size_t)o.blocks);
    free(codes);
    free(nested);
    free(offset);
    free(x);
    ours_free(&o);
}

static void double_quantization_equals_bitsandbytes(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(inputs); i++) {
        check_nested(inputs[i], "nf4");
        check_nested(inputs[i], "fp4");
    }
}

/* Decoding has no known differences: codes of bitsandbytes in, its bits out. */
static void check_decoded(const char *name, DType dtype, const char *part)
{
    char key[64], decoded[96];
    const SafetensorsEntry *e = entry(name);
    const QuantOptions options = {QUANT_NF4, 64, true};
    const BackendOptions cpu = {.kind = BACKEND_CPU};
    Backend *be = NULL;
    Err err = {0};
    QuantMatrix m;
    Arena measure = {.name = "weights"};
    assert_true(backend_open(&be, &cpu, &err));
    snprintf(key, sizeof key, "%s.nf4.64", name);
    snprintf(decoded, sizeof decoded, "%s.%s", key, part);
    quant_place(&m, &measure, &options, e->shape[0], e->shape[1]);
    float *offset = tensor_bytes_of(key, "offset");
    m.codes.data = bytes_of(key);
    m.absmax.data = tensor_bytes_of(key, "nested_codes");
    m.nested_absmax.data = tensor_bytes_of(key, "nested_absmax");
    m.offset = *offset;
    void *expected = bytes_of(decoded), *out = malloc((size_t)e->count * dtype_bytes(dtype));
    const Tensor w = tensor_matrix(out, dtype, m.rows, m.cols);
    quant_decode(be, &w, &m);
    assert_memory_equal(out, expected, entry(decoded)->bytes);
    free(offset);
    free(m.codes.data);
    free(m.absmax.data);
    free(m.nested_absmax.data);
    free(expected);
    free(out);
    backend_close(be);
}

static void decoded_weights_equal_bitsandbytes_to_the_bit(void **state)
{
    (void)state;
    check_decoded("down_proj", DTYPE_F32, "decoded");
    check_decoded("k_proj", DTYPE_BF16, "decoded_bf16");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(codes_and_absmax_equal_bitsandbytes),
        cmocka_unit_test(double_quantization_equals_bitsandbytes),
        cmocka_unit_test(decoded_weights_equal_bitsandbytes_to_the_bit),
    };
    return cmocka_run_group_tests(tests, open_golden, close_golden);
}
