#include "block.h"
#include "counting.h"
#include "counts.h"
#include "device_memory.h"
#include "sanitizers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace emu
{
Block block;
const uint3 *thread_index;
uint3 block_index;
dim3 block_size, grid_size;

namespace
{
/* Addresses that stand for events of race detection. */
char launch_begin, launch_end, barrier_parity[2];

void thread_main();

void become(Thread *thread)
{
    block.current = thread;
    thread_index = &thread->index;
}

[[noreturn]] void report_deadlock()
{
    fprintf(stderr, "cuda emulation: nobody can run; of %d threads %d have not returned, %d are at a barrier\n",
            block.threads, block.alive, block.arrived);
    int shown = 0;
    for (int i = 0; i < block.threads && shown < 6; i++) {
        const Thread &t = block.list[i];
        if (t.state != State::WAITING) continue;
        fprintf(stderr, "    thread (%u,%u,%u) waits in %s at %s:%d\n", t.index.x, t.index.y, t.index.z,
                t.spot.operation, t.spot.file, t.spot.line);
        shown++;
    }
    const Spot &spot = block.current->spot;
    report(spot.file, spot.line, "deadlock: %s waits for threads that never come", spot.operation);
}

/* Switches to a thread that is not done. */
void resume(Thread *thread)
{
    become(thread);
    if (thread->fiber == nullptr) thread->fiber = fiber_take(thread_main);
    fiber_switch(thread->fiber);
}

/* The last thread to arrive opens the barrier and runs on. */
void open_barrier()
{
    if (counting) counting->barrier();
    block.arrived = 0;
    block.generation++;
    int *next = block.votes[block.generation & 1];
    next[0] = 0, next[1] = 1, next[2] = 0;
    for (int i = 0; i < block.threads; i++) {
        Thread *t = &block.list[schedule_descending() ? block.threads - 1 - i : i];
        if (t->state == State::WAITING && t->spot.operation == block.barrier.operation) block_wake(t);
    }
}

void thread_left(Thread *thread)
{
    thread->state = State::DONE;
    block.alive--;
    copies_thread_left(thread);
    warp_thread_left(thread);
    if (block.alive > 0 && block.arrived == block.alive) open_barrier();
}

void run_body(Thread *thread)
{
    thread->fiber = fiber_current();
    thread->state = State::READY;
    race_acquire(&launch_begin);
    (*block.body)();
    race_release(&launch_end);
}

/*
 * Every fiber runs threads one after the other. A thread that never waits costs no switch: the next one starts in the
 * same fiber. With race detection each thread needs a fiber of its own.
 */
void thread_main()
{
    for (;;) {
        run_body(block.current);
        Quiet quiet;
        thread_left(block.current);
        const int next = schedule_next();
        if (next >= 0 && block.list[next].state == State::NEW && !race_detection()) {
            become(&block.list[next]);
            continue;
        }
        if (next < 0 && block.alive > 0) report_deadlock();
        Fiber *own = fiber_current();
        if (next >= 0 && block.list[next].state == State::NEW) block.list[next].fiber = fiber_take(thread_main);
        fiber_put_back(own);
        if (next >= 0)
            resume(&block.list[next]);
        else
            fiber_switch(fiber_main());
    }
}

void begin_block(const Launch &what)
{
    const dim3 &size = what.block;
    const int threads = static_cast<int>(size.x * size.y * size.z);
    block.threads = block.alive = threads;
    block.arrived = 0;
    block.generation = 0;
    memset(block.votes, 0, sizeof block.votes);
    block.votes[0][static_cast<int>(Vote::ALL)] = block.votes[1][static_cast<int>(Vote::ALL)] = 1;
    for (char &parity : barrier_parity)
        race_reset(&parity);
    for (int first = 0; first < threads; first += 32)
        warp_begin(&block.warps[first / 32], threads - first >= 32 ? 0xffffffffu : (1u << (threads - first)) - 1);
    unsigned number = 0;
    for (unsigned z = 0; z < size.z; z++)
        for (unsigned y = 0; y < size.y; y++)
            for (unsigned x = 0; x < size.x; x++, number++) {
                Thread &t = block.list[number];
                t.index = uint3{x, y, z};
                t.number = static_cast<int>(number);
                t.lane = t.number % 32;
                t.warp = &block.warps[number / 32];
                t.state = State::NEW;
                t.fiber = nullptr;
                t.spot = Spot{"its start", what.file, what.line};
                t.copies.clear();
                t.copy_group = 0;
                t.fenced = false;
                t.last_atomic = nullptr;
            }
    schedule_begin(threads);
    for (int i = 0; i < threads; i++)
        schedule_ready(schedule_descending() ? threads - 1 - i : i);
}

void run_block(const Launch &what)
{
    begin_block(what);
    fibers_for_block(block.threads, thread_main);
    shared_begin_block(what.shared_bytes);
    resume(&block.list[schedule_next()]);
    block.current = nullptr;
    thread_index = nullptr;
    if (counting) counting->end_block();
    shared_end_block();
    counts.blocks++;
    counts.threads += static_cast<unsigned long long>(block.threads);
}
} // namespace

void block_run_all(const Launch &what, const std::function<void()> &body)
{
    block.launch = &what;
    block.body = &body;
    grid_size = what.grid;
    block_size = what.block;
    shared_begin_launch();
    race_release(&launch_begin);
    const size_t blocks = static_cast<size_t>(what.grid.x) * what.grid.y * what.grid.z;
    const std::vector<uint32_t> order = schedule_blocks(blocks);
    for (size_t i = 0; i < blocks; i++) {
        const size_t at = order.empty() ? i : order[i];
        block_index.x = static_cast<unsigned>(at % what.grid.x);
        block_index.y = static_cast<unsigned>(at / what.grid.x % what.grid.y);
        block_index.z = static_cast<unsigned>(at / what.grid.x / what.grid.y);
        run_block(what);
    }
    race_acquire(&launch_end); /* only now: blocks of one launch are not ordered */
    memory_check_watched();
    block.launch = nullptr;
}

void block_wait(const Spot &spot)
{
    Thread *me = block.current;
    me->state = State::WAITING;
    me->spot = spot;
    const int next = schedule_next();
    if (next < 0) report_deadlock();
    if (next != me->number) resume(&block.list[next]);
    me->state = State::READY;
    become(me);
}

void block_wake(Thread *thread)
{
    thread->state = State::READY;
    schedule_ready(thread->number);
}

int barrier_vote(Vote vote, bool predicate, const char *file, int line)
{
    static const char operation[] = "__syncthreads"; /* compared by address */
    const Spot spot = {operation, file, line};
    if (block.arrived > 0 && (block.barrier.line != line || strcmp(block.barrier.file, file) != 0))
        report(file, line, "threads of one block wait at two different barriers; the other one is at %s:%d",
               block.barrier.file, block.barrier.line);
    block.barrier = spot;
    const unsigned parity = block.generation & 1;
    int *votes = block.votes[parity];
    votes[static_cast<int>(Vote::COUNT)] += predicate;
    votes[static_cast<int>(Vote::ALL)] &= predicate;
    votes[static_cast<int>(Vote::ANY)] |= predicate;
    race_release(&barrier_parity[parity]);
    if (++block.arrived == block.alive)
        open_barrier();
    else
        block_wait(spot);
    race_acquire(&barrier_parity[parity]);
    return votes[static_cast<int>(vote)];
}

void barrier(const char *file, int line)
{
    barrier_vote(Vote::COUNT, false, file, line);
}

/*
 * What a thread wrote before a fence is seen by those who read its next atomic and then pass a fence themselves: the
 * pattern of "the last block adds up". Atomics alone order nothing.
 */
void fence()
{
    Thread *me = block.current;
    me->fenced = true;
    if (me->last_atomic != nullptr) race_acquire(const_cast<void *>(me->last_atomic));
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

void atomic_order(const void *address)
{
    Thread *me = block.current;
    me->last_atomic = address;
    if (me->fenced) race_release(const_cast<void *>(address));
}

void trap(const char *file, int line)
{
    report(file, line, "the kernel called __trap");
}
} // namespace emu
