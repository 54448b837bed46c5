#include "base/mem.h"
#include "trainer/config_state.h"

#include <string.h>

/* The two paged optimizers keep the states of the resident ones, so a run may change between those. */
static bool same_states(OptimizerKind a, OptimizerKind b)
{
    const bool eight_a = a == OPTIMIZER_ADAMW_8BIT || a == OPTIMIZER_PAGED_ADAMW_8BIT;
    const bool eight_b = b == OPTIMIZER_ADAMW_8BIT || b == OPTIMIZER_PAGED_ADAMW_8BIT;
    return eight_a == eight_b;
}

static ConfigChangeKind change_kind(int key, const Config *before, const Config *after)
{
    if (key == CONFIG_KEY_optimizer && same_states(before->optimizer, after->optimizer)) return CONFIG_CHANGE_HARMLESS;
    return config_fields[key].change;
}

static bool print_member(Text *out, const ConfigField *f, const Config *c, Err *err)
{
    if (f->type != CONFIG_DATASETS) return config_value_print(out, f, config_member(c, f), err);
    const ConfigDatasets *datasets = config_member(c, f);
    if (datasets->count == 0) return text_add_z(out, "[]", err);
    for (int i = 0; i < datasets->count; i++) {
        for (int k = 0; k < dataset_field_count; k++) {
            const ConfigField *d = &dataset_fields[k];
            if (!text_format(out, err, "%s%s: ", k ? ", " : i ? "}, {" : "{", d->name)) return false;
            if (!config_value_print(out, d, (const char *)&datasets->items[i] + d->offset, err)) return false;
        }
    }
    return text_add_z(out, "}", err);
}

bool config_diff(ConfigChanges *out, const Config *before, const Config *after, Err *err)
{
    ConfigChanges changes = {0};
    Text old = {0};
    Text now = {0};
    for (int i = 0; i < CONFIG_KEY_COUNT; i++) {
        const ConfigField *f = &config_fields[i];
        text_clear(&old);
        text_clear(&now);
        TRY(print_member(&old, f, before, err) && print_member(&now, f, after, err));
        if (strcmp(old.bytes, now.bytes) == 0) continue;
        TRY(mem_grow(&changes.items, &changes.capacity, changes.count + 1, sizeof changes.items[0], err));
        ConfigChange *change = &changes.items[changes.count];
        *change = (ConfigChange){.key = f->name, .kind = change_kind(i, before, after)};
        changes.count++;
        change->before = mem_copy_text(old.bytes, err);
        change->after = mem_copy_text(now.bytes, err);
        TRY(change->before && change->after);
    }
    text_free(&old);
    text_free(&now);
    *out = changes;
    return true;
fail:
    text_free(&old);
    text_free(&now);
    config_changes_free(&changes);
    return false;
}

void config_changes_free(ConfigChanges *changes)
{
    for (size_t i = 0; i < changes->count; i++) {
        mem_free(changes->items[i].before);
        mem_free(changes->items[i].after);
    }
    mem_free(changes->items);
    *changes = (ConfigChanges){0};
}
