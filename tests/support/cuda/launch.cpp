/* launch.cpp - the checks of a launch, as the runtime makes them, before the blocks are queued. */
#include "block.h"
#include "counting.h"
#include "counts.h"
#include "device_memory.h"
#include "fault.h"
#include "settings.h"
#include "stream.h"

#include <map>

namespace emu
{
const CountingHooks *counting;

namespace
{
constexpr size_t SHARED_DEFAULT = 48 << 10; /* more only after cudaFuncSetAttribute */

std::map<const void *, size_t> &shared_limits()
{
    static std::map<const void *, size_t> of_kernel;
    return of_kernel;
}

cudaError_t check(const Launch &what)
{
    const dim3 &g = what.grid, &b = what.block;
    const unsigned long long threads = 1ull * b.x * b.y * b.z;
    if (threads == 0 || threads > THREADS_MAX || b.z > 64) return cudaErrorInvalidConfiguration;
    if (g.x == 0 || g.y == 0 || g.z == 0) return cudaErrorInvalidConfiguration;
    if (g.x > 0x7fffffffu || g.y > 65535 || g.z > 65535) return cudaErrorInvalidConfiguration;
    const auto limit = shared_limits().find(what.kernel);
    if (what.shared_bytes > (limit == shared_limits().end() ? SHARED_DEFAULT : limit->second))
        return cudaErrorInvalidValue;
    return cudaSuccess; /* its own arrays: shared_array() */
}

void run(const Launch &what, const std::function<void()> &body)
{
    counts.launches++;
    if (counting) counting->begin(what);
    block_run_all(what, body);
    if (counting) counting->end();
}
} // namespace

size_t launch_shared_most(const Launch &what)
{
    return shared_limits().count(what.kernel) ? shared_limit() : SHARED_DEFAULT;
}

void check_pointer(const Launch &what, int argument, const void *pointer)
{
    if (pointer == nullptr || device_contains(pointer, 0)) return;
    const char *where = device_describe(pointer);
    report(what.file, what.line, "argument %d of kernel %s does not point to device memory but to %s", argument,
           what.name, where ? where : "memory of the host");
}

void launch(const Launch &what, std::function<void()> body)
{
    const std::lock_guard<std::recursive_mutex> lock(runtime_mutex());
    if (block.current != nullptr) report(what.file, what.line, "a kernel launches kernel %s", what.name);
    cudaError_t e = fault_check("launch");
    if (e == cudaSuccess) e = check(what);
    if (e == cudaSuccess)
        e = stream_enqueue(what.stream, what.name, [what, body = std::move(body)] { run(what, body); });
    keep(e);
}
} // namespace emu

using namespace emu;

cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute attribute, int value)
{
    ENTER();
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess; /* hints */
    if (value < 0 || static_cast<size_t>(value) > shared_limit()) return keep(cudaErrorInvalidValue);
    size_t &limit = shared_limits()[kernel];
    limit = static_cast<size_t>(value) > SHARED_DEFAULT ? static_cast<size_t>(value) : SHARED_DEFAULT;
    return cudaSuccess;
}
