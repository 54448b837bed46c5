/*
 * reference.h - the decoder once more, plainly and in double: the loss of a batch as a function of the adapters.
 */
#pragma once

#include "tests/model/rig.h"

enum { REF_LAYERS = 8 };

typedef struct RefLinear {
    int64_t rows, cols;
    double *w, *bias; /* bias null: none */
} RefLinear;

typedef struct Reference {
    const Rig *rig;
    Backend *host; /* draws the masks, whatever backend the model is on */
    ModelSpec spec;
    double *embed, *head, *norm;
    double *norm1[REF_LAYERS], *norm2[REF_LAYERS];
    RefLinear linear[REF_LAYERS][PROJ_COUNT];
    float frequencies[256];
    double *params; /* flat, as model_params */
    double dropout, smoothing;
    RngKey key; /* of the masks; stream: first one */
} Reference;

static inline double *ref_doubles(int64_t n)
{
    double *p = calloc((size_t)n + 1, sizeof *p);
    assert_non_null(p);
    return p;
}

static inline double *ref_read(const Rig *r, const char *name)
{
    const SourceTensor *t = source_find(r->source, name);
    if (!t) fail_msg("%s is missing", name);
    const int64_t cols = t->rank == 2 ? t->shape[1] : 1, n = t->shape[0] * cols;
    float *narrow = rig_floats(n);
    MUST(source_read(r->source, t, 0, t->shape[0], narrow, &rig_err));
    double *wide = ref_doubles(n);
    for (int64_t i = 0; i < n; i++)
        wide[i] = (double)narrow[i];
    free(narrow);
    return wide;
}

static inline void ref_open(Reference *f, const Rig *r)
{
    *f = (Reference){.rig = r, .spec = *model_spec(r->model)};
    MUST(backend_open(&f->host, &(BackendOptions){.kind = BACKEND_CPU}, &rig_err));
    assert_true(f->spec.layers <= REF_LAYERS);
    f->embed = ref_read(r, "model.embed_tokens.weight");
    f->head = f->spec.tied ? f->embed : ref_read(r, "lm_head.weight");
    f->norm = ref_read(r, "model.norm.weight");
    spec_rope_frequencies(&f->spec, f->frequencies);
    for (int l = 0; l < f->spec.layers; l++) {
        char name[160];
        snprintf(name, sizeof name, "model.layers.%d.input_layernorm.weight", l);
        f->norm1[l] = ref_read(r, name);
        snprintf(name, sizeof name, "model.layers.%d.post_attention_layernorm.weight", l);
        f->norm2[l] = ref_read(r, name);
        for (int p = 0; p < PROJ_COUNT; p++) {
            RefLinear *linear = &f->linear[l][p];
            linear->rows = projection_rows(&f->spec, (Projection)p);
            linear->cols = projection_cols(&f->spec, (Projection)p);
            snprintf(name, sizeof name, "model.layers.%d.%s.weight", l, projection_module((Projection)p));
            linear->w = ref_read(r, name);
            snprintf(name, sizeof name, "model.layers.%d.%s.bias", l, projection_module((Projection)p));
            if (source_find(r->source, name)) linear->bias = ref_read(r, name);
        }
    }
    float *params = rig_download(r, model_params(r->model));
    const int64_t total = model_lora(r->model)->table.total;
    f->params = ref_doubles(total);
    for (int64_t i = 0; i < total; i++)
        f->params[i] = (double)params[i];
    free(params);
}

static inline void ref_close(Reference *f)
{
    backend_close(f->host);
    free(f->embed);
    if (!f->spec.tied) free(f->head);
    free(f->norm);
    free(f->params);
    for (int l = 0; l < f->spec.layers; l++) {
        free(f->norm1[l]);
        free(f->norm2[l]);
        for (int p = 0; p < PROJ_COUNT; p++) {
            free(f->linear[l][p].w);
            free(f->linear[l][p].bias);
        }
    }
}

/* Mask times 1 / (1 - p) of one module, drawn by the operation itself from a matrix of ones. */
static inline float *ref_mask(const Reference *f, int module, int64_t n, int64_t cols)
{
    float *mask = rig_floats(n * cols);
    for (int64_t i = 0; i < n * cols; i++)
        mask[i] = 1;
    if (f->dropout > 0) {
        const Tensor t = tensor_matrix(mask, DTYPE_F32, n, cols);
        RngKey key = f->key;
        key.stream += (uint32_t)module;
        lora_dropout(f->host, &t, &t, (float)f->dropout, key);
    }
    return mask;
}

/* y (n, rows) = W x + bias + s B (A (mask * x)) */
static inline void ref_linear(const Reference *f, int layer, Projection p, double *y, const double *x, int64_t n)
{
    const RefLinear *l = &f->linear[layer][p];
    const Lora *lora = model_lora(f->rig->model);
    const int module = layer * PROJ_COUNT + (int)p, adapter = lora->of_module[module];
    float *mask = ref_mask(f, module, n, l->cols);
    for (int64_t i = 0; i < n; i++) {
        for (int64_t o = 0; o < l->rows; o++) {
            double sum = l->bias ? l->bias[o] : 0;
            for (int64_t k = 0; k < l->cols; k++)
                sum += l->w[o * l->cols + k] * x[i * l->cols + k];
            y[i * l->rows + o] = sum;
        }
        if (adapter < 0) continue;
        const LoraAdapter *ad = &lora->adapters[adapter];
        const double *a = f->params + lora->table.items[ad->a].offset, *b = f->params + lora->table.items[ad->b].offset;
        for (int64_t r = 0; r < ad->r; r++) {
            double h = 0;
            for (int64_t k = 0; k < l->cols; k++)
                h += a[r * l->cols + k] * x[i * l->cols + k] * (double)mask[i * l->cols + k];
            for (int64_t o = 0; o < l->rows; o++)
                y[i * l->rows + o] += (double)ad->scale * h * b[o * ad->r + r];
        }
    }
    free(mask);
}

static inline void ref_norm(const Reference *f, double *y, const double *x, const double *gain, int64_t n)
{
    const int64_t width = f->spec.hidden;
    for (int64_t i = 0; i < n; i++) {
        double sum = 0;
        for (int64_t j = 0; j < width; j++)
            sum += x[i * width + j] * x[i * width + j];
        const double r = 1 / sqrt(sum / (double)width + (double)f->spec.norm_eps);
        for (int64_t j = 0; j < width; j++)
            y[i * width + j] = x[i * width + j] * r * gain[j];
    }
}

static inline void ref_rope(const Reference *f, double *x, int heads, const int32_t *positions, int64_t n)
{
    const int64_t d = f->spec.head_dim, half = d / 2;
    for (int64_t i = 0; i < n; i++) {
        for (int64_t h = 0; h < heads; h++) {
            double *row = x + (i * heads + h) * d;
            for (int64_t j = 0; j < half; j++) {
                const double angle = (double)positions[i] * (double)f->frequencies[j];
                const double c = cos(angle), s = sin(angle), u = row[j], v = row[j + half];
                row[j] = u * c - v * s;
                row[j + half] = v * c + u * s;
            }
        }
    }
}

/* One query row of one head against the keys of its segment up to itself. */
static inline void ref_attend(double *out, const double *q, const double *k, const double *v, int64_t from, int64_t to,
                              int64_t stride, int64_t d)
{
    double scores[RIG_TOKENS], most = -1e300, sum = 0;
    for (int64_t j = from; j <= to; j++) {
        double s = 0;
        for (int64_t e = 0; e < d; e++)
            s += q[e] * k[j * stride + e];
        scores[j - from] = s / sqrt((double)d);
        most = scores[j - from] > most ? scores[j - from] : most;
    }
    for (int64_t j = from; j <= to; j++)
        sum += scores[j - from] = exp(scores[j - from] - most);
    for (int64_t j = from; j <= to; j++) {
        for (int64_t e = 0; e < d; e++)
            out[e] += scores[j - from] / sum * v[j * stride + e];
    }
}

static inline void ref_attention(const Reference *f, double *out, const double *q, const double *k, const double *v,
                                 const Batch *b)
{
    const int64_t d = f->spec.head_dim, heads = f->spec.heads, kv = f->spec.kv_heads;
    memset(out, 0, (size_t)(b->tokens * heads * d) * sizeof *out);
    for (int s = 0; s < b->segments; s++) {
        for (int64_t i = b->starts[s]; i < b->starts[s + 1]; i++) {
            for (int64_t h = 0; h < heads; h++) {
                const int64_t g = h / (heads / kv);
                ref_attend(out + (i * heads + h) * d, q + (i * heads + h) * d, k + g * d, v + g * d, b->starts[s], i,
                           kv * d, d);
            }
        }
    }
}

static inline void ref_layer(const Reference *f, int l, double *x, const Batch *b)
{
    const ModelSpec *s = &f->spec;
    const int64_t n = b->tokens, width = s->hidden, q_cols = (int64_t)s->heads * s->head_dim;
    const int64_t kv_cols = (int64_t)s->kv_heads * s->head_dim;
    double *xn = ref_doubles(n * width), *q = ref_doubles(n * q_cols), *k = ref_doubles(n * kv_cols);
    double *v = ref_doubles(n * kv_cols), *att = ref_doubles(n * q_cols), *y = ref_doubles(n * width);
    double *gate = ref_doubles(n * s->ffn), *up = ref_doubles(n * s->ffn);
    ref_norm(f, xn, x, f->norm1[l], n);
    ref_linear(f, l, PROJ_Q, q, xn, n);
    ref_linear(f, l, PROJ_K, k, xn, n);
    ref_linear(f, l, PROJ_V, v, xn, n);
    ref_rope(f, q, s->heads, b->positions, n);
    ref_rope(f, k, s->kv_heads, b->positions, n);
    ref_attention(f, att, q, k, v, b);
    ref_linear(f, l, PROJ_O, y, att, n);
    for (int64_t i = 0; i < n * width; i++)
        x[i] += y[i];
    ref_norm(f, xn, x, f->norm2[l], n);
    ref_linear(f, l, PROJ_GATE, gate, xn, n);
    ref_linear(f, l, PROJ_UP, up, xn, n);
    for (int64_t i = 0; i < n * s->ffn; i++)
        up[i] *= gate[i] / (1 + exp(-gate[i]));
    ref_linear(f, l, PROJ_DOWN, y, up, n);
    for (int64_t i = 0; i < n * width; i++)
        x[i] += y[i];
    double *const all[] = {xn, q, k, v, att, y, gate, up};
    for (size_t i = 0; i < ARRAY_COUNT(all); i++)
        free(all[i]);
}

static inline double ref_token_loss(const Reference *f, const double *xn, int32_t target)
{
    const int64_t vocab = f->spec.vocab, width = f->spec.hidden;
    double *z = ref_doubles(vocab), most = -1e300, sum = 0, mean = 0;
    for (int64_t t = 0; t < vocab; t++) {
        for (int64_t j = 0; j < width; j++)
            z[t] += f->head[t * width + j] * xn[j];
        most = z[t] > most ? z[t] : most;
        mean += z[t] / (double)vocab;
    }
    for (int64_t t = 0; t < vocab; t++)
        sum += exp(z[t] - most);
    const double lse = most + log(sum), loss = (1 - f->smoothing) * (lse - z[target]) + f->smoothing * (lse - mean);
    free(z);
    return loss;
}

/* Sum of token losses. */
static inline double ref_loss(const Reference *f, const Batch *b)
{
    const int64_t n = b->tokens, width = f->spec.hidden;
    double *x = ref_doubles(n * width), *xn = ref_doubles(n * width), sum = 0;
    for (int64_t i = 0; i < n; i++)
        memcpy(x + i * width, f->embed + b->ids[i] * width, (size_t)width * sizeof *x);
    for (int l = 0; l < f->spec.layers; l++)
        ref_layer(f, l, x, b);
    ref_norm(f, xn, x, f->norm, n);
    for (int64_t i = 0; i < n; i++) {
        if (b->targets[i] != TARGET_NONE) sum += ref_token_loss(f, xn + i * width, b->targets[i]);
    }
    free(x);
    free(xn);
    return sum;
}
