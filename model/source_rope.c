/*
 * source_rope.c - llama3 rope scaling found again in the divisors that llama.cpp stores for it.
 *
 * The converter wrote d_i = 1 / ((1 - s_i) / f + s_i) with s_i = (L0 / wavelength_i - a) / (b - a) clamped to [0, 1].
 * All released models have a = 1, b = 4 and L0 = 8192; otherwise a is taken as 1 (only ratios matter) and b and L0 are
 * solved for from the first and the last divisor between 1 and f. In either case all divisors are then checked.
 */
#include "model/source_parts.h"

#include <math.h>

static const double tolerance = 1e-4;

static bool reproduces(const ModelSpec *spec, const float *divisors, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        const double wavelength = 2 * M_PI * pow(spec->rope_theta, 2.0 * (double)i / spec->head_dim);
        double smooth =
            ((double)spec->rope_original / wavelength - spec->rope_low) / (spec->rope_high - spec->rope_low);
        smooth = smooth < 0 ? 0 : smooth > 1 ? 1 : smooth;
        const double divisor = 1 / ((1 - smooth) / spec->rope_factor + smooth);
        if (!(fabs(divisor - (double)divisors[i]) <= tolerance * divisor)) return false;
    }
    return true;
}

/* s_i = p / wavelength_i - q with p = L0 / (b - 1), q = 1 / (b - 1), from two divisors. */
static bool solve(ModelSpec *spec, const float *divisors, int64_t count)
{
    const double f = spec->rope_factor;
    double x[2] = {0, 0};
    double y[2] = {0, 0};
    int found = 0;
    for (int64_t i = 0; i < count; i++) {
        const double d = (double)divisors[i];
        if (d <= 1 + tolerance || d >= f * (1 - tolerance)) continue;
        const int k = found > 0;
        x[k] = 1 / (2 * M_PI * pow(spec->rope_theta, 2.0 * (double)i / spec->head_dim));
        y[k] = (1 / d - 1 / f) / (1 - 1 / f);
        found++;
    }
    if (found < 2) return false;
    const double p = (y[0] - y[1]) / (x[0] - x[1]);
    const double q = p * x[0] - y[0];
    if (!(q > 0) || !(p / q < INT32_MAX)) return false;
    spec->rope_low = 1;
    spec->rope_high = 1 + 1 / q;
    spec->rope_original = llround(p / q);
    return true;
}

bool source_rope_from_divisors(ModelSpec *spec, const float *divisors, int64_t count, const char *path, Err *err)
{
    float largest = 1;
    for (int64_t i = 0; i < count; i++) {
        if (divisors[i] > largest) largest = divisors[i];
    }
    if (largest == 1 && count > 0 &&
        reproduces(
            &(ModelSpec){
                .rope_theta = 1e4, .head_dim = spec->head_dim, .rope_factor = 1, .rope_low = 1, .rope_high = 2},
            divisors, count)) {
        return true; /* all are 1: no scaling */
    }
    spec->rope = ROPE_LLAMA3;
    spec->rope_factor = (double)largest;
    spec->rope_low = 1;
    spec->rope_high = 4;
    spec->rope_original = 8192;
    if (reproduces(spec, divisors, count)) return true;
    if (solve(spec, divisors, count) && reproduces(spec, divisors, count)) return true;
    return FAIL(err, ERR_MODEL, "%s: rope_freqs.weight holds divisors that are not llama3 rope scaling", path);
}
