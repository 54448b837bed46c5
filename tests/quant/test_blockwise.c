#include "quant/blockwise.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <zlib.h>

#include <cmocka.h>

static void both_maps(float maps[2][256])
{
    blockwise_map_signed(maps[0]);
    blockwise_map_unsigned(maps[1]);
}

static float middle(const float map[256], int i)
{
    return (map[i] + map[i + 1]) * 0.5f;
}

static void the_maps_have_the_published_checksums(void **state)
{
    static const uLong checksums[2] = {0x1b137aeb, 0xe871278f};
    static const double sums[2] = {75.10526317200026, 75.1052632433869};
    float maps[2][256];
    (void)state;
    both_maps(maps);
    for (int m = 0; m < 2; m++) {
        double sum = 0.0;
        for (int i = 0; i < 256; i++)
            sum += (double)fabsf(maps[m][i]);
        assert_int_equal(crc32(0, (const Bytef *)(const void *)maps[m], sizeof maps[m]), checksums[m]);
        assert_true(fabs(sum - sums[m]) < 1e-12);
    }
}

static void known_values_get_the_codes_of_bitsandbytes(void **state)
{
    static const struct Case {
        int map;
        float y;
        uint8_t code;
    } cases[] = {
        {0, 0.0f,       127},
        {0, 1.0f,       255},
        {0, -1.0f,      0  },
        {0, 0.5f,       219},
        {0, -0.5f,      35 },
        {0, 0.1f,       190},
        {0, -0.1f,      64 },
        {0, 1e-3f,      142},
        {0, -1e-3f,     112},
        {0, 2.75e-7f,   127},
        {0, 2.8e-7f,    128},
        {0, 0.0123f,    159},
        {0, 0.9999f,    255},
        {1, 0.0f,       0  },
        {1, 0.5f,       183},
        {1, 0.1f,       126},
        {1, 1e-3f,      30 },
        {1, 2.75e-7f,   1  },
        {1, 1e-6f,      2  },
        {1, 0.0123f,    64 },
        {1, 1.0f,       255},
        {0, -7.0f,      0  },
        {0, 7.0f,       255},
        {1, -7.0f,      0  },
        {0, (float)NAN, 0  },
        {1, (float)NAN, 0  },
        {0, INFINITY,   255},
        {0, -INFINITY,  0  },
        {1, INFINITY,   255},
    };
    float maps[2][256];
    (void)state;
    both_maps(maps);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(blockwise_code(maps[cases[i].map], cases[i].y), cases[i].code);
}

static void every_entry_of_a_map_gets_its_own_code(void **state)
{
    float maps[2][256];
    (void)state;
    both_maps(maps);
    for (int m = 0; m < 2; m++) {
        for (int i = 0; i < 256; i++)
            assert_int_equal(blockwise_code(maps[m], maps[m][i]), i);
    }
}

static void exact_ties_go_to_the_even_code_and_neighbours_to_the_nearest(void **state)
{
    float maps[2][256];
    (void)state;
    both_maps(maps);
    for (int m = 0; m < 2; m++) {
        for (int i = 0; i < 255; i++) {
            const float tie = middle(maps[m], i);
            assert_int_equal(blockwise_code(maps[m], tie), i % 2 == 0 ? i : i + 1);
            assert_int_equal(blockwise_code(maps[m], nextafterf(tie, -2.0f)), i);
            assert_int_equal(blockwise_code(maps[m], nextafterf(tie, 2.0f)), i + 1);
        }
    }
}

/* Around every entry and every midpoint, and what lies outside; an odd count, so that the last ones go one by one. */
static int probes(float *y, const float map[256])
{
    int n = 0;
    for (int i = 0; i < 255; i++) {
        const float points[2] = {map[i], middle(map, i)};
        for (int k = 0; k < 2; k++) {
            y[n++] = nextafterf(points[k], -2.0f);
            y[n++] = points[k];
            y[n++] = nextafterf(points[k], 2.0f);
        }
    }
    y[n++] = (float)NAN;
    y[n++] = INFINITY;
    y[n++] = -INFINITY;
    y[n++] = -0.0f;
    y[n++] = 1e-45f;
    return n;
}

static void many_codes_at_once_equal_one_at_a_time(void **state)
{
    float maps[2][256], y[6 * 255 + 8], back[6 * 255 + 8];
    uint8_t codes[6 * 255 + 9];
    (void)state;
    both_maps(maps);
    for (int m = 0; m < 2; m++) {
        const int n = probes(y, maps[m]);
        codes[n] = 0xa5;
        blockwise_codes(codes, maps[m], y, n);
        blockwise_values(back, maps[m], codes, 0.37f, n);
        for (int i = 0; i < n; i++) {
            const float expected = maps[m][codes[i]] * 0.37f;
            assert_int_equal(codes[i], blockwise_code(maps[m], y[i]));
            assert_memory_equal(&back[i], &expected, sizeof expected);
        }
        assert_int_equal(codes[n], 0xa5);
    }
}

static void the_largest_has_no_sign_and_a_nan_wins(void **state)
{
    (void)state;
    float x[37];
    for (int i = 0; i < 37; i++)
        x[i] = (float)(i % 5) * 0.125f - 0.25f;
    assert_true(blockwise_largest(x, 0) == 0.0f);
    assert_true(blockwise_largest(x, 37) == 0.25f);
    for (int at = 0; at < 37; at += 9) { /* in vectors, and behind them */
        const float before = x[at];
        x[at] = -3.0f;
        assert_true(blockwise_largest(x, 37) == 3.0f);
        x[at] = -INFINITY;
        assert_true(blockwise_largest(x, 37) == INFINITY);
        x[at] = NAN;
        assert_true(isnan(blockwise_largest(x, 37)));
        x[at] = before;
    }
    x[0] = -1e-45f; /* subnormal */
    assert_true(blockwise_largest(x, 1) == 1e-45f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_largest_has_no_sign_and_a_nan_wins),
        cmocka_unit_test(the_maps_have_the_published_checksums),
        cmocka_unit_test(known_values_get_the_codes_of_bitsandbytes),
        cmocka_unit_test(every_entry_of_a_map_gets_its_own_code),
        cmocka_unit_test(exact_ties_go_to_the_even_code_and_neighbours_to_the_nearest),
        cmocka_unit_test(many_codes_at_once_equal_one_at_a_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
