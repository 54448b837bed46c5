#include "trainer/trainer.h"

#include "backend/elementwise.h"
#include "base/log.h"
#include "base/text.h"
#include "trainer/process.h"
#include "trainer/signals.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

bool update_asked_to_stop(const Trainer *t)
{
    const int64_t after = t->options->interrupt_after;
    return signals_asked() || (after > 0 && t->micro_batches >= after);
}

/* Rows of the next update: all of them, but for the last one of a run that counts epochs. */
static int64_t update_rows(const Trainer *t)
{
    const int64_t left = t->plan.total_rows - t->state.rows, full = t->session.settings.update_rows;
    return left < full ? left : full;
}

static int64_t trained_in(const Trainer *t, int64_t rows)
{
    int64_t tokens = 0;
    for (int64_t i = 0; i < rows; i++) {
        const int64_t row = t->state.rows + i;
        tokens += dataset_row_trained(t->session.train, row / t->plan.rows, row % t->plan.rows);
    }
    return tokens;
}

/* Forward and backward of all micro-batches; the sum of the token losses. */
static double run_micro_batches(Trainer *t, int64_t rows, int64_t trained, int64_t *tokens, bool *interrupted)
{
    const int64_t micro_rows = t->session.settings.micro_rows;
    double loss = 0;
    int micro = 0;
    for (int64_t row = 0; row < rows && !*interrupted; row += micro_rows, micro++) {
        Batch batch;
        batch_cursor_get(t->cursor, t->state.rows + row, micro_rows < rows - row ? micro_rows : rows - row, &batch);
        loss += model_train(t->session.model, &batch, trained > 0 ? trained : 1, t->state.step + 1, micro);
        *tokens += batch.tokens;
        t->micro_batches++;
        *interrupted = row + micro_rows < rows && update_asked_to_stop(t);
    }
    return loss;
}

/* Only after a fault: which gradient is the first that is not finite, -1: none. */
static int first_bad(const Trainer *t)
{
    const Model *m = t->session.model;
    const ParamTable *table = &model_lora(m)->table;
    for (int i = 0; i < table->count; i++) {
        const Param *p = &table->items[i];
        const Tensor part = tensor_slice_flat(model_grads(m), p->offset, p->rows * p->cols);
        if (!tensor_norm(t->session.backend, &part).finite) return i;
    }
    return -1;
}

/* What adamw_step would report of an update that is not even tried. */
static AdamwReport withheld_report(const Trainer *t)
{
    const TensorNorm norm = tensor_norm(t->session.backend, model_grads(t->session.model));
    return (AdamwReport){
        .grad_norm = sqrt(norm.sum_squares),
        .clip_factor = 1,
        .applied = false,
        .first_bad_param = norm.finite ? -1 : first_bad(t),
    };
}

/* A NaN prints without its sign, which means nothing. */
static double shown(double value)
{
    return isnan(value) ? (double)NAN : value;
}

/* "samples 7, 3, 12 and 5 more, the first from train.jsonl:8" of the rows just trained, numbered as inspect does. */
static void name_samples(const Trainer *t, int64_t rows, char *out, size_t size)
{
    enum { NAMED = 8 };
    const Dataset *d = t->session.train;
    size_t used = (size_t)snprintf(out, size, "samples");
    int64_t count = 0, first = 0;
    for (int64_t row = t->state.rows - rows; row < t->state.rows; row++) {
        int64_t sample;
        for (int64_t k = 0; (sample = dataset_row_sample(d, row / t->plan.rows, row % t->plan.rows, k)) >= 0; k++) {
            if (count == 0) first = sample;
            if (count < NAMED)
                used += (size_t)snprintf(out + used, size - used, "%s %" PRId64, count ? "," : "", sample);
            count++;
        }
    }
    if (count > NAMED) used += (size_t)snprintf(out + used, size - used, " and %" PRId64 " more", count - NAMED);
    const SamplePlace place = dataset_sample_place(d, first);
    char path[128];
    snprintf(out + used, size - used, ", the first from %s:%" PRId64,
             text_printable(path, sizeof path, place.path, strlen(place.path)), place.line);
}

static void tell_withheld(Trainer *t, int64_t rows, const UpdateMetrics *m)
{
    char samples[384];
    name_samples(t, rows, samples, sizeof samples);
    const int bad = m->report.first_bad_param;
    snprintf(t->trouble, sizeof t->trouble, "update %" PRId64 " was withheld: loss %g, gradient norm %g, %s%s%s",
             m->step, shown(m->loss), shown(m->report.grad_norm), samples, bad >= 0 ? "; first bad tensor " : "",
             bad >= 0 ? model_lora(t->session.model)->table.items[bad].name : "");
    log_warn("%s", t->trouble);
}

static void advance(Trainer *t, int64_t rows, int64_t tokens, int64_t trained)
{
    RunState *s = &t->state;
    s->step++;
    s->rows += rows;
    s->tokens += tokens;
    s->trained_tokens += trained;
    s->epoch = (double)s->rows / (double)t->plan.rows;
}

/* Moves the loss scale for the next update. */
static void judge_scale(Trainer *t, UpdateMetrics *m)
{
    LossScale *s = &t->state.scale;
    const bool finite = m->report.applied || m->report.first_bad_param < 0;
    m->overflowed = loss_scale_overflowed(s, m->loss, finite);
    if (m->report.applied || m->overflowed) loss_scale_move(s, m->overflowed);
    if (m->overflowed)
        log_info("update %" PRId64 " overflows fp16 and is left out; the loss scale is now %g", m->step, s->factor);
}

bool update_run(Trainer *t, UpdateMetrics *out, bool *interrupted, Err *err)
{
    Session *s = &t->session;
    const double start = process_seconds();
    const int64_t rows = update_rows(t), trained = trained_in(t, rows);
    int64_t tokens = 0;
    const double scale = loss_scale_factor(&t->state.scale);
    model_scale_loss(s->model, (float)scale);
    const double sum = run_micro_batches(t, rows, trained, &tokens, interrupted);
    if (!backend_sync(s->backend, err)) return false;
    if (*interrupted) {
        model_zero_grads(s->model);
        return true;
    }
    UpdateMetrics m = {
        .step = t->state.step + 1,
        .loss = trained > 0 ? sum / (double)trained : 0,
        .learning_rate = schedule_rate(&t->schedule, t->state.step + 1),
        .tokens = tokens,
        .trained_tokens = trained,
        .loss_scale = scale,
    };
    if (scale != 1) tensor_scale(s->backend, model_grads(s->model), model_grads(s->model), (float)(1 / scale));
    if (watchdog_withholds(&s->settings.watchdog, m.loss)) {
        m.report = withheld_report(t);
    } else {
        m.report = adamw_step(s->optimizer, model_params(s->model), model_grads(s->model), m.learning_rate);
        if (m.report.applied) model_params_changed(s->model);
        judge_scale(t, &m);
    }
    model_zero_grads(s->model);
    if (!backend_sync(s->backend, err) || !adamw_check(s->optimizer, err)) return false; /* no update can be trusted */
    advance(t, rows, tokens, trained);
    m.epoch = t->state.epoch;
    m.overflows = t->state.scale.overflows;
    m.seconds = process_seconds() - start;
    run_watch_memory(t);
    m.peak_memory_bytes = t->device_peak;
    m.host_memory_bytes = process_peak_bytes();
    t->state.has_loss = isfinite(m.loss);
    if (t->state.has_loss) t->state.loss = m.loss;
    if (!m.report.applied && !m.overflowed) tell_withheld(t, rows, &m);
    *out = m;
    return true;
}
