/*
 * device_cuda.c - an NVIDIA GPU as a device: opening it, arenas, copies through pinned memory, faults.
 */
#include "backend/cuda_state.h"
#include "base/mem.h"

#include <stdio.h>
#include <string.h>

enum { CAPABILITY_MIN = 75, CAPABILITY_BF16 = 80, STAGE_ALIGN = 256 };

static bool device_fault(Err *err, cudaError_t e, const char *what)
{
    return FAIL(err, e == cudaErrorMemoryAllocation ? ERR_MEMORY : ERR_DEVICE, "CUDA: %s: %s (%s)", what,
                cudaGetErrorString(e), cudaGetErrorName(e));
}

#define CUDA_TRY(call, what)                                                                                           \
    do {                                                                                                               \
        const cudaError_t e_ = (call);                                                                                 \
        if (e_ != cudaSuccess) return device_fault(err, e_, what);                                                     \
    } while (0)

/* --- what the operations use --- */

cudaStream_t cuda_stream(const Backend *be)
{
    return be->cuda->stream;
}

int cuda_multiprocessors(const Backend *be)
{
    return be->cuda->multiprocessors;
}

int cuda_capability(const Backend *be)
{
    return be->cuda->capability;
}

bool cuda_failed(const Backend *be)
{
    return be->fault.code != ERR_NONE;
}

/* It lies behind the staging area. */
void *cuda_scratch(const Backend *be)
{
    return be->cuda->stage.device + CUDA_STAGE_MAX;
}

void cuda_note(Backend *be, cudaError_t e, const char *what)
{
    if (e != cudaSuccess && !cuda_failed(be)) (void)device_fault(&be->fault, e, what);
}

static const void *staged_before(const CudaStage *s, const void *host, size_t bytes)
{
    for (int i = 0; i < CUDA_STAGE_RECENT; i++) {
        if (s->recent[i].bytes == bytes && memcmp(s->pinned + s->recent[i].at, host, bytes) == 0)
            return s->device + s->recent[i].at;
    }
    return NULL;
}

/* Kernels that read the old bytes have run before new ones replace them: the area is only reused after a wait. */
static size_t stage_room(Backend *be, size_t bytes)
{
    CudaStage *s = &be->cuda->stage;
    if (s->used + bytes > CUDA_STAGE_MAX) {
        cuda_note(be, cudaStreamSynchronize(be->cuda->stream), "waiting for staged arrays");
        s->used = 0;
        memset(s->recent, 0, sizeof s->recent);
    }
    const size_t at = s->used;
    s->used += (bytes + STAGE_ALIGN - 1) / STAGE_ALIGN * STAGE_ALIGN;
    s->recent[s->next_recent].at = at;
    s->recent[s->next_recent].bytes = bytes;
    s->next_recent = (s->next_recent + 1) % CUDA_STAGE_RECENT;
    return at;
}

const void *cuda_stage(Backend *be, const void *host, size_t bytes)
{
    CudaStage *s = &be->cuda->stage;
    CHECK(bytes > 0 && bytes <= CUDA_STAGE_MAX);
    const void *before = staged_before(s, host, bytes);
    if (before) return before;
    const size_t at = stage_room(be, bytes);
    memcpy(s->pinned + at, host, bytes);
    cuda_note(be, cudaMemcpyAsync(s->device + at, s->pinned + at, bytes, cudaMemcpyHostToDevice, be->cuda->stream),
              "copying a small array to the device");
    return s->device + at;
}

/* --- opening --- */

static bool find_device(int device, struct cudaDeviceProp *properties, Err *err)
{
    int driver = 0, runtime = 0, count = 0;
    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
        return FAIL(err, ERR_DEVICE,
                    "no NVIDIA driver is loaded on this machine; install one for CUDA %d or newer (nvidia-smi shows "
                    "it), or use --device cpu",
                    CUDART_VERSION / 1000);
    }
    CUDA_TRY(cudaRuntimeGetVersion(&runtime), "asking for the version of the runtime");
    const cudaError_t e = cudaGetDeviceCount(&count);
    if (e == cudaErrorInsufficientDriver) {
        return FAIL(err, ERR_DEVICE,
                    "the NVIDIA driver is too old: it runs CUDA up to %d.%d and this build needs %d.x; update the "
                    "driver, or use --device cpu",
                    driver / 1000, driver % 1000 / 10, runtime / 1000);
    }
    if (e == cudaErrorNoDevice || (e == cudaSuccess && count == 0)) {
        return FAIL(err, ERR_DEVICE,
                    "the NVIDIA driver sees no device; look at CUDA_VISIBLE_DEVICES and nvidia-smi, or use --device "
                    "cpu");
    }
    if (e != cudaSuccess) return device_fault(err, e, "counting devices");
    if (device < 0 || device >= count) {
        return FAIL(err, ERR_DEVICE, "there is no device cuda:%d; %d %s visible (cuda:0%s)", device, count,
                    count == 1 ? "is" : "are", count == 1 ? "" : " and up");
    }
    CUDA_TRY(cudaGetDeviceProperties(properties, device), "reading the properties of the device");
    if (properties->major * 10 + properties->minor < CAPABILITY_MIN) {
        return FAIL(err, ERR_DEVICE,
                    "%s has compute capability %d.%d; 7.5 (Turing) or newer is needed, or --device cpu",
                    properties->name, properties->major, properties->minor);
    }
    return true;
}

static bool open_staging(CudaState *c, Err *err)
{
    for (int i = 0; i < CUDA_COPY_BUFFERS; i++) {
        CUDA_TRY(cudaMallocHost(&c->copies[i].pinned, CUDA_COPY_BYTES), "taking pinned host memory");
        CUDA_TRY(cudaEventCreateWithFlags(&c->copies[i].done, cudaEventDisableTiming), "creating an event");
        CUDA_TRY(cudaEventRecord(c->copies[i].done, c->stream), "recording an event");
    }
    CUDA_TRY(cudaMallocHost((void **)&c->stage.pinned, CUDA_STAGE_MAX), "taking pinned host memory");
    CUDA_TRY(cudaMalloc((void **)&c->stage.device, CUDA_STAGE_MAX + CUDA_SCRATCH_BYTES),
             "taking device memory for small arrays");
    return true;
}

static void prefer_type(Backend *be)
{
    be->preferred = be->cuda->capability >= CAPABILITY_BF16 ? DTYPE_BF16 : DTYPE_F16;
}

static bool open_plan(Backend *be, int capability)
{
    CudaState *c = be->cuda;
    c->plan_only = true;
    c->capability = capability;
    prefer_type(be);
    snprintf(be->name, sizeof be->name, "a CUDA device of compute capability %d.%d (planned)", capability / 10,
             capability % 10);
    return true;
}

static bool open_cuda(Backend *be, const BackendOptions *options, Err *err)
{
    be->cuda = mem_alloc(1, sizeof *be->cuda, err);
    if (!be->cuda) return false;
    if (options->plan_for) return open_plan(be, options->plan_for);
    CudaState *c = be->cuda;
    struct cudaDeviceProp properties;
    if (!find_device(options->device, &properties, err)) return false;
    c->device = options->device;
    c->capability = properties.major * 10 + properties.minor;
    c->multiprocessors = properties.multiProcessorCount;
    CUDA_TRY(cudaSetDevice(c->device), "selecting the device");
    CUDA_TRY(cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking), "creating a stream");
    if (!open_staging(c, err) || !cuda_transfers_open(be, err) || !cuda_blas_open(be, err)) return false;
    prefer_type(be);
    snprintf(be->name, sizeof be->name, "cuda:%d (%s, %.1f GB, compute capability %d.%d)", c->device, properties.name,
             (double)properties.totalGlobalMem * 1e-9, properties.major, properties.minor);
    return true;
}

static void close_cuda(Backend *be)
{
    CudaState *c = be->cuda;
    if (!c) return;
    if (c->stream) (void)cudaStreamSynchronize(c->stream);
    cuda_blas_close(be);
    cuda_transfers_close(be);
    for (int i = 0; i < CUDA_COPY_BUFFERS; i++) {
        if (c->copies[i].done) (void)cudaEventDestroy(c->copies[i].done);
        if (c->copies[i].pinned) (void)cudaFreeHost(c->copies[i].pinned);
    }
    if (c->stage.pinned) (void)cudaFreeHost(c->stage.pinned);
    if (c->stage.device) (void)cudaFree(c->stage.device);
    if (c->stream) (void)cudaStreamDestroy(c->stream);
    mem_free(c);
}

/* --- arenas --- */

static BackendMemory memory_cuda(const Backend *be)
{
    size_t available = 0, total = 0;
    if (!be->cuda->plan_only) (void)cudaMemGetInfo(&available, &total);
    return (BackendMemory){.free = available, .total = total};
}

static void *reserve_cuda(Backend *be, const char *name, size_t bytes, Err *err)
{
    CHECK(!be->cuda->plan_only);
    void *storage = NULL;
    cudaError_t e = cudaMalloc(&storage, bytes);
    if (e == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError();
        (void)FAIL(err, ERR_MEMORY,
                   "the %s arena needs %.1f MB (%zu bytes) of device memory and %.1f MB are free on %s; shorten the "
                   "rows, checkpoint activations, or stop what else uses the device",
                   name, (double)bytes * 1e-6, bytes, (double)memory_cuda(be).free * 1e-6, be->name);
        return NULL;
    }
    if (e == cudaSuccess) e = cudaMemsetAsync(storage, 0, bytes, be->cuda->stream);
    if (e == cudaSuccess) return storage;
    (void)device_fault(err, e, "reserving device memory");
    if (storage) (void)cudaFree(storage);
    return NULL;
}

/* Nothing in flight may still use it. */
static void release_cuda(Backend *be, void *storage, size_t bytes)
{
    (void)bytes;
    cuda_wait_all(be, "waiting before memory is given back");
    cuda_note(be, cudaFree(storage), "giving device memory back");
}

/* --- copies --- */

/* A run of bytes of a tensor, whole rows of it or a piece of one, that fits a pinned buffer. */
typedef struct Run {
    char *device;
    size_t pitch, width, rows; /* bytes from row to row, bytes of a row, rows */
} Run;

static size_t row_bytes(const Tensor *t)
{
    return (size_t)tensor_cols(t) * dtype_bytes(t->dtype);
}

/* The run that starts `at` dense bytes into the tensor. */
static Run run_at(const Tensor *t, size_t at, size_t all)
{
    const size_t width = row_bytes(t), pitch = (size_t)t->stride * dtype_bytes(t->dtype);
    const size_t row = at / width, inside = at % width;
    Run r = {.device = (char *)t->data + row * pitch + inside, .pitch = pitch, .width = width - inside, .rows = 1};
    if (width > CUDA_COPY_BYTES || inside) {
        if (r.width > CUDA_COPY_BYTES) r.width = CUDA_COPY_BYTES;
        return r;
    }
    const size_t left = (all - at) / width, fit = CUDA_COPY_BYTES / width;
    r.rows = left < fit ? left : fit;
    return r;
}

static void copy_run(Backend *be, const Run *r, void *pinned, bool upload)
{
    const cudaStream_t stream = be->cuda->stream;
    const cudaError_t e = upload ? cudaMemcpy2DAsync(r->device, r->pitch, pinned, r->width, r->width, r->rows,
                                                     cudaMemcpyHostToDevice, stream)
                                 : cudaMemcpy2DAsync(pinned, r->width, r->device, r->pitch, r->width, r->rows,
                                                     cudaMemcpyDeviceToHost, stream);
    cuda_note(be, e, upload ? "copying to the device" : "copying from the device");
}

/* One row: the pitch of a long row may exceed what a 2-D copy allows. */
static Run flat_run(Run r)
{
    if (r.rows == 1) r.pitch = r.width;
    return r;
}

static void upload_cuda(Backend *be, const Tensor *to, const void *from)
{
    const size_t all = (size_t)tensor_count(to) * dtype_bytes(to->dtype);
    for (size_t at = 0; at < all;) {
        CudaCopyBuffer *buffer = &be->cuda->copies[be->cuda->next_copy];
        const Run r = flat_run(run_at(to, at, all));
        be->cuda->next_copy = (be->cuda->next_copy + 1) % CUDA_COPY_BUFFERS;
        cuda_note(be, cudaEventSynchronize(buffer->done), "waiting for a copy");
        memcpy(buffer->pinned, (const char *)from + at, r.width * r.rows);
        copy_run(be, &r, buffer->pinned, true);
        cuda_note(be, cudaEventRecord(buffer->done, be->cuda->stream), "recording an event");
        at += r.width * r.rows;
    }
}

/*
 * Earlier uploads have read the buffer before the device writes it: all is on one stream. After a fault the result is
 * zeros, so that nobody mistakes old bytes for new ones.
 */
static void download_cuda(Backend *be, void *to, const Tensor *from)
{
    const size_t all = (size_t)tensor_count(from) * dtype_bytes(from->dtype);
    CudaCopyBuffer *buffer = &be->cuda->copies[be->cuda->next_copy];
    be->cuda->next_copy = (be->cuda->next_copy + 1) % CUDA_COPY_BUFFERS;
    for (size_t at = 0; at < all && !cuda_failed(be);) {
        const Run r = flat_run(run_at(from, at, all));
        copy_run(be, &r, buffer->pinned, false);
        cuda_note(be, cudaStreamSynchronize(be->cuda->stream), "waiting for the device");
        memcpy((char *)to + at, buffer->pinned, r.width * r.rows);
        at += r.width * r.rows;
    }
    if (cuda_failed(be)) memset(to, 0, all);
}

static void wait_cuda(Backend *be)
{
    if (!be->cuda->plan_only) cuda_wait_all(be, "waiting for the device");
}

static bool present_cuda(void)
{
    int driver = 0;
    return cudaDriverGetVersion(&driver) == cudaSuccess && driver > 0;
}

const DeviceOps device_cuda = {
    .open = open_cuda,
    .close = close_cuda,
    .reserve = reserve_cuda,
    .release = release_cuda,
    .upload = upload_cuda,
    .download = download_cuda,
    .pinned_reserve = cuda_pinned_reserve,
    .pinned_release = cuda_pinned_release,
    .transfer = cuda_transfer,
    .transfer_wait = cuda_transfer_wait,
    .wait = wait_cuda,
    .memory = memory_cuda,
    .present = present_cuda,
};
