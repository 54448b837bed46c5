/*
 * cuda.h - what the CUDA bodies of operations need from their backend: its stream, its fault, small host arrays.
 *
 * Included by .cu files and by the CUDA files of backend/ only. Everything is queued on one stream, so operations see what
 * earlier ones wrote. A fault is kept (the first one counts) and reported by backend_sync.
 */
#pragma once

#include "backend/backend.h"

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

cudaStream_t cuda_stream(const Backend *be);

/* Keeps `e` unless it is cudaSuccess; `what` names the call or kernel. */
void cuda_note(Backend *be, cudaError_t e, const char *what);

/* True once a fault was kept: results are void and further launches are pointless. */
bool cuda_failed(const Backend *be);

/*
 * A copy on the device of `bytes` <= CUDA_STAGE_MAX host bytes, 256-byte aligned, for kernels queued before the next
 * call of cuda_stage with other bytes. The host array may change at once. Equal bytes staged again cost no copy.
 */
enum { CUDA_STAGE_MAX = 16 << 20 };
const void *cuda_stage(Backend *be, const void *host, size_t bytes);

/* Device memory for what one operation hands from kernel to kernel; 256-byte aligned. The next operation overwrites it. */
enum { CUDA_SCRATCH_BYTES = 64 << 10 };
void *cuda_scratch(const Backend *be);

/* Streaming multiprocessors of the device; launches that loop over their work use a multiple of it. */
int cuda_multiprocessors(const Backend *be);

/* 90 for compute capability 9.0 */
int cuda_capability(const Backend *be);

/* A function of cuBLAS (libcublas.so.13 or .12), null when the library or the name is not there. cuda_library.c; the
 * emulation brings its own. */
void *cuda_library_symbol(const char *name);
/* Why it could not be loaded, as dlerror says. */
const char *cuda_library_fault(void);

#ifdef __cplusplus
}
#endif
