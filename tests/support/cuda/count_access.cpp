#include "count_access.h"
#include "schedule.h"

#include <algorithm>
#include <map>
#include <unordered_map>

namespace emu
{
namespace
{
constexpr uintptr_t SECTOR = 32;
constexpr unsigned BANKS = 32;

/* Parts of one vector are so near: a few vectors may be taken apart in turn. */
constexpr size_t JOIN_WITHIN = 64;

/* The n-th time that a thread is at a place, as one number to sort by. */
struct Key {
    uint16_t warp;
    uintptr_t place;
    uint32_t time;
    bool store;
    size_t access;
};

bool before(const Key &a, const Key &b)
{
    if (a.warp != b.warp) return a.warp < b.warp;
    if (a.place != b.place) return a.place < b.place;
    if (a.store != b.store) return a.store < b.store;
    return a.time < b.time;
}

bool same_instruction(const Key &a, const Key &b)
{
    return a.warp == b.warp && a.place == b.place && a.time == b.time && a.store == b.store;
}

std::vector<Key> keys_of(const std::vector<Access> &list)
{
    std::vector<Key> keys(list.size());
    std::unordered_map<uintptr_t, uint32_t> times[THREADS_MAX];
    for (size_t i = 0; i < list.size(); i++) {
        const Access &a = list[i];
        const uint32_t time = times[a.thread][a.place * 2 + a.store]++;
        keys[i] = Key{static_cast<uint16_t>(a.thread / 32), a.place, time, a.store, i};
    }
    std::sort(keys.begin(), keys.end(), before);
    return keys;
}

/* Different bytes that the accesses touch. */
uint64_t distinct_bytes(std::vector<std::pair<uintptr_t, uintptr_t>> ranges)
{
    std::sort(ranges.begin(), ranges.end());
    uint64_t bytes = 0;
    uintptr_t end = 0;
    for (const auto &range : ranges) {
        const uintptr_t from = std::max(range.first, end);
        if (range.second > from) bytes += range.second - from;
        end = std::max(end, range.second);
    }
    return bytes;
}

std::vector<std::pair<uintptr_t, uintptr_t>> data;

bool in_data(const Access &a)
{
    const auto holds = [&](const auto &range) { return a.address >= range.first && a.address < range.second; };
    return std::any_of(data.begin(), data.end(), holds);
}

void count_global(const std::vector<Access> &accesses, AccessCount *count, std::unordered_set<uintptr_t> *touched)
{
    std::vector<uintptr_t> sectors;
    std::vector<std::pair<uintptr_t, uintptr_t>> ranges, of_data;
    for (const Access &a : accesses) {
        ranges.push_back({a.address, a.address + a.bytes});
        if (in_data(a)) of_data.push_back(ranges.back());
        for (uintptr_t s = a.address / SECTOR; s <= (a.address + a.bytes - 1) / SECTOR; s++)
            sectors.push_back(s);
    }
    std::sort(sectors.begin(), sectors.end());
    sectors.erase(std::unique(sectors.begin(), sectors.end()), sectors.end());
    count->bytes += distinct_bytes(std::move(ranges));
    count->data += distinct_bytes(std::move(of_data));
    count->sectors += sectors.size();
    for (const uintptr_t s : sectors)
        count->first += touched->insert(s).second;
}

void count_shared(const std::vector<Access> &accesses, AccessCount *count)
{
    uintptr_t addresses[32] = {};
    uint32_t lanes = 0;
    unsigned bytes = 1;
    for (const Access &a : accesses) {
        const unsigned lane = a.thread % 32u;
        lanes |= 1u << lane;
        addresses[lane] = a.address;
        bytes = std::max<unsigned>(bytes, a.bytes);
        count->bytes += a.bytes;
    }
    unsigned least = 0;
    count->passes += bank_passes(addresses, lanes, bytes, &least);
    count->least += least;
}

void count_instruction(const std::vector<Access> &accesses, KernelCount *count, Touched *touched)
{
    const Access &first = accesses.front();
    const bool global = first.space == Space::GLOBAL;
    AccessCount *of_kind = global ? (first.store ? &count->global_stores : &count->global_loads)
                                  : (first.store ? &count->shared_stores : &count->shared_loads);
    of_kind->instructions++;
    of_kind->lanes += accesses.size();
    if (global)
        count_global(accesses, of_kind, first.store ? &touched->stored : &touched->loaded);
    else
        count_shared(accesses, of_kind);
}
} // namespace

void data_add(uintptr_t from, size_t bytes)
{
    data.push_back({from, from + bytes});
}

void data_clear()
{
    data.clear();
}

void access_add(std::vector<Access> *list, const Access &access)
{
    for (size_t back = 1; back <= JOIN_WITHIN && back <= list->size(); back++) {
        Access &previous = (*list)[list->size() - back];
        if (previous.thread != access.thread) break;
        const unsigned together = previous.bytes + access.bytes;
        if (previous.space == access.space && previous.store == access.store && previous.place != access.place &&
            previous.address + previous.bytes == access.address && together <= 16 &&
            previous.address / 16 == (access.address + access.bytes - 1) / 16) {
            previous.bytes = static_cast<uint8_t>(together);
            return;
        }
    }
    list->push_back(access);
}

void access_flush(std::vector<Access> *list, KernelCount *count, Touched *touched)
{
    const std::vector<Key> keys = keys_of(*list);
    std::vector<Access> together;
    for (size_t i = 0; i < keys.size(); i++) {
        together.push_back((*list)[keys[i].access]);
        if (i + 1 < keys.size() && same_instruction(keys[i], keys[i + 1])) continue;
        count_instruction(together, count, touched);
        together.clear();
    }
    list->clear();
}

/*
 * Lanes go in groups that move at most 128 bytes: all for up to 4 bytes a lane, halves for 8, quarters for 16. In a group
 * each bank gives one 4-byte word a pass; lanes that want the same word share it.
 */
unsigned bank_passes(const uintptr_t addresses[32], uint32_t lanes, unsigned bytes, unsigned *least)
{
    const unsigned group = bytes <= 4 ? 32 : bytes <= 8 ? 16 : 8;
    unsigned passes = 0;
    *least = 0;
    for (unsigned first = 0; first < 32; first += group) {
        std::vector<uintptr_t> words;
        for (unsigned lane = first; lane < first + group; lane++)
            if (lanes >> lane & 1u)
                for (uintptr_t word = addresses[lane] / 4; word <= (addresses[lane] + bytes - 1) / 4; word++)
                    words.push_back(word);
        std::sort(words.begin(), words.end());
        words.erase(std::unique(words.begin(), words.end()), words.end());
        unsigned of_bank[BANKS] = {};
        unsigned most = 0;
        for (const uintptr_t word : words)
            most = std::max(most, ++of_bank[word % BANKS]);
        passes += most;
        *least += most > 0;
    }
    return passes;
}
} // namespace emu
