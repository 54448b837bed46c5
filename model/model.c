#include "model/decoder.h"

#include "backend/elementwise.h"
#include "base/mem.h"
#include "base/text.h"
#include "lora/match.h"

#include <stdio.h>
#include <string.h>

/* ---- creation: what is quantized, what carries an adapter ---- */

static Linear *group_of(Layer *l, Projection p)
{
    switch (p) {
    case PROJ_Q:
    case PROJ_K:
    case PROJ_V: return &l->qkv;
    case PROJ_O: return &l->o;
    case PROJ_GATE:
    case PROJ_UP: return &l->gate_up;
    case PROJ_DOWN: return &l->down;
    case PROJ_COUNT: break;
    }
    CHECK(false);
}

static Projection first_of_group(Projection p)
{
    return p <= PROJ_V ? PROJ_Q : p == PROJ_UP ? PROJ_GATE : p;
}

static bool biased(const ModelSpec *s, Projection p)
{
    return p == PROJ_GATE || p == PROJ_UP || p == PROJ_DOWN ? s->mlp_bias : s->attention_bias;
}

/* Whether an item of quant_skip_modules names a linear layer, or one of the modules that are never quantized. */
static bool names_module(bool *hit, const Model *m, const char *item, Err *err)
{
    static const char *const outer[] = {"lm_head", "model.embed_tokens"};
    const bool alone = m->options.skip_count == 1;
    *hit = !item[0];
    for (size_t i = 0; i < ARRAY_COUNT(outer) && !*hit; i++) {
        if (!match_item(hit, item, alone, outer[i], "quant_skip_modules", err)) return false;
    }
    for (int i = 0; i < m->module_count && !*hit; i++) {
        if (!match_item(hit, item, alone, m->modules[i].path, "quant_skip_modules", err)) return false;
    }
    return true;
}

static bool is_outer(const char *item)
{
    return !item[0] || lora_name_matches("lm_head", item) || lora_name_matches("model.embed_tokens", item);
}

/* A name that means nothing is a slip. */
static bool check_skipped(const Model *m, bool prequantized, Err *err)
{
    const ModelOptions *o = &m->options;
    char shown[160];
    for (int i = 0; i < o->skip_count && o->quantize; i++) {
        bool hit = false;
        text_printable(shown, sizeof shown, o->skip_modules[i], strlen(o->skip_modules[i]));
        if (prequantized && !is_outer(o->skip_modules[i])) {
            return FAIL(
                err, ERR_CONFIG,
                "quant_skip_modules: \"%s\": the base model is stored in 4 bits already, and what that leaves out "
                "cannot be changed; start from the 16-bit model",
                shown);
        }
        if (!names_module(&hit, m, o->skip_modules[i], err)) return false;
        if (!hit)
            return FAIL(err, ERR_CONFIG, "quant_skip_modules: \"%s\" matches no linear layer of this model", shown);
    }
    return true;
}

/* A 4-bit folder decides by itself which matrices are quantized, and how. */
static bool source_is_prequantized(const ModelSource *source)
{
    for (int i = 0; i < source_count(source); i++) {
        if (source_tensor(source, i)->prequantized) return true;
    }
    return false;
}

static bool decide_quantized(const Model *m, LinearPart *part, const ModelSource *source, bool prequantized, Err *err)
{
    const char *path = m->modules[part->module].path;
    char name[160];
    snprintf(name, sizeof name, "%s.weight", path);
    const SourceTensor *t = source_find(source, name);
    bool skip = false;
    if (!prequantized && m->options.quantize &&
        !match_list(&skip, m->options.skip_modules, m->options.skip_count, path, "quant_skip_modules", err))
        return false;
    part->quantized = prequantized ? t && t->prequantized : m->options.quantize && !skip;
    part->quant.options = m->options.quant;
    if (t && t->prequantized) return source_read_quantized(source, t, &part->quant, NULL, err);
    return true;
}

static bool create_modules(Model *m, Err *err)
{
    const int count = m->spec.layers * PROJ_COUNT;
    TRY(m->modules = mem_alloc((size_t)count, sizeof *m->modules, err));
    TRY(m->paths = mem_alloc((size_t)count, sizeof *m->paths, err));
    for (int i = 0; i < count; i++) {
        const int layer = i / PROJ_COUNT;
        const Projection p = (Projection)(i % PROJ_COUNT);
        char path[128];
        snprintf(path, sizeof path, "model.layers.%d.%s", layer, projection_module(p));
        TRY(m->paths[i] = mem_copy_text(path, err));
        m->modules[i] = (LoraModule){
            .path = m->paths[i],
            .layer = layer,
            .rows = projection_rows(&m->spec, p),
            .cols = projection_cols(&m->spec, p),
            .input = 1 + layer * PROJ_COUNT + (int)first_of_group(p),
        };
        m->module_count++;
    }
    return true;
fail:
    return false;
}

static bool create_layer(Model *m, int index, const ModelSource *source, bool prequantized, Err *err)
{
    Layer *l = &m->layers[index];
    for (int i = 0; i < PROJ_COUNT; i++) {
        const Projection projection = (Projection)i;
        Linear *group = group_of(l, projection);
        LinearPart *part = &group->parts[group->count++];
        part->module = index * PROJ_COUNT + i;
        part->rows = projection_rows(&m->spec, projection);
        const int adapter = m->has_lora ? m->lora.of_module[part->module] : -1;
        part->adapter = adapter >= 0 ? &m->lora.adapters[adapter] : NULL;
        if (!decide_quantized(m, part, source, prequantized, err)) return false;
        group->has_bias = biased(&m->spec, projection);
    }
    Linear *const groups[] = {&l->qkv, &l->o, &l->gate_up, &l->down};
    for (size_t i = 0; i < ARRAY_COUNT(groups); i++) {
        linear_init(groups[i], m->modules[groups[i]->parts[0].module].cols, m->options.compute);
        groups[i]->resident = m->options.decoded_weights;
        groups[i]->slot = m->options.layer_weights ? (int)i : 0;
    }
    return true;
}

static bool create_layers(Model *m, const ModelSource *source, Err *err)
{
    const bool prequantized = source_is_prequantized(source);
    if (prequantized && !m->options.quantize && m->options.training) {
        return FAIL(
            err, ERR_CONFIG,
            "the base model is stored in 4 bits, and the configuration says adapter: lora or load_in_4bit: false, "
            "which train on a 16-bit one; set adapter: qlora");
    }
    if (!check_skipped(m, prequantized, err)) return false;
    m->layers = mem_alloc((size_t)m->spec.layers, sizeof *m->layers, err);
    if (!m->layers) return false;
    int quantized = 0;
    for (int i = 0; i < m->spec.layers; i++) {
        if (!create_layer(m, i, source, prequantized, err)) return false;
        const Layer *l = &m->layers[i];
        const Linear *const groups[] = {&l->qkv, &l->o, &l->gate_up, &l->down};
        for (size_t g = 0; g < ARRAY_COUNT(groups); g++) {
            for (int j = 0; j < groups[g]->count; j++)
                quantized += groups[g]->parts[j].quantized;
        }
    }
    if (m->options.quantize && quantized == 0)
        return FAIL(err, ERR_CONFIG,
                    "no module is left to quantize: quant_skip_modules names all of them; use adapter: lora for a "
                    "16-bit base");
    return true;
}

static bool create_host(Model *m, Err *err)
{
    TRY(m->host_rows = mem_alloc((size_t)m->n_max, sizeof *m->host_rows, err));
    TRY(m->host_ids = mem_alloc((size_t)m->n_max, sizeof *m->host_ids, err));
    TRY(m->host_losses = mem_alloc((size_t)m->n_max, sizeof *m->host_losses, err));
    TRY(m->cached = mem_alloc((size_t)m->options.sequences, sizeof *m->cached, err));
    return true;
fail:
    return false;
}

static bool options_check(const ModelOptions *o, const Backend *be, Err *err)
{
    const bool f16 = o->compute == DTYPE_F16 && backend_kind(be) == BACKEND_CUDA;
    if (o->compute != DTYPE_F32 && o->compute != DTYPE_BF16 && !f16)
        return FAIL(err, ERR_CONFIG, "compute type %s is not supported on this device; use bf16 or fp32",
                    dtype_name(o->compute));
    CHECK(o->max_tokens > 0 && o->cache_tokens >= 0 && o->sequences >= 0);
    return true;
}

bool model_create(Model **out, Backend *be, const ModelSource *source, const ModelOptions *options, Err *err)
{
    Model *m = mem_alloc(1, sizeof *m, err);
    if (!m) return false;
    TRY(options_check(options, be, err));
    m->be = be;
    m->spec = *source_spec(source);
    m->options = *options;
    m->shared_owner = -1;
    m->loss_scale = 1;
    if (m->options.sequences == 0) m->options.sequences = 1;
    m->n_max = options->max_tokens > m->options.sequences ? options->max_tokens : m->options.sequences;
    TRY(create_modules(m, err));
    if (options->adapters) {
        TRY(lora_create(&m->lora, m->modules, m->module_count, &options->lora, err));
        m->has_lora = true;
    }
    TRY(create_layers(m, source, err));
    TRY(create_host(m, err));
    *out = m;
    return true;
fail:
    model_free(m);
    return false;
}

void model_free(Model *m)
{
    if (!m) return;
    for (int i = 0; i < m->module_count; i++)
        mem_free(m->paths[i]);
    mem_free(m->paths);
    mem_free(m->modules);
    mem_free(m->layers);
    backend_pinned_release(m->be, m->pinned, m->pinned_bytes);
    backend_pinned_release(m->be, m->host_table, model_host_embedding_bytes(m));
    lora_free(&m->lora);
    mem_free(m->host_rows);
    mem_free(m->host_ids);
    mem_free(m->host_losses);
    mem_free(m->cached);
    mem_free(m);
}

/* ---- memory ---- */

void model_place(Model *m, ModelArenas *arenas)
{
    weights_place(m, &arenas->weights);
    if (m->has_lora) m->params = arena_vector(&arenas->state, DTYPE_F32, m->lora.table.total);
    if (m->has_lora && m->options.training) m->grads = arena_vector(&arenas->state, DTYPE_F32, m->lora.table.total);
    layer_place_acts(m, &arenas->activations);
    cache_place(m, &arenas->activations);
    layer_place_work(m, &arenas->scratch);
    head_place(m, &arenas->scratch);
    m->ids = arena_vector(&arenas->scratch, DTYPE_I32, m->n_max);
    m->positions = arena_vector(&arenas->scratch, DTYPE_I32, m->n_max);
    m->linear.be = m->be;
    m->linear.held = m->held;
    m->linear.lora = m->has_lora ? &m->lora : NULL;
    m->linear.params = m->params;
    m->linear.grads = m->grads;
}

bool model_load(Model *m, const ModelSource *source, Err *err)
{
    if (!offload_start(m, err) || !weights_load(m, source, err)) return false;
    if (m->has_lora) return lora_initialize(&m->lora, m->be, &m->params, m->options.seed, err);
    return true;
}

/* ---- what it is ---- */

static void count_part(ModelSummary *s, const LinearPart *part, int64_t cols, bool names[PROJ_COUNT])
{
    const int64_t n = part->rows * cols;
    s->total += n;
    if (!part->quantized) {
        s->kept++;
        return;
    }
    const size_t bytes = quant_matrix_bytes(&part->quant.options, part->rows, cols);
    s->quantized++;
    s->quantized_bytes += bytes;
    s->saved_bytes += 2 * (size_t)n > bytes ? 2 * (size_t)n - bytes : 0;
    names[part->module % PROJ_COUNT] = true;
}

static void list_names(char *out, size_t size, const bool names[PROJ_COUNT], int layers)
{
    size_t at = 0;
    out[0] = 0;
    for (int i = 0; i < PROJ_COUNT; i++) {
        if (!names[i]) continue;
        const char *name = strrchr(projection_module((Projection)i), '.') + 1;
        at += (size_t)snprintf(out + at, size - at, "%s%s", at ? ", " : "", name);
    }
    if (at) snprintf(out + at, size - at, " in %d layers", layers);
}

ModelSummary model_summary(const Model *m)
{
    ModelSummary s = {0};
    bool names[PROJ_COUNT] = {false};
    int layers = 0;
    const ModelSpec *spec = &m->spec;
    for (int i = 0; i < spec->layers; i++) {
        const Layer *l = &m->layers[i];
        const Linear *const groups[] = {&l->qkv, &l->o, &l->gate_up, &l->down};
        const int before = s.quantized;
        for (size_t g = 0; g < ARRAY_COUNT(groups); g++) {
            for (int j = 0; j < groups[g]->count; j++)
                count_part(&s, &groups[g]->parts[j], groups[g]->cols, names);
            if (groups[g]->has_bias) s.total += groups[g]->rows;
        }
        layers += s.quantized > before;
    }
    list_names(s.quantized_names, sizeof s.quantized_names, names, layers);
    s.trainable = m->has_lora ? m->lora.table.trainable : 0;
    s.total += spec->vocab * spec->hidden * (spec->tied ? 1 : 2);
    s.total += spec->hidden * (2 * (int64_t)spec->layers + 1) + s.trainable;
    return s;
}

const ModelSpec *model_spec(const Model *m)
{
    return &m->spec;
}

const Lora *model_lora(const Model *m)
{
    return m->has_lora ? &m->lora : NULL;
}

const LoraModule *model_modules(const Model *m, int *count)
{
    *count = m->module_count;
    return m->modules;
}

const Tensor *model_params(const Model *m)
{
    return &m->params;
}

const Tensor *model_grads(const Model *m)
{
    return &m->grads;
}

void model_params_changed(Model *m)
{
    for (int i = 0; i < m->spec.layers; i++) {
        Layer *l = &m->layers[i];
        linear_refresh(&m->linear, &l->qkv);
        linear_refresh(&m->linear, &l->o);
        linear_refresh(&m->linear, &l->gate_up);
        linear_refresh(&m->linear, &l->down);
    }
}

/* ---- training and evaluation ---- */

void model_zero_grads(Model *m)
{
    if (m->has_lora) tensor_zero(m->be, &m->grads);
}

void model_scale_loss(Model *m, float scale)
{
    m->loss_scale = scale;
}

double model_train(Model *m, const Batch *batch, int64_t update_tokens, int64_t step, int micro)
{
    CHECK(m->options.training && m->has_lora);
    if (batch->trained_tokens == 0) return 0;
    Pass p;
    pass_begin(m, &p, PASS_TRAIN, batch, step, micro);
    const Tensor hidden = pass_layers(m, &p, m->spec.layers);
    const double loss = head_loss(m, batch, &hidden, update_tokens, true);
    for (int i = m->spec.layers - 1; i >= 0; i--)
        layer_backward(m, i, &p);
    return loss;
}

double model_evaluate(Model *m, const Batch *batch)
{
    if (batch->trained_tokens == 0) return 0;
    Pass p;
    pass_begin(m, &p, PASS_EVALUATE, batch, 0, 0);
    const Tensor hidden = pass_layers(m, &p, m->spec.layers);
    return head_loss(m, batch, &hidden, 1, false);
}

void model_hidden(Model *m, const Batch *batch, int layer, float *out)
{
    Pass p;
    CHECK(layer >= 0 && layer <= m->spec.layers);
    pass_begin(m, &p, PASS_EVALUATE, batch, 0, 0);
    const Tensor hidden = pass_layers(m, &p, layer);
    /* The logits' storage holds the f32 copy, a few rows at a time. */
    const Tensor *logits = &m->head.logits;
    const int64_t width = m->spec.hidden, most = tensor_count(logits) / width;
    CHECK(most > 0);
    for (int64_t first = 0; first < p.n; first += most) {
        const int64_t n = p.n - first < most ? p.n - first : most;
        const Tensor wide = tensor_matrix(logits->data, DTYPE_F32, n, width);
        const Tensor rows = tensor_slice_rows(&hidden, first, n);
        tensor_copy(m->be, &wide, &rows);
        backend_download(m->be, out + first * width, &wide);
    }
}

void model_logits(Model *m, const Batch *batch, int64_t n, float *out)
{
    Pass p;
    CHECK(n > 0 && n <= batch->tokens);
    pass_begin(m, &p, PASS_EVALUATE, batch, 0, 0);
    const Tensor hidden = pass_layers(m, &p, m->spec.layers);
    const Tensor last = tensor_slice_rows(&hidden, p.n - n, n);
    head_logits(m, &last, out);
}
