#include "model/decoder.h"

#include "backend/elementwise.h"
#include "model/rmsnorm.h"
#include "model/rope.h"
#include "model/swiglu.h"
#include "model/thin.h"

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t query_cols(const ModelSpec *s)
{
    return (int64_t)s->heads * s->head_dim;
}

static int64_t qkv_cols(const ModelSpec *s)
{
    return (int64_t)(s->heads + 2 * s->kv_heads) * s->head_dim;
}

/* Rows 0..n of a buffer, columns 0..cols. */
static Tensor view(const Tensor *buffer, int64_t n, int64_t cols)
{
    const Tensor rows = tensor_slice_rows(buffer, 0, n);
    return tensor_slice_cols(&rows, 0, cols);
}

/* ---- placing ---- */

static void place_inner(Model *m, LayerActs *acts, Arena *a)
{
    const DType dtype = m->options.compute;
    const Layer *first = &m->layers[0];
    int64_t side = 0;
    for (int i = 0; i < m->spec.layers; i++)
        side = larger(side, m->layers[i].gate_up.side);
    acts->qkv = arena_matrix(a, dtype, m->n_max, first->qkv.rows);
    acts->x2 = arena_matrix(a, dtype, m->n_max, m->spec.hidden);
    acts->gu = arena_matrix(a, dtype, m->n_max, first->gate_up.rows + side);
}

static void place_outer(Model *m, LayerActs *acts, Arena *a)
{
    const DType dtype = m->options.compute;
    int64_t side = 0;
    for (int i = 0; i < m->spec.layers; i++)
        side = larger(side, m->layers[i].o.side);
    acts->att = arena_matrix(a, dtype, m->n_max, query_cols(&m->spec) + side);
    acts->lse = arena_matrix(a, DTYPE_F32, m->n_max, m->spec.heads);
}

void layer_place_acts(Model *m, Arena *a)
{
    LayerActs shared = {0};
    Tensor pair[2] = {{0}, {0}}; /* without training: input and output of a layer, in turns */
    const int layers = m->spec.layers;
    const bool training = m->options.training;
    bool any_shared = false;
    for (int i = 0; i < layers; i++) {
        m->layers[i].keep = training && i < m->options.kept_layers;
        any_shared |= !m->layers[i].keep;
    }
    if (any_shared) place_inner(m, &shared, a);
    if (!training) {
        place_outer(m, &shared, a);
        for (int i = 0; i < 2; i++)
            pair[i] = arena_matrix(a, m->options.compute, m->n_max, m->spec.hidden);
    }
    LayerActs sets[OFFLOAD_SETS] = {0}; /* of offloaded layers, in turns */
    for (int i = 0; i < layers; i++) {
        const int set = offload_set(m, i);
        LayerActs *acts = &m->layers[i].acts;
        if (set >= 0 && sets[set].x.rank > 0) {
            *acts = sets[set];
            continue;
        }
        *acts = shared;
        acts->x = training ? arena_matrix(a, m->options.compute, m->n_max, m->spec.hidden) : pair[i % 2];
        if (training) place_outer(m, acts, a);
        if (m->layers[i].keep) place_inner(m, acts, a);
        if (set >= 0) sets[set] = *acts;
    }
    m->last = training ? arena_matrix(a, m->options.compute, m->n_max, m->spec.hidden) : pair[layers % 2];
}

void layer_place_work(Model *m, Arena *a)
{
    const ModelSpec *s = &m->spec;
    const DType dtype = m->options.compute;
    int64_t in = 0, h = 0, dx = 0, dqkv = 0, partial = 0, thin = thin_scratch(s->hidden, 0);
    int64_t most[LINEAR_SLOTS] = {0};
    for (int i = 0; i < s->layers; i++) {
        Layer *l = &m->layers[i];
        in = larger(in, larger(l->qkv.side, l->gate_up.side));
        h = larger(h, l->down.side);
        dx = larger(dx, larger(l->down.side, l->o.side));
        dqkv = larger(dqkv, l->qkv.side);
        Linear *const groups[] = {&l->qkv, &l->o, &l->gate_up, &l->down};
        for (size_t g = 0; g < ARRAY_COUNT(groups); g++) {
            int64_t *slot = &most[groups[g]->slot];
            if (!groups[g]->resident) *slot = larger(*slot, linear_buffer(groups[g]));
            thin = larger(thin, linear_thin_scratch(groups[g]));
            if (m->options.training) partial = larger(partial, linear_gradient_scratch(groups[g], m->n_max));
        }
    }
    Work *w = &m->work;
    w->xn = arena_matrix(a, dtype, m->n_max, s->hidden + in);
    w->h = arena_matrix(a, dtype, m->n_max, s->ffn + h);
    w->attend = arena_vector(a, DTYPE_F32, attention_scratch(m->be, m->n_max, s->heads, s->kv_heads, s->head_dim));
    for (int i = 0; i < LINEAR_SLOTS; i++)
        m->linear.weights[i] = arena_vector(a, dtype, most[i]);
    m->linear.thin = arena_vector(a, DTYPE_F32, thin);
    if (!m->options.training) return;
    w->dh = arena_matrix(a, dtype, m->n_max, s->ffn);
    w->dqkv = arena_matrix(a, dtype, m->n_max, qkv_cols(s) + dqkv);
    w->dy = arena_matrix(a, dtype, m->n_max, larger(s->hidden, query_cols(s)));
    w->dx = arena_matrix(a, dtype, m->n_max, s->hidden + dx);
    m->linear.partial = arena_vector(a, DTYPE_F32, partial);
    if (m->has_lora && m->options.lora.dropout > 0)
        m->linear.masked = arena_matrix(a, dtype, m->n_max, larger(s->ffn, larger(s->hidden, query_cols(s))));
}

Tensor layer_output(const Model *m, int index, int64_t n)
{
    const Tensor *buffer = index + 1 < m->spec.layers ? &m->layers[index + 1].acts.x : &m->last;
    return tensor_slice_rows(buffer, 0, n);
}

/* Where each group has a buffer of its own, one launch fills those of a layer. */
static void fill(const Model *m, Layer *l)
{
    Linear *const groups[] = {&l->qkv, &l->o, &l->gate_up, &l->down};
    if (m->options.layer_weights) linear_fill(&m->linear, groups, ARRAY_COUNT(groups));
}

/* ---- forward, in the pieces that backward repeats ---- */

/* Where the normed input of a group goes, and its spare columns. */
static Tensor normed(const Model *m, const Linear *group, int64_t n)
{
    return view(&m->work.xn, n, group->cols + group->side);
}

static void forward_qkv(Model *m, Layer *l, const Pass *p)
{
    const Tensor x = tensor_slice_rows(&l->acts.x, 0, p->n), qkv = tensor_slice_rows(&l->acts.qkv, 0, p->n);
    const Tensor xn = normed(m, &l->qkv, p->n), inner = tensor_slice_cols(&xn, 0, l->qkv.cols);
    const Tensor positions = tensor_slice_flat(&m->positions, 0, p->n);
    rmsnorm_forward(m->be, &inner, &x, &l->norm1, m->spec.norm_eps);
    linear_forward(&m->linear, &l->qkv, &p->linear, &qkv, &xn);
    rope_apply(m->be, &qkv, &m->rope, &positions, m->spec.heads + m->spec.kv_heads, m->spec.head_dim, false);
}

static void forward_attention(Model *m, Layer *l, const Pass *p)
{
    const Tensor qkv = tensor_slice_rows(&l->acts.qkv, 0, p->n);
    const Tensor att = view(&l->acts.att, p->n, query_cols(&m->spec));
    if (p->kind == PASS_DECODE) {
        cache_decode(m, l, p, &att, &qkv);
        return;
    }
    const Tensor lse = tensor_slice_rows(&l->acts.lse, 0, p->n);
    if (p->sequence >= 0) cache_prefill(m, l, p, &qkv);
    attention_forward(m->be, &p->attention, &att, &lse, &qkv, &m->work.attend);
}

static void forward_o(Model *m, Layer *l, const Pass *p)
{
    const Tensor x = tensor_slice_rows(&l->acts.x, 0, p->n), x2 = tensor_slice_rows(&l->acts.x2, 0, p->n);
    const Tensor att = view(&l->acts.att, p->n, l->o.cols + l->o.side);
    const Tensor xn = normed(m, &l->gate_up, p->n), inner = tensor_slice_cols(&xn, 0, l->gate_up.cols);
    linear_forward(&m->linear, &l->o, &p->linear, &x2, &att);
    rmsnorm_add_forward(m->be, &inner, &x2, &x, &l->norm2, m->spec.norm_eps);
}

static void forward_gate_up(Model *m, Layer *l, const Pass *p)
{
    const Tensor gu = view(&l->acts.gu, p->n, l->gate_up.rows), xn = normed(m, &l->gate_up, p->n);
    linear_forward(&m->linear, &l->gate_up, &p->linear, &gu, &xn);
}

/* Where the SwiGLU product goes, and its spare columns. */
static Tensor activated(const Model *m, const Layer *l, int64_t n)
{
    return view(&m->work.h, n, l->down.cols + l->down.side);
}

static void forward_down(Model *m, Layer *l, const Pass *p, const Tensor *out)
{
    const Tensor gu = view(&l->acts.gu, p->n, l->gate_up.rows), x2 = tensor_slice_rows(&l->acts.x2, 0, p->n);
    const Tensor h = activated(m, l, p->n), inner = tensor_slice_cols(&h, 0, l->down.cols);
    swiglu_forward(m->be, &inner, &gu);
    linear_forward(&m->linear, &l->down, &p->linear, out, &h);
    tensor_add(m->be, out, out, &x2);
}

void layer_forward(Model *m, int index, const Pass *p)
{
    Layer *l = &m->layers[index];
    const Tensor out = layer_output(m, index, p->n);
    offload_before_forward(m, index, p);
    if (!p->linear.thin) fill(m, l);
    forward_qkv(m, l, p);
    forward_attention(m, l, p);
    forward_o(m, l, p);
    forward_gate_up(m, l, p);
    forward_down(m, l, p, &out);
    if (!l->keep) m->shared_owner = index;
    offload_after_forward(m, index, p);
}

/* ---- backward ---- */

/*
 * The gradient goes through a group before its adapters get theirs: the kernel that takes it on from there writes what the
 * group read in the same pass.
 */

/* What the shared set held when this layer went forward. The last layer's is still there. */
static void restore(Model *m, int index, const Pass *p)
{
    Layer *l = &m->layers[index];
    if (l->keep || m->shared_owner == index) return;
    forward_qkv(m, l, p);
    forward_o(m, l, p);
    forward_gate_up(m, l, p);
    m->shared_owner = index;
}

static void backward_mlp(Model *m, Layer *l, const Pass *p)
{
    const Work *w = &m->work;
    const int64_t n = p->n, ffn = l->down.cols, hidden = m->spec.hidden;
    const Tensor x2 = tensor_slice_rows(&l->acts.x2, 0, n);
    const Tensor gu = view(&l->acts.gu, n, 2 * ffn), dgu = view(&l->acts.gu, n, 2 * ffn + l->gate_up.side);
    const Tensor dx = view(&w->dx, n, hidden), dout = view(&w->dx, n, hidden + l->down.side);
    const Tensor dh = view(&w->dh, n, ffn), dxn = view(&w->dy, n, hidden);
    const Tensor h = activated(m, l, n), h_inner = tensor_slice_cols(&h, 0, ffn);
    const Tensor xn = normed(m, &l->gate_up, n), xn_inner = tensor_slice_cols(&xn, 0, hidden);
    linear_backward(&m->linear, &l->down, &p->linear, &dh, &dout);
    swiglu_backward(m->be, &gu, l->down.side > 0 ? &h_inner : NULL, &dh, &gu);
    linear_gradients(&m->linear, &l->down, &p->linear, &dout, &h, false);
    linear_backward(&m->linear, &l->gate_up, &p->linear, &dxn, &dgu);
    rmsnorm_backward(m->be, &dx, l->gate_up.side > 0 ? &xn_inner : NULL, &dxn, &x2, &l->norm2, m->spec.norm_eps, true);
    linear_gradients(&m->linear, &l->gate_up, &p->linear, &dgu, &xn, false);
}

static void backward_attention(Model *m, Layer *l, const Pass *p, bool first)
{
    const Work *w = &m->work;
    const int64_t n = p->n, hidden = m->spec.hidden, q = l->o.cols, qkv_all = l->qkv.rows;
    const Tensor x = tensor_slice_rows(&l->acts.x, 0, n), qkv = tensor_slice_rows(&l->acts.qkv, 0, n);
    const Tensor att = view(&l->acts.att, n, q + l->o.side), inner = view(&l->acts.att, n, q);
    const Tensor lse = tensor_slice_rows(&l->acts.lse, 0, n);
    const Tensor positions = tensor_slice_flat(&m->positions, 0, n);
    const Tensor dx = view(&w->dx, n, hidden), dout = view(&w->dx, n, hidden + l->o.side);
    const Tensor datt = view(&w->dy, n, q), dxn = view(&w->dy, n, hidden);
    const Tensor dqkv = view(&w->dqkv, n, qkv_all), dqkv_side = view(&w->dqkv, n, qkv_all + l->qkv.side);
    const Tensor xn = normed(m, &l->qkv, n), xn_inner = tensor_slice_cols(&xn, 0, hidden);
    linear_backward(&m->linear, &l->o, &p->linear, &datt, &dout);
    linear_gradients(&m->linear, &l->o, &p->linear, &dout, &att, true);
    attention_backward(m->be, &p->attention, &dqkv, &datt, &inner, &lse, &qkv, &w->attend);
    rope_apply(m->be, &dqkv, &m->rope, &positions, m->spec.heads + m->spec.kv_heads, m->spec.head_dim, true);
    /* The embedding is frozen: nobody needs the first layer's dx. */
    linear_backward(&m->linear, &l->qkv, &p->linear, first ? NULL : &dxn, &dqkv_side);
    if (!first)
        rmsnorm_backward(m->be, &dx, l->qkv.side > 0 ? &xn_inner : NULL, &dxn, &x, &l->norm1, m->spec.norm_eps, true);
    else if (l->qkv.side > 0)
        rmsnorm_forward(m->be, &xn_inner, &x, &l->norm1, m->spec.norm_eps);
    linear_gradients(&m->linear, &l->qkv, &p->linear, &dqkv_side, &xn, false);
}

void layer_backward(Model *m, int index, const Pass *p)
{
    Layer *l = &m->layers[index];
    offload_before_backward(m, index);
    fill(m, l);
    restore(m, index, p);
    backward_mlp(m, l, p);
    backward_attention(m, l, p, index == 0);
    if (!l->keep) m->shared_owner = -1; /* gate and up are overwritten */
    offload_after_backward(m, index, p);
}
