/*
 * backend.h - a compute device: its arenas, copies to and from it, and the bracket around every operation.
 *
 * Host code never touches the bytes of an arena. It uploads, downloads and calls operations; each operation, of this
 * folder or of a module (quant/, lora/, model/, optim/), runs between backend_enter and backend_leave. A test backend
 * (tests/support/guard.h) makes every arena unreadable outside of that bracket, so the rule cannot rot (invariant I3).
 * Operations return void: shapes are CHECKed at once, device faults stay on the backend until backend_sync. On CUDA
 * operations are queued on one stream; uploads may be reused at once, downloads wait.
 * Tables: each module owns one `static const XOps *const ops[BACKEND_COUNT]`, so no central list grows (FOLDER/ops.h).
 */
#pragma once

#include "base/arena.h"
#include "base/err.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum BackendKind { BACKEND_CPU, BACKEND_CUDA, BACKEND_COUNT } BackendKind;

/* Entry of a table: the CUDA operations where the build has them (CMake: QLORA_CUDA). */
#if QLORA_CUDA
#    define CUDA_OPS(table) (&(table))
#else
#    define CUDA_OPS(table) NULL
#endif

typedef struct Backend Backend;

/* Test hooks; zeroed in production. `state` is passed to each. */
typedef struct BackendHooks {
    void *(*reserve)(void *state, size_t bytes); /* storage for an arena, page aligned; null: out of memory */
    void (*release)(void *state, void *storage, size_t bytes);
    void (*enter)(void *state);
    void (*leave)(void *state);
    void *state;
} BackendHooks;

typedef struct BackendOptions {
    BackendKind kind;
    int threads;    /* 0: all cores */
    bool reference; /* own plain matrix products instead of the library's; slow, for tests; CPU only */
    int device;     /* ordinal among the visible CUDA devices */
    /* CUDA without a device: answers sizes and types for a card of this compute capability (90: 9.0), reserves
     * nothing and computes nothing. 0: a real device. */
    int plan_for;
    BackendHooks hooks;
} BackendOptions;

/* ERR_DEVICE says what is missing (driver, device, library, too old) and what to do. */
bool backend_open(Backend **out, const BackendOptions *options, Err *err) MUST_USE;
void backend_close(Backend *be);

BackendKind backend_kind(const Backend *be);
int backend_threads(const Backend *be);
const char *backend_name(const Backend *be); /* "cpu (2 threads, AMX-BF16)" */
bool backend_reference(const Backend *be);   /* BackendOptions.reference */

/* Bytes that the device has free and has in all; the host's on the CPU. */
typedef struct BackendMemory {
    uint64_t free, total;
} BackendMemory;
BackendMemory backend_memory(const Backend *be);

/* Whether this build has the CUDA backend and the machine a driver, so that opening one may succeed. */
bool backend_cuda_driver(void);

/* bf16 where the device multiplies it faster than f32; f16 on CUDA devices without it, f32 on processors without it. */
DType backend_preferred_dtype(const Backend *be);

/* Storage of `bytes` bytes, zeroed, for a measured arena; ERR_MEMORY names what was asked for and what there is. */
bool backend_arena_reserve(Backend *be, Arena *a, size_t bytes, Err *err) MUST_USE;
void backend_arena_release(Backend *be, Arena *a); /* accepts an arena without storage */

/* Between host memory and a tensor of an arena; the tensor's rows may be strided, the host side is dense. */
void backend_upload(Backend *be, const Tensor *to, const void *from);
void backend_download(Backend *be, void *to, const Tensor *from);

/* Host memory that the device copies to and from on its own (pinned), zeroed; on the CPU plain memory. Operations that
 * say so read it in place, over the link. */
void *backend_pinned_reserve(Backend *be, const char *name, size_t bytes, Err *err) MUST_USE;
void backend_pinned_release(Backend *be, void *host, size_t bytes); /* accepts null; waits for copies in flight */

/*
 * Copies between pinned memory and a dense tensor that run beside operations, one copy after the other. Each begins when
 * the operations queued before it are done. Operations queued later must not touch the tensor before
 * backend_transfer_wait (after a store they may read it), and the host not the memory before backend_sync.
 */
typedef uint64_t BackendTicket;
BackendTicket backend_store(Backend *be, void *host, const Tensor *from);
BackendTicket backend_fetch(Backend *be, const Tensor *to, const void *host);

/* Operations queued from now on run after that copy; the host goes on. Ticket 0 is no copy. */
void backend_transfer_wait(Backend *be, BackendTicket ticket);

/* Waits for the device; returns the first fault since the last call. */
bool backend_sync(Backend *be, Err *err) MUST_USE;

/* Whether a fault waits for backend_sync to report it: what is downloaded now is void. */
bool backend_failed(const Backend *be);

/* Around the body of every operation; they nest. */
void backend_enter(Backend *be);
void backend_leave(Backend *be);

#ifdef __cplusplus
}
#endif
