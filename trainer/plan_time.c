/*
 * plan_time.c - the time of an average update of a planned run, from its shapes and its data.
 */
#include "base/mem.h"
#include "trainer/plan.h"

enum { HEAD_ROWS = 128 }; /* about what model/head.c chooses on the CPU */

/* Averages of the training data; full rows of trained tokens without any. */
static void average_batch(StepShape *shape, const Plan *p, const Session *s)
{
    shape->tokens = (double)p->max_tokens;
    shape->segment_tokens = (double)CONFIG_GET(s->config, sequence_len);
    shape->trained_share = 1;
    if (!s->train) return;
    double tokens = 0, squares = 0;
    for (int64_t i = 0; i < dataset_samples(s->train); i++) {
        const double length = (double)dataset_sample(s->train, i).tokens;
        tokens += length;
        squares += length * length;
    }
    double trained = 0;
    for (int64_t row = 0; row < p->rows; row++)
        trained += (double)dataset_row_trained(s->train, 0, row);
    const int64_t rows = p->rows < s->settings.micro_rows ? p->rows : s->settings.micro_rows;
    shape->tokens = tokens / (double)p->rows * (double)rows;
    shape->segment_tokens = squares / tokens;
    shape->trained_share = trained / tokens;
}

static double read_bytes_a_weight(const ModelSummary *m, const StepShape *shape)
{
    const double weights = (double)step_linear_weights(shape->spec);
    const double saved = (double)(m->quantized_bytes + m->saved_bytes) / 2; /* weights in 4 bits */
    return ((double)m->quantized_bytes + (weights - saved) * shape->element_bytes) / weights;
}

bool plan_time(StepTime *out, const Plan *p, const Session *s, const DeviceCard *card, Err *err)
{
    const Lora *lora = model_lora(s->model);
    const ModelOptions *o = &s->settings.model;
    int *ranks = mem_alloc((size_t)lora->module_count, sizeof *ranks, err);
    if (!ranks) return false;
    for (int i = 0; i < lora->module_count; i++)
        ranks[i] = lora->of_module[i] >= 0 ? lora->adapters[lora->of_module[i]].r : 0;
    StepShape shape = {
        .spec = source_spec(s->source),
        .ranks = ranks,
        .element_bytes = (int)dtype_bytes(o->compute),
        .kept_layers = p->kept_layers,
        .offloaded_layers = p->offloaded_layers,
        .head_rows = o->loss_rows > 0 ? o->loss_rows : HEAD_ROWS,
        .layer_weights = o->layer_weights,
        .host_embeddings = p->host_embeddings > 0,
        .dropout = o->lora.dropout > 0,
        .micro_batches = (double)ceil_div(s->settings.update_rows, s->settings.micro_rows),
        .trainable = lora->table.trainable,
        .state_bytes = s->settings.optimizer.eight_bit ? 2 + 8.0 / 256 : 8,
        .paged_bytes = adamw_paged_bytes(s->optimizer),
    };
    average_batch(&shape, p, s);
    shape.offloaded_bytes = (double)p->offloaded / (double)p->max_tokens * shape.tokens;
    shape.read_bytes_a_weight = read_bytes_a_weight(&p->model, &shape);
    *out = step_time(card, &shape);
    mem_free(ranks);
    return true;
}
