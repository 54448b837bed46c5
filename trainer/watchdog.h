/*
 * watchdog.h - what to do about updates whose loss is not finite, or higher than anyone should accept.
 *
 * A non-finite loss or gradient never changes a weight: such an update is withheld whatever is configured. Beyond that
 * an update is bad when its loss exceeds the threshold. What happens then:
 *   skip      bad updates are withheld; the run stops after SKIP_LIMIT times `patience` of them in a row
 *   rollback  after `patience` bad ones in a row, weights and states of the newest checkpoint from before them come
 *             back and the data go on behind them; after ROLLBACK_LIMIT times the run stops
 *   stop      after `patience` bad ones in a row the run stops
 * A pure function of its state, which every checkpoint carries, so a resumed run decides as the uninterrupted one.
 */
#pragma once

#include "trainer/config.h"

typedef struct WatchdogOptions {
    double threshold; /* 0: only what is not finite counts */
    int64_t patience; /* at least 1 */
    WatchdogAction action;
} WatchdogOptions;

typedef struct WatchdogState {
    int64_t in_a_row; /* bad updates up to now */
    int64_t total;    /* bad updates of the whole run */
    int64_t withheld; /* of which changed nothing */
    int64_t rollbacks;
    int64_t first_bad; /* step at which in_a_row began */
} WatchdogState;

/* Whether an update of this loss must not be applied. */
bool watchdog_withholds(const WatchdogOptions *o, double loss);

typedef enum WatchdogVerdict { WATCHDOG_GO, WATCHDOG_GO_BACK, WATCHDOG_GIVE_UP } WatchdogVerdict;

/* After update `step` (from 1): its loss, and whether its gradients were finite. */
WatchdogVerdict watchdog_judge(const WatchdogOptions *o, WatchdogState *s, int64_t step, double loss, bool applied);

/* After WATCHDOG_GO_BACK, once the weights are back: the count of bad updates in a row starts anew. */
void watchdog_went_back(WatchdogState *s);

enum { WATCHDOG_SKIP_LIMIT = 10, WATCHDOG_ROLLBACK_LIMIT = 3 };
