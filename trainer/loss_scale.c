#include "trainer/loss_scale.h"

#include <math.h>

LossScale loss_scale_begin(const LossScale *saved, DType compute, double first)
{
    LossScale s = *saved;
    if (compute != DTYPE_F16) {
        s.factor = 0;
        s.good = 0;
    } else if (s.factor == 0) {
        s.factor = first > 0 ? first : LOSS_SCALE_FIRST;
    }
    return s;
}

double loss_scale_factor(const LossScale *s)
{
    return s->factor > 0 ? s->factor : 1;
}

bool loss_scale_overflowed(const LossScale *s, double loss, bool finite_gradient)
{
    return s->factor > 1 && isfinite(loss) && !finite_gradient;
}

void loss_scale_move(LossScale *s, bool overflowed)
{
    if (s->factor == 0) return;
    if (overflowed) {
        s->factor /= 2;
        s->good = 0;
        s->overflows++;
    } else if (++s->good >= LOSS_SCALE_PATIENCE) {
        if (s->factor < LOSS_SCALE_MOST) s->factor *= 2;
        s->good = 0;
    }
}
