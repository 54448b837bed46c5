/* Properties of the decoder: what must not matter does not, to the bit or within f32 rounding. */
#include "tests/model/rig.h"

#include "base/file.h"
#include "model/decoder.h"

#define TIED "golden/data/model/tied"
#define BIAS "golden/data/model/bias"
#define PLAIN "golden/data/model/plain"

static ModelOptions with_adapters(DType compute, int64_t max_tokens)
{
    ModelOptions o = rig_options(compute, max_tokens);
    o.adapters = true;
    o.lora = (LoraOptions){.r = 4, .alpha = 6};
    return o;
}

static void four_segments(RigBatch *b, int64_t vocab)
{
    static const int64_t lengths[] = {9, 17, 1, 6};
    rig_batch_begin(b);
    for (size_t i = 0; i < ARRAY_COUNT(lengths); i++)
        rig_batch_add(b, lengths[i], vocab, i);
}

/* Segments [first, first + count) of another batch. */
static void take_segments(RigBatch *to, const RigBatch *from, int first, int count)
{
    rig_batch_begin(to);
    for (int s = first; s < first + count; s++) {
        for (int i = from->starts[s]; i < from->starts[s + 1]; i++) {
            const int64_t at = to->batch.tokens++;
            to->ids[at] = from->ids[i];
            to->targets[at] = from->targets[i];
            to->positions[at] = from->positions[i];
            to->batch.trained_tokens += from->targets[i] != TARGET_NONE;
        }
        to->starts[++to->batch.segments] = (int32_t)to->batch.tokens;
    }
}

/* Loss and gradients of the four segments, `per` of them in each micro-batch. */
static float *accumulated(const Rig *r, const RigBatch *all, int per, double *loss)
{
    static RigBatch part;
    *loss = 0;
    model_zero_grads(r->model);
    for (int first = 0; first < all->batch.segments; first += per) {
        take_segments(&part, all, first, per);
        *loss += model_train(r->model, &part.batch, all->batch.trained_tokens, 1, first / per);
    }
    return rig_download(r, model_grads(r->model));
}

static void packed_equals_unpacked_and_micro_batches_add_up(void **state)
{
    (void)state;
    static RigBatch all;
    Rig r = rig_open(BIAS, NULL, with_adapters(DTYPE_F32, 40));
    rig_fill_adapters(&r, 0.2f);
    four_segments(&all, model_spec(r.model)->vocab);
    double whole = 0, halves = 0, single = 0;
    float *a = accumulated(&r, &all, 4, &whole), *b = accumulated(&r, &all, 2, &halves);
    float *c = accumulated(&r, &all, 1, &single);
    const int64_t n = model_lora(r.model)->table.total;
    assert_true(fabs(whole - halves) <= 1e-6 * whole && fabs(whole - single) <= 1e-6 * whole);
    assert_true(rig_distance(b, a, n) <= 2e-6);
    assert_true(rig_distance(c, a, n) <= 2e-6);
    free(a);
    free(b);
    free(c);
    rig_close(&r);
}

static float *gradients_with(const char *base, ModelOptions o, double *loss)
{
    static RigBatch all;
    Rig r = rig_open(base, NULL, o);
    rig_fill_adapters(&r, 0.2f);
    four_segments(&all, model_spec(r.model)->vocab);
    float *grads = rig_gradients(&r, &all, loss);
    rig_close(&r);
    return grads;
}

static void recompute_changes_no_bit(void **state)
{
    (void)state;
    static const DType dtypes[] = {DTYPE_F32, DTYPE_BF16};
    static const double dropouts[] = {0, 0.2};
    for (int i = 0; i < 4; i++) {
        ModelOptions o = with_adapters(dtypes[i % 2], 40);
        o.lora.dropout = dropouts[i / 2];
        double keep = 0, one = 0, none = 0;
        float *a = gradients_with(PLAIN, o, &keep);
        o.kept_layers = 1;
        float *b = gradients_with(PLAIN, o, &one);
        o.kept_layers = 0;
        float *c = gradients_with(PLAIN, o, &none);
        Lora const *l = NULL;
        Rig r = rig_open(PLAIN, NULL, o);
        l = model_lora(r.model);
        const size_t bytes = (size_t)l->table.total * sizeof(float);
        assert_true(keep == one && keep == none && keep > 0);
        assert_memory_equal(a, b, bytes);
        assert_memory_equal(a, c, bytes);
        free(a);
        free(b);
        free(c);
        rig_close(&r);
    }
}

static void the_size_of_loss_chunks_hardly_matters(void **state)
{
    (void)state;
    ModelOptions o = with_adapters(DTYPE_F32, 40);
    double big = 0, small = 0;
    float *a = gradients_with(TIED, o, &big);
    o.loss_rows = 3;
    float *b = gradients_with(TIED, o, &small);
    assert_true(fabs(big - small) <= 1e-6 * big);
    assert_true(rig_distance(a, b, 1024) <= 1e-6);
    free(a);
    free(b);
}

static void two_runs_give_the_same_bits(void **state)
{
    (void)state;
    static RigBatch all;
    ModelOptions o = with_adapters(DTYPE_BF16, 40);
    o.lora.dropout = 0.1;
    o.neftune_alpha = 5;
    Rig r = rig_open(TIED, NULL, o);
    rig_fill_adapters(&r, 0.2f);
    four_segments(&all, model_spec(r.model)->vocab);
    double first = 0, second = 0;
    float *a = rig_gradients(&r, &all, &first);
    model_evaluate(r.model, &all.batch); /* in between, and it leaves the gradients alone */
    float *still = rig_download(&r, model_grads(r.model));
    float *b = rig_gradients(&r, &all, &second);
    const size_t bytes = (size_t)model_lora(r.model)->table.total * sizeof(float);
    assert_true(first == second);
    assert_memory_equal(a, still, bytes);
    assert_memory_equal(a, b, bytes);
    free(a);
    free(b);
    free(still);
    rig_close(&r);
}

/* Only the last segment has targets: what a loss depends on has reached it. */
static void last_of_four_segments(RigBatch *b, int64_t vocab)
{
    four_segments(b, vocab);
    b->batch.trained_tokens = 0;
    for (int64_t i = 0; i < b->batch.tokens; i++) {
        if (i < b->starts[3]) b->targets[i] = TARGET_NONE;
        b->batch.trained_tokens += b->targets[i] != TARGET_NONE;
    }
}

/* The loss of that batch: trained at a step and micro-batch of a seed, or at step -1 evaluated. */
static double loss_at(ModelOptions o, uint64_t seed, int64_t step, int micro)
{
    static RigBatch b;
    o.seed = seed;
    Rig r = rig_open(TIED, NULL, o);
    rig_fill_adapters(&r, 0.2f);
    last_of_four_segments(&b, model_spec(r.model)->vocab);
    const double loss = step < 0 ? model_evaluate(r.model, &b.batch)
                                 : model_train(r.model, &b.batch, b.batch.trained_tokens, step, micro);
    rig_close(&r);
    return loss;
}

static void masks_and_noise_differ_by_seed_step_and_micro_batch(void **state)
{
    (void)state;
    const ModelOptions plain = with_adapters(DTYPE_F32, 40);
    for (int kind = 0; kind < 2; kind++) {
        ModelOptions o = plain;
        if (kind == 0) o.lora.dropout = 0.3;
        if (kind == 1) o.neftune_alpha = 5;
        const double base = loss_at(o, 7, 1, 0);
        const double others[] = {loss_at(o, 8, 1, 0), loss_at(o, 7, 2, 0), loss_at(o, 7, 1, 1), loss_at(o, 7, -1, 0)};
        assert_true(base == loss_at(o, 7, 1, 0));
        for (size_t i = 0; i < ARRAY_COUNT(others); i++) {
            assert_true(others[i] != base);
            for (size_t k = 0; k < i; k++)
                assert_true(others[i] != others[k]);
        }
        assert_true(others[3] == loss_at(plain, 7, -1, 0)); /* evaluation knows neither masks nor noise */
    }
}

/* Every module has a stream of its own, and so has its next micro-batch: no mask is drawn twice in a step. */
static void masks_of_micro_batches_do_not_meet(void **state)
{
    (void)state;
    static RigBatch b;
    ModelOptions o = with_adapters(DTYPE_F32, 40);
    o.lora.dropout = 0.3;
    Rig r = rig_open(TIED, NULL, o);
    four_segments(&b, model_spec(r.model)->vocab);
    uint32_t next = 0;
    for (int micro = 0; micro < 3; micro++) {
        Pass p;
        pass_begin(r.model, &p, PASS_TRAIN, &b.batch, 1, micro);
        assert_true(p.linear.key.stream >= next);
        next = p.linear.key.stream + (uint32_t)r.model->module_count;
    }
    rig_close(&r);
}

static float *logits_of(const char *base, ModelOptions o, const RigBatch *b, int64_t *count)
{
    Rig r = rig_open(base, NULL, o);
    *count = b->batch.tokens * model_spec(r.model)->vocab;
    float *logits = rig_floats(*count);
    model_logits(r.model, &b->batch, b->batch.tokens, logits);
    rig_close(&r);
    return logits;
}

static void fresh_adapters_leave_the_base_alone(void **state)
{
    (void)state;
    static RigBatch all;
    four_segments(&all, 80);
    static const DType dtypes[] = {DTYPE_F32, DTYPE_BF16};
    for (size_t i = 0; i < ARRAY_COUNT(dtypes); i++) {
        int64_t n = 0;
        ModelOptions o = with_adapters(dtypes[i], 40);
        float *with = logits_of(BIAS, o, &all, &n);
        o.adapters = o.training = false;
        float *without = logits_of(BIAS, o, &all, &n);
        assert_memory_equal(with, without, (size_t)n * sizeof(float));
        free(with);
        free(without);
    }
}

/* ---- generation ---- */

static void expect_logits(const Rig *r, const int32_t *ids, int64_t n, const float *logits, double bound)
{
    static RigBatch b;
    const int64_t vocab = model_spec(r->model)->vocab;
    rig_batch_begin(&b);
    rig_batch_add(&b, n, vocab, 0);
    memcpy(b.ids, ids, (size_t)n * sizeof *ids);
    float *expected = rig_floats(vocab);
    model_logits(r->model, &b.batch, 1, expected);
    const double distance = rig_distance(logits, expected, vocab);
    if (!(distance <= bound)) fail_msg("after %lld tokens: %g away", (long long)n, distance);
    free(expected);
}

static void generate_case(DType dtype, bool decoded, bool training, double bound)
{
    ModelOptions o = with_adapters(dtype, 24);
    o.training = training;
    o.cache_tokens = 20;
    o.sequences = 3;
    o.decoded_weights = decoded;
    Rig r = rig_open(TIED, NULL, o);
    rig_fill_adapters(&r, 0.2f);
    const int64_t vocab = model_spec(r.model)->vocab;
    static const int64_t prompts[3] = {5, 1, 9};
    int32_t ids[3][20];
    float *logits = rig_floats(3 * vocab);
    for (int s = 0; s < 3; s++) {
        for (int i = 0; i < 20; i++)
            ids[s][i] = (int32_t)(rng_u32((RngKey){.seed = (uint64_t)s, .purpose = RNG_TEST}, (uint64_t)i) % 96);
        model_prefill(r.model, s, ids[s], prompts[s], logits);
        assert_int_equal(model_cached(r.model, s), prompts[s]);
        expect_logits(&r, ids[s], prompts[s], logits, bound);
    }
    for (int step = 0; step < 6; step++) {
        const int32_t next[3] = {ids[0][5 + step], ids[1][1 + step], ids[2][9 + step]};
        model_decode(r.model, next, 3, logits);
        for (int s = 0; s < 3; s++)
            expect_logits(&r, ids[s], prompts[s] + step + 1, logits + s * vocab, bound);
    }
    free(logits);
    rig_close(&r);
}

static void a_cached_token_sees_what_the_whole_sequence_sees(void **state)
{
    (void)state;
    generate_case(DTYPE_F32, false, false, 1e-5);
    generate_case(DTYPE_F32, true, false, 1e-5);
    generate_case(DTYPE_F32, false, true, 1e-5);
    generate_case(DTYPE_BF16, false, false, 3e-2);
}

static void a_prompt_may_be_longer_than_a_micro_batch(void **state)
{
    (void)state;
    ModelOptions o = with_adapters(DTYPE_F32, 4);
    o.training = false;
    o.cache_tokens = 12;
    Rig small = rig_open(TIED, NULL, o);
    o.max_tokens = 12;
    Rig large = rig_open(TIED, NULL, o);
    static const int32_t ids[11] = {5, 7, 1, 90, 33, 2, 8, 8, 61, 12, 40};
    const int64_t vocab = model_spec(small.model)->vocab;
    float *a = rig_floats(vocab), *b = rig_floats(vocab);
    model_prefill(small.model, 0, ids, 11, a);
    model_prefill(large.model, 0, ids, 11, b);
    assert_int_equal(model_cached(small.model, 0), 11);
    assert_true(rig_distance(a, b, vocab) <= 1e-5);
    free(a);
    free(b);
    rig_close(&small);
    rig_close(&large);
}

static void equal_to_decoding_each_time(bool decoded, bool layer)
{
    static RigBatch all;
    ModelOptions o = with_adapters(DTYPE_BF16, 40);
    Rig each = rig_open(TIED, NULL, o);
    o.decoded_weights = decoded;
    o.layer_weights = layer;
    Rig once = rig_open(TIED, NULL, o);
    four_segments(&all, 96);
    for (int round = 0; round < 2; round++) {
        rig_fill_adapters(&each, round ? 0.3f : 0.1f); /* the second time with other adapters */
        rig_fill_adapters(&once, round ? 0.3f : 0.1f);
        double a = 0, b = 0;
        float *first = rig_gradients(&each, &all, &a), *second = rig_gradients(&once, &all, &b);
        assert_true(a == b);
        assert_memory_equal(first, second, (size_t)model_lora(each.model)->table.total * sizeof(float));
        free(first);
        free(second);
    }
    rig_close(&each);
    rig_close(&once);
}

static void weights_may_stay_decoded(void **state)
{
    (void)state;
    equal_to_decoding_each_time(true, false);
    equal_to_decoding_each_time(false, true);
}

/* ---- plans, summaries, refusals ---- */

static void a_plan_without_weights_measures_the_same(void **state)
{
    (void)state;
    const ModelOptions o = with_adapters(DTYPE_BF16, 40);
    Rig r = rig_open(TIED, NULL, o);
    ModelSource *source;
    Model *plan;
    ModelArenas arenas = {0};
    MUST(source_open(&source, TIED, false, &rig_err));
    MUST(model_create(&plan, r.be, source, &o, &rig_err));
    model_place(plan, &arenas);
    assert_int_equal(arenas.weights.peak, r.arenas.weights.peak);
    assert_int_equal(arenas.state.peak, r.arenas.state.peak);
    assert_int_equal(arenas.activations.peak, r.arenas.activations.peak);
    assert_int_equal(arenas.scratch.peak, r.arenas.scratch.peak);
    model_free(plan);
    source_close(source);
    rig_close(&r);
}

static void the_summary_counts_as_peft_does(void **state)
{
    (void)state;
    static const char *const skip[] = {"down_proj", "layers.0.self_attn.q_proj"};
    ModelOptions o = with_adapters(DTYPE_BF16, 40);
    o.skip_modules = skip;
    o.skip_count = 2;
    Rig r = rig_open(BIAS, NULL, o);
    const ModelSummary s = model_summary(r.model);
    assert_int_equal(s.quantized, 11);
    assert_int_equal(s.kept, 3);
    assert_string_equal(s.quantized_names, "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj in 2 layers");
    /* a layer: q and o 64 x 64, k and v 16 x 64, gate, up, down 64 x 64; A and B of rank 4 on each side */
    const int64_t weights = 2 * (5 * 64 * 64 + 2 * 16 * 64), biases = 2 * (2 * 64 + 2 * 16 + 3 * 64);
    const int64_t base = weights + biases + 2 * 80 * 64 + 5 * 64;
    assert_int_equal(s.trainable, 2 * 4 * (5 * 128 + 2 * 80));
    assert_int_equal(s.total, base + s.trainable);
    assert_true(s.saved_bytes > 0 && s.saved_bytes + s.quantized_bytes == (size_t)(2 * (weights - 3 * 64 * 64)));
    rig_close(&r);
}

static void nothing_left_to_quantize_is_an_error(void **state)
{
    (void)state;
    static const char *const skip[] = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"};
    Backend *be;
    ModelSource *source;
    Model *m;
    const BackendOptions backend = {.kind = RIG_BACKEND};
    ModelOptions o = with_adapters(DTYPE_F32, 8);
    o.skip_modules = skip;
    o.skip_count = 7;
    MUST(backend_open(&be, &backend, &rig_err));
    MUST(source_open(&source, PLAIN, true, &rig_err));
    assert_false(model_create(&m, be, source, &o, &rig_err));
    assert_int_equal(rig_err.code, ERR_CONFIG);
    assert_non_null(strstr(rig_err.text, "quant_skip_modules"));
    err_clear(&rig_err);
    source_close(source);
    backend_close(be);
}

/* PLAIN with one tensor changed, in a folder of its own. */
typedef struct Fault {
    const char *tensor;
    enum { POISON, DROP, ADD, RESHAPE } kind;
    const char *text;
} Fault;

static void write_faulty(const char *folder, const Fault *f)
{
    char path[512], config[512];
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    snprintf(config, sizeof config, "%s/config.json", folder);
    Safetensors st;
    SafetensorsWriter *w;
    MUST(file_copy(config, PLAIN "/config.json", &rig_err));
    MUST(safetensors_open(&st, PLAIN "/model.safetensors", &rig_err));
    MUST(safetensors_writer_create(&w, path, &rig_err));
    MUST(safetensors_writer_metadata(w, "format", "pt", &rig_err));
    for (int i = 0; i < st.count; i++) {
        const SafetensorsEntry *e = &st.entries[i];
        const bool chosen = strcmp(e->name, f->tensor) == 0;
        int64_t shape[TENSOR_RANK_MAX] = {e->shape[0], e->shape[1]};
        if (chosen && f->kind == DROP) continue;
        if (chosen && f->kind == RESHAPE) shape[0]--;
        MUST(safetensors_writer_declare(w, e->name, e->dtype, e->rank, shape, &rig_err));
    }
    const float value = 1;
    const int64_t one[1] = {1};
    if (f->kind == ADD) MUST(safetensors_writer_declare(w, f->tensor, DTYPE_F32, 1, one, &rig_err));
    MUST(safetensors_writer_begin(w, &rig_err));
    for (int i = 0; i < st.count; i++) {
        const SafetensorsEntry *e = &st.entries[i];
        const bool chosen = strcmp(e->name, f->tensor) == 0;
        size_t bytes = e->bytes;
        uint16_t *values = calloc(1, bytes);
        assert_non_null(values);
        MUST(safetensors_read(&st, e, 0, bytes, values, &rig_err));
        if (chosen && f->kind == POISON) values[bytes / 4] = 0x7fc0; /* NaN in bf16 */
        if (chosen && f->kind == RESHAPE) bytes -= bytes / (size_t)e->shape[0];
        if (!chosen || f->kind != DROP) MUST(safetensors_writer_data(w, values, bytes, &rig_err));
        free(values);
    }
    if (f->kind == ADD) MUST(safetensors_writer_data(w, &value, sizeof value, &rig_err));
    MUST(safetensors_writer_finish(w, &rig_err));
    safetensors_close(&st);
}

/* `nth`: this allocation after opening the files fails; 0: none. */
static bool load_folder(const char *folder, uint64_t nth, Err *err)
{
    Rig r = {0};
    const ModelOptions o = with_adapters(DTYPE_BF16, 8);
    const BackendOptions backend = {.kind = RIG_BACKEND};
    bool ok = backend_open(&r.be, &backend, err) && source_open(&r.source, folder, true, err);
    mem_fail_at(nth, false);
    ok = ok && model_create(&r.model, r.be, r.source, &o, err);
    if (ok) {
        model_place(r.model, &r.arenas);
        Arena *const all[] = {&r.arenas.weights, &r.arenas.state, &r.arenas.activations, &r.arenas.scratch};
        for (size_t i = 0; ok && i < ARRAY_COUNT(all); i++) {
            all[i]->used = 0;
            ok = backend_arena_reserve(r.be, all[i], all[i]->peak, err);
        }
        if (ok) model_place(r.model, &r.arenas);
        ok = ok && model_load(r.model, r.source, err);
    }
    mem_fail_at(0, false);
    if (r.be) rig_close(&r);
    return ok;
}

static void faulty_weights_are_refused_by_name(void **state)
{
    (void)state;
    static const Fault faults[] = {
        {"model.layers.1.mlp.up_proj.weight",      POISON,  "model.layers.1.mlp.up_proj.weight"               },
        {"model.layers.2.input_layernorm.weight",  POISON,  "model.layers.2.input_layernorm.weight holds"     },
        {"model.embed_tokens.weight",              POISON,  "model.embed_tokens.weight holds"                 },
        {"model.layers.1.self_attn.k_proj.weight", DROP,    "model.layers.1.self_attn.k_proj.weight\" is miss"},
        {"model.norm.weight",                      DROP,    "model.norm.weight\" is missing"                  },
        {"model.layers.1.self_attn.k_proj.weight", RESHAPE, "is 31 x 32"                                      },
        {"model.layers.0.self_attn.q_norm.weight", ADD,     "q_norm.weight"                                   },
    };
    char folder[] = "/tmp/qlora-test-XXXXXX";
    assert_non_null(mkdtemp(folder));
    for (size_t i = 0; i < ARRAY_COUNT(faults); i++) {
        write_faulty(folder, &faults[i]);
        err_clear(&rig_err);
        assert_false(load_folder(folder, 0, &rig_err));
        assert_int_equal(rig_err.code, ERR_MODEL);
        if (!strstr(rig_err.text, faults[i].text)) fail_msg("\"%s\" lacks \"%s\"", rig_err.text, faults[i].text);
    }
    err_clear(&rig_err);
    MUST(file_remove_tree(folder, &rig_err));
}

static void every_failed_allocation_is_reported(void **state)
{
    (void)state;
    bool done = false;
    for (uint64_t nth = 1; !done; nth++) {
        err_clear(&rig_err);
        done = load_folder(TIED, nth, &rig_err);
        if (!done && rig_err.code != ERR_MEMORY) fail_msg("allocation %d: %s", (int)nth, rig_err.text);
    }
}

static void a_step_allocates_nothing(void **state)
{
    (void)state;
    static RigBatch all;
    Rig r = rig_open(TIED, NULL, with_adapters(DTYPE_BF16, 40));
    four_segments(&all, 96);
    free(rig_gradients(&r, &all, NULL)); /* the library compiles its products */
    const uint64_t before = mem_alloc_count();
    free(rig_gradients(&r, &all, NULL));
    model_evaluate(r.model, &all.batch);
    assert_int_equal(mem_alloc_count(), before);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packed_equals_unpacked_and_micro_batches_add_up),
        cmocka_unit_test(recompute_changes_no_bit),
        cmocka_unit_test(the_size_of_loss_chunks_hardly_matters),
        cmocka_unit_test(two_runs_give_the_same_bits),
        cmocka_unit_test(masks_and_noise_differ_by_seed_step_and_micro_batch),
        cmocka_unit_test(masks_of_micro_batches_do_not_meet),
        cmocka_unit_test(fresh_adapters_leave_the_base_alone),
        cmocka_unit_test(a_cached_token_sees_what_the_whole_sequence_sees),
        cmocka_unit_test(a_prompt_may_be_longer_than_a_micro_batch),
        cmocka_unit_test(weights_may_stay_decoded),
        cmocka_unit_test(a_plan_without_weights_measures_the_same),
        cmocka_unit_test(the_summary_counts_as_peft_does),
        cmocka_unit_test(nothing_left_to_quantize_is_an_error),
        cmocka_unit_test(faulty_weights_are_refused_by_name),
        cmocka_unit_test(every_failed_allocation_is_reported),
        cmocka_unit_test(a_step_allocates_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
