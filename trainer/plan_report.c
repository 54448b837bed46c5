#include "trainer/plan.h"

#include "base/mem.h"

#include <inttypes.h>

static bool memory_line(Text *out, const char *purpose, uint64_t bytes, Err *err)
{
    return text_format(out, err, "  %-34s %10.1f MB\n", purpose, (double)bytes / 1e6);
}

static bool stats_text(Text *out, const char *name, const Dataset *d, Err *err)
{
    const DatasetStats *s = dataset_stats(d);
    return text_format(out, err,
                       "%s: %" PRId64 " samples in %" PRId64 " rows, %" PRId64 " tokens, %" PRId64
                       " trained (%.1f %%), longest sample %" PRId64 " tokens\n",
                       name, dataset_samples(d), dataset_rows(d), s->tokens, s->trained_tokens,
                       s->tokens ? 100.0 * (double)s->trained_tokens / (double)s->tokens : 0.0, s->longest) &&
           (s->too_long + s->truncated + s->split + s->without_target + s->duplicates == 0 ||
            text_format(out, err,
                        "  of %" PRId64 " records read: %" PRId64 " too long and dropped, %" PRId64
                        " truncated, %" PRId64 " split, %" PRId64 " without a trained token and dropped, %" PRId64
                        " duplicates\n",
                        s->rows_read, s->too_long, s->truncated, s->split, s->without_target, s->duplicates));
}

bool plan_model_text(const Plan *p, Text *out, Err *err)
{
    const ModelSummary *m = &p->model;
    if (m->quantized &&
        !text_format(out, err, "4-bit base: %d modules (%s), %.1f MB, %.1f MB less than in 16 bits; %d kept\n",
                     m->quantized, m->quantized_names, (double)m->quantized_bytes / 1e6, (double)m->saved_bytes / 1e6,
                     m->kept)) {
        return false;
    }
    return text_format(out, err, "trainable params: %" PRId64 " || all params: %" PRId64 " || trainable%%: %.4f\n",
                       m->trainable, m->total, 100.0 * (double)m->trainable / (double)m->total);
}

static bool memory_text(const Plan *p, Text *out, Err *err)
{
    const bool card = p->host_memory_bytes > 0;
    return text_add_z(out, card ? "memory of the device\n" : "memory\n", err) &&
           memory_line(out, "frozen base", p->weights, err) &&
           memory_line(out, "adapters, gradients, optimizer", p->state, err) &&
           memory_line(out, "activations", p->activations, err) && memory_line(out, "scratch", p->scratch, err) &&
           memory_line(out, card ? "workspace of cuBLAS, staging" : "matrix library", p->products, err) &&
           memory_line(out, card ? "CUDA context and code" : "program, tokenizer, tokens", p->process, err) &&
           memory_line(out, "peak", p->peak_memory_bytes, err) &&
           (!card || memory_line(out, "peak of the host", p->host_memory_bytes, err)) &&
           (!p->host_embeddings || memory_line(out, "in it: embeddings, pinned", p->host_embeddings, err)) &&
           (!p->offloaded || memory_line(out, "in it: inputs of layers, pinned", p->offloaded, err)) &&
           (!p->paged || memory_line(out, card ? "in it: paged optimizer states" : "on disk: paged optimizer states",
                                     p->paged, err));
}

bool plan_layers_text(const Plan *p, Text *out, Err *err)
{
    return text_format(out, err,
                       "longest micro-batch %" PRId64 " tokens; activations of %d of %d layers are kept, the others "
                       "recomputed\n",
                       p->max_tokens, p->kept_layers, p->layers) &&
           (!p->offloaded_layers || text_format(out, err, "inputs of %d of them wait in pinned host memory (%.1f MB)\n",
                                                p->offloaded_layers, (double)p->offloaded / 1e6));
}

bool plan_data_text(const Session *s, Text *out, Err *err)
{
    if (s->train && !stats_text(out, "training data", s->train, err)) return false;
    return !s->validation || stats_text(out, "evaluation data", s->validation, err);
}

bool plan_updates_text(const Plan *p, const Session *s, Text *out, Err *err)
{
    if (!p->total_steps) return text_add_z(out, "updates: unknown without the data\n", err);
    if (!p->rows) return text_format(out, err, "updates: %" PRId64 "\n", p->total_steps);
    return text_format(out, err, "updates: %" PRId64 " of %" PRId64 " rows, %.2f epochs, %" PRId64 " trained tokens\n",
                       p->total_steps, s->settings.update_rows, (double)p->total_rows / (double)p->rows,
                       p->trained_tokens);
}

bool plan_time_text(const StepTime *t, int64_t total_steps, Text *out, Err *err)
{
    if (!text_format(out, err, "time of an update of %.0f tokens, estimated\n", t->tokens)) return false;
    for (int i = 0; i < STEP_TERMS; i++) {
        if (!text_format(out, err, "  %-34s %10.2f ms %5.1f %%\n", step_term_name((StepTerm)i), t->seconds[i] * 1e3,
                         100 * t->seconds[i] / t->total)) {
            return false;
        }
    }
    if (!text_format(out, err,
                     "  %-34s %10.2f ms\nabout %.0f tokens a second, %.3g TFLOP/s of the model's arithmetic\n", "sum",
                     t->total * 1e3, step_tokens_per_second(t), t->flops / t->total / 1e12)) {
        return false;
    }
    return !total_steps || text_format(out, err, "about %.1f minutes for %" PRId64 " updates\n",
                                       t->total * (double)total_steps / 60, total_steps);
}

bool plan_text(const Plan *p, const Session *s, Text *out, Err *err)
{
    return plan_model_text(p, out, err) && plan_data_text(s, out, err) && memory_text(p, out, err) &&
           plan_layers_text(p, out, err) && plan_updates_text(p, s, out, err) &&
           (p->time.total <= 0 || plan_time_text(&p->time, p->total_steps, out, err));
}

static json_t *memory_json(const Plan *p)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "weights", (json_int_t)p->weights, "state",
                     (json_int_t)p->state, "activations", (json_int_t)p->activations, "scratch", (json_int_t)p->scratch,
                     "paged", (json_int_t)p->paged, "offloaded", (json_int_t)p->offloaded, "host_embeddings",
                     (json_int_t)p->host_embeddings, "products", (json_int_t)p->products, "process",
                     (json_int_t)p->process);
}

void plan_time_json(json_t *o, const StepTime *t)
{
    json_t *terms = json_object();
    for (int i = 0; terms && i < STEP_TERMS; i++)
        json_object_set_new(terms, step_term_name((StepTerm)i), json_real(t->seconds[i]));
    json_object_set_new(o, "tokens_per_second", json_real(step_tokens_per_second(t)));
    json_object_set_new(o, "seconds_per_update", json_real(t->total));
    json_object_set_new(o, "time", terms);
    json_object_set_new(o, "tokens_per_update", json_real(t->tokens));
    json_object_set_new(o, "model_flops_per_update", json_real(t->flops));
}

bool plan_json(const Plan *p, const Session *s, Text *out, Err *err)
{
    json_begin();
    json_t *o = json_pack("{s:I, s:I, s:I, s:I, s:I, s:i, s:I, s:I, s:i, s:I, s:i, s:I, s:I, s:o}", "peak_memory_bytes",
                          (json_int_t)p->peak_memory_bytes, "total_steps", (json_int_t)p->total_steps, "trained_tokens",
                          (json_int_t)p->trained_tokens, "trainable_parameters", (json_int_t)p->model.trainable,
                          "total_parameters", (json_int_t)p->model.total, "quantized_modules", p->model.quantized,
                          "quantized_bytes", (json_int_t)p->model.quantized_bytes, "saved_bytes",
                          (json_int_t)p->model.saved_bytes, "kept_layers", p->kept_layers, "max_tokens",
                          (json_int_t)p->max_tokens, "layers", p->layers, "rows", (json_int_t)p->rows,
                          "checkpoint_bytes", (json_int_t)p->checkpoint_bytes, "memory", memory_json(p));
    if (o) json_object_set_new(o, "offloaded_layers", json_integer(p->offloaded_layers));
    if (o && s->train) json_object_set_new(o, "samples", json_integer(dataset_samples(s->train)));
    if (o && s->validation) json_object_set_new(o, "evaluation_samples", json_integer(dataset_samples(s->validation)));
    if (o && p->host_memory_bytes)
        json_object_set_new(o, "host_memory_bytes", json_integer((json_int_t)p->host_memory_bytes));
    if (o && p->time.total > 0) plan_time_json(o, &p->time);
    char *text = json_print(o, JSON_COMPACT, "the plan", err);
    const bool ok = text && text_add_z(out, text, err);
    mem_free(text);
    json_decref(o);
    return ok;
}
