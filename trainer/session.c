#include "trainer/session.h"

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "trainer/device.h"
#include "trainer/process.h"

#include <inttypes.h>
#include <string.h>

static ModelArenas empty_arenas(void)
{
    return (ModelArenas){
        .weights = {.name = "weights"},
        .state = {.name = "state"},
        .activations = {.name = "activations"},
        .scratch = {.name = "scratch"},
    };
}

/* A plan for a card takes the CUDA backend's sizes, and in a build without it the CPU's, which differ in scratch. */
static bool open_backend(Session *s, const SessionOptions *options, Err *err)
{
    BackendOptions backend = {
        .kind = QLORA_CUDA ? BACKEND_CUDA : BACKEND_CPU, /* of a plan */
        .threads = settings_threads(s->config),
        .reference = options->reference,
        .plan_for = options->plan_for,
        .hooks = options->hooks,
    };
    DeviceChoice device;
    CHECK(device_parse(&device, CONFIG_GET(s->config, device)));
    return options->plan_for ? backend_open(&s->backend, &backend, err)
                             : device_open(&s->backend, &device, &backend, err);
}

bool session_open(Session *out, const Config *c, const SessionOptions *options, Err *err)
{
    Session s = {.config = c, .arenas = empty_arenas()};
    TRY(open_backend(&s, options, err));
    settings_make(&s.settings, c, s.backend);
    TRY(source_resolve(&s.base_path, CONFIG_GET(c, base_model), CONFIG_GET(c, revision), err));
    TRY(source_open(&s.source, s.base_path, options->weights, err));
    *out = s;
    return true;
fail:
    session_close(&s);
    return false;
}

void session_release(Session *s)
{
    adamw_free(s->optimizer);
    model_free(s->model);
    s->optimizer = NULL;
    s->model = NULL;
    if (!s->backend) return;
    backend_arena_release(s->backend, &s->arenas.scratch);
    backend_arena_release(s->backend, &s->arenas.activations);
    backend_arena_release(s->backend, &s->arenas.state);
    backend_arena_release(s->backend, &s->arenas.weights);
}

void session_close(Session *s)
{
    session_release(s);
    lora_config_free(&s->adapter);
    dataset_close(s->validation); /* borrows the tokens of the training set when it was split off */
    dataset_close(s->train);
    chat_template_close(s->chat);
    tokenizer_close(s->tokenizer);
    source_close(s->source);
    mem_free(s->base_path);
    mem_free(s->tokenizer_path);
    backend_close(s->backend);
    *s = (Session){0};
}

bool session_open_tokenizer(Session *s, Err *err)
{
    const char *path = CONFIG_GET(s->config, tokenizer);
    const char *chat = CONFIG_GET(s->config, chat_template);
    if (path && !file_exists(path)) {
        if (!source_resolve(&s->tokenizer_path, path, NULL, err)) return err_note(err, "tokenizer");
    } else {
        s->tokenizer_path = mem_copy_text(path ? path : s->base_path, err);
        if (!s->tokenizer_path) return false;
    }
    return tokenizer_open(&s->tokenizer, s->tokenizer_path, err) &&
           chat_template_open(&s->chat, chat, s->tokenizer, err);
}

bool session_open_tokenizer_if_any(Session *s, Err *err)
{
    if (CONFIG_GET(s->config, tokenizer) || !file_is_folder(s->base_path)) return session_open_tokenizer(s, err);
    char *path = path_join(s->base_path, "tokenizer.json", err);
    if (!path) return false;
    const bool there = file_exists(path);
    mem_free(path);
    if (there) return session_open_tokenizer(s, err);
    (void)CONFIG_GET(s->config, chat_template);
    s->tokenizer_path = mem_copy_text(s->base_path, err);
    return s->tokenizer_path != NULL;
}

static bool open_sources(Dataset **out, const Session *s, const ConfigDatasets *list, bool evaluation, Err *err)
{
    DataSource *sources = mem_alloc((size_t)list->count, sizeof *sources, err);
    if (!sources) return false;
    for (int i = 0; i < list->count; i++)
        sources[i] = dataset_config_source(&list->items[i]);
    const DataOptions options =
        settings_data(s->config, sources, list->count, source_spec(s->source)->vocab, evaluation);
    const bool ok = dataset_open(out, &options, s->tokenizer, s->chat, err);
    mem_free(sources);
    return ok;
}

static bool open_data(Session *s, bool training, Err *err)
{
    const ConfigDatasets train = CONFIG_GET(s->config, datasets), test = CONFIG_GET(s->config, test_datasets);
    const double share = CONFIG_GET(s->config, val_set_size);
    const bool split = !test.count && share > 0;
    if ((training || split) && !open_sources(&s->train, s, &train, false, err)) return false;
    if (split) return dataset_split(s->train, &s->validation, share, err);
    if (!test.count) return true;
    return open_sources(&s->validation, s, &test, true, err) || err_note(err, "test_datasets");
}

static bool check_positions(const Session *s, const Dataset *d, Err *err)
{
    const int64_t positions = source_spec(s->source)->max_positions;
    int64_t longest = 0; /* of those that are trained on */
    for (int64_t i = 0; d && i < dataset_samples(d); i++)
        longest = dataset_sample(d, i).tokens > longest ? dataset_sample(d, i).tokens : longest;
    if (positions == 0 || longest <= positions) return true;
    if (source_spec(s->source)->rope_dynamic) {
        return FAIL(err, ERR_MODEL,
                    "the longest sample has %" PRId64
                    " tokens, and dynamic rope scaling, which this base model asks for "
                    "beyond %" PRId64 " positions, is not supported; lower sequence_len to %" PRId64,
                    longest, positions, positions);
    }
    log_warn("the longest sample has %" PRId64 " tokens, and the base model knows %" PRId64
             " positions (max_position_embeddings); what lies beyond them it has never seen: lower sequence_len",
             longest, positions);
    return true;
}

bool session_open_data(Session *s, bool training, Err *err)
{
    return open_data(s, training, err) && check_positions(s, s->train, err) && check_positions(s, s->validation, err);
}

bool session_use_adapter(Session *s, const char *folder, Err *err)
{
    ModelOptions *o = &s->settings.model;
    o->training = false;
    o->adapters = folder != NULL;
    if (!folder) return true;
    lora_config_free(&s->adapter);
    if (!lora_config_read(&s->adapter, folder, err)) return false;
    o->lora = s->adapter.options;
    return true;
}

bool session_create_model(Session *s, const char *page_path, Err *err)
{
    adamw_free(s->optimizer);
    model_free(s->model);
    s->optimizer = NULL;
    s->model = NULL;
    if (!model_create(&s->model, s->backend, s->source, &s->settings.model, err)) return false;
    if (!s->settings.model.training) return true;
    const Lora *lora = model_lora(s->model);
    int modules;
    if (!lora_check_used(lora, model_modules(s->model, &modules), err)) return false;
    AdamwOptions options = s->settings.optimizer;
    options.page_path = page_path;
    return adamw_create(&s->optimizer, s->backend, &lora->table, &options, err);
}

static void place(const Session *s, ModelArenas *arenas)
{
    model_place(s->model, arenas);
    if (s->optimizer) adamw_place(s->optimizer, &arenas->state, &arenas->scratch);
}

void session_measure(const Session *s, ModelArenas *measured)
{
    *measured = empty_arenas();
    place(s, measured);
}

static bool reserve(Session *s, Arena *arena, const Arena *measured, Err *err)
{
    return backend_arena_reserve(s->backend, arena, measured->peak, err);
}

bool session_place(Session *s, Err *err)
{
    ModelArenas measured;
    session_measure(s, &measured);
    process_trim();
    if (!reserve(s, &s->arenas.weights, &measured.weights, err) ||
        !reserve(s, &s->arenas.state, &measured.state, err) ||
        !reserve(s, &s->arenas.activations, &measured.activations, err) ||
        !reserve(s, &s->arenas.scratch, &measured.scratch, err)) {
        return false;
    }
    place(s, &s->arenas);
    if (!model_load(s->model, s->source, err)) return false;
    process_trim();
    return !s->optimizer || adamw_start(s->optimizer, err);
}

bool session_load_adapter(Session *s, const char *folder, Err *err)
{
    if (!lora_load(model_lora(s->model), s->backend, model_params(s->model), folder, err)) return false;
    model_params_changed(s->model);
    return true;
}
