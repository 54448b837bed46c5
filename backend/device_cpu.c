/*
 * device_cpu.c - the processor as a device: arenas are mapped memory, copies are memcpy.
 */
#include "backend/host_memory.h"
#include "backend/state.h"

#include <omp.h>
#include <oneapi/dnnl/dnnl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { HUGE_PAGE = 2 << 20 };

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

static bool open_cpu(Backend *be, const BackendOptions *options, Err *err)
{
    (void)options;
    name_cpu(be);
    return matmul_state_create(&be->matmul, err);
}

static void close_cpu(Backend *be)
{
    matmul_state_free(be->matmul);
}

/* --- arenas --- */

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

static void *reserve_cpu(Backend *be, const char *name, size_t bytes, Err *err)
{
    const size_t available = host_memory_available("");
    const double mb = 1e-6;
    if (bytes > available) {
        (void)FAIL(err, ERR_MEMORY,
                   "the %s arena needs %.1f MB (%zu bytes) and %.1f MB (%zu bytes) are available; "
                   "shorten the rows, checkpoint activations, or free memory",
                   name, (double)bytes * mb, bytes, (double)available * mb, available);
        return NULL;
    }
    void *storage = be->hooks.reserve ? be->hooks.reserve(be->hooks.state, bytes) : map_storage(bytes);
    if (!storage) {
        (void)FAIL(err, ERR_MEMORY,
                   "the %s arena needs %.1f MB (%zu bytes) and the system gave none (%.1f MB available)", name,
                   (double)bytes * mb, bytes, (double)available * mb);
        return NULL;
    }
    backend_enter(be);
    if (!be->hooks.reserve) touch_storage(storage, bytes);
    backend_leave(be);
    return storage;
}

static void release_cpu(Backend *be, void *storage, size_t bytes)
{
    if (be->hooks.release) {
        be->hooks.release(be->hooks.state, storage, bytes);
    } else {
        CHECK(munmap(storage, bytes) == 0);
    }
}

/* --- copies --- */

static void copy_rows(const Tensor *t, char *host, bool upload)
{
    const int64_t rows = tensor_rows(t);
    const size_t size = dtype_bytes(t->dtype);
    const size_t row_bytes = (size_t)tensor_cols(t) * size;
    for (int64_t r = 0; r < rows; r++) {
        char *device = (char *)t->data + (size_t)(r * t->stride) * size;
        char *line = host + (size_t)r * row_bytes;
        memcpy(upload ? device : line, upload ? line : device, row_bytes);
    }
}

static void upload_cpu(Backend *be, const Tensor *to, const void *from)
{
    (void)be;
    copy_rows(to, (char *)(uintptr_t)from, true);
}

static void download_cpu(Backend *be, void *to, const Tensor *from)
{
    (void)be;
    copy_rows(from, to, false);
}

/* --- copies beside operations: done when they return --- */

static void *pinned_reserve_cpu(Backend *be, const char *name, size_t bytes, Err *err)
{
    const size_t available = host_memory_available("");
    void *host = bytes <= available ? map_storage(bytes) : NULL;
    if (!host) {
        (void)FAIL(err, ERR_MEMORY, "%s needs %.1f MB (%zu bytes) and %.1f MB are available; free memory", name,
                   (double)bytes * 1e-6, bytes, (double)available * 1e-6);
        return NULL;
    }
    backend_enter(be);
    touch_storage(host, bytes);
    backend_leave(be);
    return host;
}

static void pinned_release_cpu(Backend *be, void *host, size_t bytes)
{
    (void)be;
    CHECK(munmap(host, bytes) == 0);
}

static BackendTicket transfer_cpu(Backend *be, const Tensor *tensor, void *host, bool store)
{
    (void)be;
    memcpy(store ? host : tensor->data, store ? tensor->data : host, tensor_bytes(tensor));
    return 0;
}

static void transfer_wait_cpu(Backend *be, BackendTicket ticket)
{
    (void)be;
    (void)ticket;
}

static void wait_cpu(Backend *be)
{
    (void)be; /* operations are done when they return */
}

static BackendMemory memory_cpu(const Backend *be)
{
    (void)be;
    return (BackendMemory){
        .free = host_memory_available(""),
        .total = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE),
    };
}

static bool present_cpu(void)
{
    return true;
}

const DeviceOps device_cpu = {
    .open = open_cpu,
    .close = close_cpu,
    .reserve = reserve_cpu,
    .release = release_cpu,
    .upload = upload_cpu,
    .download = download_cpu,
    .pinned_reserve = pinned_reserve_cpu,
    .pinned_release = pinned_release_cpu,
    .transfer = transfer_cpu,
    .transfer_wait = transfer_wait_cpu,
    .wait = wait_cpu,
    .memory = memory_cpu,
    .present = present_cpu,
};
