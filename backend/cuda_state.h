/*
 * cuda_state.h - the inside of a CUDA backend; only the files of the CUDA device look at it.
 */
#pragma once

#include "backend/cuda.h"
#include "backend/cuda_blas.h"
#include "backend/state.h"

/* The functions of cuBLAS that we call, found at run time. X(field, symbol) */
#define CUDA_BLAS_CALLS(X)                                                                                             \
    X(create, cublasCreate_v2)                                                                                         \
    X(destroy, cublasDestroy_v2)                                                                                       \
    X(set_stream, cublasSetStream_v2)                                                                                  \
    X(set_workspace, cublasSetWorkspace_v2)                                                                            \
    X(gemm, cublasGemmEx)

typedef struct CudaBlas {
#define X(field, symbol) __typeof__(symbol) *field;
    CUDA_BLAS_CALLS(X)
#undef X
    cublasHandle_t handle;
    void *workspace;
} CudaBlas;

bool cuda_blas_open(Backend *be, Err *err) MUST_USE;
void cuda_blas_close(Backend *be);

/* A pinned buffer of an upload or download, and the event after which it may be written again. */
enum { CUDA_COPY_BUFFERS = 2, CUDA_COPY_BYTES = 4 << 20 };

typedef struct CudaCopyBuffer {
    void *pinned;
    cudaEvent_t done;
} CudaCopyBuffer;

/* Small arrays: pinned and device memory of the same layout, filled from the front. The latest ones are remembered. */
enum { CUDA_STAGE_RECENT = 8 };

typedef struct CudaStage {
    char *pinned, *device;
    size_t used;
    struct {
        size_t at, bytes; /* bytes 0: none */
    } recent[CUDA_STAGE_RECENT];
    int next_recent;
} CudaStage;

/*
 * Copies beside operations (backend_store, backend_fetch) on a stream of their own. Copy t leaves its event in a ring; a
 * wait for a copy whose event is that of a later one by now waits for that one, which is after it.
 */
enum { CUDA_TRANSFER_EVENTS = 64 };

typedef struct CudaTransfers {
    cudaStream_t stream;
    cudaEvent_t queued; /* what the operations' stream had done when the latest copy was queued */
    cudaEvent_t done[CUDA_TRANSFER_EVENTS];
    uint64_t count;
} CudaTransfers;

/* Closing needs what was copied to be released, which waits for the copies. */
bool cuda_transfers_open(Backend *be, Err *err) MUST_USE;
void cuda_transfers_close(Backend *be);
void *cuda_pinned_reserve(Backend *be, const char *name, size_t bytes, Err *err);
void cuda_pinned_release(Backend *be, void *host, size_t bytes);
BackendTicket cuda_transfer(Backend *be, const Tensor *tensor, void *host, bool store);
void cuda_transfer_wait(Backend *be, BackendTicket ticket);

/* Waits for operations and copies; `what` for. */
void cuda_wait_all(Backend *be, const char *what);

struct CudaState {
    int device;
    int capability, multiprocessors;
    bool plan_only; /* BackendOptions.plan_for */
    cudaStream_t stream;
    CudaCopyBuffer copies[CUDA_COPY_BUFFERS];
    int next_copy;
    CudaStage stage;
    CudaTransfers transfers;
    CudaBlas blas;
};
