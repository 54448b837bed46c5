/*
 * traffic.c - runs the scenes and adds up what their kernels did.
 */
#include "tests/bench/traffic.h"

#include "base/rng.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ARENA_BYTES = 64 << 20 };

double traffic_useful(const AccessCount *a, const AccessCount *b)
{
    const double bytes = (double)a->bytes + (b ? (double)b->bytes : 0.0);
    const double asked = 32.0 * ((double)a->sectors + (b ? (double)b->sectors : 0.0));
    return asked > 0.0 ? 100.0 * bytes / asked : 100.0;
}

double traffic_passes(const AccessCount *a, uint64_t least)
{
    return least ? (double)a->data / (double)least : 0.0;
}

unsigned long long traffic_conflicts(const KernelCount *c)
{
    return c->shared_loads.passes - c->shared_loads.least + c->shared_stores.passes - c->shared_stores.least;
}

/* --- what a scene needs --- */

bool traffic_scene(Traffic *t, const char *operation, DType dtype, bool aligned, const char *shape, ...)
{
    if (t->only && strncmp(operation, t->only, strlen(t->only)) != 0) return false;
    arena_release(&t->arena, 0);
    t->row = (TrafficRow){.operation = operation, .dtype = dtype, .aligned = aligned};
    va_list arguments;
    va_start(arguments, shape);
    vsnprintf(t->row.shape, sizeof t->row.shape, shape, arguments);
    va_end(arguments);
    return true;
}

static void put(void *to, DType dtype, int64_t i, float value)
{
    switch (dtype) {
    case DTYPE_F32: ((float *)to)[i] = value; return;
    case DTYPE_BF16: ((uint16_t *)to)[i] = bf16_from_f32(value); return;
    case DTYPE_F16: ((uint16_t *)to)[i] = f16_from_f32(value); return;
    default: CHECK(false);
    }
}

static void fill(Traffic *t, const Tensor *to)
{
    enum { PERIOD = 4099 };
    const RngKey key = {.seed = 1, .purpose = RNG_TEST};
    const int64_t count = tensor_count(to);
    void *host = malloc((size_t)(count + 1) * dtype_bytes(to->dtype));
    CHECK(host);
    float pattern[PERIOD];
    for (int i = 0; i < PERIOD; i++)
        pattern[i] = rng_uniform(key, (uint64_t)i) - 0.5f;
    for (int64_t i = 0; i < count; i++)
        put(host, to->dtype, i, pattern[i % PERIOD]);
    backend_upload(t->be, to, host);
    free(host);
}

Tensor traffic_matrix(Traffic *t, DType dtype, int64_t rows, int64_t cols)
{
    return traffic_strided(t, dtype, rows, cols, cols);
}

Tensor traffic_strided(Traffic *t, DType dtype, int64_t rows, int64_t cols, int64_t stride)
{
    const Tensor all = arena_matrix(&t->arena, dtype, rows, stride), shown = tensor_slice_cols(&all, 0, cols);
    fill(t, &shown);
    return shown;
}

Tensor traffic_vector(Traffic *t, DType dtype, int64_t n)
{
    const Tensor x = arena_vector(&t->arena, dtype, n);
    fill(t, &x);
    return x;
}

Tensor traffic_indices(Traffic *t, int64_t n, int32_t limit)
{
    const Tensor x = arena_vector(&t->arena, DTYPE_I32, n);
    int32_t *host = malloc((size_t)n * sizeof *host);
    CHECK(host);
    for (int64_t i = 0; i < n; i++)
        host[i] = (int32_t)(i * 37 % limit);
    backend_upload(t->be, &x, host);
    free(host);
    return x;
}

/* --- counting --- */

static void settle(Traffic *t)
{
    Err err = {0};
    if (backend_sync(t->be, &err)) return;
    fprintf(stderr, "%s %s: %s\n", t->row.operation, t->row.shape, err.text);
    abort();
}

void traffic_start(Traffic *t)
{
    settle(t);
    emulation_count_reset();
}

static uint64_t bytes_of(const Tensor *x, uint64_t bytes)
{
    emulation_count_data(x->data, tensor_bytes(x));
    return bytes ? bytes : (uint64_t)tensor_count(x) * dtype_bytes(x->dtype);
}

void traffic_reads(Traffic *t, const Tensor *x, uint64_t bytes)
{
    t->row.reads += bytes_of(x, bytes);
}

void traffic_writes(Traffic *t, const Tensor *x, uint64_t bytes)
{
    t->row.writes += bytes_of(x, bytes);
}

static void add_accesses(AccessCount *sum, const AccessCount *a)
{
    sum->instructions += a->instructions;
    sum->lanes += a->lanes;
    sum->bytes += a->bytes;
    sum->sectors += a->sectors;
    sum->first += a->first;
    sum->data += a->data;
    sum->passes += a->passes;
    sum->least += a->least;
}

static void add_kernel(KernelCount *sum, const KernelCount *k)
{
    sum->launches += k->launches;
    sum->mma += k->mma;
    add_accesses(&sum->global_loads, &k->global_loads);
    add_accesses(&sum->global_stores, &k->global_stores);
    add_accesses(&sum->shared_loads, &k->shared_loads);
    add_accesses(&sum->shared_stores, &k->shared_stores);
}

void traffic_end(Traffic *t, const char *kernel)
{
    settle(t);
    t->row.count = (KernelCount){0};
    for (size_t i = 0; i < emulation_kernels(); i++) {
        const KernelCount k = emulation_kernel(i);
        if (t->sink.kernel) t->sink.kernel(&k, t->sink.state);
        if (!kernel || strstr(k.name, kernel)) add_kernel(&t->row.count, &k);
    }
    if (t->sink.row) t->sink.row(&t->row, t->sink.state);
}

bool traffic_run(const char *only, const TrafficSink *sink, Err *err)
{
    Traffic t = {.arena = {.name = "traffic"}, .only = only, .sink = *sink};
    const BackendOptions options = {.kind = BACKEND_CUDA};
    if (!backend_open(&t.be, &options, err)) return false;
    if (!backend_arena_reserve(t.be, &t.arena, ARENA_BYTES, err)) {
        backend_close(t.be);
        return false;
    }
    traffic_of_weights(&t);
    traffic_of_layers(&t);
    traffic_of_optimizer(&t);
    traffic_of_attention(&t);
    backend_arena_release(t.be, &t.arena);
    backend_close(t.be);
    return true;
}
