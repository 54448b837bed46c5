/*
 * async_copy.cpp - cp.async: 16 bytes from global to shared memory at some time between issue and wait.
 *
 * The schedule says when: as late as allowed (in-order), at once (reverse), or either. Late shows who does not wait,
 * early who still reads what is being overwritten.
 */
#include "block.h"
#include "counting.h"
#include "device_memory.h"
#include "emulated_tensor.h"
#include "sanitizers.h"

#include <string.h>

namespace emu
{
namespace
{
void make_copy(AsyncCopy &copy)
{
    static const uint64_t zeros[2] = {0, 0};
    const uint64_t *from = copy.src != nullptr ? static_cast<const uint64_t *>(copy.src) : zeros;
    uint64_t *to = static_cast<uint64_t *>(copy.dst);
    to[0] = from[0];
    to[1] = from[1];
    copy.done = true;
}

void check_copy(const void *dst, const void *src, bool valid, const char *file, int line)
{
    if (reinterpret_cast<uintptr_t>(dst) % 16 != 0 || (valid && reinterpret_cast<uintptr_t>(src) % 16 != 0))
        report(file, line, "cp.async: an address is not aligned to 16 bytes");
    if (!shared_contains(dst, 16)) {
        const char *where = shared_describe(dst);
        report(file, line, "cp.async: 16 bytes at the destination do not lie in shared memory%s%s", where ? ": " : "",
               where ? where : "");
    }
    if (valid && !device_contains(src, 16)) {
        const char *where = device_describe(src);
        report(file, line, "cp.async: 16 bytes at the source do not lie in device memory%s%s", where ? ": " : "",
               where ? where : "");
    }
}
} // namespace

void copy_async(void *dst, const void *src, bool valid, const char *file, int line)
{
    Thread *me = block.current;
    {
        Quiet quiet;
        check_copy(dst, src, valid, file, line);
        count_async_copy(dst, valid ? src : nullptr, line);
        me->copies.push_back(AsyncCopy{dst, valid ? src : nullptr, me->copy_group, false});
        if (schedule_copies_early()) make_copy(me->copies.back());
        me->spot = Spot{"cp.async", file, line};
    }
    if (valid) race_reads(src, 16);
    race_writes(dst, 16);
}

void copy_commit()
{
    block.current->copy_group++;
}

void copy_wait(int groups_in_flight)
{
    Thread *me = block.current;
    const int finished = me->copy_group - groups_in_flight; /* groups before this one */
    size_t kept = 0;
    for (size_t i = 0; i < me->copies.size(); i++) {
        AsyncCopy &copy = me->copies[i];
        if (copy.group >= finished) {
            me->copies[kept++] = copy;
            continue;
        }
        if (!copy.done) make_copy(copy);
        race_writes(copy.dst, 16);
    }
    me->copies.resize(kept);
}

void copies_thread_left(Thread *thread)
{
    if (!thread->copies.empty())
        report(thread->spot.file, thread->spot.line, "%zu asynchronous copies were never waited for",
               thread->copies.size());
}
} // namespace emu
