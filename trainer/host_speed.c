#include "trainer/host_speed.h"

#include "backend/matmul.h"
#include "model/attention.h"
#include "model/swiglu.h"
#include "trainer/process.h"

#include <math.h>
#include <stdio.h>

enum {
    TOKENS_MAX = 512,       /* of a product: rates hardly change beyond */
    WEIGHT_ROWS_MAX = 1536, /* of a product: the same */
    SEGMENT_MAX = 1024,     /* of attention */
    KV_HEADS_MAX = 3,
    REPEATS = 4,
};
#define ENOUGH_SECONDS 0.03 /* for one operation */

typedef struct Bench {
    Backend *be;
    Arena arena;
    Tensor x, w, y; /* (n, k), (rows, k), (n, rows) */
    Tensor gu, h;   /* (n, 2F), (n, F) */
    Tensor qkv, dqkv, att, datt, lse, attend;
    Attention attention;
    int32_t starts[2];
    QuantMatrix quant;
} Bench;

/* Best time of one call, in seconds. */
static double best_time(Bench *b, void (*operation)(Bench *b))
{
    double best = (double)INFINITY, all = 0;
    operation(b); /* code and threads are there */
    for (int i = 0; i < REPEATS && (i == 0 || all < ENOUGH_SECONDS); i++) {
        const double start = process_seconds();
        operation(b);
        const double seconds = process_seconds() - start;
        best = seconds < best ? seconds : best;
        all += seconds;
    }
    return best > 1e-9 ? best : 1e-9;
}

static void product_forward(Bench *b)
{
    matmul(b->be, &(Matmul){.out = &b->y, .a = &b->x, .b = &b->w, .transpose_b = true});
}

static void product_backward(Bench *b)
{
    matmul(b->be, &(Matmul){.out = &b->x, .a = &b->y, .b = &b->w});
}

static void decode(Bench *b)
{
    quant_decode(b->be, &b->w, &b->quant);
}

static void activate(Bench *b)
{
    swiglu_forward(b->be, &b->h, &b->gu);
}

static void attend_forward(Bench *b)
{
    attention_forward(b->be, &b->attention, &b->att, &b->lse, &b->qkv, &b->attend);
}

static void attend_backward(Bench *b)
{
    attention_backward(b->be, &b->attention, &b->dqkv, &b->datt, &b->att, &b->lse, &b->qkv, &b->attend);
}

static int64_t at_most(int64_t value, int64_t limit)
{
    return value < limit ? value : limit;
}

static void place(Bench *b, const ModelSpec *s, const ModelOptions *o, int64_t tokens, int64_t segment)
{
    Arena *a = &b->arena;
    const int64_t n = at_most(tokens, TOKENS_MAX), rows = at_most(2 * s->ffn, WEIGHT_ROWS_MAX),
                  t = at_most(segment, SEGMENT_MAX);
    const int groups = (int)at_most(s->kv_heads, KV_HEADS_MAX), heads = groups * (s->heads / s->kv_heads);
    const int64_t q = (int64_t)heads * s->head_dim, all = q + 2 * (int64_t)groups * s->head_dim;
    b->x = arena_matrix(a, o->compute, n, s->hidden);
    b->w = arena_matrix(a, o->compute, rows, s->hidden);
    b->y = arena_matrix(a, o->compute, n, rows);
    b->gu = arena_matrix(a, o->compute, at_most(n, 128), 2 * s->ffn);
    b->h = arena_matrix(a, o->compute, at_most(n, 128), s->ffn);
    b->qkv = arena_matrix(a, o->compute, t, all);
    b->dqkv = arena_matrix(a, o->compute, t, all);
    b->att = arena_matrix(a, o->compute, t, q);
    b->datt = arena_matrix(a, o->compute, t, q);
    b->lse = arena_matrix(a, DTYPE_F32, t, heads);
    b->attend = arena_vector(a, DTYPE_F32, attention_scratch(b->be, t, heads, groups, s->head_dim));
    b->attention = (Attention){.heads = heads,
                               .kv_heads = groups,
                               .head_dim = s->head_dim,
                               .segments = 1,
                               .starts = b->starts,
                               .scale = (float)(1 / sqrt((double)s->head_dim))};
    b->starts[1] = (int32_t)t;
    quant_place(&b->quant, a, &o->quant, rows, s->hidden);
}

static double elements(const Tensor *t)
{
    return (double)tensor_count(t);
}

static void measure(Bench *b, DeviceCard *card)
{
    const double flops = 2 * elements(&b->y) * (double)tensor_cols(&b->x);
    card->matmul = 2 * flops / (best_time(b, product_forward) + best_time(b, product_backward));
    card->decode = elements(&b->w) / best_time(b, decode);
    card->bandwidth = 1.5 * elements(&b->gu) * (double)dtype_bytes(b->gu.dtype) / best_time(b, activate);
    const double t = (double)tensor_rows(&b->att), causal = 2 * t * elements(&b->att);
    card->attention_forward = causal / best_time(b, attend_forward);
    card->attention_backward = 2.5 * causal / best_time(b, attend_backward);
}

bool host_speed_measure(DeviceCard *out, Backend *be, const ModelSpec *spec, const ModelOptions *options,
                        int64_t tokens, int64_t segment, Err *err)
{
    Bench b = {.be = be, .arena = {.name = "measurement"}};
    place(&b, spec, options, tokens, segment);
    const size_t bytes = b.arena.peak;
    b.arena = (Arena){.name = "measurement"};
    if (!backend_arena_reserve(be, &b.arena, bytes, err)) return false;
    place(&b, spec, options, tokens, segment);
    DeviceCard card = {.processors = backend_threads(be), .measured = true};
    snprintf(card.name, sizeof card.name, "cpu");
    measure(&b, &card);
    card.link = card.bandwidth; /* of the page file: the cache of the operating system */
    backend_arena_release(be, &b.arena);
    if (!backend_sync(be, err)) return false;
    *out = card;
    return true;
}
