/* What waits or lies in host memory changes no bit: checkpoints of layers, whatever runs between, and the embeddings. */
#include "tests/model/rig.h"
#include "tests/support/scratch.h"

#include "base/file.h"
#include "base/safetensors.h"

#define PLAIN "golden/data/model/plain"
#define UNTIED "golden/data/model/bias" /* a head of its own */
enum { SOURCE_LAYERS = 3, TOKENS = 24 };

/* ---- models of any depth ---- */

static void write_config(Scratch *s, int layers)
{
    size_t length;
    char *text = scratch_read(PLAIN "/config.json", &length);
    static const char key[] = "\"num_hidden_layers\": 3";
    char *at = strstr(text, key), out[2048];
    assert_non_null(at);
    const int n = snprintf(out, sizeof out, "%.*s\"num_hidden_layers\": %d%s", (int)(at - text), text, layers,
                           at + sizeof key - 1);
    assert_true(n > 0 && n < (int)sizeof out);
    scratch_write(scratch_path(s, "config.json"), out, (size_t)n);
    free(text);
}

/* Calls `use` for each tensor of a model whose layer l is layer l % 3 of PLAIN. */
typedef void UseTensor(SafetensorsWriter *w, const Safetensors *st, const SafetensorsEntry *e, const char *name);

static void each_tensor(SafetensorsWriter *w, const Safetensors *st, int layers, UseTensor *use)
{
    static const char prefix[] = "model.layers.";
    for (int i = 0; i < st->count; i++) {
        const SafetensorsEntry *e = &st->entries[i];
        if (strncmp(e->name, prefix, sizeof prefix - 1) != 0) {
            use(w, st, e, e->name);
            continue;
        }
        for (int l = atoi(e->name + sizeof prefix - 1); l < layers; l += SOURCE_LAYERS) {
            char name[160];
            snprintf(name, sizeof name, "%s%d%s", prefix, l, e->name + sizeof prefix);
            use(w, st, e, name);
        }
    }
}

static void declare(SafetensorsWriter *w, const Safetensors *st, const SafetensorsEntry *e, const char *name)
{
    (void)st;
    MUST(safetensors_writer_declare(w, name, e->dtype, e->rank, e->shape, &rig_err));
}

static void copy(SafetensorsWriter *w, const Safetensors *st, const SafetensorsEntry *e, const char *name)
{
    (void)name;
    void *values = malloc(e->bytes);
    assert_non_null(values);
    MUST(safetensors_read(st, e, 0, e->bytes, values, &rig_err));
    MUST(safetensors_writer_data(w, values, e->bytes, &rig_err));
    free(values);
}

static Scratch deep_model(int layers)
{
    Scratch s = scratch_make();
    Safetensors st;
    SafetensorsWriter *w;
    write_config(&s, layers);
    MUST(safetensors_open(&st, PLAIN "/model.safetensors", &rig_err));
    MUST(safetensors_writer_create(&w, scratch_path(&s, "model.safetensors"), &rig_err));
    MUST(safetensors_writer_metadata(w, "format", "pt", &rig_err));
    each_tensor(w, &st, layers, declare);
    MUST(safetensors_writer_begin(w, &rig_err));
    each_tensor(w, &st, layers, copy);
    MUST(safetensors_writer_finish(w, &rig_err));
    safetensors_close(&st);
    return s;
}

/* ---- what training yields ---- */

/* The last row of a batch has a target too: without one its gradient is zero, and what its checkpoint holds is nobody's
 * concern. */
static void make_batch(RigBatch *b, const int64_t *lengths, int segments, int64_t vocab, uint64_t seed)
{
    rig_batch_begin(b);
    for (int i = 0; i < segments; i++)
        rig_batch_add(b, lengths[i], vocab, seed + (uint64_t)i);
    b->targets[b->batch.tokens - 1] = (int32_t)seed;
    b->batch.trained_tokens++;
}

typedef struct Outcome {
    float *grads;
    size_t grad_bytes, pinned;
    size_t weights, table; /* bytes of the arena; of host memory */
    double losses[5];
    float logits[2];
} Outcome;

/* Micro-batches that grow, shrink and differ, with an evaluation and a generated token between them: whatever a copy
 * misses is then what another pass left there. */
static void train(const Rig *r, Outcome *o)
{
    const int64_t vocab = model_spec(r->model)->vocab;
    static RigBatch b[3];
    make_batch(&b[0], (const int64_t[]){9, 13}, 2, vocab, 3);
    make_batch(&b[1], (const int64_t[]){10}, 1, vocab, 11);
    make_batch(&b[2], (const int64_t[]){5, TOKENS - 5}, 2, vocab, 23);
    float *logits = rig_floats(vocab);
    model_zero_grads(r->model);
    o->losses[0] = model_train(r->model, &b[0].batch, 40, 3, 0);
    o->losses[1] = model_train(r->model, &b[1].batch, 40, 3, 1);
    o->losses[2] = model_evaluate(r->model, &b[2].batch);
    model_prefill(r->model, 0, b[0].ids, 7, logits);
    o->logits[0] = logits[5];
    model_decode(r->model, b[0].ids, 1, logits);
    o->logits[1] = logits[5];
    o->losses[3] = model_train(r->model, &b[2].batch, 40, 4, 0);
    o->losses[4] = model_train(r->model, &b[1].batch, 40, 4, 1);
    free(logits);
}

static ModelOptions options_of(DType compute, int kept, int offloaded)
{
    ModelOptions o = rig_options(compute, TOKENS);
    o.adapters = true;
    o.lora = (LoraOptions){.r = 4, .alpha = 6, .dropout = 0.1};
    o.cache_tokens = 12;
    o.kept_layers = kept;
    o.offloaded_layers = offloaded;
    return o;
}

static Outcome outcome_of(const char *folder, ModelOptions o)
{
    Outcome out;
    Rig r = rig_open(folder, NULL, o);
    rig_fill_adapters(&r, 0.2f);
    train(&r, &out);
    MUST(backend_sync(r.be, &rig_err));
    out.grads = rig_download(&r, model_grads(r.model));
    out.grad_bytes = tensor_bytes(model_grads(r.model));
    out.pinned = model_offloaded_bytes(r.model);
    out.weights = r.arenas.weights.peak;
    out.table = model_host_embedding_bytes(r.model);
    rig_close(&r);
    return out;
}

/* Frees what they hold. */
static void assert_same(Outcome *a, Outcome *b)
{
    assert_memory_equal(a->losses, b->losses, sizeof a->losses);
    assert_memory_equal(a->logits, b->logits, sizeof a->logits);
    assert_int_equal(a->grad_bytes, b->grad_bytes);
    assert_memory_equal(a->grads, b->grads, a->grad_bytes);
    free(a->grads);
    free(b->grads);
}

static const struct {
    int layers, kept, offloaded;
} cases[] = {
    {4, 0, 4  },
    {7, 1, 5  },
#if !QLORA_TEST_CUDA
    {1, 0, 1  },
    {3, 0, 9  },
    {4, 0, 3  },
    {5, 0, 5  },
    {7, 0, 7  },
    {7, 0, 5  },
    {8, 2, 100},
#endif
};

static void offload_changes_no_bit(DType compute)
{
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        const int layers = cases[i].layers;
        Scratch s = deep_model(layers);
        Outcome keep = outcome_of(s.folder, options_of(compute, layers, 0));
        Outcome ours = outcome_of(s.folder, options_of(compute, cases[i].kept, cases[i].offloaded));
        assert_same(&keep, &ours);
        scratch_remove(&s);
    }
}

static void offload_changes_no_bit_in_bf16(void **state)
{
    (void)state;
    offload_changes_no_bit(DTYPE_BF16);
}

static void offload_changes_no_bit_in_f32(void **state)
{
    (void)state;
    offload_changes_no_bit(DTYPE_F32);
}

/* ---- memory ---- */

/* Bytes of the activations, and in *pinned of the host. */
static size_t activations(const char *folder, int kept, int offloaded, bool training, size_t *pinned)
{
    ModelOptions o = rig_options(DTYPE_BF16, TOKENS);
    o.adapters = training;
    o.training = training;
    o.lora = (LoraOptions){.r = 4, .alpha = 6};
    o.kept_layers = kept;
    o.offloaded_layers = offloaded;
    Rig r = rig_open(folder, NULL, o);
    const size_t bytes = r.arenas.activations.peak;
    *pinned = model_offloaded_bytes(r.model);
    rig_close(&r);
    return bytes;
}

static void what_leaves_the_device_is_on_the_host(void **state)
{
    (void)state;
    enum { LAYERS = 7 };
    Scratch s = deep_model(LAYERS);
    size_t none, pinned, one = 0;
    const size_t checkpointed = activations(s.folder, 0, 0, true, &none);
    assert_int_equal(none, 0);
    for (int offloaded = 1; offloaded <= LAYERS; offloaded++) {
        const size_t bytes = activations(s.folder, 0, offloaded, true, &pinned);
        const size_t moved = offloaded > OFFLOAD_SETS ? (size_t)(offloaded - OFFLOAD_SETS) : 0;
        if (moved == 1) one = pinned;
        assert_int_equal(pinned, moved * one);
        /* arenas round each tensor up */
        assert_in_range(checkpointed - bytes, pinned, pinned + moved * 3 * ARENA_ALIGN);
    }
    assert_true(one >= (size_t)TOKENS * 2 * 2 * 32);
    (void)activations(s.folder, 2, LAYERS, true, &pinned);
    assert_int_equal(pinned, (LAYERS - 2 - OFFLOAD_SETS) * one);
    (void)activations(s.folder, 0, LAYERS, false, &pinned);
    assert_int_equal(pinned, 0); /* nothing waits for a backward */
    scratch_remove(&s);
}

/* ---- embeddings ---- */

static void embeddings_in_host_memory_change_no_bit(void **state)
{
    (void)state;
    static const DType dtypes[] = {DTYPE_BF16, DTYPE_F32};
    for (size_t i = 0; i < ARRAY_COUNT(dtypes); i++) {
        ModelOptions o = options_of(dtypes[i], 1, 2);
        o.neftune_alpha = 5;
        Outcome device = outcome_of(UNTIED, o);
        o.host_embeddings = true;
        Outcome host = outcome_of(UNTIED, o);
        assert_int_equal(device.table, 0);
        assert_true(host.table > 0);
        assert_in_range(device.weights - host.weights, host.table, host.table + ARENA_ALIGN);
        assert_same(&device, &host);
    }
}

static void a_table_that_is_the_head_too_stays_on_the_device(void **state)
{
    (void)state;
    ModelOptions o = options_of(DTYPE_BF16, 0, 0);
    Outcome device = outcome_of(PLAIN, o);
    o.host_embeddings = true;
    Outcome host = outcome_of(PLAIN, o);
    assert_true(host.table == 0 && device.weights == host.weights);
    assert_same(&device, &host);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(offload_changes_no_bit_in_bf16),
        cmocka_unit_test(offload_changes_no_bit_in_f32),
        cmocka_unit_test(embeddings_in_host_memory_change_no_bit),
        cmocka_unit_test(a_table_that_is_the_head_too_stays_on_the_device),
        cmocka_unit_test(what_leaves_the_device_is_on_the_host),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
