/*
 * count_hooks.cpp - the functions that code compiled with -fsanitize=thread calls, answered by counting.
 */
#include "count_kernels.h"

#include <stdint.h>

using emu::count_access;

#define HERE __builtin_return_address(0)

/* The name without a prefix is the sanitizer's; reads and writes of 1 to 16 bytes, aligned or not. */
#define ACCESS(bytes)                                                                                                  \
    extern "C" void __tsan_read##bytes(void *at)                                                                       \
    {                                                                                                                  \
        count_access(at, bytes, false, HERE);                                                                          \
    }                                                                                                                  \
    extern "C" void __tsan_write##bytes(void *at)                                                                      \
    {                                                                                                                  \
        count_access(at, bytes, true, HERE);                                                                           \
    }                                                                                                                  \
    extern "C" void __tsan_unaligned_read##bytes(void *at)                                                             \
    {                                                                                                                  \
        count_access(at, bytes, false, HERE);                                                                          \
    }                                                                                                                  \
    extern "C" void __tsan_unaligned_write##bytes(void *at)                                                            \
    {                                                                                                                  \
        count_access(at, bytes, true, HERE);                                                                           \
    }
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)

extern "C" void __tsan_read_range(void *at, unsigned long bytes)
{
    count_access(at, bytes, false, HERE);
}

extern "C" void __tsan_write_range(void *at, unsigned long bytes)
{
    count_access(at, bytes, true, HERE);
}

extern "C" void __tsan_init(void)
{
}

extern "C" void __tsan_func_entry(void *)
{
}

extern "C" void __tsan_func_exit(void)
{
}

extern "C" void __tsan_vptr_update(void **, void *)
{
}

extern "C" void __tsan_vptr_read(void **)
{
}

/* Atomics: one access that loads and one that stores, at the same place. */
#define ATOMIC(bits, T)                                                                                                \
    extern "C" T __tsan_atomic##bits##_load(const volatile T *at, int)                                                 \
    {                                                                                                                  \
        return __atomic_load_n(at, __ATOMIC_RELAXED);                                                                  \
    }                                                                                                                  \
    extern "C" void __tsan_atomic##bits##_store(volatile T *at, T value, int)                                          \
    {                                                                                                                  \
        __atomic_store_n(at, value, __ATOMIC_RELAXED);                                                                 \
    }                                                                                                                  \
    extern "C" T __tsan_atomic##bits##_exchange(volatile T *at, T value, int)                                          \
    {                                                                                                                  \
        emu::count_atomic();                                                                                           \
        return __atomic_exchange_n(at, value, __ATOMIC_RELAXED);                                                       \
    }                                                                                                                  \
    extern "C" T __tsan_atomic##bits##_fetch_add(volatile T *at, T value, int)                                         \
    {                                                                                                                  \
        emu::count_atomic();                                                                                           \
        return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);                                                        \
    }                                                                                                                  \
    extern "C" T __tsan_atomic##bits##_fetch_or(volatile T *at, T value, int)                                          \
    {                                                                                                                  \
        emu::count_atomic();                                                                                           \
        return __atomic_fetch_or(at, value, __ATOMIC_RELAXED);                                                         \
    }                                                                                                                  \
    extern "C" T __tsan_atomic##bits##_fetch_and(volatile T *at, T value, int)                                         \
    {                                                                                                                  \
        emu::count_atomic();                                                                                           \
        return __atomic_fetch_and(at, value, __ATOMIC_RELAXED);                                                        \
    }                                                                                                                  \
    extern "C" int __tsan_atomic##bits##_compare_exchange_strong(volatile T *at, T *expected, T value, int, int)       \
    {                                                                                                                  \
        emu::count_atomic();                                                                                           \
        return __atomic_compare_exchange_n(at, expected, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);            \
    }
ATOMIC(8, uint8_t)
ATOMIC(16, uint16_t)
ATOMIC(32, uint32_t)
ATOMIC(64, uint64_t)

extern "C" void __tsan_atomic_thread_fence(int)
{
}
