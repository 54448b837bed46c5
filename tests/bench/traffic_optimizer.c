/*
 * traffic_optimizer.c - norms of gradients and AdamW.
 */
#include "tests/bench/traffic.h"

#include "backend/elementwise.h"
#include "optim/adamw.h"

#include <stdio.h>
#include <stdlib.h>

static void norm(Traffic *t, int64_t n)
{
    if (!traffic_scene(t, "norm", DTYPE_F32, n % 1024 == 0, "%d", (int)n)) return;
    const Tensor x = traffic_vector(t, DTYPE_F32, n);
    traffic_start(t);
    traffic_reads(t, &x, 0);
    (void)tensor_norm(t->be, &x);
    traffic_end(t, NULL);
}

/* Of both moments, the scales of their blocks included. */
static uint64_t state_bytes(bool eight_bit, int64_t n)
{
    const uint64_t elements = (uint64_t)n, blocks = (elements + 255) / 256;
    return eight_bit ? 2 * (elements + sizeof(float) * blocks) : 2 * sizeof(float) * elements;
}

static void place(Adamw *opt, Arena *states, Arena *scratch, Traffic *t)
{
    Err err = {0};
    adamw_place(opt, states, scratch);
    Arena *const both[] = {states, scratch};
    for (int i = 0; i < 2; i++) {
        const size_t bytes = both[i]->peak;
        *both[i] = (Arena){.name = both[i]->name};
        if (bytes && !backend_arena_reserve(t->be, both[i], bytes, &err)) abort();
    }
    adamw_place(opt, states, scratch);
    if (!adamw_start(opt, &err)) abort();
}

/* One update without clamps: a kernel for the norm of all gradients and one for the rest. Nothing else lies in `states`
 * and `scratch` but states, and tables of pieces, which are not data. */
static void update(Traffic *t, bool eight_bit, bool paged, int64_t rows, int64_t cols)
{
    const int64_t n = rows * cols;
    static const char *const names[] = {"adamw 32-bit", "adamw 32-bit paged", "adamw 8-bit", "adamw 8-bit paged"};
    if (!traffic_scene(t, names[2 * eight_bit + paged], DTYPE_F32, n % 4096 == 0, "%d x %d", (int)rows, (int)cols))
        return;
    Param param = {.name = (char[]){"p"}, .rows = rows, .cols = cols, .lr_scale = 1.0f};
    const ParamTable table = {&param, 1, (n + PARAM_ALIGN - 1) / PARAM_ALIGN * PARAM_ALIGN, n};
    const AdamwOptions options = {
        .eight_bit = eight_bit, .paged = paged, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .weight_decay = 0.01};
    Arena states = {.name = "states"}, scratch = {.name = "scratch"};
    Adamw *opt;
    Err err = {0};
    if (!adamw_create(&opt, t->be, &table, &options, &err)) abort();
    place(opt, &states, &scratch, t);
    const Tensor p = traffic_vector(t, DTYPE_F32, table.total), g = traffic_vector(t, DTYPE_F32, table.total);
    traffic_start(t);
    traffic_reads(t, &p, (uint64_t)n * sizeof(float));
    traffic_reads(t, &g, (uint64_t)n * sizeof(float));
    traffic_writes(t, &p, (uint64_t)n * sizeof(float));
    emulation_count_data(states.base, states.size); /* scales of paged moments too */
    const Arena *moments = paged ? &scratch : &states;
    const Tensor all = tensor_vector(moments->base, DTYPE_U8, (int64_t)moments->size);
    traffic_reads(t, &all, state_bytes(eight_bit, n));
    traffic_writes(t, &all, state_bytes(eight_bit, n));
    adamw_step(opt, &p, &g, 1e-3);
    traffic_end(t, "pieces_kernel");
    adamw_free(opt);
    backend_arena_release(t->be, &states);
    backend_arena_release(t->be, &scratch);
}

void traffic_of_optimizer(Traffic *t)
{
    norm(t, 1 << 18);
    norm(t, 100001);
    for (int k = 0; k < 4; k++)
        update(t, k / 2 != 0, k % 2 != 0, 128, 2048);
    update(t, true, false, 33, 331);
}
