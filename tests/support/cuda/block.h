/*
 * block.h - the block that runs now: its threads, warps and barrier. Blocks run one after the other.
 */
#pragma once

#include "emulated_threads.h"
#include "fiber.h"
#include "schedule.h"

#include <memory>
#include <vector>

namespace emu
{
enum class State { NEW, READY, WAITING, DONE };

/* Where a thread waits; also who is blamed in a report. */
struct Spot {
    const char *operation;
    const char *file;
    int line;
};

struct AsyncCopy {
    void *dst;
    const void *src; /* null: zeros */
    int group;
    bool done;
};

struct Warp;

struct Thread {
    uint3 index;
    int number, lane;
    Warp *warp;
    State state;
    Fiber *fiber;
    Spot spot;
    std::vector<AsyncCopy> copies; /* issued and not waited for */
    int copy_group;                /* the one that is open */
    bool fenced;                   /* passed a __threadfence */
    const void *last_atomic;
};

/* What a lane brings to a warp operation. */
struct Deposit {
    uint64_t value;
    uint32_t words[6];
    float sums[4];
};

/*
 * Lanes of one mask meeting in a warp operation. Deposits alternate between two halves: the next meeting cannot be
 * complete before every lane of this one has read what it came for.
 */
struct Meeting {
    unsigned mask, arrived, generation;
    int kind;
    Spot spot;
    Deposit deposits[2][32];
};

struct Warp {
    unsigned exists, alive; /* lanes */
    std::vector<std::unique_ptr<Meeting>> meetings;
};

struct Block {
    int threads = 0, alive = 0;
    Thread *current = nullptr; /* null while the host runs */
    Thread list[THREADS_MAX];
    Warp warps[THREADS_MAX / 32];

    int arrived = 0;
    unsigned generation = 0;
    Spot barrier = {};
    int votes[2][3] = {}; /* of this barrier and of the one before: count, all, any */

    const Launch *launch = nullptr;
    const std::function<void()> *body = nullptr;
};
extern Block block;

/* Bytes of shared memory, its own arrays included, that a block of this launch can have: more where it was asked for. */
size_t launch_shared_most(const Launch &what);

/* Runs all blocks of a launch, in the order of the schedule. */
void block_run_all(const Launch &what, const std::function<void()> &body);

/* The current thread waits; returns when somebody has made it ready and its turn has come. */
void block_wait(const Spot &spot);
void block_wake(Thread *thread);

/* shared_memory.cpp */
void shared_begin_launch();
void shared_begin_block(size_t dynamic_bytes);
void shared_end_block();
bool shared_contains(const void *at, size_t bytes);
const char *shared_describe(const void *at); /* for reports; null when it is not near shared memory */

/* warp.cpp */
void warp_begin(Warp *warp, unsigned lanes);
void warp_thread_left(Thread *thread);
Meeting *meeting_enter(unsigned mask, int kind, const Spot &spot);
Deposit *meeting_deposits(Meeting *meeting); /* of the meeting that the current thread is entering, by lane */
bool meeting_arrive(Meeting *meeting);       /* true for the last lane, which does not wait */

/* async_copy.cpp */
void copies_thread_left(Thread *thread);

/* report.cpp: prints what is wrong, who did it and where, and aborts */
[[noreturn]] void report(const char *file, int line, const char *format, ...) __attribute__((format(printf, 3, 4)));
void report_faults(); /* a touch of memory that is not there is reported, too */
} // namespace emu
