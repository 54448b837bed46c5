/*
 * transfer_cuda.c - pinned host memory, and copies to and from it beside the operations.
 */
#include "backend/cuda_state.h"
#include "backend/host_memory.h"

#include <string.h>

bool cuda_transfers_open(Backend *be, Err *err)
{
    CudaTransfers *t = &be->cuda->transfers;
    cudaError_t e = cudaStreamCreateWithFlags(&t->stream, cudaStreamNonBlocking);
    if (e == cudaSuccess) e = cudaEventCreateWithFlags(&t->queued, cudaEventDisableTiming);
    for (int i = 0; i < CUDA_TRANSFER_EVENTS && e == cudaSuccess; i++)
        e = cudaEventCreateWithFlags(&t->done[i], cudaEventDisableTiming);
    if (e == cudaSuccess) return true;
    return FAIL(err, ERR_DEVICE, "CUDA: making a stream of copies: %s (%s)", cudaGetErrorString(e),
                cudaGetErrorName(e));
}

void cuda_transfers_close(Backend *be)
{
    CudaTransfers *t = &be->cuda->transfers;
    for (int i = 0; i < CUDA_TRANSFER_EVENTS; i++) {
        if (t->done[i]) (void)cudaEventDestroy(t->done[i]);
    }
    if (t->queued) (void)cudaEventDestroy(t->queued);
    if (t->stream) (void)cudaStreamDestroy(t->stream);
}

void cuda_wait_all(Backend *be, const char *what)
{
    cuda_note(be, cudaStreamSynchronize(be->cuda->stream), what);
    cuda_note(be, cudaStreamSynchronize(be->cuda->transfers.stream), what);
}

void *cuda_pinned_reserve(Backend *be, const char *name, size_t bytes, Err *err)
{
    CHECK(!be->cuda->plan_only);
    void *host = NULL;
    const size_t available = host_memory_available("");
    const cudaError_t e = bytes <= available ? cudaMallocHost(&host, bytes) : cudaErrorMemoryAllocation;
    if (e == cudaSuccess) return memset(host, 0, bytes);
    (void)cudaGetLastError();
    (void)FAIL(err, e == cudaErrorMemoryAllocation ? ERR_MEMORY : ERR_DEVICE,
               "%s needs %.1f MB (%zu bytes) of pinned host memory, of which %.1f MB are available: %s (%s)", name,
               (double)bytes * 1e-6, bytes, (double)available * 1e-6, cudaGetErrorString(e), cudaGetErrorName(e));
    return NULL;
}

void cuda_pinned_release(Backend *be, void *host, size_t bytes)
{
    (void)bytes;
    cuda_wait_all(be, "waiting before pinned memory is given back");
    cuda_note(be, cudaFreeHost(host), "giving pinned memory back");
}

BackendTicket cuda_transfer(Backend *be, const Tensor *tensor, void *host, bool store)
{
    CudaTransfers *t = &be->cuda->transfers;
    const size_t bytes = tensor_bytes(tensor);
    const BackendTicket ticket = ++t->count;
    cuda_note(be, cudaEventRecord(t->queued, be->cuda->stream), "recording an event");
    cuda_note(be, cudaStreamWaitEvent(t->stream, t->queued, 0), "queueing a wait");
    const cudaError_t e = store ? cudaMemcpyAsync(host, tensor->data, bytes, cudaMemcpyDeviceToHost, t->stream)
                                : cudaMemcpyAsync(tensor->data, host, bytes, cudaMemcpyHostToDevice, t->stream);
    cuda_note(be, e, store ? "storing a tensor in pinned memory" : "fetching a tensor from pinned memory");
    cuda_note(be, cudaEventRecord(t->done[ticket % CUDA_TRANSFER_EVENTS], t->stream), "recording an event");
    return ticket;
}

void cuda_transfer_wait(Backend *be, BackendTicket ticket)
{
    CudaTransfers *t = &be->cuda->transfers;
    CHECK(ticket <= t->count);
    cuda_note(be, cudaStreamWaitEvent(be->cuda->stream, t->done[ticket % CUDA_TRANSFER_EVENTS], 0), "queueing a wait");
}
