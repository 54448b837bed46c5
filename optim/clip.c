#include "optim/clip.h"

#include <stdlib.h>
#include <string.h>

static void remember(ClipHistory *h, int64_t update, double norm)
{
    if (update == 1) {
        for (int i = 0; i < CLIP_WINDOW; i++)
            h->norms[i] = norm;
    }
    h->norms[update % CLIP_WINDOW] = norm;
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double percentile_of(const ClipHistory *h, int percentile)
{
    double sorted[CLIP_WINDOW];
    memcpy(sorted, h->norms, sizeof sorted);
    qsort(sorted, CLIP_WINDOW, sizeof sorted[0], compare);
    return sorted[percentile];
}

ClipResult clip_factor(ClipHistory *history, int64_t update, double norm, double max_norm, int percentile)
{
    ClipResult r = {.factor = 1.0};
    remember(history, update, norm);
    if (max_norm > 0.0 && max_norm / (norm + 1e-6) < 1.0) {
        r.norm_clipped = true;
        r.factor = max_norm / (norm + 1e-6);
    }
    if (percentile <= 0 || percentile >= 100) return r;
    const double limit = percentile_of(history, percentile);
    if (norm > limit) {
        r.percentile_clipped = true;
        if (limit / norm < r.factor) r.factor = limit / norm;
    }
    return r;
}
