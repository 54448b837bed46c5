#include "quant/blockwise.h"

#include "base/check.h"

#include <math.h>
#include <stdbool.h>

enum { DECADES = 7 };

/* Largest value of decade i: 10^(i-6), rounded once. */
static const float decade_scale[DECADES] = {1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1.0f};

/* Point j of `points` equally spaced ones from 0.1 to 1, walked from the nearer end: what torch.linspace yields. */
static float spaced_point(int j, int points)
{
    const float step = (1.0f - 0.1f) / (float)(points - 1);
    if (j < points / 2) return fmaf(step, (float)j, 0.1f);
    return fmaf(-step, (float)(points - 1 - j), 1.0f);
}

/* Means of neighbouring points of one decade, ascending. */
static float decade_value(int decade, int j, int points)
{
    const float mean = (spaced_point(j, points) + spaced_point(j + 1, points)) / 2.0f;
    return decade_scale[decade] * mean;
}

/* Decade i has 2^i values of either sign; zero lies at 127 and the one 1.0 at the end. */
void blockwise_map_signed(float map[256])
{
    map[127] = 0.0f;
    map[255] = 1.0f;
    for (int i = 0; i < DECADES; i++) {
        const int count = 1 << i;
        for (int j = 0; j < count; j++) {
            const float value = decade_value(i, j, count + 1);
            map[127 + count + j] = value;
            map[127 - count - j] = -value;
        }
    }
}

/* Decade i has 2^(i+1) values. */
void blockwise_map_unsigned(float map[256])
{
    map[0] = 0.0f;
    map[255] = 1.0f;
    for (int i = 0; i < DECADES; i++) {
        const int count = 2 << i;
        for (int j = 0; j < count; j++)
            map[count - 1 + j] = decade_value(i, j, count + 1);
    }
}

/*
 * Seven halvings end on an even index; its neighbour on y's side wins only when y lies strictly past their midpoint.
 * So an exact tie goes to the even code, which is how bitsandbytes' kernels search.
 */
uint8_t blockwise_code(const float map[256], float y)
{
    int at = 127;
    for (int step = 64; step > 0; step /= 2)
        at += y > map[at] ? step : -step;
    DCHECK(at % 2 == 0 && at >= 0 && at <= 254);
    if (y > map[at]) return (uint8_t)(y > (map[at] + map[at + 1]) * 0.5f ? at + 1 : at);
    if (at == 0) return 0;
    return (uint8_t)(y < (map[at] + map[at - 1]) * 0.5f ? at - 1 : at);
}

enum { CODES_AT_ONCE = 64 };

/* Without branches, so that the compiler makes gathers and selections of it. */
static void codes_of(int32_t *at, const float map[256], const float *y, int count)
{
    for (int i = 0; i < count; i++)
        at[i] = 127;
    for (int step = 64; step > 0; step /= 2) {
        for (int i = 0; i < count; i++)
            at[i] += y[i] > map[at[i]] ? step : -step;
    }
    for (int i = 0; i < count; i++) {
        const int32_t here = at[i];
        const float value = map[here];
        const bool above = y[i] > value;
        const int32_t below = here > 0 ? here - 1 : 0;
        const int32_t other = above ? here + 1 : below;
        const float middle = (value + map[other]) * 0.5f;
        const bool past = above ? y[i] > middle : y[i] < middle;
        at[i] = past ? other : here;
    }
}

void blockwise_codes(uint8_t *codes, const float map[256], const float *y, int count)
{
    int32_t at[CODES_AT_ONCE];
    for (int first = 0; first < count; first += CODES_AT_ONCE) {
        const int n = count - first < CODES_AT_ONCE ? count - first : CODES_AT_ONCE;
        codes_of(at, map, y + first, n);
        for (int i = 0; i < n; i++)
            codes[first + i] = (uint8_t)at[i];
    }
}
