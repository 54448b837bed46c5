#include "quant/nf4.h"

#include "quant/kernels.h"
#include "quant/nested.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* --- helpers --- */

enum { GUARD = 0x5a, GUARD_BYTES = 16 };

/* Outputs of one encoding, with guard bytes behind each. */
typedef struct Encoded {
    QuantHost host;
    int64_t blocks, code_bytes;
} Encoded;

static void *guarded(size_t bytes)
{
    unsigned char *p = malloc(bytes + GUARD_BYTES);
    assert_non_null(p);
    memset(p + bytes, GUARD, GUARD_BYTES);
    return p;
}

static void check_guard(const void *p, size_t bytes)
{
    for (int i = 0; i < GUARD_BYTES; i++)
        assert_int_equal(((const unsigned char *)p)[bytes + (size_t)i], GUARD);
}

static Encoded encode(const float *x, int64_t count, QuantType type, int block, bool double_quant)
{
    const QuantOptions options = {type, block, double_quant};
    const int64_t blocks = ceil_div(count, block);
    Encoded e = {.blocks = blocks, .code_bytes = ceil_div(count, 2)};
    Err err = {0};
    e.host.codes = guarded((size_t)e.code_bytes);
    e.host.absmax = guarded((size_t)blocks * (double_quant ? 1 : 4));
    e.host.nested_absmax = guarded((size_t)ceil_div(blocks, 256) * 4);
    e.host.scratch_absmax = guarded((size_t)blocks * 4);
    assert_true(quant_encode(&e.host, x, count, &options, &err));
    check_guard(e.host.codes, (size_t)e.code_bytes);
    check_guard(e.host.absmax, (size_t)blocks * (double_quant ? 1 : 4));
    check_guard(e.host.nested_absmax, (size_t)ceil_div(blocks, 256) * 4);
    check_guard(e.host.scratch_absmax, (size_t)blocks * 4);
    return e;
}

static void encoded_free(Encoded *e)
{
    free(e->host.codes);
    free(e->host.absmax);
    free(e->host.nested_absmax);
    free(e->host.scratch_absmax);
}

static void assert_hex(const uint8_t *bytes, const char *expected)
{
    char text[129];
    const size_t n = strlen(expected) / 2;
    assert_true(n <= 64);
    for (size_t i = 0; i < n; i++)
        snprintf(text + 2 * i, 3, "%02x", bytes[i]);
    assert_string_equal(text, expected);
}

static void assert_codes(const float *x, int64_t count, QuantType type, const char *expected)
{
    Encoded e = encode(x, count, type, 64, false);
    assert_hex(e.host.codes, expected);
    encoded_free(&e);
}

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float from_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static Backend *open_backend(int threads)
{
    const BackendOptions options = {.kind = BACKEND_CPU, .threads = threads};
    Backend *be = NULL;
    Err err = {0};
    assert_true(backend_open(&be, &options, &err));
    return be;
}

/* A quantized matrix over host arrays that an encoding filled. */
static QuantMatrix matrix_of(const Encoded *e, QuantType type, int block, bool double_quant, int64_t rows, int64_t cols)
{
    QuantMatrix m;
    Arena measure = {.name = "weights"};
    const QuantOptions options = {type, block, double_quant};
    quant_place(&m, &measure, &options, rows, cols);
    m.codes.data = e->host.codes;
    m.absmax.data = e->host.absmax;
    m.nested_absmax.data = double_quant ? e->host.nested_absmax : NULL;
    m.offset = e->host.offset;
    return m;
}

/* --- known vectors --- */

static void a_ramp_gets_the_published_codes(void **state)
{
    float x[64];
    (void)state;
    for (int i = 0; i < 64; i++)
        x[i] = (float)(-1.0 + 2.0 * i / 63.0);
    assert_codes(x, 64, QUANT_NF4, "00000111111112222233344445556667788899aaabbbccccddddeeeeeeefffff");
    assert_codes(x, 64, QUANT_FP4, "bbbbbbaaaaaaaadddddccccffeeee99911166667744445555522222222333333");
}

static void bf16_weights_encode_and_decode_as_published(void **state)
{
    static const uint16_t expected[16] = {0xbd2a, 0x3bdb, 0xbced, 0x3c96, 0xbc86, 0x3cf6, 0xbb78, 0xbd2a,
                                          0x3c27, 0xbcb3, 0x3cbf, 0xbc41, 0x3d2a, 0x0000, 0xbced, 0x3c66};
    static const uint32_t expected_f32[4] = {0xbd2a0000, 0x3bdadd75, 0xbcecb49f, 0x3c95d762};
    float x[64], wide[64];
    uint16_t narrow[64];
    Backend *be = open_backend(1);
    (void)state;
    for (int i = 0; i < 64; i++)
        x[i] = bf16_to_f32(bf16_from_f32((float)((37 * i % 64 - 32) * 0.0013)));
    Encoded e = encode(x, 64, QUANT_NF4, 64, false);
    assert_hex(e.host.codes, "091c3e60a2d4f71b2e5f91c3e60a1d4e71b2d5f81c3e6091c3e70a2d4f81b2e5");
    assert_int_equal(bits_of(*(float *)e.host.absmax), 0x3d2a0000);
    const QuantMatrix m = matrix_of(&e, QUANT_NF4, 64, false, 1, 64);
    const Tensor w16 = tensor_matrix(narrow, DTYPE_BF16, 1, 64), w32 = tensor_matrix(wide, DTYPE_F32, 1, 64);
    quant_decode(be, &w16, &m);
    quant_decode(be, &w32, &m);
    assert_memory_equal(narrow, expected, sizeof expected);
    assert_memory_equal(wide, expected_f32, sizeof expected_f32);
    encoded_free(&e);
    backend_close(be);
}

static void tails_and_zeros_get_the_published_codes(void **state)
{
    static const float tail[5] = {1.0f, -0.5f, 0.25f, 0.0f, -1.0f};
    static const float zeros[64] = {0};
    (void)state;
    assert_codes(tail, 5, QUANT_NF4, "f2a707");
    assert_codes(tail, 5, QUANT_FP4, "3d70b0");
    assert_codes(zeros, 5, QUANT_NF4, "000000");
    assert_codes(zeros, 64, QUANT_NF4, "0000000000000000000000000000000000000000000000000000000000000000");
    Encoded e = encode(zeros, 64, QUANT_FP4, 64, false);
    assert_int_equal(bits_of(*(float *)e.host.absmax), 0);
    assert_memory_equal(e.host.codes, zeros, 32);
    encoded_free(&e);
}

static void a_value_at_a_threshold_takes_the_lower_code(void **state)
{
    static const uint32_t thresholds[15] = {0xbf591cd9, 0xbf1c5270, 0xbeeb8480, 0xbeadea76, 0xbe703cec,
                                            0xbe0d38bc, 0xbd3a7871, 0x3d22faff, 0x3df64863, 0x3e5067e0,
                                            0x3e9582d4, 0x3ec753f9, 0x3f006d03, 0x3f248daf, 0x3f5c89d9};
    (void)state;
    for (int i = 0; i < 15; i++) {
        float x[64] = {1.0f};
        x[2] = from_bits(thresholds[i]);
        x[3] = nextafterf(x[2], 2.0f);
        for (int vector = 0; vector < 2; vector++) {
            uint8_t codes[32];
            float absmax;
            bool (*kernel)(uint8_t *, float *, const float *, int64_t, QuantType) =
                vector ? kernel_encode : kernel_encode_plain;
            assert_true(kernel(codes, &absmax, x, 64, QUANT_NF4));
            assert_int_equal(codes[1], i << 4 | (i + 1));
        }
    }
}

static void absmax_codes_and_restored_absmax_are_the_published_ones(void **state)
{
    static const float absmax[8] = {0.021484375f,  0.025390625f, 0.01953125f,   0.03125f,
                                    0.0224609375f, 0.02734375f,  0.0185546875f, 0.0302734375f};
    static const uint8_t expected[8] = {38, 192, 18, 255, 49, 213, 7, 244};
    static const uint32_t restored[8] = {0x3cafc700, 0x3ccfa900, 0x3ca04f00, 0x3d000000,
                                         0x3cb84900, 0x3cdfe700, 0x3c97cd00, 0x3cf7e100};
    uint8_t codes[8];
    float nested, offset, map[256];
    (void)state;
    blockwise_map_signed(map);
    nested_encode(codes, &nested, &offset, map, absmax, 8);
    assert_int_equal(bits_of(offset), 0x3cc90000);
    assert_int_equal(bits_of(nested), 0x3bdc0000);
    assert_memory_equal(codes, expected, sizeof expected);
    for (int i = 0; i < 8; i++)
        assert_int_equal(bits_of(nested_value(map, codes[i], nested, offset)), restored[i]);
}

static void the_offset_is_a_sum_that_was_divided(void **state)
{
    (void)state;
    for (int n = 1; n < 200; n++) {
        float x[200];
        for (int i = 0; i < n; i++)
            x[i] = (float)(i % 7 + 1); /* sums are exact in any order */
        float sum = 0.0f;
        for (int i = 0; i < n; i++)
            sum += x[i];
        assert_int_equal(bits_of(nested_mean(x, n)), bits_of(sum / (float)n));
    }
}

/* Fewer than eight: four sums, then what is left on the first of them. */
static void few_values_are_summed_in_the_order_of_pytorch(void **state)
{
    const float x[7] = {1.0f, 0x1p-25f, 0x1p-25f, 0x1p-25f, 0x1p-24f, 0x1p-24f, 0x1p-24f};
    const float y[7] = {0x1p-24f, 1.0f, 0x1p-24f, 0x1p-24f, 0x1p-24f, 0x1p-24f, 0x1p-24f};
    (void)state;
    assert_int_equal(bits_of(nested_mean(x, 7)), bits_of(1.0f / 7.0f));
    assert_int_equal(bits_of(nested_mean(y, 7)), bits_of((1.0f + 0x1p-22f) / 7.0f));
}

/* --- plain and vector forms --- */

static const struct Scale {
    const char *name;
    float factor;
} scales[] = {
    {"ordinary",         0.02f  },
    {"large",            3e37f  },
    {"near the largest", 2.5e38f},
    {"tiny",             1e-35f },
    {"some subnormal",   1e-37f },
    {"subnormal",        1e-40f },
    {"zero",             0.0f   },
};

static void fill(float *x, int64_t n, float factor, uint64_t seed)
{
    for (int64_t i = 0; i < n; i++) {
        const uint32_t r = (uint32_t)(((uint64_t)i + seed * 7919) * 2654435761u >> 7);
        x[i] = ((float)(r % 20011) / 10005.5f - 1.0f) * factor;
        if (r % 13 == 0) x[i] *= 1e-7f; /* far below its block's largest */
    }
}

static void vector_and_plain_encoding_give_the_same_bytes(void **state)
{
    static const int64_t sizes[] = {1, 5, 16, 31, 32, 48, 64, 100, 128, 255, 256, 1024, 4096};
    float x[4096];
    (void)state;
    for (size_t s = 0; s < ARRAY_COUNT(scales); s++) {
        for (size_t k = 0; k < ARRAY_COUNT(sizes); k++) {
            const int64_t n = sizes[k];
            for (int type = 0; type < 2; type++) {
                uint8_t plain[2048] = {0}, vector[2048] = {0};
                float plain_absmax, vector_absmax;
                fill(x, n, scales[s].factor, s * 100 + k);
                assert_true(kernel_encode_plain(plain, &plain_absmax, x, n, (QuantType)type));
                assert_true(kernel_encode(vector, &vector_absmax, x, n, (QuantType)type));
                assert_memory_equal(plain, vector, sizeof plain);
                assert_int_equal(bits_of(plain_absmax), bits_of(vector_absmax));
            }
        }
    }
}

static void subnormal_weights_count_as_zero_in_nf4(void **state)
{
    float x[64] = {1e-40f, -1e-40f};
    uint8_t codes[32];
    float absmax;
    (void)state;
    assert_true(kernel_encode(codes, &absmax, x, 64, QUANT_NF4));
    assert_int_equal(bits_of(absmax), 0);
    assert_int_equal(codes[0], 0x00);
    x[63] = 0x1p-126f; /* a normal largest value, against which 1e-40 would be 0.0085 and -5e-39 would be -0.43 */
    x[1] = -5e-39f;
    assert_true(kernel_encode(codes, &absmax, x, 64, QUANT_NF4));
    assert_int_equal(codes[0], 0x77);
    assert_true(kernel_encode(codes, &absmax, x, 64, QUANT_FP4));
    assert_int_equal(codes[0], 0x1d);
}

/* The zero levels meet at zero, which itself is code 0; ties go to the lower level, also below zero. */
static void fp4_values_at_and_around_thresholds_get_the_codes_of_bitsandbytes(void **state)
{
    static const uint32_t thresholds[15] = {0xbf555556, 0xbf155556, 0xbed55556, 0xbe955556, 0xbe555556,
                                            0xbdb00000, 0xbb2aaaab, 0x00000000, 0x3b2aaaab, 0x3db00000,
                                            0x3e555556, 0x3e955556, 0x3ed55556, 0x3f155556, 0x3f555556};
    static const uint8_t codes_by_level[16] = {11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3};
    (void)state;
    for (int i = 0; i < 15; i++) {
        float x[64] = {1.0f};
        x[2] = from_bits(thresholds[i]);
        x[3] = nextafterf(x[2], 2.0f);
        for (int vector = 0; vector < 2; vector++) {
            uint8_t codes[32];
            float absmax;
            bool (*kernel)(uint8_t *, float *, const float *, int64_t, QuantType) =
                vector ? kernel_encode : kernel_encode_plain;
            assert_true(kernel(codes, &absmax, x, 64, QUANT_FP4));
            assert_int_equal(codes[1], codes_by_level[i] << 4 | codes_by_level[i + 1]);
        }
    }
}

static void vector_and_plain_decoding_give_the_same_bytes(void **state)
{
    uint8_t codes[512];
    float values[16], a[1024 + 4], b[1024 + 4];
    uint16_t narrow[16], c[1024 + 4], d[1024 + 4];
    (void)state;
    for (int i = 0; i < 512; i++)
        codes[i] = (uint8_t)(i * 151 + 7);
    for (int i = 0; i < 16; i++) {
        values[i] = quant_levels[QUANT_NF4][i] * 0.37f;
        narrow[i] = bf16_from_f32(values[i]);
    }
    for (int64_t first = 0; first < 5; first++) {
        for (int64_t count = 0; count <= 130; count++) {
            memset(a, 0xee, sizeof a);
            memset(b, 0xee, sizeof b);
            memset(c, 0xee, sizeof c);
            memset(d, 0xee, sizeof d);
            kernel_decode_f32_plain(a, codes, first, count, values);
            kernel_decode_f32(b, codes, first, count, values);
            kernel_decode_u16_plain(c, codes, first, count, narrow);
            kernel_decode_u16(d, codes, first, count, narrow);
            assert_memory_equal(a, b, sizeof a);
            assert_memory_equal(c, d, sizeof c);
        }
    }
}

/* --- whole matrices --- */

static const struct Shape {
    int64_t rows, cols;
    int block;
} shapes[] = {
    {1,   1,    32  },
    {1,   64,   64  },
    {3,   64,   64  },
    {7,   100,  64  },
    {5,   33,   32  },
    {37,  101,  64  },
    {16,  576,  64  },
    {9,   48,   4096},
    {64,  96,   128 },
    {257, 640,  256 },
    {33,  1024, 512 },
    {130, 1536, 64  },
    {2,   70,   1024},
    {3,   4098, 2048},
};

/* Two roundings for a nested absmax, one product, one rounding to the output: the contract, element by element. */
static float expected_value(const Encoded *e, const QuantMatrix *m, int64_t i)
{
    const int64_t block = i / m->options.block;
    const unsigned byte = e->host.codes[i / 2], code = i % 2 == 0 ? byte >> 4 : byte & 15u;
    float absmax;
    if (m->options.double_quant) {
        const volatile float product =
            m->map[((const uint8_t *)e->host.absmax)[block]] * e->host.nested_absmax[block / 256];
        absmax = product + m->offset;
    } else {
        absmax = ((const float *)e->host.absmax)[block];
    }
    return quant_levels[m->options.type][code] * absmax;
}

static void check_decoded(Backend *be, const Encoded *e, const QuantMatrix *m, int64_t spare)
{
    const int64_t stride = m->cols + spare, cells = m->rows * stride;
    float *wide = malloc((size_t)cells * sizeof *wide);
    uint16_t *narrow = malloc((size_t)cells * sizeof *narrow);
    memset(wide, 0x77, (size_t)cells * sizeof *wide);
    memset(narrow, 0x77, (size_t)cells * sizeof *narrow);
    const Tensor whole32 = tensor_matrix(wide, DTYPE_F32, m->rows, stride);
    const Tensor whole16 = tensor_matrix(narrow, DTYPE_BF16, m->rows, stride);
    const Tensor w32 = tensor_slice_cols(&whole32, 0, m->cols), w16 = tensor_slice_cols(&whole16, 0, m->cols);
    quant_decode(be, &w32, m);
    quant_decode(be, &w16, m);
    for (int64_t i = 0; i < cells; i++) {
        const int64_t r = i / stride, c = i % stride;
        const float expected = c < m->cols ? expected_value(e, m, r * m->cols + c) : from_bits(0x77777777);
        const uint16_t expected16 = c < m->cols ? bf16_from_f32(expected) : 0x7777;
        assert_int_equal(bits_of(wide[i]), bits_of(expected));
        assert_int_equal(narrow[i], expected16);
    }
    free(wide);
    free(narrow);
}

static void every_shape_decodes_to_the_rounded_product(void **state)
{
    Backend *be = open_backend(2);
    (void)state;
    for (size_t s = 0; s < ARRAY_COUNT(shapes); s++) {
        const int64_t count = shapes[s].rows * shapes[s].cols;
        float *x = malloc((size_t)count * sizeof *x);
        fill(x, count, 0.03f, s);
        for (int mode = 0; mode < 4; mode++) {
            const QuantType type = (QuantType)(mode % 2);
            const bool nested = mode >= 2;
            Encoded e = encode(x, count, type, shapes[s].block, nested);
            const QuantMatrix m = matrix_of(&e, type, shapes[s].block, nested, shapes[s].rows, shapes[s].cols);
            assert_int_equal(quant_blocks(&m), e.blocks);
            check_decoded(be, &e, &m, 0);
            check_decoded(be, &e, &m, 24);
            encoded_free(&e);
        }
        free(x);
    }
    backend_close(be);
}

static void encoding_a_decoded_matrix_gives_the_same_codes(void **state)
{
    enum { ROWS = 50, COLS = 96, COUNT = ROWS * COLS };
    float x[COUNT], back[COUNT];
    Backend *be = open_backend(2);
    (void)state;
    fill(x, COUNT, 0.05f, 3);
    for (int type = 0; type < 2; type++) {
        Encoded e = encode(x, COUNT, (QuantType)type, 64, false);
        const QuantMatrix m = matrix_of(&e, (QuantType)type, 64, false, ROWS, COLS);
        const Tensor w = tensor_matrix(back, DTYPE_F32, ROWS, COLS);
        quant_decode(be, &w, &m);
        Encoded again = encode(back, COUNT, (QuantType)type, 64, false);
        for (int64_t i = 0; i < 2 * e.code_bytes; i++) {
            const unsigned shift = i % 2 == 0 ? 4 : 0;
            unsigned a = (unsigned)e.host.codes[i / 2] >> shift & 15u;
            unsigned b = (unsigned)again.host.codes[i / 2] >> shift & 15u;
            if (type == QUANT_FP4 && a == 8) a = 0; /* minus zero has no sign to be told by */
            if (type == QUANT_FP4 && b == 8) b = 0;
            assert_int_equal(a, b);
        }
        assert_memory_equal(e.host.absmax, again.host.absmax, (size_t)e.blocks * sizeof(float));
        encoded_free(&e);
        encoded_free(&again);
    }
    backend_close(be);
}

static void a_value_that_is_not_finite_is_named_by_its_index(void **state)
{
    static const float bad[3] = {(float)NAN, INFINITY, -INFINITY};
    static const int64_t places[] = {0, 63, 64, 1000, 4095, 4999};
    const QuantOptions options = {QUANT_NF4, 64, true};
    float x[5000];
    uint8_t codes[2500], absmax[79];
    float nested[1], scratch[79];
    (void)state;
    for (size_t p = 0; p < ARRAY_COUNT(places); p++) {
        QuantHost host = {.codes = codes, .absmax = absmax, .nested_absmax = nested, .scratch_absmax = scratch};
        char index[32];
        Err err = {0};
        fill(x, 5000, 1.0f, p);
        x[places[p]] = bad[p % 3];
        x[4999] = bad[1]; /* only the first one counts */
        assert_false(quant_encode(&host, x, 5000, &options, &err));
        assert_int_equal(err.code, ERR_MODEL);
        snprintf(index, sizeof index, "index %lld is", (long long)places[p]);
        assert_non_null(strstr(err.text, index));
    }
}

static void placing_takes_what_the_sizes_say(void **state)
{
    (void)state;
    for (size_t s = 0; s < ARRAY_COUNT(shapes); s++) {
        for (int nested = 0; nested < 2; nested++) {
            const QuantOptions options = {QUANT_NF4, shapes[s].block, nested == 1};
            Arena a = {.name = "weights"};
            QuantMatrix m;
            quant_place(&m, &a, &options, shapes[s].rows, shapes[s].cols);
            const size_t bytes = quant_matrix_bytes(&options, shapes[s].rows, shapes[s].cols);
            assert_int_equal(bytes, tensor_bytes(&m.codes) + tensor_bytes(&m.absmax) + tensor_bytes(&m.nested_absmax));
            assert_true(a.peak >= bytes && a.peak < bytes + 3 * ARENA_ALIGN);
            assert_null(m.codes.data);
        }
    }
}

/* Mean absolute error over N(0, 1) at block 64 as bitsandbytes' own tests expect it, within 1 %. */
static void the_error_on_normal_weights_is_the_published_one(void **state)
{
    enum { ROWS = 512, COLS = 512, COUNT = ROWS * COLS };
    static const double expected[2] = {0.072798, 0.096543};
    float *x = malloc(COUNT * sizeof *x), *back = malloc(COUNT * sizeof *back);
    Backend *be = open_backend(2);
    (void)state;
    srand(11);
    for (int64_t i = 0; i < COUNT; i++) {
        const double u = (rand() + 1.0) / (RAND_MAX + 2.0), v = rand() / (RAND_MAX + 1.0);
        x[i] = (float)(sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v));
    }
    for (int type = 0; type < 2; type++) {
        Encoded e = encode(x, COUNT, (QuantType)type, 64, true);
        const QuantMatrix m = matrix_of(&e, (QuantType)type, 64, true, ROWS, COLS);
        const Tensor w = tensor_matrix(back, DTYPE_F32, ROWS, COLS);
        double sum = 0.0;
        quant_decode(be, &w, &m);
        for (int64_t i = 0; i < COUNT; i++)
            sum += fabs((double)x[i] - (double)back[i]);
        assert_true(fabs(sum / COUNT - expected[type]) < 0.01 * expected[type]);
        encoded_free(&e);
    }
    free(x);
    free(back);
    backend_close(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_ramp_gets_the_published_codes),
        cmocka_unit_test(bf16_weights_encode_and_decode_as_published),
        cmocka_unit_test(tails_and_zeros_get_the_published_codes),
        cmocka_unit_test(a_value_at_a_threshold_takes_the_lower_code),
        cmocka_unit_test(fp4_values_at_and_around_thresholds_get_the_codes_of_bitsandbytes),
        cmocka_unit_test(absmax_codes_and_restored_absmax_are_the_published_ones),
        cmocka_unit_test(the_offset_is_a_sum_that_was_divided),
        cmocka_unit_test(few_values_are_summed_in_the_order_of_pytorch),
        cmocka_unit_test(vector_and_plain_encoding_give_the_same_bytes),
        cmocka_unit_test(subnormal_weights_count_as_zero_in_nf4),
        cmocka_unit_test(vector_and_plain_decoding_give_the_same_bytes),
        cmocka_unit_test(every_shape_decodes_to_the_rounded_product),
        cmocka_unit_test(encoding_a_decoded_matrix_gives_the_same_codes),
        cmocka_unit_test(a_value_that_is_not_finite_is_named_by_its_index),
        cmocka_unit_test(placing_takes_what_the_sizes_say),
        cmocka_unit_test(the_error_on_normal_weights_is_the_published_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
