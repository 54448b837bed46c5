/*
 * rig.h - an optimizer over a few parameters with its arenas, for the tests of this folder.
 */
#pragma once

#include "optim/adamw.h"
#include "optim/ops.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* Compiled with QLORA_TEST_CUDA=1 the same cases run on the CUDA backend. */
#ifndef QLORA_TEST_CUDA
#    define QLORA_TEST_CUDA 0
#endif
#define RIG_BACKEND (QLORA_TEST_CUDA ? BACKEND_CUDA : BACKEND_CPU)

/* Of the emulation (tests/support/cuda/emulation.h); null on a real device. */
bool emulation_fault(const char *text) __attribute__((weak));
long emulation_calls(const char *function) __attribute__((weak));

/* Threads are slow where they are emulated, so pages of a device are small: one piece of 32-bit states. */
enum { RIG_PARAMS_MAX = 8, RIG_PAGE_BYTES = PIECE_BLOCKS * STATE_BLOCK * 4 };

typedef struct Rig {
    Backend *be;
    Param params[RIG_PARAMS_MAX];
    ParamTable table;
    Adamw *opt;
    Arena state, scratch;
    Tensor weights, grads;
} Rig;

/* A file of this process alone: the same cases run on several backends side by side. The text stays. */
static inline const char *rig_file(const char *name)
{
    enum { FILES_MAX = 8, LENGTH = 64 };
    static char texts[FILES_MAX][LENGTH];
    char text[LENGTH];
    snprintf(text, sizeof text, "%s.%ld", name, (long)getpid());
    for (int i = 0; i < FILES_MAX; i++) {
        if (!texts[i][0]) memcpy(texts[i], text, sizeof text);
        if (strcmp(texts[i], text) == 0) return texts[i];
    }
    fail_msg("too many files");
    return NULL;
}

static inline AdamwOptions rig_options(bool eight_bit)
{
    return (AdamwOptions){.eight_bit = eight_bit, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8};
}

static inline AdamwOptions rig_all_clamps(bool eight_bit)
{
    AdamwOptions o = rig_options(eight_bit);
    o.weight_decay = 0.01;
    o.max_grad_norm = 0.2;
    o.grad_clip_value = 0.01;
    o.grad_clip_percentile = 60;
    o.variance_min = 1e-10;
    o.variance_max = 1e-4;
    o.update_clip_rms = 0.9;
    return o;
}

static inline void rig_place(Rig *r)
{
    r->weights = arena_vector(&r->state, DTYPE_F32, r->table.total);
    r->grads = arena_vector(&r->state, DTYPE_F32, r->table.total);
    adamw_place(r->opt, &r->state, &r->scratch);
}

static inline void rig_reserve(Rig *r, Arena *arena)
{
    Err err = {0};
    const size_t bytes = arena->peak;
    *arena = (Arena){.name = arena->name};
    assert_true(backend_arena_reserve(r->be, arena, bytes, &err));
}

/* The optimizer is placed but not started. `r` stays where it is: the table is borrowed. */
static inline void rig_create_on(Rig *r, BackendKind kind, const int64_t (*shapes)[2], int count,
                                 const AdamwOptions *options, int threads)
{
    static char names[RIG_PARAMS_MAX][3] = {"p0", "p1", "p2", "p3", "p4", "p5", "p6", "p7"};
    const BackendOptions backend = {.kind = kind, .threads = threads};
    Err err = {0};
    *r = (Rig){.state = {.name = "state"}, .scratch = {.name = "scratch"}};
    r->table = (ParamTable){.items = r->params, .count = count};
    for (int i = 0; i < count; i++) {
        r->params[i] = (Param){
            .name = names[i], .rows = shapes[i][0], .cols = shapes[i][1], .offset = r->table.total, .lr_scale = 1.0f};
        r->table.total += round_up(shapes[i][0] * shapes[i][1], PARAM_ALIGN);
        r->table.trainable += shapes[i][0] * shapes[i][1];
    }
    assert_true(backend_open(&r->be, &backend, &err));
    assert_true(adamw_create(&r->opt, r->be, &r->table, options, &err));
    if (kind == BACKEND_CUDA) r->opt->page_bytes = RIG_PAGE_BYTES;
    rig_place(r);
    rig_reserve(r, &r->state);
    rig_reserve(r, &r->scratch);
    rig_place(r);
}

static inline void rig_create(Rig *r, const int64_t (*shapes)[2], int count, const AdamwOptions *options, int threads)
{
    rig_create_on(r, RIG_BACKEND, shapes, count, options, threads);
}

static inline void rig_start(Rig *r)
{
    Err err = {0};
    if (!adamw_start(r->opt, &err)) fail_msg("%s", err.text);
}

static inline void rig_free(Rig *r)
{
    adamw_free(r->opt);
    backend_arena_release(r->be, &r->state);
    backend_arena_release(r->be, &r->scratch);
    backend_close(r->be);
}

/* A fixed stream that any language can repeat: element `i` of parameter `p` at update `t`, exact in f32. */
static inline float rig_noise(uint32_t p, uint32_t t, uint32_t i)
{
    uint32_t h = p * 0x9e3779b1u + t * 0x85ebca77u + i * 0xc2b2ae3du;
    h ^= h >> 15;
    h *= 0x2c1b3c6du;
    h ^= h >> 12;
    h *= 0x297a2d39u;
    h ^= h >> 15;
    return (float)(h >> 8) / 8388608.0f - 1.0f;
}

/* Sizes over twelve powers of two, a mean of a quarter, every 97th element silent but for every tenth update. */
static inline float rig_gradient(uint32_t p, uint32_t t, uint32_t i)
{
    if (i % 97 == 0 && t % 10 != 0) return 0.0f;
    return (rig_noise(p, t, i) + 0.25f) / (float)(64 << (i % 12));
}

static inline void rig_fill(Rig *r, const Tensor *to, uint32_t t, float (*value)(uint32_t, uint32_t, uint32_t))
{
    float *x = calloc((size_t)r->table.total, sizeof *x);
    assert_non_null(x);
    for (int p = 0; p < r->table.count; p++) {
        for (int64_t i = 0; i < r->params[p].rows * r->params[p].cols; i++)
            x[r->params[p].offset + i] = value((uint32_t)p, t, (uint32_t)i);
    }
    backend_upload(r->be, to, x);
    free(x);
}

static inline void rig_set(Rig *r, const Tensor *to, int p, int64_t i, float value)
{
    const Tensor one = tensor_slice_flat(to, r->params[p].offset + i, 1);
    backend_upload(r->be, &one, &value);
}

static inline float rig_get(Rig *r, const Tensor *from, int p, int64_t i)
{
    float value;
    const Tensor one = tensor_slice_flat(from, r->params[p].offset + i, 1);
    backend_download(r->be, &value, &one);
    return value;
}

/* Page buffers belong to others between updates: on a device at once, while copies may still be queued. */
static inline void rig_overwrite_buffers(Rig *r)
{
    tensor_zero(r->be, &r->opt->state1);
    tensor_zero(r->be, &r->opt->state2);
}

/* Update t of the fixed stream. */
static inline AdamwReport rig_step(Rig *r, uint32_t t, double rate)
{
    rig_fill(r, &r->grads, t, rig_gradient);
    const AdamwReport report = adamw_step(r->opt, &r->weights, &r->grads, rate);
    if (r->opt->options.paged) rig_overwrite_buffers(r);
    return report;
}

/* The caller frees them. */
static inline float *rig_weights(Rig *r)
{
    float *x = malloc((size_t)r->table.total * sizeof *x);
    assert_non_null(x);
    backend_download(r->be, x, &r->weights);
    return x;
}

static inline void rig_assert_same_weights(Rig *a, Rig *b)
{
    float *x = rig_weights(a), *y = rig_weights(b);
    assert_memory_equal(x, y, (size_t)a->table.total * sizeof *x);
    free(x);
    free(y);
}
