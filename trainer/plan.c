#include "trainer/plan.h"

#include "backend/host_memory.h"
#include "backend/matmul.h"
#include "base/log.h"
#include "trainer/evaluate.h"
#include "trainer/plan_device.h"
#include "trainer/process.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

/* Counting the longest micro-batch exactly costs a pass over the rows; beyond this many it is bounded instead. */
enum { EXACT_ROWS_MAX = 2000000 };

static void count_updates(Plan *p, const Session *s)
{
    const Settings *o = &s->settings;
    if (s->train) {
        p->rows = dataset_rows(s->train);
        p->total_rows = (int64_t)ceil((double)p->rows * o->epochs - 1e-9);
        if (p->total_rows < 1) p->total_rows = 1;
        p->total_steps = ceil_div(p->total_rows, o->update_rows);
    }
    if (o->max_steps) {
        p->total_steps = o->max_steps;
        p->total_rows = o->max_steps > INT64_MAX / o->update_rows ? INT64_MAX : o->max_steps * o->update_rows;
    }
    if (s->validation) p->evaluation_rows = dataset_rows(s->validation);
}

static int64_t count_trained(const Plan *p, const Dataset *d)
{
    const int64_t epochs = p->total_rows / p->rows, rest = p->total_rows % p->rows;
    int64_t all = 0, last = 0;
    for (int64_t row = 0; row < p->rows; row++)
        all += dataset_row_trained(d, 0, row);
    for (int64_t row = 0; row < rest; row++)
        last += dataset_row_trained(d, epochs, row);
    return epochs * all + last;
}

/* Tokens of the longest micro-batch of `rows` rows of the endless sequence. */
static bool longest_batch(int64_t *longest, const Dataset *d, int64_t rows, int64_t micro_rows, Err *err)
{
    BatchCursor *cursor = NULL;
    if (!batch_cursor_create(&cursor, d, micro_rows, err)) return false;
    int64_t found = batch_cursor_capacity(cursor);
    if (micro_rows == 1) rows = dataset_rows(d); /* every epoch has the same rows */
    if (rows <= EXACT_ROWS_MAX) found = evaluate_longest(cursor, rows, micro_rows);
    batch_cursor_free(cursor);
    if (found > *longest) *longest = found;
    return true;
}

static bool shape(Plan *p, const Session *s, const Prompts *prompts, Err *err)
{
    const Settings *o = &s->settings;
    if (!s->train) p->max_tokens = o->micro_rows * CONFIG_GET(s->config, sequence_len);
    if (p->max_tokens > INT32_MAX) {
        return FAIL(err, ERR_CONFIG,
                    "micro_batch_size: %" PRId64 " rows of sequence_len %" PRId64 " are more than %d tokens, the most "
                    "of a micro-batch; lower one of them",
                    o->micro_rows, CONFIG_GET(s->config, sequence_len), INT32_MAX);
    }
    if (s->train && !longest_batch(&p->max_tokens, s->train, p->total_rows, o->micro_rows, err)) return false;
    if (s->validation && !longest_batch(&p->max_tokens, s->validation, p->evaluation_rows, o->micro_rows, err)) {
        return false;
    }
    const int64_t warmup = config_share(CONFIG_GET(s->config, warmup_steps), p->total_steps);
    if (s->train && warmup > 0 && warmup >= p->total_steps) {
        return FAIL(err, ERR_CONFIG,
                    "warmup_steps: %" PRId64 " of the run's %" PRId64
                    " updates leave none at the full rate; lower it, or "
                    "train longer (num_epochs, max_steps)",
                    warmup, p->total_steps);
    }
    if (prompts && prompts->count) p->cache_tokens = prompts_longest(prompts) + o->sample_tokens;
    return true;
}

static void add_up(Plan *p)
{
    /* Arenas are resident from their reservation on; staging is gone before the first step. */
    const uint64_t arenas = p->weights + p->state + p->activations + p->scratch;
    p->peak_memory_bytes = p->process + arenas + (p->products > p->loading ? p->products : p->loading);
}

/* Bytes that come on top of what the process has now, with this many layers kept. */
static bool measure(Plan *p, Session *s, int kept_layers, const char *page_path, Err *err)
{
    ModelOptions *o = &s->settings.model;
    o->max_tokens = p->max_tokens;
    o->cache_tokens = p->cache_tokens;
    o->kept_layers = p->kept_layers = kept_layers;
    if (!session_create_model(s, page_path, err)) return false;
    ModelArenas arenas;
    session_measure(s, &arenas);
    p->weights = arenas.weights.peak;
    p->state = arenas.state.peak;
    p->activations = arenas.activations.peak;
    p->scratch = arenas.scratch.peak;
    p->paged = adamw_paged_bytes(s->optimizer);
    add_up(p);
    return true;
}

static uint64_t largest_matrix(const ModelSpec *spec)
{
    uint64_t most = 0;
    for (Projection p = 0; p < PROJ_COUNT; p++) {
        const uint64_t n = (uint64_t)projection_rows(spec, p) * (uint64_t)projection_cols(spec, p);
        if (n > most) most = n;
    }
    return most;
}

/* What products add to the process beyond the first small ones (warm_up): compiled code, and packing buffers that a
 * thread fills up to a size that the library chooses. Measured with one and two threads, a tiny model and one of 135 M
 * weights, 512 and 2,048 tokens, bf16 and f32: within 1 % of the peak; tests hold it to 5 %. */
static uint64_t product_bytes(const Backend *be, const ModelSpec *spec)
{
    const uint64_t code = 5 << 19, most = 3 << 20, matrix = largest_matrix(spec) * 4;
    return code + (uint64_t)backend_threads(be) * (matrix < most ? matrix : most);
}

/* Every kind of product once, small: the library's code, its tables and the threads are in memory from here on. */
static bool warm_up(Backend *be, DType dtype, Err *err)
{
    enum { SIDE = 64 };
    Arena arena = {.name = "warm-up"};
    if (!backend_arena_reserve(be, &arena, 1 << 20, err)) return false;
    const Tensor a = arena_matrix(&arena, dtype, SIDE, SIDE), b = arena_matrix(&arena, dtype, SIDE, SIDE);
    const Tensor out = arena_matrix(&arena, dtype, SIDE, SIDE), sum = arena_matrix(&arena, DTYPE_F32, SIDE, SIDE);
    const Tensor scratch = arena_vector(&arena, DTYPE_F32, matmul_gradient_scratch(SIDE, SIDE, SIDE));
    const Matmul plain = {.out = &out, .a = &a, .b = &b};
    const Matmul transposed = {.out = &out, .a = &a, .b = &b, .transpose_b = true};
    const Matmul added = {.out = &sum, .a = &a, .b = &b, .transpose_a = true, .accumulate = true};
    matmul(be, &plain);
    matmul(be, &transposed);
    matmul(be, &added);
    matmul_gradient(be, &sum, &a, &b, 1, &scratch);
    const bool ok = backend_sync(be, err);
    backend_arena_release(be, &arena);
    return ok;
}

/* The largest matrix in f32 with its codes beside it, or a chunk of the embeddings, which stay in 16 bits. */
uint64_t plan_loading_bytes(const ModelSpec *spec)
{
    const uint64_t chunk = 1 << 20, matrix = largest_matrix(spec);
    const uint64_t embeddings = (uint64_t)spec->vocab * (uint64_t)spec->hidden;
    const uint64_t quantized = matrix * 4 + matrix / 2 + matrix / 64 * 9;
    const uint64_t kept = (embeddings < chunk ? embeddings : chunk) * 4;
    return quantized > kept ? quantized : kept;
}

static bool fixed_costs(Plan *p, const Session *s, Err *err)
{
    const ModelSpec *spec = source_spec(s->source);
    if (!warm_up(s->backend, s->settings.model.compute, err)) return false;
    process_trim();
    p->process = process_resident_bytes();
    p->products = product_bytes(s->backend, spec);
    p->loading = plan_loading_bytes(spec);
    return true;
}

static uint64_t budget(const Session *s, const Plan *p)
{
    if (s->settings.memory_budget) return (uint64_t)s->settings.memory_budget;
    return p->process + host_memory_available("") / 10 * 9; /* the rest of the machine lives too */
}

double plan_gb_up(uint64_t bytes)
{
    return ceil((double)bytes / 1e7) / 100;
}

double plan_gb_down(uint64_t bytes)
{
    return floor((double)bytes / 1e7) / 100;
}

static bool refuse(const Plan *p, uint64_t limit, Err *err)
{
    return FAIL(err, ERR_MEMORY,
                "the run needs %.2f GB of memory and may use %.2f GB; lower sequence_len or micro_batch_size, set "
                "gradient_checkpointing: true, or raise memory_budget",
                plan_gb_up(p->peak_memory_bytes), plan_gb_down(limit));
}

/* The most kept layers that fit, by bisection: more layers never take less. */
static bool choose_layers(Plan *p, Session *s, const char *page_path, Err *err)
{
    const uint64_t limit = budget(s, p);
    const CheckpointingKind kind = s->settings.checkpointing;
    int low = 0, high = p->layers;
    if (kind == CHECKPOINTING_TRUE || kind == CHECKPOINTING_OFFLOAD) high = 0;
    if (kind == CHECKPOINTING_FALSE) low = p->layers;
    if (!measure(p, s, high, page_path, err)) return false;
    if (p->peak_memory_bytes <= limit) return true;
    if (low == high) return refuse(p, limit, err);
    if (!measure(p, s, low, page_path, err)) return false;
    if (p->peak_memory_bytes > limit) return refuse(p, limit, err);
    while (high - low > 1) {
        const int middle = low + (high - low) / 2;
        if (!measure(p, s, middle, page_path, err)) return false;
        if (p->peak_memory_bytes <= limit) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return measure(p, s, low, page_path, err);
}

bool plan_count(Plan *out, const Session *s, const Prompts *prompts, Err *err)
{
    Plan p = {.layers = source_spec(s->source)->layers};
    count_updates(&p, s);
    if (s->train) p.trained_tokens = count_trained(&p, s->train);
    if (!shape(&p, s, prompts, err)) return false;
    *out = p;
    return true;
}

uint64_t plan_checkpoint_bytes(const Plan *p, const Session *s)
{
    const uint64_t values = (uint64_t)model_lora(s->model)->table.total * 4;
    return values + (s->settings.save_only_model ? 0 : p->state + p->paged) + (1 << 20);
}

bool plan_check_quantized(const Plan *p, const Session *s, Err *err)
{
    if (!s->settings.model.quantize || p->model.quantized) return true;
    return FAIL(err, ERR_CONFIG,
                "adapter: qlora asks for a 4-bit base, but no module is to be quantized; look at "
                "quant_skip_modules, or say adapter: lora");
}

bool plan_make(Plan *out, Session *s, const Prompts *prompts, const char *page_path, Err *err)
{
    Plan p;
    if (backend_kind(s->backend) == BACKEND_CUDA) return plan_on_device(out, s, prompts, page_path, err);
    if (config_is_set(s->config, "max_gpu_memory"))
        log_info("max_gpu_memory has no effect on the CPU; see memory_budget");
    if (s->settings.host_embeddings == HOST_TRUE) log_info("host_embeddings has no effect on the CPU");
    if (s->settings.checkpointing == CHECKPOINTING_OFFLOAD)
        log_info("gradient_checkpointing: offload is the same as true on the CPU, whose memory is the host's");
    if (!plan_count(&p, s, prompts, err)) return false;
    if (!fixed_costs(&p, s, err)) return false;
    if (!choose_layers(&p, s, page_path, err)) return false;
    p.process = process_resident_bytes(); /* with the model's own tables */
    add_up(&p);
    p.model = model_summary(s->model);
    if (!plan_check_quantized(&p, s, err)) return false;
    p.checkpoint_bytes = plan_checkpoint_bytes(&p, s);
    *out = p;
    return true;
}
