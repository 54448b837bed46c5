/*
 * update.c - the arithmetic of AdamW on one block of 256 elements at a time.
 *
 *   g  = clip_factor * clamp(grad)
 *   m  = beta1 * m + (1 - beta1) * g            v = clamp(beta2 * v + ((1 - beta2) * g) * g)
 *   p  = p * decay + (step * m) / (sqrt(v) / root_correction2 + epsilon)
 *
 * every operation rounded by itself, in the order of torch.optim.AdamW and of bitsandbytes on the CPU. Loops run over
 * whole blocks of local arrays, so the compiler turns them into vector code without changing a bit.
 */
#include "optim/ops.h"

#include "quant/blockwise.h"

#include <float.h>
#include <math.h>
#include <string.h>

typedef struct Block {
    float m[STATE_BLOCK], v[STATE_BLOCK], g[STATE_BLOCK];
    int count;
} Block;

/* Not fminf and fmaxf: their rules for NaN keep the compiler from using the vector instructions. */
static inline float within(float x, float low, float high)
{
    x = x < low ? low : x;
    return x > high ? high : x;
}

/* --- loading: elements past `count` stay zero --- */

static void load_gradient(Block *b, const PieceData *d, int64_t first, const UpdateRule *rule)
{
    memset(b->g, 0, sizeof b->g);
    memcpy(b->g, d->grads + first, (size_t)b->count * sizeof(float));
    if (rule->clip_value > 0.0f) {
        for (int i = 0; i < STATE_BLOCK; i++)
            b->g[i] = within(b->g[i], -rule->clip_value, rule->clip_value);
    }
    for (int i = 0; i < STATE_BLOCK; i++)
        b->g[i] *= rule->clip_factor;
}

static void load_states(Block *b, const PieceData *d, int64_t first)
{
    if (d->eight_bit) {
        blockwise_values(b->m, d->map1, (const uint8_t *)d->state1 + first, d->absmax1[first / STATE_BLOCK],
                         STATE_BLOCK);
        blockwise_values(b->v, d->map2, (const uint8_t *)d->state2 + first, d->absmax2[first / STATE_BLOCK],
                         STATE_BLOCK);
    } else {
        memcpy(b->m, (const float *)d->state1 + first, sizeof b->m);
        memcpy(b->v, (const float *)d->state2 + first, sizeof b->v);
    }
}

/* --- moments --- */

static void advance_moments(Block *b, const UpdateRule *r)
{
    for (int i = 0; i < STATE_BLOCK; i++) {
        b->m[i] = r->beta1 * b->m[i] + r->one_minus_beta1 * b->g[i];
        b->v[i] = r->beta2 * b->v[i] + (r->one_minus_beta2 * b->g[i]) * b->g[i];
    }
}

static void clamp_variance(Block *b, const UpdateRule *r, PieceResult *result)
{
    const float low = r->variance_min, high = r->variance_max > 0.0f ? r->variance_max : FLT_MAX;
    int floored = 0, capped = 0;
    if (low <= 0.0f && r->variance_max <= 0.0f) return;
    for (int i = 0; i < b->count; i++) {
        floored += b->v[i] < low;
        capped += b->v[i] > high;
        b->v[i] = within(b->v[i], low, high);
    }
    result->floored += floored;
    result->capped += capped;
}

static void load_block(Block *b, const PieceData *d, int64_t first, const UpdateRule *rule, PieceResult *result)
{
    const int64_t left = d->count - first;
    b->count = left < STATE_BLOCK ? (int)left : STATE_BLOCK;
    load_gradient(b, d, first, rule);
    load_states(b, d, first);
    advance_moments(b, rule);
    clamp_variance(b, rule, result);
}

static float denominator(float v, const UpdateRule *r)
{
    return sqrtf(v) / r->root_correction2 + r->epsilon;
}

/* --- parameters --- */

static void update_params(float *p, const Block *b, const UpdateRule *r, const UpdateStep *s)
{
    for (int i = 0; i < b->count; i++)
        p[i] = p[i] * s->decay + (s->step * b->m[i]) / denominator(b->v[i], r);
}

static double update_squares(const Block *b, const UpdateRule *r)
{
    double sum = 0.0;
    for (int i = 0; i < b->count; i++) {
        const double u = (double)(b->m[i] / r->correction1) / (double)denominator(b->v[i], r);
        sum += u * u;
    }
    return sum;
}

/* --- storing --- */

/*
 * A block whose largest value is subnormal or zero has no usable reciprocal and stores zeros. Elements past the end of
 * the parameter are zero here and get the codes of zero.
 */
static void store_codes(uint8_t *codes, float *absmax, float *x, int count, const float map[256])
{
    const float most = blockwise_largest(x, count);
    const float reciprocal = most < FLT_MIN ? 0.0f : 1.0f / most;
    *absmax = most < FLT_MIN ? 0.0f : most;
    for (int i = 0; i < STATE_BLOCK; i++)
        x[i] = i < count ? x[i] * reciprocal : 0.0f;
    blockwise_codes(codes, map, x, STATE_BLOCK);
}

static void store_states(Block *b, const PieceData *d, int64_t first)
{
    if (!d->eight_bit) {
        memcpy((float *)d->state1 + first, b->m, sizeof b->m);
        memcpy((float *)d->state2 + first, b->v, sizeof b->v);
        return;
    }
    store_codes((uint8_t *)d->state1 + first, &d->absmax1[first / STATE_BLOCK], b->m, b->count, d->map1);
    store_codes((uint8_t *)d->state2 + first, &d->absmax2[first / STATE_BLOCK], b->v, b->count, d->map2);
}

PieceResult piece_measure(const PieceData *d, const UpdateRule *rule)
{
    PieceResult result = {0};
    Block b;
    for (int64_t first = 0; first < d->count; first += STATE_BLOCK) {
        load_block(&b, d, first, rule, &result);
        result.sum_squares += update_squares(&b, rule);
    }
    return result;
}

PieceResult piece_update(const PieceData *d, const UpdateRule *rule, const UpdateStep *step)
{
    PieceResult result = {0};
    Block b;
    for (int64_t first = 0; first < d->count; first += STATE_BLOCK) {
        load_block(&b, d, first, rule, &result);
        update_params(d->params + first, &b, rule, step);
        store_states(&b, d, first);
    }
    return result;
}

/* --- all pieces of a batch --- */

static PieceData piece_data(const Adamw *opt, const PieceBatch *b, const Piece *piece, const UpdatePass *pass)
{
    const bool eight_bit = piece->scale >= 0;
    const int64_t scale = eight_bit ? piece->scale : 0;
    return (PieceData){
        .params = (float *)pass->params->data + piece->element,
        .grads = (const float *)pass->grads->data + piece->element,
        .state1 = (char *)b->state1.data + (piece->offset - b->offset),
        .state2 = (char *)b->state2.data + (piece->offset - b->offset),
        .absmax1 = (float *)opt->absmax1.data + scale,
        .absmax2 = (float *)opt->absmax2.data + scale,
        .map1 = opt->map1,
        .map2 = opt->map2,
        .eight_bit = eight_bit,
        .count = piece->count,
    };
}

void adamw_run_cpu(Adamw *opt, const PieceBatch *batch, const UpdatePass *pass)
{
#pragma omp parallel for schedule(static)
    for (int64_t i = batch->first; i < batch->last; i++) {
        const Piece *piece = &opt->pieces[i];
        const PieceData d = piece_data(opt, batch, piece, pass);
        opt->results[i] =
            pass->measure ? piece_measure(&d, &pass->rule) : piece_update(&d, &pass->rule, &opt->steps[piece->param]);
    }
}
