#include "trainer/trainer.h"

#include "base/log.h"
#include "base/mem.h"
#include "trainer/checkpoint.h"
#include "trainer/process.h"

#include <inttypes.h>
#include <math.h>

/* Logs may fail (a full disk, a folder that went away) without stopping the run; one warning is enough. */
static void logged(bool ok, bool *failed, const Err *fault)
{
    if (!ok && !*failed) log_warn("a log cannot be written: %s", fault->text);
    *failed = *failed || !ok;
}

static void log_update(Trainer *t, const UpdateMetrics *m)
{
    Err fault = {0};
    logged(metrics_update(&t->metrics, m, &fault), &t->log_failed, &fault);
    const bool ok = tensorboard_scalar(&t->board, "train/loss", m->step, m->loss, &fault) &&
                    tensorboard_scalar(&t->board, "train/learning_rate", m->step, m->learning_rate, &fault) &&
                    tensorboard_scalar(&t->board, "train/grad_norm", m->step, m->report.grad_norm, &fault) &&
                    tensorboard_scalar(&t->board, "train/tokens_per_second", m->step,
                                       m->seconds > 0 ? (double)m->tokens / m->seconds : 0, &fault);
    logged(ok, &t->board_failed, &fault);
    console_update(t, m);
}

static void log_evaluation(Trainer *t, const EvalMetrics *m)
{
    Err fault = {0};
    logged(metrics_eval(&t->metrics, m, &fault), &t->log_failed, &fault);
    logged(tensorboard_scalar(&t->board, "eval/loss", m->step, m->loss, &fault), &t->board_failed, &fault);
    console_evaluation(t, m);
}

static bool asked(void *user)
{
    return update_asked_to_stop(user);
}

/* What an evaluation means for the best checkpoint and for early stopping; the one before the first update counts for
 * neither. */
static void judge_evaluation(Trainer *t, double loss)
{
    RunState *s = &t->state;
    if (s->step == 0) return;
    if (isfinite(loss) && (!s->has_best || loss < s->best_loss)) {
        s->has_best = true;
        s->best_loss = loss;
        s->best_step = s->step;
        s->evals_without_gain = 0;
        return;
    }
    s->evals_without_gain++;
    const int64_t patience = t->session.settings.early_stopping;
    if (patience > 0 && s->evals_without_gain >= patience) s->stopped_early = true;
}

static bool run_evaluation(Trainer *t, Err *err)
{
    const Evaluation e = {
        .backend = t->session.backend,
        .model = t->session.model,
        .data = t->session.validation,
        .cursor = t->eval_cursor,
        .micro_rows = t->session.settings.micro_rows,
        .stop = asked,
        .user = t,
    };
    EvalMetrics m = {.step = t->state.step};
    bool stopped = false;
    if (!evaluate(&e, &m, &stopped, err)) return false;
    t->state.eval_pending = stopped;
    if (stopped) return true;
    judge_evaluation(t, m.loss);
    log_evaluation(t, &m);
    return true;
}

static bool due(const Trainer *t, int64_t interval, int64_t per_epoch)
{
    return settings_due(interval, per_epoch, t->state.step, t->session.settings.update_rows, t->plan.rows);
}

static bool over(const Trainer *t)
{
    return t->state.step >= t->plan.total_steps || t->state.stopped_early;
}

/* Evaluation and samples that belong to the step just done. */
static bool look(Trainer *t, Err *err)
{
    const Settings *s = &t->session.settings;
    const bool evaluates =
        t->eval_cursor && (t->state.eval_pending || over(t) || due(t, t->eval_interval, s->evals_per_epoch));
    if (evaluates) {
        t->state.eval_pending = true; /* until it is done, should a signal come first */
        if (update_asked_to_stop(t)) return true;
        if (!run_evaluation(t, err)) return false;
    }
    const bool samples = s->sample_every ? t->state.step % s->sample_every == 0 : evaluates || over(t);
    return !samples || sampling_run(t, err);
}

static bool save_is_due(const Trainer *t)
{
    const Settings *s = &t->session.settings;
    if (t->saved_step == t->state.step) return false;
    if (due(t, t->save_interval, s->saves_per_epoch)) return true;
    if (s->load_best && t->state.has_best && t->state.best_step == t->state.step) return true;
    return s->save_minutes > 0 && process_seconds() - t->saved_at >= 60 * s->save_minutes;
}

/* A failed save is no reason to lose the run: what was saved before is intact, and the next interval tries again. */
static void save_or_warn(Trainer *t)
{
    Err fault = {0};
    if (!saving_checkpoint(t, &fault)) log_warn("not saved, training goes on: %s", fault.text);
}

/* Weights and states of the newest checkpoint from before the bad updates. */
static bool roll_back(Trainer *t, Err *err)
{
    char *folder = NULL;
    int64_t step = 0;
    const int64_t last_good = t->state.watchdog.first_bad - 1;
    if (!checkpoint_newest(&folder, &step, t->session.settings.output_dir, last_good, err)) return false;
    if (!folder) {
        t->gave_up = true;
        log_warn("there is no checkpoint to roll back to");
        return true;
    }
    const bool ok = saving_restore(t, folder, err);
    if (ok) {
        watchdog_went_back(&t->state.watchdog);
        log_warn("rolled back to the weights of step %" PRId64 "; the data go on at step %" PRId64, step,
                 t->state.step + 1);
    }
    mem_free(folder);
    return ok;
}

static bool watch(Trainer *t, const UpdateMetrics *m, Err *err)
{
    const bool sound = m->report.applied || m->overflowed; /* which is no fault: the loss scale is lower now */
    t->report->withheld += !sound;
    switch (watchdog_judge(&t->session.settings.watchdog, &t->state.watchdog, m->step, m->loss, sound)) {
    case WATCHDOG_GO: return true;
    case WATCHDOG_GO_BACK: return roll_back(t, err);
    case WATCHDOG_GIVE_UP: t->gave_up = true; return true;
    }
    return true;
}

static bool step(Trainer *t, bool *interrupted, Err *err)
{
    UpdateMetrics m;
    const uint64_t allocations = mem_alloc_count();
    if (!update_run(t, &m, interrupted, err)) return false;
    if (*interrupted) return true;
    if (m.step > t->started_step + 1) t->report->allocations_in_steps += mem_alloc_count() - allocations;
    t->report->loss = m.loss;
    t->trained_seconds += m.seconds;
    t->trained_tokens_now += m.tokens;
    log_update(t, &m);
    if (!watch(t, &m, err) || t->gave_up) return t->gave_up;
    if (!look(t, err)) return false;
    if (save_is_due(t) && !update_asked_to_stop(t)) save_or_warn(t);
    return true;
}

static bool save_for_later(Trainer *t, Err *err)
{
    if (t->state.step == 0 || t->saved_step == t->state.step) return true;
    return saving_checkpoint(t, err);
}

bool loop_run(Trainer *t, bool *interrupted, Err *err)
{
    *interrupted = false;
    if (t->state.step == 0 && t->eval_cursor && t->session.settings.eval_on_start) {
        if (!run_evaluation(t, err)) return false;
        t->state.eval_pending = false; /* an interrupted one starts again, as the run does */
    } else if (t->state.eval_pending && !look(t, err)) {
        return false;
    }
    while (!over(t) && !t->gave_up && !*interrupted) {
        *interrupted = update_asked_to_stop(t);
        if (!*interrupted && !step(t, interrupted, err)) return false;
    }
    if (t->state.eval_pending) *interrupted = true;
    return !*interrupted || save_for_later(t, err);
}
