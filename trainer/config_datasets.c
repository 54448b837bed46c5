#include "trainer/config_alias.h"
#include "trainer/config_value.h"

#include <stdio.h>
#include <string.h>

enum { DATA_SOURCES_MAX = 1000 };

/* A key of an entry that is not ours: fine, refused, or unknown. */
static void foreign_key(const char *name, const YamlNode *value, ConfigFaults *faults)
{
    char scoped[120];
    char shown[100];
    char near[200];
    snprintf(scoped, sizeof scoped, "datasets[].%s", value->key->text);
    if (alias_is_known(scoped)) {
        const AliasRule *rule = alias_find(scoped, value);
        if (!rule || rule->kind == ALIAS_FINE || yaml_is_null(value)) return;
        config_fault(faults, value->key->place, "%s.%s is not supported: %s", name, value->key->text, rule->text);
        return;
    }
    yaml_show(value->key, shown, sizeof shown);
    if (config_field_find(value->key->text) >= 0 &&
        alias_suggest(near, sizeof near, "datasets[].", value->key->text)[0] == '\0') {
        config_fault(faults, value->key->place,
                     "%s: %s is a key of the file, not of a data source; move it to the left margin", name, shown);
        return;
    }
    config_fault(faults, value->key->place, "%s: unknown key %s%s", name, shown,
                 alias_suggest(near, sizeof near, "datasets[].", value->key->text));
}

static void source_read(DatasetConfig *out, const char *list, int index, const YamlNode *node, const ConfigReader *r)
{
    char name[60];
    snprintf(name, sizeof name, "%s[%d]", list, index);
    if (node->kind != YAML_MAP) {
        config_fault(r->faults, node->place, "%s takes a map; write - path: FILE", name);
        return;
    }
    for (int i = 0; i < dataset_field_count; i++) {
        const ConfigField *f = &dataset_fields[i];
        char member[120];
        snprintf(member, sizeof member, "%s.%s", name, f->name);
        config_value_read((char *)out + f->offset, f, member, yaml_find(node, f->name), r);
    }
    for (const YamlNode *value = node->first; value; value = value->next) {
        if (dataset_field_find(value->key->text) < 0) foreign_key(name, value, r->faults);
    }
    if (!r->broken && yaml_is_null(yaml_find(node, "path"))) {
        config_fault(r->faults, node->place, "%s has no path; write path: FILE, a glob or a folder", name);
    }
}

void config_datasets_read(ConfigDatasets *out, const char *name, const YamlNode *node, const ConfigReader *r)
{
    if (node->kind != YAML_LIST) {
        config_fault(r->faults, node->place, "%s takes a list of maps; write - path: FILE below it", name);
        return;
    }
    if (node->count > DATA_SOURCES_MAX) {
        config_fault(r->faults, node->place, "%s: %d entries; at most %d, and a path may be a glob or a folder", name,
                     node->count, DATA_SOURCES_MAX);
        return;
    }
    DatasetConfig *items = config_pool_alloc(r->pool, (size_t)node->count, sizeof items[0], r->faults->err);
    if (!items) return;
    int i = 0;
    for (const YamlNode *item = node->first; item; item = item->next, i++)
        source_read(&items[i], name, i, item, r);
    *out = (ConfigDatasets){.items = node->count ? items : NULL, .count = node->count};
}

/* Names that data/dataset.h knows. */
static const char *type_name(DatasetType type)
{
    switch (type) {
    case DATASET_AUTO: return NULL;
    case DATASET_CHAT: return "chat";
    case DATASET_SHAREGPT: return "sharegpt";
    case DATASET_ALPACA: return "alpaca";
    case DATASET_PROMPT_COMPLETION: return "prompt_completion";
    case DATASET_TEXT: return "text";
    case DATASET_PRETOKENIZED: return "pretokenized";
    }
    return NULL;
}

DataSource dataset_config_source(const DatasetConfig *d)
{
    return (DataSource){
        .path = d->path,
        .type = type_name(d->type),
        .split = d->split,
        .field_messages = d->field_messages,
        .properties = d->message_property_mappings.items,
        .property_count = d->message_property_mappings.count,
        .roles = d->roles.items,
        .role_count = d->roles.count,
        .roles_to_train = d->roles_to_train.items,
        .roles_to_train_count = d->roles_to_train.count,
        .train_on_eos = d->train_on_eos,
        .weight = d->weight,
        .max_samples = d->max_samples,
    };
}
