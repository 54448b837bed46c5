#include "lora/lora.h"

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/text.h"
#include "lora/file.h"

#include <math.h>
#include <string.h>

enum { CONFIG_LIMIT = 16 << 20 };

/* Everything that options point to, in one place. */
typedef struct Storage {
    json_t *root; /* owns all texts */
    const char **targets;
    const char **exclude;
    int *layers;
    LoraPattern *ranks, *alphas;
} Storage;

static bool truthy(const json_t *value)
{
    if (!value || json_is_null(value) || json_is_false(value)) return false;
    if (json_is_array(value)) return json_array_size(value) > 0;
    if (json_is_object(value)) return json_object_size(value) > 0;
    return true;
}

/* Adapters that are more than A and B on linear layers, by the key that says so. */
static bool refuse_others(const json_t *root, const char *path, Err *err)
{
    static const char *const keys[] = {
        "use_dora",          "modules_to_save",   "lora_bias",     "fan_in_fan_out",    "trainable_token_indices",
        "layer_replication", "target_parameters", "use_qalora",    "use_bdlora",        "alora_invocation_tokens",
        "arrow_config",      "kasa_config",       "velora_config", "monteclora_config", "megatron_config",
    };
    for (size_t i = 0; i < ARRAY_COUNT(keys); i++) {
        if (truthy(json_object_get(root, keys[i])))
            return FAIL(err, ERR_MODEL, "%s: \"%s\" is set; only plain LoRA on linear layers is supported", path,
                        keys[i]);
    }
    const char *type = NULL, *bias = NULL;
    if (!json_get_text(&type, root, "peft_type", path, err)) return false;
    if (!type || strcmp(type, "LORA") != 0)
        return FAIL(err, ERR_MODEL, "%s: peft_type is %s; only \"LORA\" is supported", path, type ? type : "missing");
    if (!json_get_text(&bias, root, "bias", path, err)) return false;
    if (bias && strcmp(bias, "none") != 0)
        return FAIL(err, ERR_MODEL, "%s: bias is \"%s\"; only \"none\" is supported", path, bias);
    return true;
}

/* Initialisations that also change the base weights: the adapter fits only the changed base. */
static bool refuse_changed_base(const json_t *root, const char *path, Err *err)
{
    static const char *const kinds[] = {"pissa", "olora", "loftq", "corda", "lora_ga"};
    const json_t *init = json_object_get(root, "init_lora_weights");
    const char *text = json_string_value(init);
    for (size_t i = 0; text && i < ARRAY_COUNT(kinds); i++) {
        if (strncmp(text, kinds[i], strlen(kinds[i])) == 0)
            return FAIL(err, ERR_MODEL,
                        "%s: init_lora_weights is \"%s\", whose adapter fits only a changed base; convert it to a "
                        "plain LoRA first",
                        path, kinds[i]);
    }
    return true;
}

static bool read_names(const char ***out, int *count, const json_t *list, const char *key, const char *path, Err *err)
{
    const size_t n = json_array_size(list);
    *out = mem_alloc(n + 1, sizeof **out, err);
    if (!*out) return false;
    for (size_t i = 0; i < n; i++) {
        (*out)[i] = json_string_value(json_array_get(list, i));
        if (!(*out)[i]) return FAIL(err, ERR_MODEL, "%s: \"%s\" holds something that is no text", path, key);
    }
    *count = (int)n;
    return true;
}

static bool read_targets(LoraOptions *o, Storage *s, const char *path, Err *err)
{
    const json_t *targets = json_object_get(s->root, "target_modules");
    if (json_is_string(targets)) {
        o->target_regex = json_string_value(targets);
        return true;
    }
    if (!json_is_array(targets) || json_array_size(targets) == 0)
        return FAIL(err, ERR_MODEL, "%s: \"target_modules\" is neither a list nor a text", path);
    if (!read_names(&s->targets, &o->target_count, targets, "target_modules", path, err)) return false;
    o->targets = s->targets;
    return true;
}

static bool read_exclude(LoraOptions *o, Storage *s, const char *path, Err *err)
{
    const json_t *exclude = json_object_get(s->root, "exclude_modules");
    if (!truthy(exclude)) return true;
    if (json_is_string(exclude)) {
        s->exclude = mem_alloc(1, sizeof *s->exclude, err);
        if (!s->exclude) return false;
        s->exclude[0] = json_string_value(exclude);
        o->exclude_count = 1;
    } else if (!json_is_array(exclude)) {
        return FAIL(err, ERR_MODEL, "%s: \"exclude_modules\" is neither a list nor a text", path);
    } else if (!read_names(&s->exclude, &o->exclude_count, exclude, "exclude_modules", path, err)) {
        return false;
    }
    o->exclude = s->exclude;
    return true;
}

static bool read_layers(LoraOptions *o, Storage *s, const char *path, Err *err)
{
    const json_t *layers = json_object_get(s->root, "layers_to_transform");
    if (!layers || json_is_null(layers) || (json_is_array(layers) && json_array_size(layers) == 0)) return true;
    const bool one = json_is_integer(layers);
    if (!one && !json_is_array(layers))
        return FAIL(err, ERR_MODEL, "%s: \"layers_to_transform\" is neither a number nor a list", path);
    const size_t n = one ? 1 : json_array_size(layers);
    s->layers = mem_alloc(n, sizeof *s->layers, err);
    if (!s->layers) return false;
    for (size_t i = 0; i < n; i++) {
        const json_t *item = one ? layers : json_array_get(layers, i);
        const json_int_t value = json_integer_value(item);
        if (!json_is_integer(item) || value < 0 || value > 1 << 20)
            return FAIL(err, ERR_MODEL, "%s: \"layers_to_transform\" holds something that is no layer", path);
        s->layers[i] = (int)value;
    }
    o->layers = s->layers;
    o->layer_count = (int)n;
    return true;
}

/* Where PEFT looks for the number of a layer: "layers" is the only list of layers that our models have. */
static bool check_layers_pattern(const json_t *root, const char *path, Err *err)
{
    const json_t *pattern = json_object_get(root, "layers_pattern");
    const char *name = json_string_value(pattern);
    bool known = !truthy(pattern) || (name && (!*name || strcmp(name, "layers") == 0));
    for (size_t i = 0; i < json_array_size(pattern); i++) {
        const char *item = json_string_value(json_array_get(pattern, i));
        known |= item && strcmp(item, "layers") == 0;
    }
    return known || FAIL(err, ERR_MODEL,
                         "%s: \"layers_pattern\" does not name \"layers\", the list of layers of this model; name the "
                         "modules in target_modules",
                         path);
}

static bool read_patterns(LoraPattern **out, int *count, const json_t *root, const char *key, const char *path,
                          Err *err)
{
    json_t *object = json_object_get(root, key);
    if (!truthy(object)) return true;
    if (!json_is_object(object)) return FAIL(err, ERR_MODEL, "%s: \"%s\" is no object", path, key);
    *out = mem_alloc(json_object_size(object), sizeof **out, err);
    if (!*out) return false;
    const char *pattern;
    json_t *value;
    json_object_foreach(object, pattern, value)
    {
        if (!json_is_number(value))
            return FAIL(err, ERR_MODEL, "%s: \"%s\" holds something that is no number", path, key);
        (*out)[(*count)++] = (LoraPattern){pattern, json_number_value(value)};
    }
    return true;
}

static bool read_options(LoraOptions *o, Storage *s, const char *path, Err *err)
{
    const json_t *root = s->root;
    int64_t r = 8; /* what PEFT takes when the keys are missing */
    o->alpha = 8;
    if (!json_is_object(root)) return FAIL(err, ERR_MODEL, "%s is no JSON object", path);
    if (!refuse_others(root, path, err) || !refuse_changed_base(root, path, err)) return false;
    if (!json_get_int(&r, root, "r", 1, LORA_RANK_MAX, path, err)) return false;
    if (!json_get_real(&o->alpha, root, "lora_alpha", path, err)) return false;
    if (!json_get_real(&o->dropout, root, "lora_dropout", path, err)) return false;
    if (!json_get_bool(&o->use_rslora, root, "use_rslora", path, err)) return false;
    o->r = (int)r;
    if (!check_layers_pattern(root, path, err)) return false;
    if (!read_targets(o, s, path, err) || !read_exclude(o, s, path, err) || !read_layers(o, s, path, err)) return false;
    if (!read_patterns(&s->ranks, &o->rank_pattern_count, root, "rank_pattern", path, err)) return false;
    if (!read_patterns(&s->alphas, &o->alpha_pattern_count, root, "alpha_pattern", path, err)) return false;
    o->rank_pattern = s->ranks;
    o->alpha_pattern = s->alphas;
    return true;
}

bool lora_config_read(LoraConfigFile *out, const char *folder, Err *err)
{
    LoraConfigFile c = {0};
    char *path = path_join(folder, PEFT_CONFIG, err);
    Storage *s = path ? mem_alloc(1, sizeof *s, err) : NULL;
    c.storage = s;
    bool ok =
        s && json_parse_file(&s->root, path, CONFIG_LIMIT, ERR_MODEL, err) && read_options(&c.options, s, path, err);
    mem_free(path);
    if (ok)
        *out = c;
    else
        lora_config_free(&c);
    return ok;
}

void lora_config_free(LoraConfigFile *c)
{
    Storage *s = c->storage;
    if (s) {
        json_decref(s->root);
        mem_free(s->targets);
        mem_free(s->exclude);
        mem_free(s->layers);
        mem_free(s->ranks);
        mem_free(s->alphas);
        mem_free(s);
    }
    *c = (LoraConfigFile){0};
}
