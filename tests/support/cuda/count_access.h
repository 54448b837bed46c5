/* count_access.h - accesses of one block between two barriers, and what warps make of them. */
#pragma once

#include "emulation_count.h"

#include <stdint.h>

#include <unordered_set>
#include <vector>

namespace emu
{
enum class Space : uint8_t { GLOBAL, SHARED };

struct Access {
    uintptr_t place; /* of the code */
    uintptr_t address;
    uint16_t thread;
    uint8_t bytes;
    Space space;
    bool store;
};

/* Sectors that a launch has touched. */
struct Touched {
    std::unordered_set<uintptr_t> loaded, stored;
};

/* What emulation_count_data named. */
void data_add(uintptr_t from, size_t bytes);
void data_clear();

/* Adds to an access that the same thread has just made when both fill one aligned vector. */
void access_add(std::vector<Access> *list, const Access &access);

/* Groups the accesses into warp instructions, adds them to `count` and empties the list. */
void access_flush(std::vector<Access> *list, KernelCount *count, Touched *touched);

/* Passes over the banks for the lanes of a mask, which each touch `bytes` at their address. */
unsigned bank_passes(const uintptr_t addresses[32], uint32_t lanes, unsigned bytes, unsigned *least);
} // namespace emu
