/*
 * sanitizers.h - what the emulation tells ThreadSanitizer and AddressSanitizer, when the program was linked with one.
 *
 * The functions are weak: absent, they are null and every helper here does nothing. With ThreadSanitizer each emulated
 * thread is a TSan fiber, and switching fibers orders nothing: only barriers, __syncwarp, fences and the two ends of a
 * launch do. What TSan then calls ordered is what CUDA calls ordered, so one run in one order shows every race. Only
 * kernel files are compiled with -fsanitize=thread; the emulation itself is not.
 */
#pragma once

#include <stddef.h>

extern "C" {
__attribute__((weak)) void *__tsan_get_current_fiber(void);
__attribute__((weak)) void *__tsan_create_fiber(unsigned flags);
__attribute__((weak)) void __tsan_switch_to_fiber(void *fiber, unsigned flags);
__attribute__((weak)) void __tsan_acquire(void *address);
__attribute__((weak)) void __tsan_release(void *address);
__attribute__((weak)) void __tsan_java_release_store(unsigned long address);
__attribute__((weak)) void __tsan_read_range(void *address, long bytes);
__attribute__((weak)) void __tsan_write_range(void *address, long bytes);
__attribute__((weak)) void __tsan_ignore_thread_begin(void);
__attribute__((weak)) void __tsan_ignore_thread_end(void);

__attribute__((weak)) void __asan_poison_memory_region(const volatile void *address, size_t bytes);
__attribute__((weak)) void __asan_unpoison_memory_region(const volatile void *address, size_t bytes);
__attribute__((weak)) void __sanitizer_start_switch_fiber(void **save, const void *bottom, size_t bytes);
__attribute__((weak)) void __sanitizer_finish_switch_fiber(void *saved, const void **bottom, size_t *bytes);
}

namespace emu
{
inline bool race_detection()
{
    return __tsan_create_fiber != nullptr;
}

inline bool address_checks()
{
    return __asan_poison_memory_region != nullptr;
}

/* What happened before the release in one thread happened before what follows the acquire in another. */
inline void race_release(void *at)
{
    if (race_detection()) __tsan_release(at);
}

inline void race_acquire(void *at)
{
    if (race_detection()) __tsan_acquire(at);
}

/* Forgets all earlier releases at this address. */
inline void race_reset(void *at)
{
    if (race_detection()) __tsan_java_release_store(reinterpret_cast<unsigned long>(at));
}

inline void race_reads(const void *at, size_t bytes)
{
    if (race_detection()) __tsan_read_range(const_cast<void *>(at), static_cast<long>(bytes));
}

inline void race_writes(void *at, size_t bytes)
{
    if (race_detection()) __tsan_write_range(at, static_cast<long>(bytes));
}

/* The emulation's own use of malloc and memcpy inside an emulated thread is no access of the kernel. */
class Quiet
{
  public:
    Quiet()
    {
        if (race_detection()) __tsan_ignore_thread_begin();
    }
    ~Quiet()
    {
        if (race_detection()) __tsan_ignore_thread_end();
    }
    Quiet(const Quiet &) = delete;
    Quiet &operator=(const Quiet &) = delete;
};
} // namespace emu
