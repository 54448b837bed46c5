#include "backend/backend.h"

#include "backend/state.h"
#include "base/mem.h"

#include <omp.h>
#include <unistd.h>

enum { THREADS_MAX = 1024 };

static const DeviceOps *const devices[BACKEND_COUNT] = {
    [BACKEND_CPU] = &device_cpu,
    [BACKEND_CUDA] = CUDA_OPS(device_cuda),
};

bool backend_open(Backend **out, const BackendOptions *options, Err *err)
{
    if (!devices[options->kind]) {
        return FAIL(err, ERR_DEVICE,
                    "this build has no CUDA backend; build it where the CUDA toolkit is (nvcc on PATH, or "
                    "-DQLORA_CUDA=ON to see what is missing), or use --device cpu");
    }
    if (options->threads < 0 || options->threads > THREADS_MAX) {
        return FAIL(err, ERR_ARG, "%d threads asked for; give 1..%d, or 0 for all cores", options->threads,
                    THREADS_MAX);
    }
    Backend *be = mem_alloc(1, sizeof *be, err);
    if (!be) return false;
    be->kind = options->kind;
    be->device = devices[options->kind];
    be->threads = options->threads ? options->threads : omp_get_num_procs();
    be->reference = options->reference;
    be->hooks = options->hooks;
    omp_set_dynamic(0); /* never fewer threads than asked for: bits may depend on it */
    omp_set_num_threads(be->threads);
    TRY(be->device->open(be, options, err));
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
    be->device->close(be);
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
    be->device->wait(be);
    if (be->fault.code == ERR_NONE) return true;
    const bool ok = FAIL(err, be->fault.code, "%s", be->fault.text);
    err_clear(&be->fault);
    return ok;
}

bool backend_failed(const Backend *be)
{
    return be->fault.code != ERR_NONE;
}

BackendMemory backend_memory(const Backend *be)
{
    return be->device->memory(be);
}

bool backend_cuda_driver(void)
{
    return devices[BACKEND_CUDA] && devices[BACKEND_CUDA]->present();
}

/* --- arenas --- */

size_t device_mapped_bytes(size_t bytes)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (bytes + page - 1) / page * page;
}

bool backend_arena_reserve(Backend *be, Arena *a, size_t bytes, Err *err)
{
    CHECK(!a->base);
    if (bytes > SIZE_MAX / 4) return FAIL(err, ERR_MEMORY, "the %s arena would need %zu bytes", a->name, bytes);
    void *storage = be->device->reserve(be, a->name, device_mapped_bytes(bytes ? bytes : 1), err);
    if (!storage) return false;
    *a = (Arena){.name = a->name, .base = storage, .size = bytes};
    return true;
}

void backend_arena_release(Backend *be, Arena *a)
{
    if (!a->base) return;
    be->device->release(be, a->base, device_mapped_bytes(a->size ? a->size : 1));
    *a = (Arena){.name = a->name};
}

/* --- copies --- */

/* One long row where there are no gaps. */
static Tensor as_rows(const Tensor *t)
{
    return tensor_dense(t) ? tensor_vector(t->data, t->dtype, tensor_count(t)) : *t;
}

void backend_upload(Backend *be, const Tensor *to, const void *from)
{
    if (tensor_count(to) == 0) return;
    const Tensor rows = as_rows(to);
    backend_enter(be);
    be->device->upload(be, &rows, from);
    backend_leave(be);
}

void backend_download(Backend *be, void *to, const Tensor *from)
{
    if (tensor_count(from) == 0) return;
    const Tensor rows = as_rows(from);
    backend_enter(be);
    be->device->download(be, to, &rows);
    backend_leave(be);
}

/* --- copies beside operations --- */

void *backend_pinned_reserve(Backend *be, const char *name, size_t bytes, Err *err)
{
    if (bytes > SIZE_MAX / 4) {
        (void)FAIL(err, ERR_MEMORY, "%s would need %zu bytes of host memory", name, bytes);
        return NULL;
    }
    return be->device->pinned_reserve(be, name, device_mapped_bytes(bytes ? bytes : 1), err);
}

void backend_pinned_release(Backend *be, void *host, size_t bytes)
{
    if (host) be->device->pinned_release(be, host, device_mapped_bytes(bytes ? bytes : 1));
}

static BackendTicket transfer(Backend *be, const Tensor *tensor, void *host, bool store)
{
    CHECK(tensor_dense(tensor));
    if (tensor_count(tensor) == 0) return 0;
    backend_enter(be);
    const BackendTicket ticket = be->device->transfer(be, tensor, host, store);
    backend_leave(be);
    return ticket;
}

BackendTicket backend_store(Backend *be, void *host, const Tensor *from)
{
    return transfer(be, from, host, true);
}

BackendTicket backend_fetch(Backend *be, const Tensor *to, const void *host)
{
    return transfer(be, to, (void *)(uintptr_t)host, false);
}

void backend_transfer_wait(Backend *be, BackendTicket ticket)
{
    if (ticket) be->device->transfer_wait(be, ticket);
}
