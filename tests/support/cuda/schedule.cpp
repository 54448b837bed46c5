#include "schedule.h"
#include "emulation.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <string>

namespace emu
{
namespace
{
enum class Order { IN_ORDER, REVERSE, RANDOM, PRIORITY };

Order order = Order::IN_ORDER;
std::string text = "in-order";
uint64_t state = 1;

/* Ready threads: a ring for the two fixed orders, a bag for random, a heap for priority. */
int queue[THREADS_MAX];
int head, count;
uint32_t priority[THREADS_MAX];

uint64_t draw()
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

uint64_t draw_below(uint64_t n)
{
    return (draw() >> 16) % n;
}

bool less_urgent(int a, int b)
{
    return priority[a] < priority[b];
}

void demote_a_warp()
{
    const int warp = static_cast<int>(draw_below(THREADS_MAX / 32));
    for (int lane = 0; lane < 32; lane++)
        priority[warp * 32 + lane] &= 0xffffu;
    std::make_heap(queue, queue + count, less_urgent);
}

bool seeded(const char *from, const char *name, Order which)
{
    const size_t length = strlen(name);
    if (strncmp(from, name, length) != 0 || (from[length] != ':' && from[length] != '\0')) return false;
    const uint64_t seed = from[length] == ':' ? strtoull(from + length + 1, nullptr, 10) : 0;
    state = (seed + 1) * 0x9e3779b97f4a7c15ull;
    order = which;
    return true;
}
} // namespace

bool schedule_set(const char *from)
{
    if (strcmp(from, "in-order") == 0) {
        order = Order::IN_ORDER;
    } else if (strcmp(from, "reverse") == 0) {
        order = Order::REVERSE;
    } else if (!seeded(from, "random", Order::RANDOM) && !seeded(from, "priority", Order::PRIORITY)) {
        return false;
    }
    text = from;
    return true;
}

const char *schedule_text()
{
    return text.c_str();
}

void schedule_begin(int threads)
{
    head = count = 0;
    if (order != Order::PRIORITY) return;
    uint32_t of_warp = 0;
    for (int i = 0; i < threads; i++) {
        if (i % 32 == 0) of_warp = static_cast<uint32_t>(draw_below(0xffff)) + 1;
        priority[i] = of_warp << 16 | static_cast<uint32_t>(draw_below(0x10000));
    }
}

void schedule_ready(int thread)
{
    switch (order) {
    case Order::IN_ORDER:
    case Order::REVERSE: queue[(head + count++) % THREADS_MAX] = thread; return;
    case Order::RANDOM: queue[count++] = thread; return;
    case Order::PRIORITY:
        queue[count++] = thread;
        std::push_heap(queue, queue + count, less_urgent);
        return;
    }
}

int schedule_next()
{
    if (count == 0) return -1;
    int next = -1;
    switch (order) {
    case Order::IN_ORDER:
    case Order::REVERSE:
        next = queue[head];
        head = (head + 1) % THREADS_MAX;
        count--;
        break;
    case Order::RANDOM: {
        const uint64_t at = draw_below(static_cast<uint64_t>(count));
        next = queue[at];
        queue[at] = queue[--count];
        break;
    }
    case Order::PRIORITY:
        if (draw_below(64) == 0) demote_a_warp();
        std::pop_heap(queue, queue + count, less_urgent);
        next = queue[--count];
        break;
    }
    return next;
}

bool schedule_descending()
{
    return order == Order::REVERSE;
}

bool schedule_copies_early()
{
    return order == Order::REVERSE || (order != Order::IN_ORDER && draw_below(2) == 0);
}

std::vector<uint32_t> schedule_blocks(size_t blocks)
{
    std::vector<uint32_t> list;
    if (order == Order::IN_ORDER) return list;
    list.resize(blocks);
    for (size_t i = 0; i < blocks; i++)
        list[i] = static_cast<uint32_t>(order == Order::REVERSE ? blocks - 1 - i : i);
    if (order == Order::REVERSE) return list;
    for (size_t i = blocks; i > 1; i--)
        std::swap(list[i - 1], list[draw_below(i)]);
    return list;
}
} // namespace emu
