#include "trainer/plan_device.h"

#include "backend/host_memory.h"
#include "base/log.h"
#include "trainer/config_table.h"
#include "trainer/process.h"

#include <string.h>

enum {
    LOSS_ROWS = 256,         /* of logits at once: fewer read the table of the head more often than products hide */
    KEEP_FREE_PERCENT = 2,   /* of the card: other small users of it, and what the driver rounds */
    PROCESS_STEP = 16 << 20, /* what is resident differs from run to run, a plan does not */
    STAGING_HOST = 24 << 20, /* two copy buffers of 4 MiB and the small arrays of one launch (backend/cuda.h) */
    STAGING_DEVICE = (16 << 20) + (64 << 10), /* the same, and what a launch adds up in (backend/cuda.h) */
    DRIVER_BYTES = 400 << 20,                 /* of the driver and cuBLAS in the process; unmeasured */
};

/* ---- the session ---- */

/* 16-bit products everywhere: bf16 from 8.0 on, fp16 before; f32 only where the configuration asks for it. */
static void as_on_card(Session *s)
{
    ModelOptions *o = &s->settings.model;
    const ComputeKind asked = CONFIG_GET(s->config, bnb_4bit_compute_dtype);
    if (asked != COMPUTE_FP32 && dtype_bytes(o->compute) != 2)
        o->compute = DTYPE_BF16; /* this build has no CUDA: as large as fp16 */
    o->loss_rows = LOSS_ROWS;
    o->layer_weights = true;
}

bool plan_device_open(Session *out, const Config *c, const DeviceCard *card, Err *err)
{
    const SessionOptions options = {.weights = false, .plan_for = card->capability};
    if (!session_open(out, c, &options, err)) return false;
    as_on_card(out);
    return true;
}

/* ---- memory by purpose ---- */

static uint64_t table_bytes(const Session *s)
{
    const ModelSpec *m = source_spec(s->source);
    return (uint64_t)(m->vocab * m->hidden) * dtype_bytes(s->settings.model.compute);
}

/* Layer inputs, attention outputs and their statistics: what a recomputed layer leaves for its backward. What offloaded
 * ones leave is in host memory, but for a few. */
static uint64_t checkpoint_bytes(const Session *s, int64_t tokens)
{
    const ModelSpec *m = source_spec(s->source);
    const int away = s->settings.model.offloaded_layers - OFFLOAD_SETS;
    const uint64_t width = (uint64_t)m->hidden, q = (uint64_t)m->heads * (uint64_t)m->head_dim;
    const uint64_t element = dtype_bytes(s->settings.model.compute),
                   here = (uint64_t)(m->layers - (away > 0 ? away : 0));
    return (uint64_t)tokens * ((here + 1) * width * element + here * (q * element + (uint64_t)m->heads * 4));
}

/* W of all groups of a layer, or of the largest, without the strips for the adapters. */
static uint64_t decode_bytes(const Session *s)
{
    const ModelSpec *m = source_spec(s->source);
    static const Projection groups[][2] = {
        {PROJ_Q,    PROJ_V   },
        {PROJ_O,    PROJ_O   },
        {PROJ_GATE, PROJ_UP  },
        {PROJ_DOWN, PROJ_DOWN}
    };
    int64_t most = 0, sum = 0;
    for (size_t g = 0; g < ARRAY_COUNT(groups); g++) {
        int64_t rows = 0;
        for (int p = (int)groups[g][0]; p <= (int)groups[g][1]; p++)
            rows += projection_rows(m, (Projection)p);
        const int64_t all = rows * projection_cols(m, groups[g][0]);
        most = most > all ? most : all;
        sum += all;
    }
    return (uint64_t)(s->settings.model.layer_weights ? sum : most) * dtype_bytes(s->settings.model.compute);
}

static uint64_t logits_bytes(const Session *s)
{
    const ModelOptions *o = &s->settings.model;
    const int64_t rows = o->loss_rows < o->max_tokens ? o->loss_rows : o->max_tokens;
    const uint64_t gradient = o->compute == DTYPE_F32 ? 0 : dtype_bytes(o->compute); /* f32: in place */
    return (uint64_t)(rows * source_spec(s->source)->vocab) * (4 + gradient);
}

/* Part of what an arena holds; the rest stays in *rest, so that the terms always add up. */
static uint64_t carve(uint64_t *rest, uint64_t part)
{
    if (part > *rest) part = *rest;
    *rest -= part;
    return part;
}

static void split_arenas(DeviceMemory *m, const Session *s, const ModelArenas *arenas)
{
    uint64_t *bytes = m->bytes;
    const uint64_t values = (uint64_t)model_lora(s->model)->table.total * 4;
    Arena states = {.name = "state"}, buffers = {.name = "scratch"};
    adamw_place(s->optimizer, &states, &buffers);
    uint64_t weights = arenas->weights.peak, state = arenas->state.peak, acts = arenas->activations.peak;
    uint64_t scratch = arenas->scratch.peak;
    bytes[DEVICE_EMBEDDINGS] = carve(&weights, table_bytes(s) - model_host_embedding_bytes(s->model));
    bytes[DEVICE_HEAD] = source_spec(s->source)->tied ? 0 : carve(&weights, table_bytes(s));
    bytes[DEVICE_WEIGHTS] = weights;
    bytes[DEVICE_ADAPTERS] = carve(&state, values);
    bytes[DEVICE_GRADIENTS] = carve(&state, values);
    bytes[DEVICE_OPTIMIZER] = state;
    bytes[DEVICE_CHECKPOINTS] = carve(&acts, checkpoint_bytes(s, s->settings.model.max_tokens));
    bytes[DEVICE_ACTIVATIONS] = acts;
    bytes[DEVICE_PAGING] = carve(&scratch, buffers.peak);
    bytes[DEVICE_DECODE] = carve(&scratch, decode_bytes(s));
    bytes[DEVICE_LOGITS] = carve(&scratch, logits_bytes(s));
    bytes[DEVICE_SCRATCH] = scratch;
}

/*
 * What is given up for memory, in steps: none; one layer more is recomputed instead of kept, up to all L; then one layer
 * more is offloaded, up to all (2 L). Device memory never grows from one to the next, host memory never shrinks.
 */
static int kept_at(const DevicePlan *p, int saving)
{
    return saving < p->counts.layers ? p->counts.layers - saving : 0;
}

static int offloaded_at(const DevicePlan *p, int saving)
{
    return saving > p->counts.layers ? saving - p->counts.layers : 0;
}

/* Leaves model and optimizer of that shape in the session. */
static bool measure(DeviceMemory *out, Session *s, const DevicePlan *p, int64_t tokens, int saving, Err *err)
{
    const DeviceCard *card = &p->card;
    ModelOptions *o = &s->settings.model;
    ModelArenas arenas;
    o->max_tokens = tokens;
    o->kept_layers = kept_at(p, saving);
    o->offloaded_layers = offloaded_at(p, saving);
    if (!session_create_model(s, p->page_path, err)) return false;
    session_measure(s, &arenas);
    DeviceMemory m = {0};
    split_arenas(&m, s, &arenas);
    m.bytes[DEVICE_STAGING] = STAGING_DEVICE;
    m.bytes[DEVICE_WORKSPACE] = card->workspace_bytes;
    m.bytes[DEVICE_CONTEXT] = card->context_bytes;
    for (int i = 0; i < DEVICE_MEMORY_COUNT; i++)
        m.peak += m.bytes[i];
    *out = m;
    return true;
}

/* ---- what fits ---- */

static void host_memory(DevicePlan *p, const Session *s)
{
    process_trim();
    p->host[HOST_PROCESS] = (uint64_t)round_up((int64_t)process_resident_bytes(), PROCESS_STEP);
    p->host[HOST_PAGES] = adamw_paged_bytes(s->optimizer);
    p->host[HOST_EMBEDDINGS] = model_host_embedding_bytes(s->model);
    p->host[HOST_OFFLOADED] = model_offloaded_bytes(s->model);
    p->host[HOST_STAGING] = STAGING_HOST;
    p->host[HOST_LOADING] = plan_loading_bytes(source_spec(s->source));
    p->host[HOST_DRIVER] = DRIVER_BYTES;
    p->host_peak = 0;
    for (int i = 0; i < HOST_MEMORY_COUNT; i++)
        p->host_peak += p->host[i];
}

/* Whether what the model in the session has in host memory may lie there. */
static bool host_holds(DevicePlan *p, const Session *s)
{
    const size_t bytes = model_offloaded_bytes(s->model) + model_host_embedding_bytes(s->model);
    if (bytes == 0 || p->host_budget == UINT64_MAX) return true;
    host_memory(p, s);
    return p->host_peak <= p->host_budget;
}

/* The least and the most that may be given up, from the setting. */
static void saving_range(const DevicePlan *p, const Session *s, int *low, int *high)
{
    const int layers = p->counts.layers;
    *low = 0;
    *high = 2 * layers;
    switch (s->settings.checkpointing) {
    case CHECKPOINTING_AUTO: return;
    case CHECKPOINTING_FALSE: *high = 0; return;
    case CHECKPOINTING_TRUE: *low = *high = layers; return;
    case CHECKPOINTING_OFFLOAD: *low = *high; return;
    }
}

/* Whether the link brings a token's row in 1 % of the time that products of a token take at least. */
static bool cheap_over_link(const DeviceCard *card, const Session *s)
{
    const ModelSpec *m = source_spec(s->source);
    const double row = (double)m->hidden * (double)dtype_bytes(s->settings.model.compute) / card->link;
    return row < 0.01 * 4 * (double)step_linear_weights(m) / card->matmul;
}

static bool place_embeddings(DevicePlan *p, Session *s, Err *err)
{
    const HostPlace asked = s->settings.host_embeddings;
    ModelOptions *o = &s->settings.model;
    DeviceMemory m;
    int low, high;
    o->host_embeddings = asked == HOST_TRUE || (asked == HOST_AUTO && cheap_over_link(&p->card, s));
    if (asked == HOST_TRUE && source_spec(s->source)->tied)
        log_info("host_embeddings has no effect: the head of this model is its embedding table");
    if (!o->host_embeddings || asked == HOST_TRUE) return true;
    saving_range(p, s, &low, &high);
    if (!measure(&m, s, p, p->counts.max_tokens, low, err)) return false;
    o->host_embeddings = host_holds(p, s);
    return true;
}

/* Gives up the least with which so many tokens fit the device, by bisection; the most when nothing does. */
static bool choose_saving(int *saving, DeviceMemory *m, DevicePlan *p, Session *s, int64_t tokens, Err *err)
{
    int low, high;
    saving_range(p, s, &low, &high);
    while (low < high) {
        const int middle = low + (high - low) / 2;
        if (!measure(m, s, p, tokens, middle, err)) return false;
        if (m->peak <= p->budget)
            high = middle;
        else
            low = middle + 1;
    }
    *saving = low;
    return measure(m, s, p, tokens, low, err);
}

static bool choose_layers(DevicePlan *p, Session *s, Err *err)
{
    int saving;
    if (!choose_saving(&saving, &p->memory, p, s, p->counts.max_tokens, err)) return false;
    p->kept_layers = kept_at(p, saving);
    p->offloaded_layers = offloaded_at(p, saving);
    p->fits = p->memory.peak <= p->budget && host_holds(p, s);
    return true;
}

/* Giving up the most decides for the device; where the host is short, the least that the device needs decides for it. */
static bool fits(bool *yes, DevicePlan *p, Session *s, int64_t tokens, Err *err)
{
    int low, high;
    DeviceMemory m;
    saving_range(p, s, &low, &high);
    if (!measure(&m, s, p, tokens, high, err)) return false;
    *yes = m.peak <= p->budget;
    if (!*yes || host_holds(p, s)) return true;
    if (!choose_saving(&low, &m, p, s, tokens, err)) return false;
    *yes = host_holds(p, s);
    return true;
}

/* The largest count of pieces of so many tokens that fits, at most `most`; 0 when not even one does. */
static bool largest(int64_t *out, DevicePlan *p, Session *s, int64_t piece, int64_t most, Err *err)
{
    int64_t low = 0, high = 1;
    if (most > (INT32_MAX / 2) / piece) most = (INT32_MAX / 2) / piece;
    bool yes = true;
    while (yes && high <= most) {
        if (!fits(&yes, p, s, high * piece, err)) return false;
        if (yes) low = high;
        if (yes) high *= 2;
    }
    if (high > most) high = most + 1;
    while (high - low > 1) {
        const int64_t middle = low + (high - low) / 2;
        if (!fits(&yes, p, s, middle * piece, err)) return false;
        if (yes)
            low = middle;
        else
            high = middle;
    }
    *out = low;
    return true;
}

/* Host memory for what so many tokens offload. */
static bool offloaded_by(uint64_t *bytes, DevicePlan *p, Session *s, int64_t tokens, Err *err)
{
    int saving;
    DeviceMemory m;
    *bytes = 0;
    if (tokens == 0) return true;
    if (!choose_saving(&saving, &m, p, s, tokens, err)) return false;
    *bytes = model_offloaded_bytes(s->model);
    return true;
}

static bool find_limits(DevicePlan *p, Session *s, Err *err)
{
    const int64_t row = CONFIG_GET(s->config, sequence_len);
    /* no more than a configuration may say */
    const int64_t longest = (int64_t)config_fields[CONFIG_KEY_sequence_len].high;
    const int64_t rows = (int64_t)config_fields[CONFIG_KEY_micro_batch_size].high;
    uint64_t of_row = 0, of_rows = 0;
    bool ok = largest(&p->sequence_len_by_memory, p, s, 1, longest, err) &&
              largest(&p->max_micro_batch_size, p, s, row, rows, err);
    const int64_t positions = source_spec(s->source)->max_positions;
    p->max_sequence_len = p->sequence_len_by_memory;
    if (positions > 0 && p->max_sequence_len > positions) p->max_sequence_len = positions;
    ok = ok && offloaded_by(&of_row, p, s, p->max_sequence_len, err) &&
         offloaded_by(&of_rows, p, s, p->max_micro_batch_size * row, err);
    p->limits_offloaded = of_row > of_rows ? of_row : of_rows;
    return ok;
}

static void set_budget(DevicePlan *p, const Session *s)
{
    const int64_t asked = CONFIG_GET(s->config, max_gpu_memory);
    p->budget = p->card.memory_bytes / 100 * (100 - KEEP_FREE_PERCENT);
    if (asked > 0 && (uint64_t)asked < p->budget) p->budget = (uint64_t)asked;
    p->host_budget = s->settings.memory_budget > 0 ? (uint64_t)s->settings.memory_budget : UINT64_MAX;
}

/* What no setting of rows or activations changes. */
static uint64_t fixed_bytes(const DeviceMemory *m)
{
    const uint64_t *b = m->bytes;
    return b[DEVICE_WEIGHTS] + b[DEVICE_EMBEDDINGS] + b[DEVICE_HEAD] + b[DEVICE_DECODE] + b[DEVICE_STAGING] +
           b[DEVICE_WORKSPACE] + b[DEVICE_CONTEXT];
}

static bool refuse(const DevicePlan *p, uint64_t limit, const char *whose, Err *err)
{
    const uint64_t fixed = fixed_bytes(&p->memory);
    if (fixed > limit) {
        return FAIL(
            err, ERR_MEMORY,
            "the weights and what every step needs beside them take %.2f GB of device memory and %s %.2f GB; no "
            "shorter row helps: use a smaller model or a card with more memory",
            plan_gb_up(fixed), whose, plan_gb_down(limit));
    }
    const bool all = p->offloaded_layers == p->counts.layers; /* nothing more to give up */
    return FAIL(err, ERR_MEMORY,
                "the run needs %.2f GB of device memory and %s %.2f GB; lower sequence_len or micro_batch_size%s",
                plan_gb_up(p->memory.peak), whose, plan_gb_down(limit),
                all ? "" : ", or set gradient_checkpointing: offload");
}

static bool refuse_host(const DevicePlan *p, Err *err)
{
    return FAIL(err, ERR_MEMORY,
                "the run needs %.2f GB of host memory, %.2f GB of it for what %d layers offload and %.2f GB for "
                "embeddings, and may use %.2f GB; lower sequence_len or micro_batch_size, raise memory_budget, or set "
                "gradient_checkpointing: true and host_embeddings: false",
                plan_gb_up(p->host_peak), (double)p->host[HOST_OFFLOADED] / 1e9, p->offloaded_layers,
                (double)p->host[HOST_EMBEDDINGS] / 1e9, plan_gb_down(p->host_budget));
}

static bool keep_to_budget(const DevicePlan *p, const Session *s, Err *err)
{
    const int64_t asked = CONFIG_GET(s->config, max_gpu_memory);
    if (asked <= 0 || p->memory.peak <= (uint64_t)asked) return true;
    return refuse(p, (uint64_t)asked, "max_gpu_memory allows", err);
}

/* Everything else about the chosen shape, which the session holds. */
static bool describe(DevicePlan *p, const Session *s, Err *err)
{
    p->counts.model = model_summary(s->model);
    p->counts.kept_layers = p->kept_layers;
    p->counts.offloaded_layers = p->offloaded_layers;
    host_memory(p, s);
    p->counts.offloaded = p->host[HOST_OFFLOADED];
    p->counts.host_embeddings = p->host[HOST_EMBEDDINGS];
    return plan_time(&p->time, &p->counts, s, &p->card, err);
}

bool plan_device_make(DevicePlan *out, Session *s, const DeviceCard *card, const Prompts *prompts, Err *err)
{
    DevicePlan p = {.card = *card};
    if (!plan_count(&p.counts, s, prompts, err)) return false;
    s->settings.model.cache_tokens = p.counts.cache_tokens;
    set_budget(&p, s);
    if (!place_embeddings(&p, s, err) || !find_limits(&p, s, err) || !choose_layers(&p, s, err) ||
        !describe(&p, s, err))
        return false;
    if (!plan_check_quantized(&p.counts, s, err) || !keep_to_budget(&p, s, err)) return false;
    *out = p;
    return true;
}

/* ---- a card that is there ---- */

/* Figures of a card of that name, or of one like it, with the memory that this one has free. */
static DeviceCard present_card(const Session *s, bool *known)
{
    DeviceCard card = device_card_at(0);
    *known = device_card_of_driver(&card, backend_name(s->backend));
    /* The context is there already, so it is not in what is free. */
    card.memory_bytes = backend_memory(s->backend).free + card.context_bytes;
    return card;
}

static void fill_plan(Plan *out, const DevicePlan *p, const Session *s)
{
    ModelArenas arenas;
    session_measure(s, &arenas);
    *out = p->counts;
    out->weights = arenas.weights.peak;
    out->state = arenas.state.peak;
    out->activations = arenas.activations.peak;
    out->scratch = arenas.scratch.peak;
    out->paged = adamw_paged_bytes(s->optimizer);
    out->process = p->memory.bytes[DEVICE_CONTEXT];
    out->products = p->memory.bytes[DEVICE_WORKSPACE] + p->memory.bytes[DEVICE_STAGING];
    out->peak_memory_bytes = p->memory.peak;
    out->host_memory_bytes = p->host_peak;
    out->checkpoint_bytes = plan_checkpoint_bytes(out, s);
}

bool plan_on_device(Plan *out, Session *s, const Prompts *prompts, const char *page_path, Err *err)
{
    bool known;
    DevicePlan p = {.card = present_card(s, &known), .page_path = page_path};
    s->settings.model.loss_rows = LOSS_ROWS;
    if (!plan_count(&p.counts, s, prompts, err)) return false;
    s->settings.model.cache_tokens = p.counts.cache_tokens;
    set_budget(&p, s);
    if (p.host_budget == UINT64_MAX) /* the rest of the machine lives too */
        p.host_budget = process_resident_bytes() + host_memory_available("") / 10 * 9;
    if (!place_embeddings(&p, s, err) || !choose_layers(&p, s, err) || !describe(&p, s, err) ||
        !keep_to_budget(&p, s, err))
        return false;
    if (p.memory.peak > p.budget) return refuse(&p, p.budget, "the card has free", err);
    if (!p.fits) return refuse_host(&p, err);
    fill_plan(out, &p, s);
    if (known) out->time = p.time;
    return plan_check_quantized(out, s, err);
}
