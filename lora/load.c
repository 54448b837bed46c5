#include "lora/lora.h"

#include "base/file.h"
#include "base/mem.h"
#include "base/safetensors.h"
#include "base/text.h"
#include "lora/file.h"
#include "lora/match.h"

#include <math.h>
#include <string.h>

/* A wrong scale shows in no shape, so the folder's own config is compared with the run's. */
static bool check_scale(const Lora *l, int adapter, const LoraOptions *file, const char *folder, Err *err)
{
    const LoraAdapter *ad = &l->adapters[adapter];
    const char *name = l->table.items[ad->a].name;
    const int path_length = (int)(strlen(name) - strlen(".lora_A.weight"));
    Text path = {0};
    int r = 0;
    double alpha = 0;
    bool ok = text_add(&path, name, (size_t)path_length, err) && match_rank(&r, file, path.bytes, err) &&
              match_alpha(&alpha, file, path.bytes, err);
    text_free(&path);
    if (!ok) return err_note(err, "%s/" PEFT_CONFIG, folder);
    if (r != ad->r)
        return FAIL(err, ERR_MODEL, "%s: the adapter of %.*s has rank %d and this run asks for %d", folder, path_length,
                    name, r, ad->r);
    const float scale = (float)(alpha / (file->use_rslora ? sqrt(r) : r));
    if (scale != ad->scale)
        return FAIL(err, ERR_MODEL,
                    "%s: the adapter of %.*s scales by %g and this run by %g; set lora_alpha and use_rslora as in its "
                    "adapter_config.json",
                    folder, path_length, name, (double)scale, (double)ad->scale);
    return true;
}

static bool check_config(const Lora *l, const char *folder, Err *err)
{
    LoraConfigFile file = {0};
    if (!lora_config_read(&file, folder, err)) return false;
    bool ok = true;
    for (int i = 0; ok && i < l->count; i++)
        ok = check_scale(l, i, &file.options, folder, err);
    lora_config_free(&file);
    return ok;
}

static const SafetensorsEntry *find(const Safetensors *st, const Param *p, Err *err)
{
    Text key = {0};
    const SafetensorsEntry *e = NULL;
    if (text_format(&key, err, PEFT_PREFIX "%s", p->name)) {
        e = safetensors_find(st, key.bytes);
        if (!e) FAIL(err, ERR_MODEL, "tensor %s is missing", key.bytes);
    }
    text_free(&key);
    return e;
}

static bool check_entry(const SafetensorsEntry *e, const Param *p, Err *err)
{
    if (e->dtype != DTYPE_F32 && e->dtype != DTYPE_F16 && e->dtype != DTYPE_BF16)
        return FAIL(err, ERR_MODEL, "tensor %s is %s; F32, F16 or BF16 is needed", e->name, dtype_name(e->dtype));
    if (e->rank != 2 || e->shape[0] != p->rows || e->shape[1] != p->cols) {
        const long long rows = e->rank > 0 ? (long long)e->shape[0] : 1,
                        cols = e->rank > 1 ? (long long)e->shape[1] : 1;
        return FAIL(err, ERR_MODEL, "tensor %s has shape (%lld, %lld); this model and rank need (%lld, %lld)", e->name,
                    rows, cols, (long long)p->rows, (long long)p->cols);
    }
    return true;
}

static bool widen(float *values, const SafetensorsEntry *e, Err *err)
{
    /* The file's bytes lie at the end of the buffer, so widening from the front never overtakes them. */
    const size_t width = dtype_bytes(e->dtype), n = (size_t)e->count;
    const char *from = (const char *)values + n * (sizeof *values - width);
    for (size_t i = 0; i < n; i++) {
        uint16_t half;
        if (width == 2) {
            memcpy(&half, from + 2 * i, sizeof half);
            values[i] = e->dtype == DTYPE_BF16 ? bf16_to_f32(half) : f16_to_f32(half);
        }
        if (!isfinite(values[i]))
            return FAIL(err, ERR_MODEL, "tensor %s holds a value that is not finite at element %zu", e->name, i);
    }
    return true;
}

static bool load_param(const Safetensors *st, const Param *p, Backend *be, const Tensor *params, Err *err)
{
    const SafetensorsEntry *e = find(st, p, err);
    if (!e || !check_entry(e, p, err)) return false;
    const size_t n = (size_t)e->count;
    float *values = mem_alloc(n, sizeof *values, err);
    if (!values) return false;
    char *raw = (char *)values + n * (sizeof *values - dtype_bytes(e->dtype));
    const bool ok = safetensors_read(st, e, 0, e->bytes, raw, err) && widen(values, e, err);
    if (ok) {
        const Tensor to = lora_param(params, p);
        backend_upload(be, &to, values);
    }
    mem_free(values);
    return ok;
}

/* All our tensors were found, so a file with more entries holds a stranger: the first one is named. */
static bool check_leftover(const Lora *l, const Safetensors *st, Err *err)
{
    if (st->count == l->table.count) return true;
    for (int i = 0; i < st->count; i++) {
        const char *name = st->entries[i].name;
        const bool prefixed = strncmp(name, PEFT_PREFIX, strlen(PEFT_PREFIX)) == 0;
        bool known = false;
        for (int j = 0; prefixed && !known && j < l->table.count; j++)
            known = strcmp(name + strlen(PEFT_PREFIX), l->table.items[j].name) == 0;
        char shown[256];
        if (!known)
            return FAIL(err, ERR_MODEL,
                        "tensor %s belongs to no adapter of this run; its lora_target_modules have to be those of the "
                        "adapter",
                        text_printable(shown, sizeof shown, name, strlen(name)));
    }
    return true;
}

static bool load_tensors(const Lora *l, Backend *be, const Tensor *params, const char *folder, Err *err)
{
    Safetensors st = {0};
    char *path = path_join(folder, PEFT_WEIGHTS, err);
    if (!path) return false;
    if (!file_exists(path)) {
        mem_free(path);
        return FAIL(err, ERR_MODEL, "%s has no " PEFT_WEIGHTS "; save the adapter with safe serialization", folder);
    }
    bool ok = safetensors_open(&st, path, err);
    for (int i = 0; ok && i < l->table.count; i++)
        ok = load_param(&st, &l->table.items[i], be, params, err);
    if (ok) ok = check_leftover(l, &st, err);
    if (!ok) err_note(err, "%s", path);
    safetensors_close(&st);
    mem_free(path);
    return ok;
}

bool lora_load(const Lora *l, Backend *be, const Tensor *params, const char *folder, Err *err)
{
    if (!check_config(l, folder, err)) return false;
    if (!load_tensors(l, be, params, folder, err)) return false;
    return backend_sync(be, err);
}
