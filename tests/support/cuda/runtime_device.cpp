/* runtime_device.cpp - devices, versions and errors of the CUDA runtime. */
#include "device_memory.h"
#include "fault.h"
#include "settings.h"
#include "stream.h"

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <string.h>

using namespace emu;

namespace
{
constexpr int MULTIPROCESSORS = 4; /* few: grids of "a few blocks each" stay small in tests */
int current_device;

/* X(error, text of the runtime) */
#define ERRORS(X)                                                                                                      \
    X(cudaSuccess, "no error")                                                                                         \
    X(cudaErrorInvalidValue, "invalid argument")                                                                       \
    X(cudaErrorMemoryAllocation, "out of memory")                                                                      \
    X(cudaErrorInitializationError, "initialization error")                                                            \
    X(cudaErrorInvalidConfiguration, "invalid configuration argument")                                                 \
    X(cudaErrorInvalidMemcpyDirection, "invalid copy direction for memcpy")                                            \
    X(cudaErrorInsufficientDriver, "CUDA driver version is insufficient for CUDA runtime version")                     \
    X(cudaErrorDevicesUnavailable, "CUDA-capable device(s) is/are busy or unavailable")                                \
    X(cudaErrorInvalidDeviceFunction, "invalid device function")                                                       \
    X(cudaErrorNoDevice, "no CUDA-capable device is detected")                                                         \
    X(cudaErrorInvalidDevice, "invalid device ordinal")                                                                \
    X(cudaErrorNoKernelImageForDevice, "no kernel image is available for execution on the device")                     \
    X(cudaErrorECCUncorrectable, "uncorrectable ECC error encountered")                                                \
    X(cudaErrorInvalidResourceHandle, "invalid resource handle")                                                       \
    X(cudaErrorNotReady, "device not ready")                                                                           \
    X(cudaErrorIllegalAddress, "an illegal memory access was encountered")                                             \
    X(cudaErrorLaunchOutOfResources, "too many resources requested for launch")                                        \
    X(cudaErrorLaunchTimeout, "the launch timed out and was terminated")                                               \
    X(cudaErrorAssert, "device-side assert triggered")                                                                 \
    X(cudaErrorMisalignedAddress, "misaligned address")                                                                \
    X(cudaErrorLaunchFailure, "unspecified launch failure")                                                            \
    X(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing")                           \
    X(cudaErrorStreamCaptureInvalidated, "operation failed due to a previous error during capture")                    \
    X(cudaErrorStreamCaptureMerge, "operation would result in a merge of separate capture sequences")                  \
    X(cudaErrorStreamCaptureUnmatched, "capture was not ended in the same stream as it began")                         \
    X(cudaErrorStreamCaptureUnjoined, "capturing stream has unjoined work")                                            \
    X(cudaErrorStreamCaptureIsolation, "dependency created on uncaptured work in another stream")                      \
    X(cudaErrorStreamCaptureImplicit, "operation would make the legacy stream depend on a capturing blocking stream")  \
    X(cudaErrorUnknown, "unknown error")

void fill_properties(cudaDeviceProp *out)
{
    memset(out, 0, sizeof *out);
    const Settings &s = settings();
    snprintf(out->name, sizeof out->name, "emulated");
    out->major = s.major;
    out->minor = s.minor;
    out->totalGlobalMem = s.memory_bytes;
    out->multiProcessorCount = MULTIPROCESSORS;
    out->sharedMemPerBlock = 48 << 10;
    out->sharedMemPerBlockOptin = shared_limit();
    out->sharedMemPerMultiprocessor = shared_limit() + 1024;
    out->reservedSharedMemPerBlock = 1024;
    out->regsPerBlock = out->regsPerMultiprocessor = 65536;
    out->warpSize = 32;
    out->maxThreadsPerBlock = 1024;
    out->maxThreadsPerMultiProcessor = 2048;
    out->maxThreadsDim[0] = out->maxThreadsDim[1] = 1024;
    out->maxThreadsDim[2] = 64;
    out->maxGridSize[0] = 0x7fffffff;
    out->maxGridSize[1] = out->maxGridSize[2] = 65535;
    out->l2CacheSize = 4 << 20;
    out->memoryBusWidth = 256;
    out->asyncEngineCount = 2;
    out->concurrentKernels = out->unifiedAddressing = out->managedMemory = out->canMapHostMemory = 1;
    out->pciBusID = current_device;
}
} // namespace

cudaError_t cudaGetDeviceCount(int *count)
{
    ENTER();
    *count = settings().devices;
    return keep(*count > 0 ? cudaSuccess : cudaErrorNoDevice);
}

cudaError_t cudaSetDevice(int device)
{
    ENTER();
    if (settings().devices == 0) return keep(cudaErrorNoDevice);
    if (device < 0 || device >= settings().devices) return keep(cudaErrorInvalidDevice);
    current_device = device;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device)
{
    ENTER();
    *device = current_device;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *out, int device)
{
    ENTER();
    if (device < 0 || device >= settings().devices) return keep(cudaErrorInvalidDevice);
    fill_properties(out);
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device)
{
    ENTER();
    if (device < 0 || device >= settings().devices) return keep(cudaErrorInvalidDevice);
    cudaDeviceProp p;
    fill_properties(&p);
    switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: *value = p.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = p.minor; break;
    case cudaDevAttrMultiProcessorCount: *value = p.multiProcessorCount; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = static_cast<int>(p.sharedMemPerBlock); break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = static_cast<int>(p.sharedMemPerBlockOptin); break;
    case cudaDevAttrMaxThreadsPerBlock: *value = p.maxThreadsPerBlock; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = p.maxThreadsPerMultiProcessor; break;
    case cudaDevAttrWarpSize: *value = p.warpSize; break;
    case cudaDevAttrL2CacheSize: *value = p.l2CacheSize; break;
    case cudaDevAttrGlobalMemoryBusWidth: *value = p.memoryBusWidth; break;
    case cudaDevAttrMemoryClockRate:
    case cudaDevAttrClockRate: *value = 1000000; break;
    case cudaDevAttrManagedMemory:
    case cudaDevAttrUnifiedAddressing: *value = 1; break;
    case cudaDevAttrConcurrentManagedAccess: *value = 0; break;
    case cudaDevAttrIntegrated: *value = 0; break;
    default: return keep(cudaErrorInvalidValue);
    }
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version)
{
    ENTER();
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    ENTER();
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaDeviceReset(void)
{
    ENTER();
    stream_drain(nullptr);
    return cudaSuccess;
}

cudaError_t cudaDeviceSetLimit(cudaLimit, size_t)
{
    ENTER();
    return cudaSuccess;
}

cudaError_t cudaSetDeviceFlags(unsigned)
{
    ENTER();
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *text, int bytes, int device)
{
    ENTER();
    if (device < 0 || device >= settings().devices) return keep(cudaErrorInvalidDevice);
    snprintf(text, static_cast<size_t>(bytes), "0000:%02x:00.0", static_cast<unsigned>(device) & 0xffu);
    return cudaSuccess;
}

cudaError_t cudaGetLastError(void)
{
    const std::lock_guard<std::recursive_mutex> lock(runtime_mutex());
    return last_error(true);
}

cudaError_t cudaPeekAtLastError(void)
{
    const std::lock_guard<std::recursive_mutex> lock(runtime_mutex());
    return last_error(false);
}

const char *cudaGetErrorString(cudaError_t e)
{
    switch (e) {
#define X(error, text)                                                                                                 \
    case error: return text;
        ERRORS(X)
#undef X
    default: return "unrecognized error code";
    }
}

const char *cudaGetErrorName(cudaError_t e)
{
    switch (e) {
#define X(error, text)                                                                                                 \
    case error: return #error;
        ERRORS(X)
#undef X
    default: return "unrecognized error code";
    }
}
