/* runtime_memory.cpp - allocation, copies and fills of the CUDA runtime. */
#include "block.h"
#include "counts.h"
#include "device_memory.h"
#include "fault.h"
#include "stream.h"

#include <string.h>

#include <memory>
#include <vector>

using namespace emu;

namespace
{
cudaError_t take(Memory kind, void **out, size_t bytes)
{
    if (const cudaError_t e = stream_refuse_capture()) return keep(e);
    if (out == nullptr) return keep(cudaErrorInvalidValue);
    *out = nullptr;
    if (bytes == 0) return cudaSuccess;
    *out = memory_take(kind, bytes);
    return keep(*out != nullptr ? cudaSuccess : cudaErrorMemoryAllocation);
}

cudaError_t give_back(Memory kind, Memory or_kind, void *at)
{
    if (at == nullptr) return cudaSuccess;
    if (const cudaError_t e = stream_refuse_capture()) return keep(e);
    if (stream_pending(nullptr))
        report("cudaFree", 0, "memory is freed while work is pending in a stream (%s): synchronise first",
               device_describe(at) ? device_describe(at) : "unknown");
    return keep(memory_free(kind, at) || memory_free(or_kind, at) ? cudaSuccess : cudaErrorInvalidValue);
}

/* One end of a copy. */
struct End {
    bool device, managed, pinned;
};

End end_of(const void *at, size_t bytes)
{
    return {memory_contains(Memory::DEVICE, at, bytes), memory_contains(Memory::MANAGED, at, bytes),
            memory_contains(Memory::PINNED, at, bytes)};
}

/* A range that leaves its allocation, or freed memory. */
void check_range(const char *what, const void *at, size_t bytes)
{
    const char *where = device_describe(at);
    if (where != nullptr && !device_contains(at, bytes))
        report(what, 0, "a copy of %zu bytes leaves its memory: it starts at %s", bytes, where);
}

cudaError_t check_direction(cudaMemcpyKind kind, const End &to, const End &from)
{
    const bool to_host = !to.device && !to.managed, from_host = !from.device && !from.managed;
    switch (kind) {
    case cudaMemcpyHostToHost: return to.device || from.device ? cudaErrorInvalidValue : cudaSuccess;
    case cudaMemcpyHostToDevice: return to_host || from.device ? cudaErrorInvalidValue : cudaSuccess;
    case cudaMemcpyDeviceToHost: return to.device || from_host ? cudaErrorInvalidValue : cudaSuccess;
    case cudaMemcpyDeviceToDevice: return to_host || from_host ? cudaErrorInvalidValue : cudaSuccess;
    case cudaMemcpyDefault: return cudaSuccess;
    }
    return cudaErrorInvalidMemcpyDirection;
}

struct Copy {
    const char *what;
    char *to;
    size_t to_pitch;
    const char *from;
    size_t from_pitch, width, height;
};

size_t span(size_t pitch, size_t width, size_t height)
{
    return height == 0 || width == 0 ? 0 : pitch * (height - 1) + width;
}

void copy_rows(const Copy &c)
{
    for (size_t row = 0; row < c.height; row++)
        memmove(c.to + row * c.to_pitch, c.from + row * c.from_pitch, c.width);
}

/*
 * Host memory that is not pinned: the runtime takes the bytes before it returns, and it waits for bytes that go there.
 */
cudaError_t copy_async(const Copy &c, cudaMemcpyKind kind, cudaStream_t stream)
{
    const size_t to_bytes = span(c.to_pitch, c.width, c.height), from_bytes = span(c.from_pitch, c.width, c.height);
    if (to_bytes == 0) return cudaSuccess;
    if (c.to == nullptr || c.from == nullptr || c.to_pitch < c.width || c.from_pitch < c.width)
        return keep(cudaErrorInvalidValue);
    check_range(c.what, c.to, to_bytes);
    check_range(c.what, c.from, from_bytes);
    const End to = end_of(c.to, to_bytes), from = end_of(c.from, from_bytes);
    if (const cudaError_t e = check_direction(kind, to, from)) return keep(e);
    const bool pageable_from = !from.device && !from.managed && !from.pinned;
    const bool pageable_to = !to.device && !to.managed && !to.pinned;
    if (pageable_from || pageable_to) {
        counts.pageable_copies++;
        if (stream_of(stream)->graph != nullptr) return keep(stream_refuse_capture());
    }
    Copy queued = c;
    auto bytes = std::make_shared<std::vector<char>>();
    if (pageable_from) {
        bytes->assign(c.from, c.from + from_bytes);
        queued.from = bytes->data();
    }
    const cudaError_t e = stream_enqueue(stream, c.what, [queued, bytes] { copy_rows(queued); });
    if (e == cudaSuccess && pageable_to) stream_drain(stream_of(stream));
    return e;
}

cudaError_t fill_async(const char *what, void *at, size_t pitch, int value, size_t width, size_t height,
                       cudaStream_t stream)
{
    const size_t bytes = span(pitch, width, height);
    if (bytes == 0) return cudaSuccess;
    check_range(what, at, bytes);
    if (!device_contains(at, bytes)) return keep(cudaErrorInvalidValue);
    char *to = static_cast<char *>(at);
    return stream_enqueue(stream, what, [=] {
        for (size_t row = 0; row < height; row++)
            memset(to + row * pitch, value, width);
    });
}

/* A plain call returns when the bytes have moved. */
cudaError_t then_wait(cudaError_t e)
{
    if (e == cudaSuccess && stream_capturing()) return keep(stream_refuse_capture());
    if (e == cudaSuccess) stream_drain(stream_of(nullptr));
    return e;
}
} // namespace

cudaError_t cudaMalloc(void **out, size_t bytes)
{
    ENTER();
    return take(Memory::DEVICE, out, bytes);
}

cudaError_t cudaMallocManaged(void **out, size_t bytes, unsigned)
{
    ENTER();
    return take(Memory::MANAGED, out, bytes);
}

cudaError_t cudaMallocHost(void **out, size_t bytes)
{
    ENTER();
    return take(Memory::PINNED, out, bytes);
}

cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned)
{
    ENTER();
    return take(Memory::PINNED, out, bytes);
}

cudaError_t cudaFree(void *at)
{
    ENTER();
    return give_back(Memory::DEVICE, Memory::MANAGED, at);
}

cudaError_t cudaFreeHost(void *at)
{
    ENTER();
    return give_back(Memory::PINNED, Memory::PINNED, at);
}

cudaError_t cudaHostGetDevicePointer(void **device, void *host, unsigned)
{
    ENTER();
    if (!memory_contains(Memory::PINNED, host, 1)) return keep(cudaErrorInvalidValue);
    *device = host;
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream)
{
    ENTER();
    const Copy c = {
        "cudaMemcpyAsync", static_cast<char *>(to), bytes, static_cast<const char *>(from), bytes, bytes, 1};
    return copy_async(c, kind, stream);
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind)
{
    ENTER();
    const Copy c = {"cudaMemcpy", static_cast<char *>(to), bytes, static_cast<const char *>(from), bytes, bytes, 1};
    return then_wait(copy_async(c, kind, nullptr));
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t stream)
{
    ENTER();
    const Copy c = {"cudaMemcpy2DAsync",
                    static_cast<char *>(to),
                    to_pitch,
                    static_cast<const char *>(from),
                    from_pitch,
                    width,
                    height};
    return copy_async(c, kind, stream);
}

cudaError_t cudaMemcpy2D(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t height,
                         cudaMemcpyKind kind)
{
    ENTER();
    const Copy c = {
        "cudaMemcpy2D", static_cast<char *>(to), to_pitch, static_cast<const char *>(from), from_pitch, width, height};
    return then_wait(copy_async(c, kind, nullptr));
}

cudaError_t cudaMemsetAsync(void *at, int value, size_t bytes, cudaStream_t stream)
{
    ENTER();
    return fill_async("cudaMemsetAsync", at, bytes, value, bytes, 1, stream);
}

cudaError_t cudaMemset(void *at, int value, size_t bytes)
{
    ENTER();
    return then_wait(fill_async("cudaMemset", at, bytes, value, bytes, 1, nullptr));
}

cudaError_t cudaMemset2DAsync(void *at, size_t pitch, int value, size_t width, size_t height, cudaStream_t stream)
{
    ENTER();
    return fill_async("cudaMemset2DAsync", at, pitch, value, width, height, stream);
}

cudaError_t cudaMemGetInfo(size_t *available, size_t *total)
{
    ENTER();
    *available = memory_free_bytes();
    *total = memory_total();
    return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *out, const void *at)
{
    ENTER();
    memset(out, 0, sizeof *out);
    const End end = end_of(at, 1);
    out->type = end.device    ? cudaMemoryTypeDevice
                : end.managed ? cudaMemoryTypeManaged
                : end.pinned  ? cudaMemoryTypeHost
                              : cudaMemoryTypeUnregistered;
    out->devicePointer = device_contains(at, 1) ? const_cast<void *>(at) : nullptr;
    out->hostPointer = end.device ? nullptr : const_cast<void *>(at);
    return cudaSuccess;
}
