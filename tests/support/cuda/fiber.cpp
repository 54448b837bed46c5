#include "fiber.h"
#include "sanitizers.h"

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <vector>

#if !defined(__x86_64__) || defined(FIBER_UCONTEXT)
#    define FIBER_PORTABLE 1
#    include <ucontext.h>
#else
#    define FIBER_PORTABLE 0
#endif

/* Asked by ThreadSanitizer at its start; without this it sleeps for a second before the program ends. */
extern "C" const char *__tsan_default_options()
{
    return "atexit_sleep_ms=0 report_thread_leaks=0";
}

namespace emu
{
unsigned long long fiber_switches;

struct Fiber {
#if FIBER_PORTABLE
    ucontext_t context;
#else
    void *stack_pointer;
#endif
    char *stack;
    size_t stack_bytes;
    void *tsan;
    void *asan;
};

namespace
{
constexpr size_t STACK_BYTES = 256 << 10; /* pages are taken when they are touched */
constexpr size_t GUARD_BYTES = 64 << 10;

Fiber main_fiber;
Fiber *current = &main_fiber;
/* Never destroyed: a program may end while fibers exist. */
using Fibers = std::vector<Fiber *>;
Fibers &all = *new Fibers, &available = *new Fibers;
Fibers &resting = *new Fibers; /* used by this block or the one before; race detection only */

#if !FIBER_PORTABLE
/* Saves the registers that a call keeps on the old stack and takes them from the new one: about 40 ns less than
 * swapcontext, which also asks the kernel for the signal mask. */
extern "C" void emulation_swap(void **save, void *to);
asm(".text\n"
    ".globl emulation_swap\n"
    ".type emulation_swap,@function\n"
    "emulation_swap:\n"
    "    push %rbp\n"
    "    push %rbx\n"
    "    push %r12\n"
    "    push %r13\n"
    "    push %r14\n"
    "    push %r15\n"
    "    mov %rsp, (%rdi)\n"
    "    mov %rsi, %rsp\n"
    "    pop %r15\n"
    "    pop %r14\n"
    "    pop %r13\n"
    "    pop %r12\n"
    "    pop %rbx\n"
    "    pop %rbp\n"
    "    ret\n"
    ".size emulation_swap, .-emulation_swap\n");
#endif

void (*fiber_body)();

void fiber_entry()
{
    if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
    fiber_body();
    abort();
}

Fiber *fiber_create()
{
    Fiber *fiber = new Fiber();
    void *map = mmap(nullptr, STACK_BYTES + GUARD_BYTES, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED || mprotect(map, GUARD_BYTES, PROT_NONE) != 0) {
        perror("cuda emulation: no memory for the stack of a thread");
        abort();
    }
    fiber->stack = static_cast<char *>(map) + GUARD_BYTES;
    /* Stacks start at different places of a page, or all their frames would fight for the same cache lines. */
    fiber->stack_bytes = STACK_BYTES - (all.size() % 61) * 192;
#if FIBER_PORTABLE
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack;
    fiber->context.uc_stack.ss_size = fiber->stack_bytes;
    fiber->context.uc_link = nullptr;
    makecontext(&fiber->context, fiber_entry, 0);
#else
    void **top = reinterpret_cast<void **>(fiber->stack + fiber->stack_bytes);
    *--top = nullptr; /* the return address that fiber_entry never uses; keeps the stack aligned */
    *--top = reinterpret_cast<void *>(fiber_entry);
    for (int saved_register = 0; saved_register < 6; saved_register++)
        *--top = nullptr;
    fiber->stack_pointer = top;
#endif
    if (race_detection()) fiber->tsan = __tsan_create_fiber(0);
    all.push_back(fiber);
    return fiber;
}

void main_fiber_prepare()
{
    if (race_detection()) main_fiber.tsan = __tsan_get_current_fiber();
    pthread_attr_t attributes;
    if (!address_checks() || pthread_getattr_np(pthread_self(), &attributes) != 0) return;
    void *bottom = nullptr;
    pthread_attr_getstack(&attributes, &bottom, &main_fiber.stack_bytes);
    main_fiber.stack = static_cast<char *>(bottom);
    pthread_attr_destroy(&attributes);
}
} // namespace

Fiber *fiber_main()
{
    return &main_fiber;
}

Fiber *fiber_current()
{
    return current;
}

Fiber *fiber_take(void (*body)())
{
    fiber_body = body;
    if (available.empty()) return fiber_create();
    Fiber *fiber = available.back();
    available.pop_back();
    return fiber;
}

void fiber_put_back(Fiber *fiber)
{
    (race_detection() ? resting : available).push_back(fiber);
}

void fiber_switch(Fiber *to)
{
    Fiber *from = current;
    fiber_switches++;
    if (__sanitizer_start_switch_fiber) __sanitizer_start_switch_fiber(&from->asan, to->stack, to->stack_bytes);
    if (race_detection()) __tsan_switch_to_fiber(to->tsan, 1 /* orders nothing */);
    current = to;
#if FIBER_PORTABLE
    swapcontext(&from->context, &to->context);
#else
    emulation_swap(&from->stack_pointer, to->stack_pointer);
#endif
    if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(from->asan, nullptr, nullptr);
}

void fibers_for_block(int threads, void (*body)())
{
    static size_t older; /* how many of the resting ones belong to the block before the last */
    main_fiber_prepare();
    if (!race_detection()) return;
    fiber_body = body;
    available.insert(available.end(), resting.begin(), resting.begin() + static_cast<long>(older));
    resting.erase(resting.begin(), resting.begin() + static_cast<long>(older));
    older = resting.size();
    while (available.size() < static_cast<size_t>(threads))
        available.push_back(fiber_create());
}

bool fiber_stack_overflow(const void *address)
{
    const char *at = static_cast<const char *>(address);
    for (const Fiber *fiber : all)
        if (at >= fiber->stack - GUARD_BYTES && at < fiber->stack) return true;
    return false;
}

bool fiber_stack_contains(const void *address)
{
    const char *at = static_cast<const char *>(address);
    return at >= current->stack && at < current->stack + current->stack_bytes;
}
} // namespace emu
