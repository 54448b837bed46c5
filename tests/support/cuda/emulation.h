/*
 * emulation.h - how tests steer the emulated CUDA device. C and C++.
 *
 * Every setting also has an environment variable, read before the first call:
 *   QLORA_CUDA_ORDER       in-order | reverse | random:SEED | priority:SEED   who runs first (schedule.h)
 *   QLORA_CUDA_STREAMS     eager | deferred:SEED | oldest | youngest   deferred: nothing runs before somebody must wait
 *                          for it; oldest, youngest: and the stream made first (last) runs as long as it can, so that
 *                          others come as late as their waits let them, however much is queued between
 *   QLORA_CUDA_MEMORY      bytes of device memory, default 8 GiB
 *   QLORA_CUDA_CAPABILITY  MAJOR.MINOR, default 9.0
 *   QLORA_CUDA_DEVICES     how many devices there are, default 1
 *   QLORA_CUDA_FAULT       FUNCTION:N:CODE[:once]   see emulation_fault
 *   QLORA_CUDA_GUARD       back | front   on which side of an allocation the unmapped page lies
 *   QLORA_CUDA_BLAS        missing: there is no cuBLAS
 * A mistake of a kernel or of the host is printed (what, kernel, block, thread, file:line, order) and ends the program
 * with abort().
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* False, and nothing changes, when the text is none of the above. */
bool emulation_order(const char *text);
bool emulation_streams(const char *text);
bool emulation_capability(const char *text);
void emulation_memory(size_t bytes);

/*
 * The N-th call (from 1) of FUNCTION returns CODE: a runtime function by name, "launch", a cuBLAS function by name
 * (cublasGemmEx), or "any". With ":once" only that call fails, otherwise all later ones do: of FUNCTION when CODE is
 * out of memory (2), of every function for other codes, as after a fault of the device. Null: no more faults; counting
 * starts again. For cuBLAS, CODE 2 becomes CUBLAS_STATUS_ALLOC_FAILED and others CUBLAS_STATUS_EXECUTION_FAILED.
 */
bool emulation_fault(const char *text);

/* Calls counted since the start or the last emulation_fault: of one function, or of all when null. */
long emulation_calls(const char *function);

typedef struct EmulationCounts {
    unsigned long long launches, blocks, threads, switches;
    unsigned long long pageable_copies; /* cudaMemcpyAsync with host memory that is not pinned: it waits */
    size_t device_bytes, peak_device_bytes, pinned_bytes;
    size_t allocations; /* calls that took device, managed or pinned memory */
} EmulationCounts;
EmulationCounts emulation_counts(void);

/* A function of the emulated cuBLAS by its exported name ("cublasCreate_v2"), or null. */
void *cuda_emulated_blas_symbol(const char *name);

#ifdef __cplusplus
}
#endif
