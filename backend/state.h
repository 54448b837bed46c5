/*
 * state.h - the inside of a Backend; only backend/ looks at it.
 */
#pragma once

#include "backend/backend.h"

typedef struct MatmulState MatmulState; /* primitives of the library and their scratch memory */
typedef struct CudaState CudaState;     /* stream, staging and handles (backend/cuda_state.h) */

/* What a kind of device does. Sizes are whole pages; faults of asynchronous work end in Backend.fault. */
typedef struct DeviceOps {
    bool (*open)(Backend *be, const BackendOptions *options, Err *err);
    void (*close)(Backend *be); /* accepts what a failed open left */
    void *(*reserve)(Backend *be, const char *name, size_t bytes, Err *err);
    void (*release)(Backend *be, void *storage, size_t bytes);
    void (*upload)(Backend *be, const Tensor *to, const void *from);
    void (*download)(Backend *be, void *to, const Tensor *from);
    void *(*pinned_reserve)(Backend *be, const char *name, size_t bytes, Err *err);
    void (*pinned_release)(Backend *be, void *host, size_t bytes);
    BackendTicket (*transfer)(Backend *be, const Tensor *tensor, void *host, bool store);
    void (*transfer_wait)(Backend *be, BackendTicket ticket);
    void (*wait)(Backend *be);
    BackendMemory (*memory)(const Backend *be);
    bool (*present)(void); /* worth opening */
} DeviceOps;

struct Backend {
    BackendKind kind;
    const DeviceOps *device;
    int threads;
    bool reference;
    BackendHooks hooks;
    int depth;      /* of nested enters */
    char name[320]; /* device names have up to 255 bytes */
    DType preferred;
    Err fault; /* first one since the last sync */
    MatmulState *matmul;
    CudaState *cuda;
};

extern const DeviceOps device_cpu;
#if QLORA_CUDA
extern const DeviceOps device_cuda;
#endif

/* Storage is mapped in whole pages. */
size_t device_mapped_bytes(size_t bytes);

bool matmul_state_create(MatmulState **out, Err *err) MUST_USE;
void matmul_state_free(MatmulState *state);
