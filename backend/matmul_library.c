/*
 * Products by oneDNN 2.x (Debian libdnnl), through its C API; nothing else in the program knows the library.
 *
 * A primitive is compiled for everything but the number of rows: packing off, each micro-batch has another one. Each
 * lane (all threads together, or one thread on its own) has a table of primitives with their memory objects, and one
 * scratch block that they share. After each shape has been seen once nothing of ours is allocated.
 *
 * Its f32 kernels point the stack pointer into a heap block when they add up many products. No signal handler may run on
 * a thread that is in there (trainer/signals.h).
 */
#include "backend/matmul_cpu.h"
#include "base/mem.h"

#include <omp.h>
#include <oneapi/dnnl/dnnl.h>
#include <string.h>

enum { ENTRIES = 96, LANES_MAX = 1 + 1024, SCRATCH_ALIGN = 64 };

/* What a primitive is compiled for. Memory is compared bytewise, so keys start zeroed. */
typedef struct Key {
    int64_t n, k; /* k is 0 when it is free: a is transposed, so k counts tokens */
    int64_t a_stride, b_stride, out_stride;
    int32_t in, to;
    uint32_t alpha_bits;
    bool transpose_a, transpose_b, accumulate;
    bool used;
} Key;

typedef struct Entry {
    Key key;
    uint64_t last_use;
    dnnl_primitive_t primitive; /* null: the library has none for this key */
    dnnl_memory_desc_t scratch_desc;
    int64_t m, k; /* what the memory objects were made for */
    dnnl_memory_t a, b, out, scratch;
} Entry;

typedef struct Lane {
    Entry entries[ENTRIES];
    uint64_t clock;
    void *raw; /* scratch block as allocated */
    size_t raw_bytes;
} Lane;

struct MatmulState {
    dnnl_engine_t engine;
    dnnl_stream_t streams[LANES_MAX];
    Lane *lane[LANES_MAX]; /* made at first use */
    MatmulSpace space;     /* of the tile products */
};

static void entry_forget_memory(Entry *e)
{
    if (e->a) dnnl_memory_destroy(e->a);
    if (e->b) dnnl_memory_destroy(e->b);
    if (e->out) dnnl_memory_destroy(e->out);
    if (e->scratch) dnnl_memory_destroy(e->scratch);
    e->a = e->b = e->out = e->scratch = NULL;
}

static void entry_clear(Entry *e)
{
    entry_forget_memory(e);
    if (e->primitive) dnnl_primitive_destroy(e->primitive);
    memset(e, 0, sizeof *e);
}

bool matmul_state_create(MatmulState **out, Err *err)
{
    MatmulState *state = mem_alloc(1, sizeof *state, err);
    if (!state) return false;
    if (dnnl_engine_create(&state->engine, dnnl_cpu, 0) != dnnl_success) {
        mem_free(state);
        return FAIL(err, ERR_DEVICE, "the matrix library (oneDNN) has no CPU engine on this machine");
    }
    *out = state;
    return true;
}

void matmul_state_free(MatmulState *state)
{
    if (!state) return;
    for (int i = 0; i < LANES_MAX; i++) {
        if (!state->lane[i]) continue;
        for (int j = 0; j < ENTRIES; j++)
            entry_clear(&state->lane[i]->entries[j]);
        dnnl_stream_destroy(state->streams[i]);
        mem_free(state->lane[i]->raw);
        mem_free(state->lane[i]);
    }
    dnnl_engine_destroy(state->engine);
    mem_free(state->space.block);
    mem_free(state);
}

MatmulSpace *matmul_space(MatmulState *state)
{
    return &state->space;
}

static Lane *lane_get(MatmulState *state, int i)
{
    CHECK(i >= 0 && i < LANES_MAX);
    if (state->lane[i]) return state->lane[i];
    Err ignored = {0};
    Lane *lane = mem_alloc(1, sizeof *lane, &ignored);
    if (!lane) return NULL;
    if (dnnl_stream_create(&state->streams[i], state->engine, dnnl_stream_default_flags) != dnnl_success) {
        mem_free(lane);
        return NULL;
    }
    state->lane[i] = lane;
    return lane;
}

static Key key_of(const Product *p)
{
    Key key;
    memset(&key, 0, sizeof key);
    key.n = p->n;
    key.k = p->transpose_a ? 0 : p->k;
    key.a_stride = p->a_stride;
    key.b_stride = p->b_stride;
    key.out_stride = p->out_stride;
    key.in = (int32_t)p->in;
    key.to = (int32_t)p->to;
    memcpy(&key.alpha_bits, &p->alpha, sizeof key.alpha_bits);
    key.transpose_a = p->transpose_a;
    key.transpose_b = p->transpose_b;
    key.accumulate = p->accumulate;
    key.used = true;
    return key;
}

static dnnl_data_type_t type_of(DType dtype)
{
    return dtype == DTYPE_F32 ? dnnl_f32 : dnnl_bf16;
}

/* A matrix of rows x cols that lies transposed or not. */
static bool describe(dnnl_memory_desc_t *desc, int64_t rows, int64_t cols, DType dtype, int64_t stride, bool transposed)
{
    const dnnl_dims_t dims = {rows, cols};
    const dnnl_dims_t straight = {stride, 1}, crossed = {1, stride};
    return dnnl_memory_desc_init_by_strides(desc, 2, dims, type_of(dtype), transposed ? crossed : straight) ==
           dnnl_success;
}

typedef struct Descs {
    dnnl_memory_desc_t a, b, out;
} Descs;

static bool describe_all(Descs *d, const Product *p, int64_t m, int64_t k)
{
    return describe(&d->a, m, k, p->in, p->a_stride, p->transpose_a) &&
           describe(&d->b, k, p->n, p->in, p->b_stride, p->transpose_b) &&
           describe(&d->out, m, p->n, p->to, p->out_stride, false);
}

/* alpha, the sum with what is there, and scratch memory of ours */
static bool attributes(dnnl_primitive_attr_t *attr, const Product *p)
{
    if (dnnl_primitive_attr_create(attr) != dnnl_success) return false;
    bool ok = dnnl_primitive_attr_set_scratchpad_mode(*attr, dnnl_scratchpad_mode_user) == dnnl_success;
    if (p->alpha != 1.0f) ok = ok && dnnl_primitive_attr_set_output_scales(*attr, 1, 0, &p->alpha) == dnnl_success;
    if (p->accumulate) {
        dnnl_post_ops_t ops;
        ok = ok && dnnl_post_ops_create(&ops) == dnnl_success;
        if (!ok) return false;
        ok = dnnl_post_ops_append_sum(ops, 1.0f) == dnnl_success &&
             dnnl_primitive_attr_set_post_ops(*attr, ops) == dnnl_success;
        dnnl_post_ops_destroy(ops);
    }
    return ok;
}

static bool lane_scratch(Lane *lane, size_t bytes)
{
    const size_t need = bytes + SCRATCH_ALIGN;
    if (need <= lane->raw_bytes) return true;
    Err ignored = {0};
    void *raw = mem_alloc(1, need, &ignored);
    if (!raw) return false;
    mem_free(lane->raw);
    lane->raw = raw;
    lane->raw_bytes = need;
    return true;
}

static void *scratch_at(const Lane *lane)
{
    const uintptr_t at = (uintptr_t)lane->raw;
    return (char *)lane->raw + (SCRATCH_ALIGN - at % SCRATCH_ALIGN) % SCRATCH_ALIGN;
}

/* Leaves entry->primitive null when the library refuses. */
static void compile(MatmulState *state, Lane *lane, Entry *e, const Product *p)
{
    dnnl_primitive_attr_t attr = NULL;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_matmul_desc_t desc;
    Descs d;
    if (describe_all(&d, p, DNNL_RUNTIME_DIM_VAL, p->transpose_a ? DNNL_RUNTIME_DIM_VAL : p->k) &&
        attributes(&attr, p) && dnnl_matmul_desc_init(&desc, &d.a, &d.b, NULL, &d.out) == dnnl_success &&
        dnnl_primitive_desc_create(&pd, &desc, attr, state->engine, NULL) == dnnl_success) {
        e->scratch_desc = *dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
        if (lane_scratch(lane, dnnl_memory_desc_get_size(&e->scratch_desc)) &&
            dnnl_primitive_create(&e->primitive, pd) != dnnl_success) {
            e->primitive = NULL;
        }
    }
    if (pd) dnnl_primitive_desc_destroy(pd);
    if (attr) dnnl_primitive_attr_destroy(attr);
}

static Entry *entry_find(MatmulState *state, Lane *lane, const Product *p)
{
    const Key key = key_of(p);
    Entry *oldest = &lane->entries[0];
    lane->clock++;
    for (int i = 0; i < ENTRIES; i++) {
        Entry *e = &lane->entries[i];
        if (memcmp(&e->key, &key, sizeof key) == 0) {
            e->last_use = lane->clock;
            return e;
        }
        if (e->last_use < oldest->last_use) oldest = e;
    }
    entry_clear(oldest);
    oldest->key = key;
    oldest->last_use = lane->clock;
    compile(state, lane, oldest, p);
    return oldest;
}

/* Memory objects carry the sizes, so another number of rows needs other ones; the table keeps the last. */
static bool entry_memory(MatmulState *state, Entry *e, const Product *p)
{
    if (e->a && e->m == p->m && e->k == p->k) return true;
    entry_forget_memory(e);
    Descs d;
    if (!describe_all(&d, p, p->m, p->k)) return false;
    if (dnnl_memory_create(&e->a, &d.a, state->engine, DNNL_MEMORY_NONE) != dnnl_success ||
        dnnl_memory_create(&e->b, &d.b, state->engine, DNNL_MEMORY_NONE) != dnnl_success ||
        dnnl_memory_create(&e->out, &d.out, state->engine, DNNL_MEMORY_NONE) != dnnl_success ||
        dnnl_memory_create(&e->scratch, &e->scratch_desc, state->engine, DNNL_MEMORY_NONE) != dnnl_success) {
        entry_forget_memory(e);
        return false;
    }
    e->m = p->m;
    e->k = p->k;
    return true;
}

static bool execute(MatmulState *state, int i, const Product *p)
{
    Lane *lane = lane_get(state, i);
    if (!lane) return false;
    Entry *e = entry_find(state, lane, p);
    if (!e->primitive || !entry_memory(state, e, p)) return false;
    dnnl_memory_set_data_handle(e->a, (void *)(uintptr_t)p->a);
    dnnl_memory_set_data_handle(e->b, (void *)(uintptr_t)p->b);
    dnnl_memory_set_data_handle(e->out, p->out);
    dnnl_memory_set_data_handle(e->scratch, scratch_at(lane));
    const dnnl_exec_arg_t args[] = {
        {DNNL_ARG_SRC,        e->a      },
        {DNNL_ARG_WEIGHTS,    e->b      },
        {DNNL_ARG_DST,        e->out    },
        {DNNL_ARG_SCRATCHPAD, e->scratch},
    };
    return dnnl_primitive_execute(e->primitive, state->streams[i], 4, args) == dnnl_success &&
           dnnl_stream_wait(state->streams[i]) == dnnl_success;
}

bool matmul_library(MatmulState *state, const Product *p, int lane)
{
    if (lane == 0) return execute(state, 0, p);
    const int threads = omp_get_max_threads();
    omp_set_num_threads(1); /* of this thread only: the library takes the number when it compiles and when it runs */
    const bool ok = execute(state, lane, p);
    omp_set_num_threads(threads);
    return ok;
}
