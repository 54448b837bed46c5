#include "trainer/settings.h"

#include "base/log.h"

#include <math.h>
#include <string.h>

int settings_threads(const Config *c)
{
    return (int)CONFIG_GET(c, threads);
}

LoraOptions settings_lora(const Config *c)
{
    const ConfigTexts targets = CONFIG_GET(c, lora_target_modules), exclude = CONFIG_GET(c, lora_exclude_modules);
    const ConfigLayers layers = CONFIG_GET(c, lora_layers);
    const ConfigPatterns ranks = CONFIG_GET(c, lora_rank_pattern), alphas = CONFIG_GET(c, lora_alpha_pattern);
    LoraOptions o = {
        .r = (int)CONFIG_GET(c, lora_r),
        .alpha = CONFIG_GET(c, lora_alpha),
        .dropout = CONFIG_GET(c, lora_dropout),
        .use_rslora = CONFIG_GET(c, use_rslora),
        .loraplus_lr_ratio = CONFIG_GET(c, loraplus_lr_ratio),
        .init = CONFIG_GET(c, init_lora_weights),
        .exclude = exclude.items,
        .exclude_count = exclude.count,
        .layers = layers.items,
        .layer_count = layers.count,
        .rank_pattern = ranks.items,
        .rank_pattern_count = ranks.count,
        .alpha_pattern = alphas.items,
        .alpha_pattern_count = alphas.count,
    };
    if (!targets.scalar) {
        o.targets = targets.items;
        o.target_count = targets.count;
    } else if (strcmp(targets.items[0], "all-linear") != 0) {
        o.target_regex = targets.items[0];
    }
    return o;
}

static DType compute_type(const Config *c, const Backend *be)
{
    const DType best = backend_preferred_dtype(be);
    const bool cuda = backend_kind(be) == BACKEND_CUDA;
    switch (CONFIG_GET(c, bnb_4bit_compute_dtype)) {
    case COMPUTE_AUTO: return best;
    case COMPUTE_FP32: return DTYPE_F32;
    case COMPUTE_FP16:
        if (cuda) return DTYPE_F16;
        log_warn("bnb_4bit_compute_dtype: fp16 is not computed on this device; fp32 is taken%s",
                 best == DTYPE_BF16 ? " (bf16 would be faster)" : "");
        return DTYPE_F32;
    case COMPUTE_BF16:
        if (best == DTYPE_BF16) return DTYPE_BF16;
        if (cuda) {
            log_warn("bnb_4bit_compute_dtype: bf16 is not computed on this device; fp16 is taken");
            return DTYPE_F16;
        }
        log_warn("this processor has no bf16 products: fp32 would be faster than bf16");
        return DTYPE_BF16;
    }
    return best;
}

static ModelOptions model_options(const Config *c, const Backend *be)
{
    static const char *const none[] = {""};
    const ConfigTexts skip = CONFIG_GET(c, quant_skip_modules);
    const bool four_bit = CONFIG_GET(c, load_in_4bit);
    return (ModelOptions){
        .compute = compute_type(c, be),
        .quantize = CONFIG_GET(c, adapter) == ADAPTER_QLORA && four_bit,
        .quant = {.type = CONFIG_GET(c, bnb_4bit_quant_type),
                  .block = (int)CONFIG_GET(c, quant_block_size),
                  .double_quant = CONFIG_GET(c, bnb_4bit_use_double_quant)},
        .skip_modules = skip.count ? skip.items : none,
        .skip_count = skip.count,
        .adapters = true,
        .lora = settings_lora(c),
        .training = true,
        .layer_weights = backend_kind(be) == BACKEND_CUDA, /* decoding is a larger part of a step there */
        .neftune_alpha = (float)CONFIG_GET(c, neftune_noise_alpha),
        .label_smoothing = (float)CONFIG_GET(c, label_smoothing),
        .seed = (uint64_t)CONFIG_GET(c, seed),
    };
}

static AdamwOptions optimizer_options(const Config *c)
{
    const OptimizerKind kind = CONFIG_GET(c, optimizer);
    return (AdamwOptions){
        .eight_bit = kind == OPTIMIZER_ADAMW_8BIT || kind == OPTIMIZER_PAGED_ADAMW_8BIT,
        .paged = kind == OPTIMIZER_PAGED_ADAMW_8BIT || kind == OPTIMIZER_PAGED_ADAMW_32BIT,
        .beta1 = CONFIG_GET(c, adam_beta1),
        .beta2 = CONFIG_GET(c, adam_beta2),
        .epsilon = CONFIG_GET(c, adam_epsilon),
        .weight_decay = CONFIG_GET(c, weight_decay),
        .max_grad_norm = CONFIG_GET(c, max_grad_norm),
        .grad_clip_value = CONFIG_GET(c, grad_clip_value),
        .grad_clip_percentile = (int)CONFIG_GET(c, grad_clip_percentile),
        .variance_min = CONFIG_GET_IN(c, variance_clamp, min),
        .variance_max = CONFIG_GET_IN(c, variance_clamp, max),
        .update_clip_rms = CONFIG_GET(c, update_clip_rms),
    };
}

static void output_settings(Settings *s, const Config *c)
{
    s->output_dir = CONFIG_GET(c, output_dir);
    s->logging_steps = CONFIG_GET(c, logging_steps);
    s->eval_steps = CONFIG_GET(c, eval_steps);
    s->evals_per_epoch = CONFIG_GET(c, evals_per_epoch);
    s->eval_on_start = CONFIG_GET(c, eval_on_start);
    s->early_stopping = CONFIG_GET(c, early_stopping_patience);
    s->load_best = CONFIG_GET(c, load_best_model_at_end);
    s->sample_prompts = CONFIG_GET_IN(c, generate_samples, prompts);
    s->sample_every = CONFIG_GET_IN(c, generate_samples, every);
    s->sample_tokens = CONFIG_GET_IN(c, generate_samples, max_new_tokens);
    s->save_steps = CONFIG_GET(c, save_steps);
    s->saves_per_epoch = CONFIG_GET(c, saves_per_epoch);
    s->save_minutes = CONFIG_GET(c, save_minutes);
    s->save_limit = CONFIG_GET(c, save_total_limit);
    s->save_only_model = CONFIG_GET(c, save_only_model);
    s->resume = CONFIG_GET(c, resume_from_checkpoint);
    s->tensorboard = CONFIG_GET(c, use_tensorboard);
}

void settings_make(Settings *out, const Config *c, const Backend *be)
{
    (void)CONFIG_GET(c, max_gpu_memory);
    (void)CONFIG_GET(c, deterministic);
    (void)CONFIG_GET(c, global_batch_size); /* gradient_accumulation_steps follows it */
    Settings s = {
        .model = model_options(c, be),
        .checkpointing = CONFIG_GET(c, gradient_checkpointing),
        .host_embeddings = CONFIG_GET(c, host_embeddings),
        .memory_budget = CONFIG_GET(c, memory_budget),
        .optimizer = optimizer_options(c),
        .watchdog = {.threshold = CONFIG_GET_IN(c, loss_watchdog, threshold),
                     .patience = CONFIG_GET_IN(c, loss_watchdog, patience),
                     .action = CONFIG_GET_IN(c, loss_watchdog, action)},
        .threads = settings_threads(c),
        .micro_rows = CONFIG_GET(c, micro_batch_size),
        .epochs = CONFIG_GET(c, num_epochs),
        .max_steps = CONFIG_GET(c, max_steps) > 0 ? c->max_steps : 0,
        .seed = (uint64_t)CONFIG_GET(c, seed),
        .adapter_path = CONFIG_GET(c, adapter_path),
    };
    s.update_rows = s.micro_rows * CONFIG_GET(c, gradient_accumulation_steps);
    output_settings(&s, c);
    *out = s;
}

Schedule settings_schedule(const Config *c, int64_t total_steps)
{
    const int64_t by_steps = config_share(CONFIG_GET(c, warmup_steps), total_steps);
    int64_t by_ratio = (int64_t)ceil(CONFIG_GET(c, warmup_ratio) * (double)total_steps);
    if (by_ratio > 0 && by_ratio >= total_steps)
        by_ratio = total_steps - 1; /* the first update of a warmup has rate 0 */
    return (Schedule){
        .kind = CONFIG_GET(c, lr_scheduler),
        .peak = CONFIG_GET(c, learning_rate),
        .floor = CONFIG_GET(c, min_lr_ratio),
        .warmup = by_steps ? by_steps : by_ratio,
        .total = total_steps,
        .decay = (int64_t)ceil(CONFIG_GET(c, lr_decay_ratio) * (double)total_steps),
    };
}

DataOptions settings_data(const Config *c, const DataSource *sources, int count, int64_t vocabulary, bool evaluation)
{
    const bool packing = CONFIG_GET(c, sample_packing), eval_packing = CONFIG_GET(c, eval_sample_packing);
    const char *cache = CONFIG_GET(c, dataset_prepared_path);
    return (DataOptions){
        .sources = sources,
        .source_count = count,
        .sequence_len = CONFIG_GET(c, sequence_len),
        .excess = CONFIG_GET(c, excess_length_strategy),
        .train_on_inputs = CONFIG_GET(c, train_on_inputs),
        .mask_history = CONFIG_GET(c, mask_history),
        .dedupe = CONFIG_GET(c, dedupe),
        .packing = evaluation ? eval_packing : packing,
        .shuffle = CONFIG_GET(c, shuffle) && !evaluation,
        .seed = (uint64_t)CONFIG_GET(c, seed),
        .threads = (int)CONFIG_GET(c, dataset_num_proc),
        .cache_folder = cache && strcmp(cache, "none") != 0 ? cache : NULL,
        .vocab_size = (int32_t)vocabulary,
    };
}

void settings_skip_data(const Config *c)
{
    (void)CONFIG_GET(c, datasets);
    (void)CONFIG_GET(c, test_datasets);
    (void)CONFIG_GET(c, val_set_size);
    (void)CONFIG_GET(c, tokenizer);
    (void)CONFIG_GET(c, chat_template);
    (void)settings_data(c, NULL, 0, 0, false);
}

/* How many of `per_epoch` marks an epoch lie at or before row `rows` of the endless sequence. */
static int64_t marks(int64_t rows, int64_t per_epoch, int64_t epoch_rows)
{
    return rows / epoch_rows * per_epoch + rows % epoch_rows * per_epoch / epoch_rows;
}

bool settings_due(int64_t steps, int64_t per_epoch, int64_t step, int64_t update_rows, int64_t epoch_rows)
{
    if (steps > 0) return step % steps == 0;
    if (per_epoch <= 0 || epoch_rows <= 0) return false;
    return marks(step * update_rows, per_epoch, epoch_rows) > marks((step - 1) * update_rows, per_epoch, epoch_rows);
}
