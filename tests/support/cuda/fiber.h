/*
 * fiber.h - stacks that take turns on one OS thread.
 *
 * A fiber runs the body given at its first use again and again: whoever switches to a fiber that was put back finds it
 * where it stopped. The OS thread's own stack is a fiber too, fiber_main().
 */
#pragma once

namespace emu
{
struct Fiber;

Fiber *fiber_main();
Fiber *fiber_current();

/* A free fiber; a new one will run `body`, which never returns. */
Fiber *fiber_take(void (*body)());
void fiber_put_back(Fiber *fiber);
void fiber_switch(Fiber *to);

/* From fiber_main, before a block of this many threads: with race detection the fibers must exist before the launch
 * and must not be those of the block before, or blocks would seem ordered. */
void fibers_for_block(int threads, void (*body)());

/* True when `address` lies just below the stack of a fiber. */
bool fiber_stack_overflow(const void *address);

/* True when `address` lies in the stack of the fiber that runs. */
bool fiber_stack_contains(const void *address);

extern unsigned long long fiber_switches;
} // namespace emu
