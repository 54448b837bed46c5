/*
 * warp.cpp - shuffles, votes and __syncwarp: the lanes of a mask meet, leave a deposit each and read what they need.
 */
#include "block.h"
#include "sanitizers.h"

#include <string.h>

namespace emu
{
namespace
{
enum Kind { SYNCWARP = 1, BALLOT, SHUFFLE }; /* SHUFFLE + the kind of shuffle; tensor operations start at 16 */

Meeting *meeting_find(Warp *warp, unsigned mask)
{
    for (const auto &meeting : warp->meetings)
        if (meeting->mask == mask) return meeting.get();
    const Quiet quiet;
    warp->meetings.push_back(std::make_unique<Meeting>());
    Meeting *meeting = warp->meetings.back().get();
    meeting->mask = mask;
    return meeting;
}

bool same_place(const Spot &a, const Spot &b)
{
    return a.line == b.line && (a.file == b.file || strcmp(a.file, b.file) == 0);
}

void check_mask(const Thread *me, unsigned mask, const Spot &spot)
{
    const Warp *warp = me->warp;
    if (!(mask >> me->lane & 1u))
        report(spot.file, spot.line, "lane %d calls %s with mask %08x, which does not name it", me->lane,
               spot.operation, mask);
    if (mask & warp->exists & ~warp->alive)
        report(spot.file, spot.line, "the mask %08x of %s names lanes that have left the kernel (alive: %08x)", mask,
               spot.operation, warp->alive);
    /* Lanes that wait for us elsewhere can never come here. */
    for (const auto &other : warp->meetings)
        if (other->mask != mask && (other->arrived & mask) != 0 && (other->mask >> me->lane & 1u))
            report(spot.file, spot.line, "mask %08x of %s overlaps mask %08x, whose lanes wait for this one at %s:%d",
                   mask, spot.operation, other->mask, other->spot.file, other->spot.line);
}

/* The lane whose value `lane` receives, as the PTX instruction says. */
int shuffle_source(Shuffle kind, int lane, int argument, int width)
{
    const int first = lane & ~(width - 1);
    int source = lane;
    switch (kind) {
    case Shuffle::INDEX: return first + (argument & (width - 1));
    case Shuffle::UP: source = lane - argument; return source < first ? lane : source;
    case Shuffle::DOWN: source = lane + argument; return source >= first + width ? lane : source;
    case Shuffle::XOR: source = lane ^ argument; return source >= first + width ? lane : source;
    }
    return lane;
}
} // namespace

void warp_begin(Warp *warp, unsigned lanes)
{
    warp->exists = warp->alive = lanes;
    for (const auto &meeting : warp->meetings) {
        meeting->arrived = 0;
        race_reset(&meeting->deposits[0]);
        race_reset(&meeting->deposits[1]);
    }
}

void warp_thread_left(Thread *thread)
{
    Warp *warp = thread->warp;
    warp->alive &= ~(1u << thread->lane);
    for (const auto &meeting : warp->meetings)
        if (meeting->arrived != 0 && (meeting->mask >> thread->lane & 1u))
            report(meeting->spot.file, meeting->spot.line,
                   "lane %d left the kernel while lanes %08x of its mask %08x wait in %s", thread->lane,
                   meeting->arrived, meeting->mask, meeting->spot.operation);
}

Meeting *meeting_enter(unsigned mask, int kind, const Spot &spot)
{
    const Thread *me = block.current;
    check_mask(me, mask, spot);
    Meeting *meeting = meeting_find(me->warp, mask & me->warp->exists);
    if (meeting->arrived != 0 && (meeting->kind != kind || !same_place(meeting->spot, spot)))
        report(spot.file, spot.line, "lanes of mask %08x meet in two operations: %s here, %s at %s:%d", mask,
               spot.operation, meeting->spot.operation, meeting->spot.file, meeting->spot.line);
    meeting->kind = kind;
    meeting->spot = spot;
    return meeting;
}

Deposit *meeting_deposits(Meeting *meeting)
{
    return meeting->deposits[meeting->generation & 1];
}

bool meeting_arrive(Meeting *meeting)
{
    const Thread *me = block.current;
    meeting->arrived |= 1u << me->lane;
    if (meeting->arrived != meeting->mask) {
        block_wait(meeting->spot);
        return false;
    }
    meeting->arrived = 0;
    meeting->generation++;
    const int first = me->number - me->lane;
    const unsigned waiting = meeting->mask & ~(1u << me->lane);
    for (int i = 0; i < 32; i++) {
        const int lane = schedule_descending() ? 31 - i : i;
        if (waiting >> lane & 1u) block_wake(&block.list[first + lane]);
    }
    return true;
}

void warp_barrier(unsigned mask, const char *file, int line)
{
    Meeting *meeting = meeting_enter(mask, SYNCWARP, Spot{"__syncwarp", file, line});
    Deposit *parity = meeting_deposits(meeting);
    race_release(parity);
    meeting_arrive(meeting);
    race_acquire(parity);
}

unsigned ballot(unsigned mask, bool predicate, const char *file, int line)
{
    Meeting *meeting = meeting_enter(mask, BALLOT, Spot{"a vote", file, line});
    Deposit *lanes = meeting_deposits(meeting);
    lanes[block.current->lane].value = predicate;
    meeting_arrive(meeting);
    unsigned votes = 0;
    for (unsigned lane = 0; lane < 32; lane++)
        if ((meeting->mask >> lane & 1u) && lanes[lane].value != 0) votes |= 1u << lane;
    return votes;
}

uint64_t shuffle(Shuffle kind, unsigned mask, uint64_t value, int argument, int width, const char *file, int line)
{
    const int lane = block.current->lane;
    if (width < 1 || width > 32 || (width & (width - 1)) != 0)
        report(file, line, "a shuffle of width %d: must be a power of two up to 32", width);
    Meeting *meeting = meeting_enter(mask, SHUFFLE + static_cast<int>(kind), Spot{"a shuffle", file, line});
    Deposit *lanes = meeting_deposits(meeting);
    lanes[lane].value = value;
    meeting_arrive(meeting);
    const int source = shuffle_source(kind, lane, argument, width);
    if (!(meeting->mask >> source & 1u))
        report(file, line, "a shuffle reads lane %d, which is not in its mask %08x", source, meeting->mask);
    return lanes[source].value;
}
} // namespace emu
