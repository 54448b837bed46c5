#include "lora/lora.h"

#include "backend/elementwise.h"
#include "base/mem.h"
#include "base/text.h"
#include "lora/match.h"

#include <math.h>
#include <string.h>
#include <strings.h>

static bool is_regex(const LoraOptions *o)
{
    return !o->targets && o->target_regex && strcasecmp(o->target_regex, "all-linear") != 0;
}

static bool options_check(const LoraOptions *o, Err *err)
{
    if (o->r < 1 || o->r > LORA_RANK_MAX)
        return FAIL(err, ERR_CONFIG, "lora_r = %d is outside of 1..%d", o->r, LORA_RANK_MAX);
    if (!isfinite(o->alpha)) return FAIL(err, ERR_CONFIG, "lora_alpha is not a finite number");
    if (!(o->dropout >= 0 && o->dropout < 1))
        return FAIL(err, ERR_CONFIG, "lora_dropout = %g is outside of 0 <= p < 1", o->dropout);
    if (o->loraplus_lr_ratio != 0 && !(o->loraplus_lr_ratio >= 1 && isfinite(o->loraplus_lr_ratio)))
        return FAIL(err, ERR_CONFIG, "loraplus_lr_ratio = %g is below 1", o->loraplus_lr_ratio);
    if (is_regex(o) && o->layers)
        return FAIL(err, ERR_CONFIG,
                    "lora_layers (layers_to_transform) cannot be combined with a regular expression in "
                    "lora_target_modules; write "
                    "the layers into the expression");
    return true;
}

static bool layers_check(const LoraOptions *o, const LoraModule *modules, int count, Err *err)
{
    int last = 0;
    for (int i = 0; i < count; i++)
        last = modules[i].layer > last ? modules[i].layer : last;
    for (int i = 0; i < o->layer_count && o->layers; i++) {
        if (o->layers[i] > last)
            return FAIL(err, ERR_CONFIG,
                        "lora_layers (layers_to_transform): there is no layer %d; this model has layers 0 to %d",
                        o->layers[i], last);
    }
    return true;
}

static bool add_param(ParamTable *t, const char *path, const char *side, int64_t rows, int64_t cols, float lr_scale,
                      Err *err)
{
    Text name = {0};
    if (!text_format(&name, err, "%s.%s.weight", path, side)) {
        text_free(&name);
        return false;
    }
    t->items[t->count++] = (Param){
        .name = name.bytes, .rows = rows, .cols = cols, .offset = t->total, .lr_scale = lr_scale}; /* takes the text */
    t->total += round_up(rows * cols, PARAM_ALIGN);
    t->trainable += rows * cols;
    return true;
}

static bool add_adapter(Lora *l, int index, const LoraModule *module, Err *err)
{
    const LoraOptions *o = &l->options;
    int r = 0;
    double alpha = 0;
    if (!match_rank(&r, o, module->path, err) || !match_alpha(&alpha, o, module->path, err)) return false;
    const LoraAdapter adapter = {
        .module = index,
        .r = r,
        .alpha = (float)alpha,
        .scale = (float)(alpha / (o->use_rslora ? sqrt(r) : r)),
    };
    l->of_module[index] = l->count;
    l->adapters[l->count++] = adapter;
    return true;
}

/* Parameters of adapters [first, end), which read the same input. */
static bool add_params(Lora *l, const LoraModule *modules, int first, int end, Err *err)
{
    const double ratio = l->options.loraplus_lr_ratio;
    const float b_scale = ratio > 1 ? (float)ratio : 1.0f;
    for (int i = first; i < end; i++) {
        LoraAdapter *ad = &l->adapters[i];
        ad->a = l->table.count;
        if (!add_param(&l->table, modules[ad->module].path, "lora_A", ad->r, modules[ad->module].cols, 1.0f, err))
            return false;
    }
    for (int i = first; i < end; i++) {
        LoraAdapter *ad = &l->adapters[i];
        ad->b = l->table.count;
        if (!add_param(&l->table, modules[ad->module].path, "lora_B", modules[ad->module].rows, ad->r, b_scale, err))
            return false;
    }
    return true;
}

/* The adapter after those that read what adapter `first` reads. */
static int same_input_end(const Lora *l, const LoraModule *modules, int first)
{
    const int input = modules[l->adapters[first].module].input;
    int end = first + 1;
    while (input != 0 && end < l->count && modules[l->adapters[end].module].input == input)
        end++;
    return end;
}

static bool check_hits(const LoraOptions *o, const int *hits, int adapters, Err *err)
{
    for (int i = 0; i < o->target_count && o->targets; i++) {
        if (hits[i] > 0) continue;
        char shown[256];
        return FAIL(err, ERR_CONFIG,
                    "lora_target_modules: \"%s\" matches no linear layer of this model; its layers have q_proj, "
                    "k_proj, v_proj, o_proj, gate_proj, up_proj and down_proj",
                    text_printable(shown, sizeof shown, o->targets[i], strlen(o->targets[i])));
    }
    if (adapters == 0 && is_regex(o)) {
        char shown[256];
        return FAIL(
            err, ERR_CONFIG,
            "lora_target_modules: \"%s\" is one text, so a regular expression for a whole path such as "
            "model.layers.0.self_attn.q_proj, and none is left that matches; to name modules write a list, such "
            "as [q_proj, v_proj]",
            text_printable(shown, sizeof shown, o->target_regex, strlen(o->target_regex)));
    }
    if (adapters == 0)
        return FAIL(err, ERR_CONFIG,
                    "lora_target_modules (with lora_exclude_modules and lora_layers, layers_to_transform) leaves no "
                    "module to train");
    return true;
}

bool lora_create(Lora *out, const LoraModule *modules, int count, const LoraOptions *options, Err *err)
{
    Lora l = {.options = *options, .module_count = count};
    int *hits = NULL;
    TRY(options_check(options, err) && layers_check(options, modules, count, err));
    TRY(l.adapters = mem_alloc((size_t)count, sizeof *l.adapters, err));
    TRY(l.of_module = mem_alloc((size_t)count, sizeof *l.of_module, err));
    TRY(l.table.items = mem_alloc(2 * (size_t)count, sizeof *l.table.items, err));
    TRY(hits = mem_alloc((size_t)options->target_count + 1, sizeof *hits, err));
    for (int i = 0; i < count; i++) {
        bool matched = false;
        l.of_module[i] = -1;
        TRY(match_module(&matched, options, &modules[i], hits, err));
        if (matched) TRY(add_adapter(&l, i, &modules[i], err));
    }
    TRY(check_hits(options, hits, l.count, err));
    for (int i = 0, end = 0; i < l.count; i = end) {
        end = same_input_end(&l, modules, i);
        TRY(add_params(&l, modules, i, end, err));
    }
    mem_free(hits);
    *out = l;
    return true;
fail:
    mem_free(hits);
    lora_free(&l);
    return false;
}

static bool nothing_means(const char *key, const char *item, Err *err)
{
    char shown[256];
    return FAIL(err, ERR_CONFIG, "%s: \"%s\" matches no linear layer %s", key,
                text_printable(shown, sizeof shown, item, strlen(item)),
                strcmp(key, "lora_exclude_modules") == 0 ? "of this model" : "with an adapter");
}

static bool patterns_used(const Lora *l, const LoraModule *modules, const LoraPattern *patterns, int count,
                          const char *key, Err *err)
{
    for (int i = 0; i < count; i++) {
        bool hit = false;
        for (int k = 0; k < l->count && !hit; k++) {
            if (!match_pattern(&hit, patterns[i].pattern, modules[l->adapters[k].module].path, key, err)) return false;
        }
        if (!hit) return nothing_means(key, patterns[i].pattern, err);
    }
    return true;
}

bool lora_check_used(const Lora *l, const LoraModule *modules, Err *err)
{
    const LoraOptions *o = &l->options;
    for (int i = 0; i < o->exclude_count; i++) {
        bool hit = lora_name_matches("lm_head", o->exclude[i]);
        for (int k = 0; k < l->module_count && !hit; k++) {
            if (!match_item(&hit, o->exclude[i], o->exclude_count == 1, modules[k].path, "lora_exclude_modules", err))
                return false;
        }
        if (!hit) return nothing_means("lora_exclude_modules", o->exclude[i], err);
    }
    return patterns_used(l, modules, o->rank_pattern, o->rank_pattern_count, "lora_rank_pattern", err) &&
           patterns_used(l, modules, o->alpha_pattern, o->alpha_pattern_count, "lora_alpha_pattern", err);
}

void lora_free(Lora *l)
{
    for (int i = 0; i < l->table.count; i++)
        mem_free(l->table.items[i].name);
    mem_free(l->table.items);
    mem_free(l->of_module);
    mem_free(l->adapters);
    *l = (Lora){0};
}

Tensor lora_param(const Tensor *flat, const Param *p)
{
    Tensor t = tensor_slice_flat(flat, p->offset, p->rows * p->cols);
    return tensor_matrix(t.data, t.dtype, p->rows, p->cols);
}

static void draw(float *to, int64_t n, LoraInit init, int64_t cols, int r, RngKey key)
{
    const float bound = 1.0f / sqrtf((float)cols); /* kaiming_uniform with a = sqrt(5) */
    for (int64_t i = 0; i < n; i++) {
        to[i] = init == LORA_INIT_GAUSSIAN ? rng_normal(key, (uint64_t)i) / (float)r
                                           : (2.0f * rng_uniform(key, (uint64_t)i) - 1.0f) * bound;
    }
}

bool lora_initialize(const Lora *l, Backend *be, const Tensor *params, uint64_t seed, Err *err)
{
    tensor_zero(be, params);
    for (int i = 0; i < l->count; i++) {
        const LoraAdapter *ad = &l->adapters[i];
        const Param *a = &l->table.items[ad->a];
        const int64_t n = a->rows * a->cols;
        float *values = mem_alloc((size_t)n, sizeof *values, err);
        if (!values) return false;
        draw(values, n, l->options.init, a->cols, ad->r,
             (RngKey){.seed = seed, .purpose = RNG_LORA_INIT, .stream = (uint32_t)i});
        const Tensor to = lora_param(params, a);
        backend_upload(be, &to, values);
        mem_free(values);
    }
    return backend_sync(be, err);
}
