#include "trainer/step_time.h"

#include "base/check.h"

#include <math.h>
#include <string.h>

/* Own bandwidth-bound kernels against a copy: the floor that the kernels are held to (cuDNN's norms reach 0.85-0.88). */
#define KERNEL_SHARE 0.85
/* Bytes of the level-2 cache move about four times as fast as those of the memory (H100: 12 against 3 TB/s). */
#define CACHE_SPEEDUP 4.0
/* f32 products are for reference only; on CUDA cores a tenth of the 16-bit rate. */
#define F32_SHARE 0.1
#define CUT_SHARE 0.92
#define BACKWARD_ATTENTION 2.5
#define SHORT_FORWARD 410.0
#define SHORT_BACKWARD 350.0
#define SMALL_HEAD 64
#define SMALL_HEAD_SHARE 0.8
/* Of a layer's time: backward has as many products, those of the recompute beside, and 2.5 times the attention. */
#define FORWARD_SHARE (1.0 / 3)
/* Between the end of one kernel and the start of the next on one stream. */
#define GAP_SECONDS 1e-6
/* A transfer that the host waits for, beyond its bytes. */
#define SYNC_SECONDS 20e-6

/* Launches beside those of groups (group_launches), as model/layer.c and model/head.c make them. */
enum {
    FORWARD_LAUNCHES = 6,     /* norm, rope, attention, sum and norm, SwiGLU, sum */
    BACKWARD_LAUNCHES = 7,    /* SwiGLU, norm, attention in three, rope, norm */
    RECOMPUTE_LAUNCHES = 3,   /* norm, rope, sum and norm */
    CHUNK_LAUNCHES = 7,       /* gather, norm, product, loss, product, norm, scatter */
    MICRO_BATCH_LAUNCHES = 2, /* embedding, the gradient of hidden states zeroed */
    UPDATE_LAUNCHES = 8
};

enum { GROUPS = 4, SIDE_TILE = 64, CUTS_MAX = 8, CUT_MIN = 512 };

typedef struct Group {
    int64_t rows, cols;  /* O, K */
    int64_t ranks, side; /* sum of ranks; padded */
    int adapters;
    bool bias;
    bool recomputed; /* by a layer that is not kept: the down projection's output is never needed again */
    bool side_kept;  /* the input stays with its side columns: attention's output */
} Group;

const char *step_term_name(StepTerm t)
{
    static const char *const names[STEP_TERMS] = {"products", "recompute", "decode",    "attention", "elementwise",
                                                  "lora",     "head",      "optimizer", "copies",    "launches"};
    CHECK(t >= 0 && t < STEP_TERMS);
    return names[t];
}

int64_t step_linear_weights(const ModelSpec *s)
{
    int64_t layer = 0;
    for (int p = 0; p < PROJ_COUNT; p++)
        layer += projection_rows(s, (Projection)p) * projection_cols(s, (Projection)p);
    return layer * s->layers;
}

double step_attention_flops(const ModelSpec *s, double segment_tokens)
{
    return 2.0 * segment_tokens * s->heads * s->head_dim * s->layers;
}

static double longer(double a, double b)
{
    return a > b ? a : b;
}

static double stream_seconds(const DeviceCard *c, double bytes)
{
    return bytes / (c->bandwidth * (c->measured ? 1 : KERNEL_SHARE));
}

static double product_rate(const DeviceCard *c, const StepShape *s)
{
    return s->element_bytes == 4 && !c->measured ? c->matmul * F32_SHARE : c->matmul;
}

/* Share of the rate that whole waves of tiles use. Small tiles reuse less and run slower; a long k may be cut in parts, which
 * costs a pass over the sums. Shares are what libraries reach with such tiles on large products. */
static double tile_share(const DeviceCard *c, double m, double n, double k)
{
    static const struct {
        double rows, cols, share;
    } tiles[] = {
        {128, 256, 1.0},
        {128, 128, 0.9},
        {64,  64,  0.6},
    };
    double best = 0;
    for (size_t i = 0; i < ARRAY_COUNT(tiles); i++) {
        const double count = ceil(m / tiles[i].rows) * ceil(n / tiles[i].cols);
        const double full = m * n / (count * tiles[i].rows * tiles[i].cols) * tiles[i].share;
        for (int cuts = 1; cuts <= CUTS_MAX && (cuts == 1 || k / cuts >= CUT_MIN); cuts *= 2) {
            const double parts = count * cuts, waves = ceil(parts / c->processors) * c->processors;
            best = longer(best, full * parts / waves * (cuts > 1 ? CUT_SHARE : 1));
        }
    }
    return best;
}

/* (m, k) times (k, n) */
static double product_seconds(const DeviceCard *c, const StepShape *s, double m, double n, double k)
{
    const double share = c->measured ? 1 : tile_share(c, m, n, k);
    const double arithmetic = 2 * m * n * k / (product_rate(c, s) * share);
    return longer(arithmetic, (m * k + k * n + m * n) * s->element_bytes / c->bandwidth);
}

/* ---- shapes ---- */

static void layer_groups(const StepShape *s, int layer, Group groups[GROUPS])
{
    static const struct {
        Projection first, last;
    } spans[GROUPS] = {
        {PROJ_Q,    PROJ_V   },
        {PROJ_O,    PROJ_O   },
        {PROJ_GATE, PROJ_UP  },
        {PROJ_DOWN, PROJ_DOWN}
    };
    for (int g = 0; g < GROUPS; g++) {
        groups[g] = (Group){
            .cols = projection_cols(s->spec, spans[g].first),
            .bias = spans[g].first < PROJ_GATE ? s->spec->attention_bias : s->spec->mlp_bias,
            .recomputed = spans[g].first != PROJ_DOWN,
            .side_kept = spans[g].first == PROJ_O,
        };
        for (int p = (int)spans[g].first; p <= (int)spans[g].last; p++) {
            const int rank = s->ranks[layer * PROJ_COUNT + p];
            groups[g].rows += projection_rows(s->spec, (Projection)p);
            groups[g].ranks += rank;
            groups[g].adapters += rank > 0;
        }
        groups[g].side = round_up(groups[g].ranks, SIDE_TILE);
    }
}

/* The last layer's activations are still there when its backward begins. */
static bool recomputes(const StepShape *s, int layer)
{
    return layer >= s->kept_layers && layer != s->spec->layers - 1;
}

/* ---- terms of one micro-batch ---- */

static double decode_seconds(const DeviceCard *c, const StepShape *s, const Group *g)
{
    const double weights = (double)(g->rows * g->cols), written = weights * s->element_bytes;
    const double speed = written < (double)c->l2_bytes / 2 ? CACHE_SPEEDUP : 1;
    if (c->decode > 0) return weights / c->decode;
    return stream_seconds(c, weights * s->read_bytes_a_weight + written / speed);
}

/* How often a layer's group is decoded in a micro-batch. In the last layer backward begins with what is still there. */
static int decodes(const StepShape *s, const Group *g, int layer)
{
    const bool last = layer == s->spec->layers - 1;
    if (s->layer_weights) return last ? 1 : 2;
    if (last && !g->recomputed) return 1;
    return recomputes(s, layer) && g->recomputed ? 3 : 2;
}

static void add_group(StepTime *t, const DeviceCard *c, const StepShape *s, const Group *g, int layer, bool gradient)
{
    const double n = s->tokens, o = (double)g->rows, k = (double)g->cols;
    const double forward = product_seconds(c, s, n, o, k), backward = gradient ? product_seconds(c, s, n, k, o) : 0;
    t->seconds[STEP_PRODUCTS] += forward + backward;
    t->seconds[STEP_DECODE] += decode_seconds(c, s, g) * decodes(s, g, layer);
    if (recomputes(s, layer) && g->recomputed) t->seconds[STEP_RECOMPUTE] += forward;
}

/* Spare columns of the two products and the four thin products; those are bound by the reads of x and dy. */
static double adapter_seconds(const DeviceCard *c, const StepShape *s, const Group *g, bool again, int modules)
{
    if (g->side == 0) return 0;
    const double n = s->tokens, both = (double)(g->rows + g->cols), side = (double)g->side, ranks = (double)g->ranks;
    const double spare = 2 * n * both * side * (again && g->recomputed ? 1.5 : 1);
    const double thin = 2 * n * both * (side + ranks);
    const double traffic = n * both * 2 * s->element_bytes;
    double seconds = spare / product_rate(c, s) + longer(thin / product_rate(c, s), stream_seconds(c, traffic));
    /* x masked for the forward and for dA, and the adapters' part of dx through the mask: read, write, read each. */
    if (s->dropout) seconds += stream_seconds(c, n * (double)g->cols * modules * 9 * s->element_bytes);
    return seconds;
}

/* Bytes of one token in one layer. Forward: a norm 2 C, sum and norm 4 C, a sum 3 C. Backward: two norms of 5 C. */
static double elementwise_bytes(const StepShape *s, bool again)
{
    const ModelSpec *m = s->spec;
    const double c = (double)m->hidden, f = (double)m->ffn, q = (double)m->heads * m->head_dim;
    const double rope = 2.0 * (m->heads + m->kv_heads) * m->head_dim;
    const double forward = 9 * c + rope + 3 * f;
    const double backward = 10 * c + rope + 2 * q + 6 * f;
    const double restored = 6 * c + rope;
    return (forward + backward + (again ? restored : 0)) * s->element_bytes;
}

static double attention_seconds(const DeviceCard *c, const StepShape *s)
{
    const double length = s->segment_tokens, flops = step_attention_flops(s->spec, length) * s->tokens;
    if (c->measured) return flops / c->attention_forward + BACKWARD_ATTENTION * flops / c->attention_backward;
    const double share =
        (s->spec->head_dim <= SMALL_HEAD ? SMALL_HEAD_SHARE : 1) * (s->element_bytes == 4 ? F32_SHARE : 1);
    const double forward = c->attention_forward * length / (length + SHORT_FORWARD) * share;
    const double backward = c->attention_backward * length / (length + SHORT_BACKWARD) * share;
    return flops / forward + BACKWARD_ATTENTION * flops / backward;
}

static double head_chunks(const StepShape *s)
{
    return ceil(s->tokens * s->trained_share / (double)s->head_rows);
}

static double head_seconds(const DeviceCard *c, const StepShape *s)
{
    const double v = (double)s->spec->vocab, width = (double)s->spec->hidden;
    const double trained = s->tokens * s->trained_share, chunks = head_chunks(s);
    if (chunks == 0) return 0;
    const double rows = trained / chunks; /* the last chunk is a part of one */
    const double products = product_seconds(c, s, rows, v, width) + product_seconds(c, s, rows, width, v);
    const double logits = v * (4 + 4 + 4 + 2.0 * s->element_bytes) + 8 * width * s->element_bytes;
    return chunks * products + stream_seconds(c, trained * logits);
}

/* Products and kernels of a group in one micro-batch, as model/linear.c makes them; with dropout each adapter has a masked
 * copy of x and products of its own. `gradient`: of the input. */
static int group_launches(const StepShape *s, const Group *g, bool gradient, bool again)
{
    const int n = g->adapters, any = n > 0;
    const int side = s->dropout && any ? 1 + 2 * n : any, output = 1 + g->bias + side;
    const int of_adapters = any + n + (s->dropout ? 2 * n : any); /* dy (s B), dB, dA */
    const int of_input = gradient ? 1 + (s->dropout ? 3 * n : 0) : 0;
    return output * (again && g->recomputed ? 2 : 1) + of_adapters + of_input + (g->side_kept ? 0 : side);
}

double step_launches(const StepShape *s)
{
    double count = MICRO_BATCH_LAUNCHES + CHUNK_LAUNCHES * head_chunks(s);
    for (int i = 0; i < s->spec->layers; i++) {
        const bool again = recomputes(s, i);
        Group groups[GROUPS];
        layer_groups(s, i, groups);
        count += FORWARD_LAUNCHES + BACKWARD_LAUNCHES + (again ? RECOMPUTE_LAUNCHES : 0);
        if (i == 0 && groups[0].adapters == 0) count--;           /* nobody needs its normed input again */
        if (s->layer_weights) count += decodes(s, &groups[0], i); /* all groups at once */
        for (int g = 0; g < GROUPS; g++) {
            count += group_launches(s, &groups[g], i > 0 || g > 0, again);
            if (!s->layer_weights) count += decodes(s, &groups[g], i);
        }
    }
    return count;
}

/* What the link takes longer than the layers that it serves; `device`: seconds of all layers, both directions. */
static double offload_seconds(const DeviceCard *c, const StepShape *s, double device)
{
    const double copy = s->offloaded_bytes / c->link, share = (double)s->offloaded_layers / s->spec->layers;
    const double forward = device * share * FORWARD_SHARE, backward = device * share - forward;
    return longer(0, copy - forward) + longer(0, copy - backward);
}

static void micro_batch(StepTime *t, const DeviceCard *c, const StepShape *s)
{
    const double row = (double)s->spec->hidden * s->element_bytes; /* of the embeddings: read and written */
    double bytes = s->host_embeddings ? row : 2 * row;
    static const int modules[GROUPS] = {3, 1, 2, 1};
    for (int i = 0; i < s->spec->layers; i++) {
        const bool again = recomputes(s, i);
        Group groups[GROUPS];
        layer_groups(s, i, groups);
        for (int g = 0; g < GROUPS; g++) {
            add_group(t, c, s, &groups[g], i, i > 0 || g > 0);
            t->seconds[STEP_LORA] += adapter_seconds(c, s, &groups[g], again, modules[g]);
        }
        bytes += elementwise_bytes(s, again);
    }
    t->seconds[STEP_ELEMENTWISE] = stream_seconds(c, bytes * s->tokens);
    t->seconds[STEP_ATTENTION] = attention_seconds(c, s);
    double device = 0;
    for (int i = 0; i < STEP_TERMS; i++)
        device += t->seconds[i];
    t->seconds[STEP_COPIES] = offload_seconds(c, s, device);
    t->seconds[STEP_HEAD] = head_seconds(c, s);
    if (s->host_embeddings) t->seconds[STEP_COPIES] += row * s->tokens / c->link;
    device += t->seconds[STEP_HEAD] + t->seconds[STEP_COPIES];
    const double count = step_launches(s), gaps = count * GAP_SECONDS;
    t->seconds[STEP_LAUNCHES] = gaps + longer(0, count * c->launch - device - gaps);
}

/* ---- terms of one update ---- */

static void update(StepTime *t, const DeviceCard *c, const StepShape *s)
{
    const double parameters = (double)s->trainable, tokens = s->tokens * s->micro_batches;
    const double bytes = parameters * (3 * 4 + 2 * 4 + 2 * s->state_bytes);
    t->seconds[STEP_OPTIMIZER] = stream_seconds(c, bytes);
    const double pages = (double)s->paged_bytes / c->link; /* in while the last ones go out */
    t->seconds[STEP_COPIES] += longer(0, pages - t->seconds[STEP_OPTIMIZER]);
    t->seconds[STEP_COPIES] += tokens * 5 * 4 / c->link + s->micro_batches * 2 * SYNC_SECONDS;
    t->seconds[STEP_LAUNCHES] += UPDATE_LAUNCHES * (c->launch > GAP_SECONDS ? c->launch : GAP_SECONDS);
}

static double model_flops(const StepShape *s)
{
    const double head = 4.0 * (double)(s->spec->vocab * s->spec->hidden) * s->trained_share;
    const double token = 4.0 * (double)step_linear_weights(s->spec) + head +
                         (1 + BACKWARD_ATTENTION) * step_attention_flops(s->spec, s->segment_tokens);
    return token * s->tokens * s->micro_batches;
}

StepTime step_time(const DeviceCard *card, const StepShape *s)
{
    StepTime t = {.tokens = s->tokens * s->micro_batches, .flops = model_flops(s)};
    CHECK(s->tokens > 0 && s->micro_batches > 0 && s->head_rows > 0 && s->element_bytes > 0);
    micro_batch(&t, card, s);
    for (int i = 0; i < STEP_TERMS; i++)
        t.seconds[i] *= s->micro_batches;
    update(&t, card, s);
    for (int i = 0; i < STEP_TERMS; i++)
        t.total += t.seconds[i];
    return t;
}
