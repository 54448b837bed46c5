#include "backend/backend.h"

#include "backend/cpu.h"
#include "backend/host_memory.h"
#include "backend/state.h"
#include "base/mem.h"

#include <omp.h>
#include <oneapi/dnnl/dnnl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

enum { THREADS_MAX = 1024, HUGE_PAGE = 2 << 20 };

/* Instruction sets as the library reports them: it asks the processor and the operating system. */
static void name_cpu(Backend *be)
{
    const dnnl_cpu_isa_t isa = dnnl_get_effective_cpu_isa();
    const char *text = "";
    be->preferred = DTYPE_F32;
    if (isa == dnnl_cpu_isa_avx512_core_amx) {
        text = ", AMX-BF16";
        be->preferred = DTYPE_BF16;
    } else if (isa == dnnl_cpu_isa_avx512_core_bf16) {
        text = ", AVX512-BF16";
        be->preferred = DTYPE_BF16;
    } else if (isa == dnnl_cpu_isa_avx512_core || isa == dnnl_cpu_isa_avx512_core_vnni) {
        text = ", AVX-512";
    } else if (isa == dnnl_cpu_isa_avx2 || isa == dnnl_cpu_isa_avx2_vnni) {
        text = ", AVX2";
    }
    snprintf(be->name, sizeof be->name, "cpu (%d thread%s%s%s)", be->threads, be->threads == 1 ? "" : "s", text,
             be->reference ? ", reference products" : "");
}

bool backend_open(Backend **out, const BackendOptions *options, Err *err)
{
    if (options->kind != BACKEND_CPU) return FAIL(err, ERR_DEVICE, "this build has no backend but the CPU");
    if (options->threads < 0 || options->threads > THREADS_MAX) {
        return FAIL(err, ERR_ARG, "%d threads asked for; give 1..%d, or 0 for all cores", options->threads,
                    THREADS_MAX);
    }
    Backend *be = mem_alloc(1, sizeof *be, err);
    if (!be) return false;
    be->kind = options->kind;
    be->threads = options->threads ? options->threads : omp_get_num_procs();
    be->reference = options->reference;
    be->hooks = options->hooks;
    omp_set_dynamic(0); /* never fewer threads than asked for: bits may depend on it */
    omp_set_num_threads(be->threads);
    name_cpu(be);
    TRY(matmul_state_create(&be->matmul, err));
    *out = be;
    return true;
fail:
    backend_close(be);
    return false;
}

void backend_close(Backend *be)
{
    if (!be) return;
    CHECK(be->depth == 0);
    matmul_state_free(be->matmul);
    mem_free(be);
}

BackendKind backend_kind(const Backend *be)
{
    return be->kind;
}

int backend_threads(const Backend *be)
{
    return be->threads;
}

const char *backend_name(const Backend *be)
{
    return be->name;
}

bool backend_reference(const Backend *be)
{
    return be->reference;
}

DType backend_preferred_dtype(const Backend *be)
{
    return be->preferred;
}

void backend_enter(Backend *be)
{
    if (be->depth++ > 0) return;
    omp_set_num_threads(be->threads); /* another backend of the process may want another number */
    if (be->hooks.enter) be->hooks.enter(be->hooks.state);
}

void backend_leave(Backend *be)
{
    CHECK(be->depth > 0);
    if (--be->depth == 0 && be->hooks.leave) be->hooks.leave(be->hooks.state);
}

bool backend_sync(Backend *be, Err *err)
{
    if (be->fault.code == ERR_NONE) return true;
    const bool ok = FAIL(err, be->fault.code, "%s", be->fault.text);
    err_clear(&be->fault);
    return ok;
}

/* --- arenas --- */

static size_t mapped_bytes(size_t bytes)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (bytes + page - 1) / page * page;
}

/* Large storage starts at a multiple of the huge page and asks for huge pages; it ends where it was asked to end. */
static void *map_storage(size_t bytes)
{
    const size_t slack = bytes >= HUGE_PAGE ? HUGE_PAGE : 0;
    char *raw = mmap(NULL, bytes + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (raw == MAP_FAILED) return NULL;
    if (!slack) return raw;
    const size_t before = (HUGE_PAGE - (uintptr_t)raw % HUGE_PAGE) % HUGE_PAGE;
    if (before) CHECK(munmap(raw, before) == 0);
    if (slack > before) CHECK(munmap(raw + before + bytes, slack - before) == 0);
    (void)madvise(raw + before, bytes, MADV_HUGEPAGE); /* only speed depends on it */
    return raw + before;
}

/* Every page is written once, so that what was promised is there: a later step cannot run out of memory. */
static void touch_storage(char *storage, size_t bytes)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
#pragma omp parallel for schedule(static)
    for (size_t at = 0; at < bytes; at += page)
        *(volatile char *)(storage + at) = 0;
}

bool backend_arena_reserve(Backend *be, Arena *a, size_t bytes, Err *err)
{
    CHECK(!a->base);
    if (bytes > SIZE_MAX / 4) return FAIL(err, ERR_MEMORY, "the %s arena would need %zu bytes", a->name, bytes);
    const size_t mapped = mapped_bytes(bytes ? bytes : 1);
    const size_t available = host_memory_available("");
    const double mb = 1e-6;
    if (mapped > available) {
        return FAIL(err, ERR_MEMORY,
                    "the %s arena needs %.1f MB (%zu bytes) and %.1f MB (%zu bytes) are available; "
                    "shorten the rows, checkpoint activations, or free memory",
                    a->name, (double)mapped * mb, mapped, (double)available * mb, available);
    }
    void *storage = be->hooks.reserve ? be->hooks.reserve(be->hooks.state, mapped) : map_storage(mapped);
    if (!storage) {
        return FAIL(err, ERR_MEMORY,
                    "the %s arena needs %.1f MB (%zu bytes) and the system gave none (%.1f MB available)", a->name,
                    (double)mapped * mb, mapped, (double)available * mb);
    }
    backend_enter(be);
    if (!be->hooks.reserve) touch_storage(storage, mapped);
    backend_leave(be);
    *a = (Arena){.name = a->name, .base = storage, .size = bytes};
    return true;
}

void backend_arena_release(Backend *be, Arena *a)
{
    if (!a->base) return;
    const size_t mapped = mapped_bytes(a->size ? a->size : 1);
    if (be->hooks.release) {
        be->hooks.release(be->hooks.state, a->base, mapped);
    } else {
        CHECK(munmap(a->base, mapped) == 0);
    }
    *a = (Arena){.name = a->name};
}

/* --- copies --- */

static void copy_rows(const Tensor *t, char *host, bool upload)
{
    const int64_t rows = tensor_rows(t);
    const size_t size = dtype_bytes(t->dtype);
    const size_t row_bytes = (size_t)tensor_cols(t) * size;
    if (tensor_count(t) == 0) return;
    for (int64_t r = 0; r < rows; r++) {
        char *device = (char *)t->data + (size_t)(r * t->stride) * size;
        char *line = host + (size_t)r * row_bytes;
        memcpy(upload ? device : line, upload ? line : device, row_bytes);
    }
}

void backend_upload(Backend *be, const Tensor *to, const void *from)
{
    backend_enter(be);
    const Tensor whole = tensor_dense(to) ? tensor_vector(to->data, to->dtype, tensor_count(to)) : *to;
    copy_rows(&whole, (char *)(uintptr_t)from, true);
    backend_leave(be);
}

void backend_download(Backend *be, void *to, const Tensor *from)
{
    backend_enter(be);
    const Tensor whole = tensor_dense(from) ? tensor_vector(from->data, from->dtype, tensor_count(from)) : *from;
    copy_rows(&whole, to, false);
    backend_leave(be);
}
