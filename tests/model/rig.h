/*
 * rig.h - what the model tests share: a model with all it needs around it, batches, and the distance of two vectors.
 */
#pragma once

#include "backend/elementwise.h"
#include "base/mem.h"
#include "model/model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

typedef struct Rig {
    Backend *be;
    ModelSource *source;
    Model *model;
    ModelArenas arenas;
    LoraConfigFile adapter;
} Rig;

static Err rig_err;

#define MUST(call)                                                                                                     \
    do {                                                                                                               \
        if (!(call)) fail_msg("%s: %s", #call, rig_err.text);                                                          \
    } while (0)

static inline ModelOptions rig_options(DType compute, int64_t max_tokens)
{
    return (ModelOptions){
        .compute = compute,
        .quantize = true,
        .quant = {.type = QUANT_NF4, .block = 64, .double_quant = true},
        .training = true,
        .max_tokens = max_tokens,
        .kept_layers = 1 << 20,
        .seed = 7,
    };
}

static inline void rig_arenas(Rig *r)
{
    Arena *const arenas[] = {&r->arenas.weights, &r->arenas.state, &r->arenas.activations, &r->arenas.scratch};
    r->arenas = (ModelArenas){{.name = "weights"}, {.name = "state"}, {.name = "activations"}, {.name = "scratch"}};
    model_place(r->model, &r->arenas);
    size_t measured[ARRAY_COUNT(arenas)];
    for (size_t i = 0; i < ARRAY_COUNT(arenas); i++) {
        measured[i] = arenas[i]->peak;
        arenas[i]->used = 0;
        MUST(backend_arena_reserve(r->be, arenas[i], measured[i], &rig_err));
    }
    model_place(r->model, &r->arenas);
    for (size_t i = 0; i < ARRAY_COUNT(arenas); i++)
        assert_int_equal(arenas[i]->peak, measured[i]); /* the same code measures and places */
}

/* Compiled with QLORA_TEST_CUDA=1 the same cases run on the CUDA backend. */
#ifndef QLORA_TEST_CUDA
#    define QLORA_TEST_CUDA 0
#endif
#define RIG_BACKEND (QLORA_TEST_CUDA ? BACKEND_CUDA : BACKEND_CPU)

/* `adapter`: PEFT folder whose options and values are taken; null: options->lora and fresh values, or none. */
static inline Rig rig_open(const char *base, const char *adapter, ModelOptions options)
{
    Rig r = {0};
    const BackendOptions backend = {.kind = RIG_BACKEND};
    MUST(backend_open(&r.be, &backend, &rig_err));
    MUST(source_open(&r.source, base, true, &rig_err));
    if (adapter) {
        MUST(lora_config_read(&r.adapter, adapter, &rig_err));
        const double dropout = options.lora.dropout;
        options.lora = r.adapter.options;
        options.lora.dropout = dropout;
        options.adapters = true;
    }
    MUST(model_create(&r.model, r.be, r.source, &options, &rig_err));
    rig_arenas(&r);
    MUST(model_load(r.model, r.source, &rig_err));
    if (adapter) {
        MUST(lora_load(model_lora(r.model), r.be, model_params(r.model), adapter, &rig_err));
        model_params_changed(r.model);
    }
    return r;
}

static inline void rig_close(Rig *r)
{
    model_free(r->model);
    backend_arena_release(r->be, &r->arenas.weights);
    backend_arena_release(r->be, &r->arenas.state);
    backend_arena_release(r->be, &r->arenas.activations);
    backend_arena_release(r->be, &r->arenas.scratch);
    source_close(r->source);
    lora_config_free(&r->adapter);
    backend_close(r->be);
}

/* A batch with its own arrays. */
enum { RIG_TOKENS = 4096, RIG_SEGMENTS = 64 };
typedef struct RigBatch {
    Batch batch;
    int32_t ids[RIG_TOKENS], targets[RIG_TOKENS], positions[RIG_TOKENS], starts[RIG_SEGMENTS + 1];
} RigBatch;

static inline void rig_batch_begin(RigBatch *b)
{
    memset(b, 0, sizeof *b);
    b->batch = (Batch){.ids = b->ids, .targets = b->targets, .positions = b->positions, .starts = b->starts};
}

/* Adds a segment of n seeded tokens; about two thirds of them have a target. */
static inline void rig_batch_add(RigBatch *b, int64_t n, int64_t vocab, uint64_t seed)
{
    const RngKey key = {.seed = seed, .purpose = RNG_TEST};
    const int64_t at = b->batch.tokens;
    assert_true(at + n <= RIG_TOKENS && b->batch.segments < RIG_SEGMENTS);
    for (int64_t i = 0; i < n; i++) {
        b->ids[at + i] = (int32_t)(rng_u32(key, (uint64_t)i) % (uint64_t)vocab);
        b->positions[at + i] = (int32_t)i;
    }
    for (int64_t i = 0; i < n; i++) {
        const bool trained = i + 1 < n && rng_u32(key, (uint64_t)(1000000 + i)) % 3 != 0;
        b->targets[at + i] = trained ? b->ids[at + i + 1] : TARGET_NONE;
        b->batch.trained_tokens += trained;
    }
    b->batch.tokens += n;
    b->starts[++b->batch.segments] = (int32_t)b->batch.tokens;
}

/* ||a - b|| / ||b||, Euclidean */
static inline double rig_distance(const float *a, const float *b, int64_t n)
{
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        const double d = (double)a[i] - (double)b[i];
        difference += d * d;
        norm += (double)b[i] * (double)b[i];
    }
    return sqrt(difference) / (norm > 0 ? sqrt(norm) : 1);
}

static inline float *rig_floats(int64_t n)
{
    float *p = calloc((size_t)n + 1, sizeof *p);
    assert_non_null(p);
    return p;
}

static inline float *rig_download(const Rig *r, const Tensor *t)
{
    float *out = rig_floats(tensor_count(t));
    backend_download(r->be, out, t);
    return out;
}

/* Gradients of one batch, from zero. */
static inline float *rig_gradients(const Rig *r, const RigBatch *b, double *loss)
{
    model_zero_grads(r->model);
    const double sum = model_train(r->model, &b->batch, b->batch.trained_tokens, 3, 0);
    if (loss) *loss = sum;
    return rig_download(r, model_grads(r->model));
}

/* Seeded values into all of A and B, so that every gradient is alive. */
static inline void rig_fill_adapters(const Rig *r, float size)
{
    const Lora *l = model_lora(r->model);
    float *values = rig_floats(l->table.total);
    for (int i = 0; i < l->table.count; i++) {
        const Param *p = &l->table.items[i];
        for (int64_t j = 0; j < p->rows * p->cols; j++)
            values[p->offset + j] =
                size * rng_normal((RngKey){.seed = 5, .purpose = RNG_TEST, .stream = (uint32_t)i}, (uint64_t)j);
    }
    backend_upload(r->be, model_params(r->model), values);
    free(values);
    model_params_changed(r->model);
}
