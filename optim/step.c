/*
 * step.c - one update: look at all gradients, decide, then run the pieces.
 */
#include "optim/internal.h"

#include "backend/elementwise.h"

#include <math.h>

/* --- batches of pieces --- */

/* Pieces [first, last) lie side by side in both regions. */
typedef struct PieceBatch {
    int64_t first, last;
    size_t offset, bytes;
} PieceBatch;

static PieceBatch next_batch(const Adamw *opt, int64_t first)
{
    PieceBatch b = {.first = first, .last = first, .offset = opt->pieces[first].offset};
    while (b.last < opt->piece_count) {
        const size_t bytes = b.bytes + opt->pieces[b.last].bytes;
        if (opt->options.paged && bytes > adamw_buffer_bytes(opt)) break;
        b.bytes = bytes;
        b.last++;
    }
    return b;
}

static bool load_pages(Adamw *opt, const PieceBatch *b, Err *err)
{
    return pages_read(&opt->pages, 1, b->offset, b->bytes, opt->state1.data, err) &&
           pages_read(&opt->pages, 2, b->offset, b->bytes, opt->state2.data, err);
}

static bool store_pages(Adamw *opt, const PieceBatch *b, Err *err)
{
    return pages_write(&opt->pages, 1, b->offset, b->bytes, opt->state1.data, err) &&
           pages_write(&opt->pages, 2, b->offset, b->bytes, opt->state2.data, err);
}

static PieceData piece_data(const Adamw *opt, const PieceBatch *b, const Piece *piece, float *params,
                            const float *grads)
{
    const Param *p = &opt->table->items[piece->param];
    const StateSpan *s = &opt->spans[piece->param];
    /* Resident states lie at their offset in the region, paged ones at their offset in the batch. */
    const size_t at = piece->offset - (opt->options.paged ? b->offset : 0);
    const int64_t scale = s->eight_bit ? s->absmax + piece->first / STATE_BLOCK : 0;
    return (PieceData){
        .params = params + p->offset + piece->first,
        .grads = grads + p->offset + piece->first,
        .state1 = (char *)opt->state1.data + at,
        .state2 = (char *)opt->state2.data + at,
        .absmax1 = (float *)opt->absmax1.data + scale,
        .absmax2 = (float *)opt->absmax2.data + scale,
        .map1 = opt->map1,
        .map2 = opt->map2,
        .eight_bit = s->eight_bit,
        .count = piece->count,
    };
}

static void run_batch(Adamw *opt, const PieceBatch *b, const UpdateRule *rule, bool measure, const Tensor *params,
                      const Tensor *grads)
{
#pragma omp parallel for schedule(static)
    for (int64_t i = b->first; i < b->last; i++) {
        const Piece *piece = &opt->pieces[i];
        const PieceData d = piece_data(opt, b, piece, params->data, grads->data);
        opt->results[i] = measure ? piece_measure(&d, rule) : piece_update(&d, rule, &opt->steps[piece->param]);
    }
}

/* A failing page file leaves states that fit no parameters: the caller remembers it and nothing runs afterwards. */
static bool run_all(Adamw *opt, const UpdateRule *rule, bool measure, const Tensor *params, const Tensor *grads,
                    Err *err)
{
    const bool paged = opt->options.paged;
    PieceBatch b;
    for (int64_t first = 0; first < opt->piece_count; first = b.last) {
        b = next_batch(opt, first);
        if (paged && !load_pages(opt, &b, err)) return false;
        run_batch(opt, &b, rule, measure, params, grads);
        if (paged && !measure && !store_pages(opt, &b, err)) return false;
    }
    return true;
}

/* --- one update --- */

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

typedef struct ClampedNorm {
    double sum_squares;
    int64_t clipped;
} ClampedNorm;

/* Squares of a piece as the value clamp leaves it, and how many elements it changed. */
static ClampedNorm clamped_piece(const float *g, int64_t count, float limit)
{
    ClampedNorm n = {0};
    for (int64_t i = 0; i < count; i++) {
        const float size = fabsf(g[i]);
        n.clipped += size > limit;
        const double kept = (double)fminf(size, limit);
        n.sum_squares += kept * kept;
    }
    return n;
}

static void clamped_norm(Adamw *opt, const Tensor *grads, Gradients *out)
{
    const float limit = (float)opt->options.grad_clip_value;
    double sum = 0.0;
    backend_enter(opt->be);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < opt->piece_count; i++) {
        const Piece *piece = &opt->pieces[i];
        const float *g = (const float *)grads->data + opt->table->items[piece->param].offset + piece->first;
        const ClampedNorm n = clamped_piece(g, piece->count, limit);
        opt->results[i] = (PieceResult){.sum_squares = n.sum_squares, .floored = n.clipped};
    }
    backend_leave(opt->be);
    for (int64_t i = 0; i < opt->piece_count; i++) {
        sum += opt->results[i].sum_squares;
        out->value_clipped += opt->results[i].floored;
    }
    out->clamped = sqrt(sum);
}

static Gradients look_at(Adamw *opt, const Tensor *grads)
{
    Gradients out = {.first_bad = -1};
    double sum = 0.0, most = -1.0;
    for (int i = 0; i < opt->table->count; i++) {
        const Param *p = &opt->table->items[i];
        const Tensor part = tensor_slice_flat(grads, p->offset, p->rows * p->cols);
        const TensorNorm n = tensor_norm(opt->be, &part);
        if (!n.finite && out.first_bad < 0) out.first_bad = i;
        if (n.sum_squares > most) {
            most = n.sum_squares;
            out.largest = i;
        }
        sum += n.sum_squares;
    }
    out.norm = sqrt(sum);
    out.clamped = out.norm;
    if (out.first_bad < 0 && opt->options.grad_clip_value > 0.0) clamped_norm(opt, grads, &out);
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

static bool apply(Adamw *opt, const Tensor *params, const Tensor *grads, double learning_rate, AdamwReport *report,
                  Err *err)
{
    const UpdateRule rule = make_rule(opt, report->clip_factor);
    make_steps(opt, learning_rate);
    if (opt->options.update_clip_rms > 0.0) {
        if (!run_all(opt, &rule, true, params, grads, err)) return false;
        report->rms_clipped = clamp_rms(opt);
    }
    if (!run_all(opt, &rule, false, params, grads, err)) return false;
    for (int64_t i = 0; i < opt->piece_count; i++) {
        report->variance_floored += opt->results[i].floored;
        report->variance_capped += opt->results[i].capped;
    }
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

AdamwReport adamw_step(Adamw *opt, const Tensor *params, const Tensor *grads, double learning_rate)
{
    CHECK(tensor_count(params) == opt->table->total && tensor_count(grads) == opt->table->total);
    CHECK(params->dtype == DTYPE_F32 && grads->dtype == DTYPE_F32);
    const AdamwOptions *o = &opt->options;
    const Gradients g = look_at(opt, grads);
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
    if (!report.applied) return report;
    opt->history = history;
    opt->updates++;
    return report;
}
