/*
 * emulated_threads.h - launches, built-in variables, barriers, warp operations and shared memory of emulated threads.
 *
 * Every function that can wait takes the file and line of its caller, so that a report names the offending line.
 */
#pragma once

#include <cuda_runtime.h>
#include <stddef.h>
#include <stdint.h>

#include <functional>
#include <memory>
#include <tuple>
#include <type_traits>
#include <utility>

namespace emu
{
/* The built-in variables of the thread that runs now. */
extern const uint3 *thread_index;
extern uint3 block_index;
extern dim3 block_size, grid_size;

struct Launch {
    cudaStream_t stream;
    const char *name;
    dim3 grid, block;
    size_t shared_bytes;
    const char *file;
    int line;
    const void *kernel;     /* address of the kernel function */
    const void *parameters; /* what the launch passed, as it lies in memory */
    size_t parameter_bytes;
};

/* A kernel cannot read host memory: reports a pointer to it. */
void check_pointer(const Launch &what, int argument, const void *pointer);

/* Pointers, and what is called `data` in a struct: rows of a tensor. */
template <class P> void check_argument(const Launch &what, int argument, const P &value)
{
    if constexpr (std::is_pointer_v<P>)
        check_pointer(what, argument, value);
    else if constexpr (requires { value.data; })
        check_argument(what, argument, value.data);
}

/* Queues a launch; a bad configuration is kept for cudaGetLastError. */
void launch(const Launch &what, std::function<void()> body);

/* Arguments become the kernel's parameters at once: what they point to is read when the kernel runs, as on a device. */
template <class... P, class... A> void launch_kernel(Launch what, void (*kernel)(P...), A &&...args)
{
    static_assert(sizeof(std::tuple<P...>) <= 4096, "a kernel takes at most 4 KiB of parameters");
    static_assert((std::is_trivially_copyable_v<P> && ...), "kernel parameters are plain values");
    const auto values = std::make_shared<const std::tuple<P...>>(std::forward<A>(args)...);
    what.kernel = reinterpret_cast<const void *>(kernel);
    what.parameters = values.get();
    what.parameter_bytes = sizeof *values;
    int argument = 0;
    std::apply([&](const P &...value) { (check_argument(what, ++argument, value), ...); }, *values);
    launch(
        what, [ kernel, values ]() __attribute__((no_sanitize("thread"))) { std::apply(kernel, *values); });
}

enum class Vote { COUNT, ALL, ANY };
void barrier(const char *file, int line);
int barrier_vote(Vote vote, bool predicate, const char *file, int line);

enum class Shuffle { INDEX, UP, DOWN, XOR };
uint64_t shuffle(Shuffle kind, unsigned mask, uint64_t value, int argument, int width, const char *file, int line);
unsigned ballot(unsigned mask, bool predicate, const char *file, int line);
void warp_barrier(unsigned mask, const char *file, int line);

void *shared_array(const void *site, const char *name, size_t bytes, const char *file, int line);
void *shared_dynamic();

/* __threadfence: what this thread wrote is visible to whoever sees its next atomic. */
void fence();
void atomic_order(const void *address);
[[noreturn]] void trap(const char *file, int line);

template <class T>
T shuffle_value(Shuffle kind, unsigned mask, T value, int argument, int width, const char *file, int line)
{
    static_assert(sizeof(T) <= sizeof(uint64_t) && std::is_trivially_copyable_v<T>, "shuffles move up to 8 bytes");
    uint64_t bits = 0;
    __builtin_memcpy(&bits, &value, sizeof value);
    bits = shuffle(kind, mask, bits, argument, width, file, line);
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}
} // namespace emu

#define threadIdx (*emu::thread_index)
#define blockIdx (emu::block_index)
#define blockDim (emu::block_size)
#define gridDim (emu::grid_size)
#define warpSize 32

#define CUDA_LAUNCH_ON(stream, kernel, grid, block, shared_bytes, ...)                                                 \
    emu::launch_kernel(emu::Launch{(stream), #kernel, dim3(grid), dim3(block), static_cast<size_t>(shared_bytes),      \
                                   __FILE__, __LINE__, nullptr, nullptr, 0},                                           \
                       kernel __VA_OPT__(, ) __VA_ARGS__)

/* The address of `site` tells one array of a kernel from another; each instance of a template has its own. */
#define SHARED_ARRAY(T, name, n)                                                                                       \
    static char name##_site;                                                                                           \
    T(&name)[n] = *static_cast<T(*)[n]>(emu::shared_array(&name##_site, #name, sizeof(T[n]), __FILE__, __LINE__))
#define SHARED_DYN(T, name) T *name = static_cast<T *>(emu::shared_dynamic())

#define EMULATION_CALLER const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(EMULATION_CALLER)
{
    emu::barrier(file, line);
}

inline int __syncthreads_count(int predicate, EMULATION_CALLER)
{
    return emu::barrier_vote(emu::Vote::COUNT, predicate != 0, file, line);
}

inline int __syncthreads_and(int predicate, EMULATION_CALLER)
{
    return emu::barrier_vote(emu::Vote::ALL, predicate != 0, file, line);
}

inline int __syncthreads_or(int predicate, EMULATION_CALLER)
{
    return emu::barrier_vote(emu::Vote::ANY, predicate != 0, file, line);
}

inline void __syncwarp(unsigned mask, EMULATION_CALLER)
{
    emu::warp_barrier(mask, file, line);
}

template <class T> inline T __shfl_sync(unsigned mask, T value, int lane, int width = 32, EMULATION_CALLER)
{
    return emu::shuffle_value(emu::Shuffle::INDEX, mask, value, lane, width, file, line);
}

template <class T> inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATION_CALLER)
{
    return emu::shuffle_value(emu::Shuffle::UP, mask, value, static_cast<int>(delta), width, file, line);
}

template <class T> inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATION_CALLER)
{
    return emu::shuffle_value(emu::Shuffle::DOWN, mask, value, static_cast<int>(delta), width, file, line);
}

template <class T> inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, EMULATION_CALLER)
{
    return emu::shuffle_value(emu::Shuffle::XOR, mask, value, lanes, width, file, line);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, EMULATION_CALLER)
{
    return emu::ballot(mask, predicate != 0, file, line);
}

inline int __any_sync(unsigned mask, int predicate, EMULATION_CALLER)
{
    return emu::ballot(mask, predicate != 0, file, line) != 0;
}

inline int __all_sync(unsigned mask, int predicate, EMULATION_CALLER)
{
    return emu::ballot(mask, predicate == 0, file, line) == 0;
}

inline void __threadfence()
{
    emu::fence();
}

inline void __threadfence_block()
{
    emu::fence();
}

#define __trap() emu::trap(__FILE__, __LINE__)

/* Atomics on integers only: sums of floats must not depend on who comes first. */
template <class T> inline T atomicAdd(T *address, std::type_identity_t<T> value)
{
    static_assert(std::is_integral_v<T>, "no atomics on floats");
    emu::atomic_order(address);
    return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}

template <class T> inline T atomicExch(T *address, std::type_identity_t<T> value)
{
    static_assert(std::is_integral_v<T>, "no atomics on floats");
    emu::atomic_order(address);
    return __atomic_exchange_n(address, value, __ATOMIC_RELAXED);
}

template <class T> inline T atomicOr(T *address, std::type_identity_t<T> value)
{
    emu::atomic_order(address);
    return __atomic_fetch_or(address, value, __ATOMIC_RELAXED);
}

template <class T> inline T atomicAnd(T *address, std::type_identity_t<T> value)
{
    emu::atomic_order(address);
    return __atomic_fetch_and(address, value, __ATOMIC_RELAXED);
}

template <class T> inline T atomicCAS(T *address, std::type_identity_t<T> expected, std::type_identity_t<T> value)
{
    static_assert(std::is_integral_v<T>, "no atomics on floats");
    emu::atomic_order(address);
    __atomic_compare_exchange_n(address, &expected, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return expected;
}

template <class T> inline T atomicMax(T *address, std::type_identity_t<T> value)
{
    emu::atomic_order(address);
    T seen = __atomic_load_n(address, __ATOMIC_RELAXED);
    while (seen < value &&
           !__atomic_compare_exchange_n(address, &seen, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
    return seen;
}

template <class T> inline T atomicMin(T *address, std::type_identity_t<T> value)
{
    emu::atomic_order(address);
    T seen = __atomic_load_n(address, __ATOMIC_RELAXED);
    while (value < seen &&
           !__atomic_compare_exchange_n(address, &seen, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
    return seen;
}
