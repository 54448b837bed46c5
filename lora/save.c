#include "lora/lora.h"

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/safetensors.h"
#include "base/text.h"
#include "lora/file.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- adapter_model.safetensors ---- */

static int by_name(const void *a, const void *b)
{
    return strcmp((*(const Param *const *)a)->name, (*(const Param *const *)b)->name);
}

static bool declare(SafetensorsWriter *w, const Param *p, Err *err)
{
    Text key = {0};
    const int64_t shape[2] = {p->rows, p->cols};
    const bool ok = text_format(&key, err, PEFT_PREFIX "%s", p->name) &&
                    safetensors_writer_declare(w, key.bytes, DTYPE_F32, 2, shape, err);
    text_free(&key);
    return ok;
}

static bool write_param(SafetensorsWriter *w, Backend *be, const Tensor *params, const Param *p, Err *err)
{
    const Tensor t = lora_param(params, p);
    float *values = mem_alloc((size_t)tensor_count(&t), sizeof *values, err);
    if (!values) return false;
    backend_download(be, values, &t);
    const bool ok = backend_sync(be, err) && safetensors_writer_data(w, values, tensor_bytes(&t), err);
    mem_free(values);
    return ok;
}

static bool write_tensors(SafetensorsWriter *w, const Param *const *order, int count, Backend *be, const Tensor *params,
                          Err *err)
{
    if (!safetensors_writer_metadata(w, "format", "pt", err)) return false;
    for (int i = 0; i < count; i++) {
        if (!declare(w, order[i], err)) return false;
    }
    if (!safetensors_writer_begin(w, err)) return false;
    for (int i = 0; i < count; i++) {
        if (!write_param(w, be, params, order[i], err)) return false;
    }
    return true;
}

static bool save_weights(const Lora *l, Backend *be, const Tensor *params, const char *folder, Err *err)
{
    SafetensorsWriter *w = NULL;
    char *path = path_join(folder, PEFT_WEIGHTS, err);
    const Param **order = path ? mem_alloc((size_t)l->table.count, sizeof *order, err) : NULL;
    bool ok = false;
    if (order && safetensors_writer_create(&w, path, err)) {
        for (int i = 0; i < l->table.count; i++)
            order[i] = &l->table.items[i];
        qsort(order, (size_t)l->table.count, sizeof *order, by_name);
        ok = write_tensors(w, order, l->table.count, be, params, err);
        if (ok)
            ok = safetensors_writer_finish(w, err);
        else
            safetensors_writer_discard(w);
    }
    mem_free(order);
    mem_free(path);
    return ok;
}

/* ---- adapter_config.json ---- */

/* Target names that give PEFT exactly our modules: last components, with a list of layers when all of them have the
 * same components, or else whole paths. */
typedef struct Targets {
    const char **names; /* sorted, borrowed from the modules */
    int name_count;
    int *layers; /* sorted */
    int layer_count;
    bool by_layer; /* layers_to_transform has to be written */
} Targets;

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static const char *last_component(const char *path)
{
    const char *dot = strrchr(path, '.');
    return dot ? dot + 1 : path;
}

static void add_name(Targets *t, const char *name)
{
    for (int i = 0; i < t->name_count; i++) {
        if (strcmp(t->names[i], name) == 0) return;
    }
    t->names[t->name_count++] = name;
}

static bool has_name(const Targets *t, const char *name)
{
    for (int i = 0; i < t->name_count; i++) {
        if (strcmp(t->names[i], name) == 0) return true;
    }
    return false;
}

static bool has_layer(const Targets *t, int layer)
{
    for (int i = 0; i < t->layer_count; i++) {
        if (t->layers[i] == layer) return true;
    }
    return false;
}

/* Modules that the suffixes (and with `layers` the layers) choose. */
static int chosen(const Targets *t, const LoraModule *modules, int count, bool layers)
{
    int n = 0;
    for (int i = 0; i < count; i++)
        n += has_name(t, last_component(modules[i].path)) && (!layers || has_layer(t, modules[i].layer));
    return n;
}

static bool targets_find(Targets *t, const Lora *l, const LoraModule *modules, Err *err)
{
    t->names = mem_alloc((size_t)l->count, sizeof *t->names, err);
    t->layers = mem_alloc((size_t)l->count, sizeof *t->layers, err);
    if (!t->names || !t->layers) return false;
    for (int i = 0; i < l->count; i++) {
        const LoraModule *module = &modules[l->adapters[i].module];
        add_name(t, last_component(module->path));
        if (!has_layer(t, module->layer)) t->layers[t->layer_count++] = module->layer;
    }
    /* The suffixes choose at least our modules, so equal counts mean equal sets. */
    if (chosen(t, modules, l->module_count, false) != l->count) {
        t->by_layer = chosen(t, modules, l->module_count, true) == l->count;
        if (!t->by_layer) {
            for (int i = 0; i < l->count; i++)
                t->names[i] = modules[l->adapters[i].module].path;
            t->name_count = l->count;
        }
    }
    qsort(t->names, (size_t)t->name_count, sizeof *t->names, by_text);
    return true;
}

static json_t *number(double value)
{
    /* Ollama reads lora_alpha as an integer, so a whole number is written as one. */
    return value == floor(value) && fabs(value) < 0x1p53 ? json_integer((json_int_t)value) : json_real(value);
}

static json_t *name_list(const Targets *t)
{
    json_t *list = json_array();
    for (int i = 0; i < t->name_count; i++)
        json_array_append_new(list, json_string(t->names[i]));
    return list;
}

static json_t *layer_list(const Targets *t)
{
    if (!t->by_layer) return json_null();
    json_t *list = json_array();
    for (int i = 0; i < t->layer_count; i++)
        json_array_append_new(list, json_integer(t->layers[i]));
    return list;
}

/* In the user's order, because the first pattern that matches wins. */
static json_t *pattern_object(const LoraPattern *patterns, int count)
{
    json_t *object = json_object();
    for (int i = 0; i < count; i++) {
        if (!json_object_get(object, patterns[i].pattern))
            json_object_set_new(object, patterns[i].pattern, number(patterns[i].value));
    }
    return object;
}

/* The keys that every PEFT version reads, sorted; newer ones only warn or fail elsewhere. */
static json_t *config_object(const LoraOptions *o, const Targets *t, const char *base_model)
{
    json_t *c = json_object();
    json_object_set_new(c, "alpha_pattern", pattern_object(o->alpha_pattern, o->alpha_pattern_count));
    json_object_set_new(c, "auto_mapping", json_null());
    json_object_set_new(c, "base_model_name_or_path", base_model ? json_string(base_model) : json_null());
    json_object_set_new(c, "bias", json_string("none"));
    json_object_set_new(c, "fan_in_fan_out", json_false());
    json_object_set_new(c, "inference_mode", json_true());
    json_object_set_new(c, "init_lora_weights", json_true());
    json_object_set_new(c, "layers_pattern", json_null());
    json_object_set_new(c, "layers_to_transform", layer_list(t));
    json_object_set_new(c, "loftq_config", json_object());
    json_object_set_new(c, "lora_alpha", number(o->alpha));
    json_object_set_new(c, "lora_dropout", json_real(o->dropout));
    json_object_set_new(c, "modules_to_save", json_null());
    json_object_set_new(c, "peft_type", json_string("LORA"));
    json_object_set_new(c, "r", json_integer(o->r));
    json_object_set_new(c, "rank_pattern", pattern_object(o->rank_pattern, o->rank_pattern_count));
    json_object_set_new(c, "revision", json_null());
    json_object_set_new(c, "target_modules", name_list(t));
    json_object_set_new(c, "task_type", json_string("CAUSAL_LM"));
    json_object_set_new(c, "use_dora", json_false());
    json_object_set_new(c, "use_rslora", json_boolean(o->use_rslora));
    return c;
}

static bool write_json(const char *folder, const json_t *config, Err *err)
{
    char *text = json_print(config, JSON_INDENT(2) | JSON_REAL_PRECISION(17), PEFT_CONFIG, err);
    if (!text) return false;
    File f = {0};
    char *path = path_join(folder, PEFT_CONFIG, err);
    bool ok = path && file_create(&f, path, err) && file_write(&f, text, strlen(text), err) &&
              file_write(&f, "\n", 1, err) && file_sync_close(&f, err);
    if (f.open) file_close(&f);
    mem_free(path);
    mem_free(text);
    return ok;
}

static bool save_config(const Lora *l, const LoraModule *modules, const char *folder, const char *base_model, Err *err)
{
    Targets targets = {0};
    bool ok = targets_find(&targets, l, modules, err);
    if (ok) {
        json_begin();
        json_t *config = config_object(&l->options, &targets, base_model);
        ok = write_json(folder, config, err);
        json_decref(config);
    }
    mem_free(targets.names);
    mem_free(targets.layers);
    return ok;
}

bool lora_save(const Lora *l, const LoraModule *modules, Backend *be, const Tensor *params, const char *folder,
               const char *base_model, Err *err)
{
    if (!save_weights(l, be, params, folder, err) || !save_config(l, modules, folder, base_model, err))
        return err_note(err, "saving the adapter");
    return true;
}
