/*
 * step.c - one update: look at all gradients, decide, then run the pieces.
 */
#include "optim/ops.h"

#include <math.h>

/*
 * Squares of a gradient at or above this overflow f32. The global norm bounds every element, so an update whose scaled
 * norm reaches it is withheld like one that is not finite: the second moment must never become infinite.
 */
#define NORM_LIMIT 1.8e19

typedef struct Gradients {
    double norm;    /* of all of them as they are */
    double clamped; /* the same after the value clamp */
    int64_t value_clipped;
    int first_bad; /* -1: all finite */
    int largest;   /* the one with the largest norm */
} Gradients;

static void clamped_norm(Adamw *opt, const Tensor *grads, Gradients *out)
{
    double sum = 0.0;
    opt->ops->clamped_norms(opt, grads, (float)opt->options.grad_clip_value);
    opt->ops->collect(opt);
    for (int64_t i = 0; i < opt->piece_count; i++) {
        sum += opt->results[i].sum_squares;
        out->value_clipped += opt->results[i].capped;
    }
    out->clamped = sqrt(sum);
}

static Gradients look_at(Adamw *opt, const Tensor *grads)
{
    Gradients out = {.first_bad = -1};
    double sum = 0.0, most = -1.0;
    backend_enter(opt->be);
    opt->ops->norms(opt, opt->norms, grads);
    for (int i = 0; i < opt->table->count; i++) {
        const TensorNorm *n = &opt->norms[i];
        if (!n->finite && out.first_bad < 0) out.first_bad = i;
        if (n->sum_squares > most) {
            most = n->sum_squares;
            out.largest = i;
        }
        sum += n->sum_squares;
    }
    out.norm = sqrt(sum);
    out.clamped = out.norm;
    if (out.first_bad < 0 && opt->options.grad_clip_value > 0.0) clamped_norm(opt, grads, &out);
    backend_leave(opt->be);
    return out;
}

static UpdateRule make_rule(const Adamw *opt, double factor)
{
    const AdamwOptions *o = &opt->options;
    const double t = (double)(opt->updates + 1);
    return (UpdateRule){
        .beta1 = (float)o->beta1,
        .one_minus_beta1 = (float)(1.0 - o->beta1),
        .beta2 = (float)o->beta2,
        .one_minus_beta2 = (float)(1.0 - o->beta2),
        .epsilon = (float)o->epsilon,
        .correction1 = (float)(1.0 - pow(o->beta1, t)),
        .root_correction2 = (float)sqrt(1.0 - pow(o->beta2, t)),
        .clip_value = (float)o->grad_clip_value,
        .clip_factor = (float)factor,
        .variance_min = (float)o->variance_min,
        .variance_max = (float)o->variance_max,
    };
}

static void make_steps(Adamw *opt, double learning_rate)
{
    const double correction = 1.0 - pow(opt->options.beta1, (double)(opt->updates + 1));
    for (int i = 0; i < opt->table->count; i++) {
        const double rate = learning_rate * (double)opt->table->items[i].lr_scale;
        opt->steps[i].step = (float)(-rate / correction);
        opt->steps[i].decay = (float)(1.0 - rate * opt->options.weight_decay);
    }
}

/* Shrinks the step of every parameter whose update would exceed the cap; `results` hold the sums of squares. */
static int64_t clamp_rms(Adamw *opt)
{
    int64_t clipped = 0, piece = 0;
    for (int i = 0; i < opt->table->count; i++) {
        double sum = 0.0;
        for (; piece < opt->piece_count && opt->pieces[piece].param == i; piece++)
            sum += opt->results[piece].sum_squares;
        const double rms = sqrt(sum / (double)opt->spans[i].count);
        if (rms <= opt->options.update_clip_rms) continue;
        opt->steps[i].step = (float)((double)opt->steps[i].step * (opt->options.update_clip_rms / rms));
        clipped++;
    }
    return clipped;
}

static void count_clamped(Adamw *opt, AdamwReport *report)
{
    opt->ops->collect(opt);
    for (int64_t i = 0; i < opt->piece_count; i++) {
        report->variance_floored += opt->results[i].floored;
        report->variance_capped += opt->results[i].capped;
    }
}

static bool apply(Adamw *opt, const Tensor *params, const Tensor *grads, double learning_rate, AdamwReport *report,
                  Err *err)
{
    UpdatePass pass = {.rule = make_rule(opt, report->clip_factor), .params = params, .grads = grads};
    make_steps(opt, learning_rate);
    if (opt->options.update_clip_rms > 0.0) {
        pass.measure = true;
        if (!adamw_pass(opt, &pass, err)) return false;
        opt->ops->collect(opt);
        if (backend_failed(opt->be)) return false;
        report->rms_clipped = clamp_rms(opt);
        pass.measure = false;
    }
    if (!adamw_pass(opt, &pass, err)) return false;
    if (opt->options.variance_min > 0.0 || opt->options.variance_max > 0.0) count_clamped(opt, report);
    return true;
}

static AdamwReport withheld(const Gradients *g)
{
    const bool finite = isfinite(g->norm);
    return (AdamwReport){
        .grad_norm = finite ? (double)INFINITY : g->norm,
        .clip_factor = 1.0,
        .first_bad_param = g->first_bad >= 0 ? g->first_bad : g->largest,
    };
}

/* The device failed: nothing is known of the gradients. */
static AdamwReport unknown(void)
{
    return (AdamwReport){.grad_norm = (double)NAN, .clip_factor = 1.0, .first_bad_param = -1};
}

AdamwReport adamw_step(Adamw *opt, const Tensor *params, const Tensor *grads, double learning_rate)
{
    CHECK(tensor_count(params) == opt->table->total && tensor_count(grads) == opt->table->total);
    CHECK(params->dtype == DTYPE_F32 && grads->dtype == DTYPE_F32);
    const AdamwOptions *o = &opt->options;
    const Gradients g = look_at(opt, grads);
    if (backend_failed(opt->be)) return unknown();
    if (opt->failure.code != ERR_NONE || g.first_bad >= 0) return withheld(&g);

    ClipHistory history = opt->history;
    const ClipResult clip =
        clip_factor(&history, opt->updates + 1, g.clamped, o->max_grad_norm, o->grad_clip_percentile);
    if (!(g.clamped * clip.factor < NORM_LIMIT)) return withheld(&g);

    AdamwReport report = {
        .grad_norm = g.norm,
        .clip_factor = clip.factor,
        .applied = true,
        .first_bad_param = -1,
        .norm_clipped = clip.norm_clipped,
        .percentile_clipped = clip.percentile_clipped,
        .value_clipped = g.value_clipped,
    };
    backend_enter(opt->be);
    report.applied = apply(opt, params, grads, learning_rate, &report, &opt->failure);
    backend_leave(opt->be);
    if (backend_failed(opt->be)) return unknown();
    if (!report.applied) return report;
    opt->history = history;
    opt->updates++;
    return report;
}
