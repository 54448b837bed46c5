#include "optim/schedule.h"

#include <math.h>
#include <stdbool.h>

/* How far the fall has come after `done` of `length` updates, 0..1. */
static double fallen(int64_t done, int64_t length)
{
    if (length < 1) length = 1;
    if (done <= 0) return 0.0;
    return done >= length ? 1.0 : (double)done / (double)length;
}

static double half_cosine(double progress)
{
    static const double pi = 3.14159265358979323846;
    return 0.5 * (1.0 + cos(pi * progress));
}

/* Factor without the floor: 1 at the start of the fall, 0 at its end. */
static double shape(const Schedule *s, int64_t u)
{
    switch (s->kind) {
    case SCHEDULE_COSINE: return half_cosine(fallen(u - s->warmup, s->total - s->warmup));
    case SCHEDULE_LINEAR: return 1.0 - fallen(u - s->warmup, s->total - s->warmup);
    case SCHEDULE_WSD: return 1.0 - fallen(u - (s->total - s->decay), s->decay);
    case SCHEDULE_CONSTANT: break;
    }
    return 1.0;
}

double schedule_rate(const Schedule *s, int64_t step)
{
    const int64_t u = step - 1;
    const bool rising = u < s->warmup;
    const double factor = rising ? (double)u / (double)s->warmup : shape(s, u);
    if (rising && s->kind != SCHEDULE_WSD) return s->peak * factor;
    return s->peak * (factor * (1.0 - s->floor) + s->floor);
}
