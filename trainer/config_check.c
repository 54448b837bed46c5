#include "trainer/config_state.h"
#include "trainer/device.h"

#include <ctype.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One check a function; each says what is wrong at the key that the user would change. */
typedef struct Check {
    Config *c;
    ConfigFaults *faults;
} Check;

#define IS_SET(key) (k->c->state->set[CONFIG_KEY_##key])

/* A fault at `key` that also depends on `other`; a key whose own value is a fault is not judged further. */
#define CONTRADICTS(key, other, ...) contradicts(k, CONFIG_KEY_##key, CONFIG_KEY_##other, __VA_ARGS__)
PRINTF_LIKE(4, 5) static void contradicts(Check *k, ConfigKey key, ConfigKey other, const char *format, ...)
{
    const ConfigState *s = k->c->state;
    if (s->bad[key] || s->bad[other]) return;
    char text[400];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    config_fault(k->faults, s->places[key], "%s", text);
}

static void note_without_effect(Check *k, const char *key, const char *why)
{
    config_note(k->c, k->faults->err, "%s has no effect: %s", key, why);
}

static void check_base(Check *k)
{
    Config *c = k->c;
    if (!c->base_model) {
        CONTRADICTS(base_model, base_model, "base_model is missing; name a Hugging Face folder or a GGUF file");
    }
    if (!c->state->without_data && c->datasets.count == 0 && c->test_datasets.count == 0) {
        CONTRADICTS(datasets, test_datasets, "datasets is missing or empty; write an entry - path: FILE below it");
    }
    DeviceChoice device;
    if (!device_parse(&device, c->device)) {
        CONTRADICTS(device, device, "device: \"%s\" is none of auto, cpu, cuda and cuda:N", c->device);
    }
    if (c->quant_block_size & (c->quant_block_size - 1)) {
        CONTRADICTS(quant_block_size, quant_block_size, "quant_block_size: %lld is not a power of two",
                    (long long)c->quant_block_size);
    }
    if (!c->deterministic) note_without_effect(k, "deterministic: false", "runs are always deterministic");
}

/* adapter and load_in_4bit say one thing twice; either may be left out. */
static void resolve_adapter(Check *k)
{
    Config *c = k->c;
    if (!IS_SET(load_in_4bit)) {
        c->load_in_4bit = c->adapter == ADAPTER_QLORA;
    } else if (!IS_SET(adapter)) {
        c->adapter = c->load_in_4bit ? ADAPTER_QLORA : ADAPTER_LORA;
    } else if (c->load_in_4bit != (c->adapter == ADAPTER_QLORA)) {
        CONTRADICTS(load_in_4bit, adapter, "load_in_4bit: %s contradicts adapter: %s; remove one of them",
                    c->load_in_4bit ? "true" : "false", c->adapter == ADAPTER_QLORA ? "qlora" : "lora");
    }
}

/* "q_proj,v_proj" is how LLaMA-Factory writes a list; as a regular expression it would match nothing. */
static void split_targets(Check *k, ConfigTexts *texts)
{
    if (!texts->scalar || !strchr(texts->items[0], ',')) return;
    const char *text = texts->items[0];
    for (const char *at = text; *at; at++) {
        if (!isalnum((unsigned char)*at) && !strchr("_., ", *at)) return;
    }
    int count = 1;
    for (const char *at = text; *at; at++)
        count += *at == ',';
    ConfigPool *pool = &k->c->state->pool;
    const char **items = config_pool_alloc(pool, (size_t)count, sizeof items[0], k->faults->err);
    int used = 0;
    for (const char *at = text; items && used < count;) {
        at += strspn(at, " ,");
        size_t n = strcspn(at, ",");
        const char *next = at + n;
        while (n > 0 && at[n - 1] == ' ')
            n--;
        if (n == 0) break;
        items[used] = config_pool_text(pool, at, n, k->faults->err);
        if (!items[used++]) return;
        at = next;
    }
    if (items) *texts = (ConfigTexts){.items = used ? items : NULL, .count = used};
}

static bool is_all_linear(const ConfigTexts *targets)
{
    return targets->count == 1 && strcmp(targets->items[0], "all-linear") == 0;
}

static void check_adapter(Check *k)
{
    Config *c = k->c;
    if (!IS_SET(lora_alpha)) c->lora_alpha = 2 * (double)c->lora_r;
    split_targets(k, &c->lora_target_modules);
    split_targets(k, &c->lora_exclude_modules);
    if (c->lora_target_modules.count == 0) {
        CONTRADICTS(lora_target_modules, lora_target_modules,
                    "lora_target_modules names no module; write all-linear or some names");
    }
    if (c->lora_layers.count && c->lora_target_modules.scalar && !is_all_linear(&c->lora_target_modules)) {
        CONTRADICTS(lora_layers, lora_target_modules,
                    "lora_layers cannot narrow a regular expression; put the layers into lora_target_modules, or list "
                    "names there");
    }
    for (int i = 0; i < c->lora_rank_pattern.count; i++) {
        const double rank = c->lora_rank_pattern.items[i].value;
        if (rank != floor(rank)) {
            CONTRADICTS(lora_rank_pattern, lora_rank_pattern, "lora_rank_pattern: %g is not a whole number", rank);
        }
    }
}

static void check_data(Check *k)
{
    static const char *const templates[] = {"tokenizer", "chatml", "llama3", "plain"};
    Config *c = k->c;
    bool known = false;
    for (size_t i = 0; i < sizeof templates / sizeof templates[0]; i++)
        known = known || (c->chat_template && strcmp(c->chat_template, templates[i]) == 0);
    if (!known && c->chat_template) {
        CONTRADICTS(chat_template, chat_template,
                    "chat_template: \"%.80s\" is not one of tokenizer (the model's own), chatml, llama3, plain",
                    c->chat_template);
    }
    if (c->val_set_size > 0 && c->test_datasets.count) {
        CONTRADICTS(val_set_size, test_datasets,
                    "val_set_size and test_datasets both name evaluation data; keep one of them");
    }
    if (c->val_set_size > 0 && c->datasets.count == 0) {
        CONTRADICTS(val_set_size, datasets, "val_set_size splits datasets, which is missing");
    }
    if (c->mask_history && c->train_on_inputs) {
        CONTRADICTS(mask_history, train_on_inputs,
                    "mask_history and train_on_inputs contradict each other; keep one of them");
    }
    if (!IS_SET(eval_sample_packing)) c->eval_sample_packing = c->sample_packing;
}

static void resolve_batch(Check *k)
{
    Config *c = k->c;
    const int64_t micro = c->micro_batch_size;
    if (!IS_SET(gradient_accumulation_steps)) c->gradient_accumulation_steps = 8;
    if (!IS_SET(global_batch_size)) {
        c->global_batch_size = micro * c->gradient_accumulation_steps;
        return;
    }
    if (c->global_batch_size % micro) {
        CONTRADICTS(global_batch_size, micro_batch_size,
                    "global_batch_size: %lld is not a multiple of micro_batch_size, which is %lld",
                    (long long)c->global_batch_size, (long long)micro);
    } else if (!IS_SET(gradient_accumulation_steps)) {
        c->gradient_accumulation_steps = c->global_batch_size / micro;
    } else if (c->global_batch_size != micro * c->gradient_accumulation_steps) {
        CONTRADICTS(global_batch_size, gradient_accumulation_steps,
                    "global_batch_size: %lld is not micro_batch_size * gradient_accumulation_steps, which is %lld; "
                    "remove one of the three",
                    (long long)c->global_batch_size, (long long)(micro * c->gradient_accumulation_steps));
    }
}

static void check_schedule(Check *k)
{
    static const double suspicious_rate = 1e-2;
    Config *c = k->c;
    if (c->max_steps == 0) c->max_steps = -1;
    if (IS_SET(warmup_ratio) && c->warmup_ratio > 0 && c->warmup_steps > 0) {
        CONTRADICTS(warmup_steps, warmup_ratio, "warmup_steps and warmup_ratio say the same thing; keep one of them");
    }
    /* One of the two counts, and the resolved text says which. The usual share is for rates that fall: a constant one
     * rises only where that is asked for, and warmup_steps: 0 is an answer. */
    const bool unusual = IS_SET(warmup_steps) || c->lr_scheduler == SCHEDULE_CONSTANT;
    if (c->warmup_steps > 0 || (unusual && !IS_SET(warmup_ratio))) c->warmup_ratio = 0;
    if (c->max_steps > 0 && c->warmup_steps > (double)c->max_steps) {
        CONTRADICTS(warmup_steps, max_steps, "warmup_steps: the run has only %lld steps", (long long)c->max_steps);
    }
    if (c->lr_scheduler == SCHEDULE_WSD && c->warmup_ratio + c->lr_decay_ratio > 1) {
        CONTRADICTS(lr_decay_ratio, warmup_ratio,
                    "warmup_ratio and lr_decay_ratio together are more than the whole run");
    }
    const double usual = strtod(config_fields[CONFIG_KEY_lr_decay_ratio].initial, NULL);
    if (c->lr_scheduler != SCHEDULE_WSD && fabs(c->lr_decay_ratio - usual) > 0) {
        note_without_effect(k, "lr_decay_ratio", "it is for lr_scheduler: wsd");
    }
    if (c->min_lr_ratio > 0 && c->lr_scheduler == SCHEDULE_CONSTANT) {
        note_without_effect(k, "min_lr_ratio", "lr_scheduler: constant does not fall");
    }
    if (c->learning_rate > suspicious_rate) {
        config_note(c, k->faults->err, "warning: learning_rate %g is far above what adapters are trained with (2e-4)",
                    c->learning_rate);
    }
}

static void check_clamps(Check *k)
{
    Config *c = k->c;
    if (c->variance_clamp.max > 0 && c->variance_clamp.min > c->variance_clamp.max) {
        CONTRADICTS(variance_clamp_min, variance_clamp_max, "variance_clamp: min %g is above max %g",
                    c->variance_clamp.min, c->variance_clamp.max);
    }
    if (c->loss_watchdog.action == WATCHDOG_ROLLBACK && c->save_only_model) {
        CONTRADICTS(loss_watchdog_action, save_only_model,
                    "loss_watchdog: rollback needs checkpoints that can be resumed; remove save_only_model");
    }
}

/* A broken val_set_size still means that there should be data. */
static bool has_evaluation(const Check *k)
{
    const bool *bad = k->c->state->bad;
    return config_has_evaluation(k->c) || bad[CONFIG_KEY_val_set_size] || bad[CONFIG_KEY_test_datasets];
}

static void check_evaluation(Check *k)
{
    Config *c = k->c;
    const bool data = has_evaluation(k);
    if (!data) {
        if (c->eval_steps > 0) note_without_effect(k, "eval_steps", "there is no evaluation data");
        if (c->evals_per_epoch > 0) note_without_effect(k, "evals_per_epoch", "there is no evaluation data");
        c->eval_steps = 0;
        c->evals_per_epoch = 0;
    }
    if (c->eval_steps > 0 && IS_SET(evals_per_epoch) && c->evals_per_epoch > 0) {
        CONTRADICTS(evals_per_epoch, eval_steps, "evals_per_epoch and eval_steps say the same thing; keep one of them");
    }
    if (data && !IS_SET(evals_per_epoch) && c->eval_steps <= 0) c->evals_per_epoch = 1;
    if (!IS_SET(eval_on_start) || !data) c->eval_on_start = data;
    if (!IS_SET(load_best_model_at_end)) {
        c->load_best_model_at_end = data;
    } else if (c->load_best_model_at_end && !data) {
        CONTRADICTS(load_best_model_at_end, val_set_size,
                    "load_best_model_at_end needs evaluation data; set val_set_size or test_datasets");
    }
    if (c->early_stopping_patience > 0 && !data) {
        CONTRADICTS(early_stopping_patience, val_set_size,
                    "early_stopping_patience needs evaluation data; set val_set_size or test_datasets");
    } else if (c->early_stopping_patience > 0 && c->eval_steps <= 0 && c->evals_per_epoch == 0) {
        CONTRADICTS(early_stopping_patience, val_set_size,
                    "early_stopping_patience needs evaluations; set evals_per_epoch or eval_steps");
    }
}

static void check_samples(Check *k)
{
    Config *c = k->c;
    const bool prompts = c->generate_samples.prompts.count > 0;
    const bool others = IS_SET(generate_samples_every) || IS_SET(generate_samples_max_new_tokens);
    if (!prompts && others && !config_is_set(c, "generate_samples.prompts")) {
        note_without_effect(k, "generate_samples", "it has no prompts");
    }
    if (prompts && c->generate_samples.every == 0 && !has_evaluation(k)) {
        CONTRADICTS(generate_samples_prompts, val_set_size,
                    "generate_samples: there are no evaluations; set every to a number of updates");
    }
}

static void check_saves(Check *k)
{
    Config *c = k->c;
    if (c->save_steps > 0 && IS_SET(saves_per_epoch) && c->saves_per_epoch > 0) {
        CONTRADICTS(saves_per_epoch, save_steps, "saves_per_epoch and save_steps say the same thing; keep one of them");
    }
    if (!IS_SET(saves_per_epoch)) c->saves_per_epoch = c->save_steps > 0 ? 0 : 1;
}

void config_check(Config *c, ConfigFaults *faults)
{
    Check *k = &(Check){c, faults};
    check_base(k);
    resolve_adapter(k);
    check_adapter(k);
    check_data(k);
    resolve_batch(k);
    check_schedule(k);
    check_clamps(k);
    check_evaluation(k);
    check_samples(k);
    check_saves(k);
    /* Settled here: what is read is load_in_4bit, gradient_accumulation_steps, and a notice. */
    config_mark_read(c, CONFIG_KEY_adapter);
    config_mark_read(c, CONFIG_KEY_load_in_4bit);
    config_mark_read(c, CONFIG_KEY_global_batch_size);
    config_mark_read(c, CONFIG_KEY_gradient_accumulation_steps);
    config_mark_read(c, CONFIG_KEY_max_gpu_memory);
    config_mark_read(c, CONFIG_KEY_deterministic);
    if (!config_has_evaluation(c)) {
        config_mark_read(c, CONFIG_KEY_eval_steps);
        config_mark_read(c, CONFIG_KEY_evals_per_epoch);
        config_mark_read(c, CONFIG_KEY_eval_on_start);
    }
    if (c->generate_samples.prompts.count == 0) {
        config_mark_read(c, CONFIG_KEY_generate_samples_every);
        config_mark_read(c, CONFIG_KEY_generate_samples_max_new_tokens);
    }
}
