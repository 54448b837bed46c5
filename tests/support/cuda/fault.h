/* fault.h - errors on demand (emulation_fault), and the error that cudaGetLastError returns. */
#pragma once

#include <cuda_runtime_api.h>

#include <mutex>

namespace emu
{
bool fault_set(const char *text);
long fault_calls(const char *function);

/* Counts a call of `function`; the error it shall return, or cudaSuccess. */
cudaError_t fault_check(const char *function);

/* Keeps an error for cudaGetLastError and returns it. */
cudaError_t keep(cudaError_t e);
cudaError_t last_error(bool forget);

/* One host thread at a time is inside the runtime. */
std::recursive_mutex &runtime_mutex();
} // namespace emu

/* First line of every function of the runtime. */
#define ENTER()                                                                                                        \
    const std::lock_guard<std::recursive_mutex> lock(emu::runtime_mutex());                                            \
    if (const cudaError_t fault = emu::fault_check(__func__)) return emu::keep(fault)
