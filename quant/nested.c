#include "quant/nested.h"

#include "base/check.h"

#include <string.h>

enum { SUM_LANES = 8, SUM_VECTORS = 4, SUM_ROW = SUM_LANES * SUM_VECTORS, SUM_LEVELS = 4 };

static void add_to(float *sum, const float *x, int count)
{
    for (int i = 0; i < count; i++)
        sum[i] += x[i];
}

static int log2_up(int64_t n)
{
    int bits = 0;
    while (((int64_t)1 << bits) < n)
        bits++;
    return bits;
}

/*
 * Rows of 32 values into levels[0]; after every 2^power rows it is moved up one level, after 2^(2 power) rows that one
 * too, and so on, which keeps the error of long sums small.
 */
static void sum_rows(float total[SUM_ROW], const float *x, int64_t rows)
{
    float levels[SUM_LEVELS][SUM_ROW] = {{0}};
    const int quarter = log2_up(rows) / SUM_LEVELS;
    const int power = quarter > 4 ? quarter : 4;
    const int64_t step = (int64_t)1 << power;
    int64_t r = 0;
    while (r + step <= rows) {
        for (int64_t last = r + step; r < last; r++)
            add_to(levels[0], x + r * SUM_ROW, SUM_ROW);
        for (int level = 1; level < SUM_LEVELS; level++) {
            add_to(levels[level], levels[level - 1], SUM_ROW);
            memset(levels[level - 1], 0, sizeof levels[0]);
            if ((r & ((step - 1) << (level * power))) != 0) break;
        }
    }
    for (; r < rows; r++)
        add_to(levels[0], x + r * SUM_ROW, SUM_ROW);
    for (int level = 1; level < SUM_LEVELS; level++)
        add_to(levels[0], levels[level], SUM_ROW);
    memcpy(total, levels[0], sizeof levels[0]);
}

/* Fewer values than a vector has lanes: four sums, the rest on the first of them. */
static float sum_few(const float *x, int64_t count)
{
    float sums[SUM_VECTORS] = {0};
    int64_t i = 0;
    for (; i + SUM_VECTORS <= count; i += SUM_VECTORS)
        add_to(sums, x + i, SUM_VECTORS);
    for (; i < count; i++)
        sums[0] += x[i];
    for (int k = 1; k < SUM_VECTORS; k++)
        sums[0] += sums[k];
    return sums[0];
}

float nested_mean(const float *x, int64_t count)
{
    if (count < SUM_LANES) return sum_few(x, count) / (float)count;
    float lanes[SUM_ROW];
    const int64_t vectors = count / SUM_LANES, rows = vectors / SUM_VECTORS;
    sum_rows(lanes, x, rows);
    for (int64_t v = rows * SUM_VECTORS; v < vectors; v++)
        add_to(lanes, x + v * SUM_LANES, SUM_LANES);
    for (int v = 1; v < SUM_VECTORS; v++)
        add_to(lanes, lanes + v * SUM_LANES, SUM_LANES);
    float sum = 0.0f;
    for (int64_t i = vectors * SUM_LANES; i < count; i++)
        sum += x[i];
    for (int i = 0; i < SUM_LANES; i++)
        sum += lanes[i];
    return sum / (float)count;
}

static void encode_block(uint8_t *codes, float *nested_absmax, float offset, const float map[256], const float *absmax,
                         int n)
{
    float y[NESTED_BLOCK];
    for (int i = 0; i < n; i++)
        y[i] = absmax[i] - offset;
    *nested_absmax = blockwise_largest(y, n);
    const float reciprocal = 1.0f / *nested_absmax;
    for (int i = 0; i < n; i++)
        y[i] *= reciprocal;
    blockwise_codes(codes, map, y, n);
}

void nested_encode(uint8_t *codes, float *nested_absmax, float *offset, const float map[256], const float *absmax,
                   int64_t count)
{
    const float mean = nested_mean(absmax, count);
    *offset = mean;
#pragma omp parallel for schedule(static) if (count > 16 * NESTED_BLOCK)
    for (int64_t b = 0; b < ceil_div(count, NESTED_BLOCK); b++) {
        const int64_t first = b * NESTED_BLOCK, left = count - first;
        const int n = left < NESTED_BLOCK ? (int)left : NESTED_BLOCK;
        encode_block(codes + first, nested_absmax + b, mean, map, absmax + first, n);
    }
}
