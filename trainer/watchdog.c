#include "trainer/watchdog.h"

#include <math.h>

static bool is_high(const WatchdogOptions *o, double loss)
{
    return o->threshold > 0 && loss > o->threshold;
}

bool watchdog_withholds(const WatchdogOptions *o, double loss)
{
    return !isfinite(loss) || (o->action == WATCHDOG_SKIP && is_high(o, loss));
}

WatchdogVerdict watchdog_judge(const WatchdogOptions *o, WatchdogState *s, int64_t step, double loss, bool applied)
{
    if (!applied) s->withheld++;
    if (applied && isfinite(loss) && !is_high(o, loss)) {
        s->in_a_row = 0;
        return WATCHDOG_GO;
    }
    if (s->in_a_row == 0) s->first_bad = step;
    s->in_a_row++;
    s->total++;
    const int64_t limit = o->patience * (o->action == WATCHDOG_SKIP ? WATCHDOG_SKIP_LIMIT : 1);
    if (s->in_a_row < limit) return WATCHDOG_GO;
    if (o->action != WATCHDOG_ROLLBACK || s->rollbacks >= WATCHDOG_ROLLBACK_LIMIT) return WATCHDOG_GIVE_UP;
    return WATCHDOG_GO_BACK;
}

void watchdog_went_back(WatchdogState *s)
{
    s->rollbacks++;
    s->in_a_row = 0;
}
