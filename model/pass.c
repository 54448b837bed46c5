#include "model/decoder.h"

#include "model/embedding.h"

#include <math.h>

void pass_embed(Model *m, const Pass *p, const int32_t *ids, const int32_t *positions, int64_t step, int micro)
{
    const Tensor to_ids = tensor_slice_flat(&m->ids, 0, p->n), to_positions = tensor_slice_flat(&m->positions, 0, p->n);
    const Tensor x = tensor_slice_rows(&m->layers[0].acts.x, 0, p->n);
    backend_upload(m->be, &to_ids, ids);
    backend_upload(m->be, &to_positions, positions);
    const Neftune noise = {
        .alpha = p->kind == PASS_TRAIN ? m->options.neftune_alpha : 0,
        .key = {.seed = m->options.seed, .purpose = RNG_NEFTUNE, .stream = (uint32_t)micro, .step = (uint64_t)step},
        .segments = p->attention.segments,
        .starts = p->attention.starts,
    };
    embedding_forward(m->be, &x, &m->embed, &to_ids, noise.alpha > 0 ? &noise : NULL);
}

void pass_make(const Model *m, Pass *p, PassKind kind, int64_t n)
{
    const ModelSpec *s = &m->spec;
    CHECK(n > 0 && n <= m->n_max);
    *p = (Pass){.kind = kind, .n = n, .sequence = -1};
    p->attention = (Attention){.heads = s->heads, .kv_heads = s->kv_heads, .head_dim = s->head_dim};
    p->attention.scale = (float)(1.0 / sqrt((double)s->head_dim));
}

void pass_begin(Model *m, Pass *p, PassKind kind, const Batch *batch, int64_t step, int micro)
{
    pass_make(m, p, kind, batch->tokens);
    p->attention.segments = batch->segments;
    p->attention.starts = batch->starts;
    if (kind == PASS_TRAIN && m->has_lora) p->linear.dropout = (float)m->options.lora.dropout;
    p->linear.key = (RngKey){.seed = m->options.seed,
                             .purpose = RNG_LORA_DROPOUT,
                             .stream = (uint32_t)micro * (uint32_t)m->module_count,
                             .step = (uint64_t)step};
    pass_embed(m, p, batch->ids, batch->positions, step, micro);
}

Tensor pass_layers(Model *m, const Pass *p, int layers)
{
    for (int i = 0; i < layers; i++)
        layer_forward(m, i, p);
    return layers > 0 ? layer_output(m, layers - 1, p->n) : tensor_slice_rows(&m->layers[0].acts.x, 0, p->n);
}
