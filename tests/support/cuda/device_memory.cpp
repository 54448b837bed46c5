#include "device_memory.h"
#include "block.h"
#include "counts.h"
#include "sanitizers.h"
#include "settings.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <algorithm>
#include <map>

namespace emu
{
namespace
{
constexpr size_t PAGE = 4096;
constexpr size_t ALIGN = 16; /* cudaMalloc gives 256; closer to the guard page more is caught */
constexpr size_t HUGE_FROM = 8 << 20;
constexpr size_t WATCHED_MAX = 256; /* bytes on either side; more may lie between an allocation and its guard */
constexpr unsigned char WATCHED = 0xfc;

struct Allocation {
    char *base;
    size_t bytes;
    char *pages; /* what is mapped for it, guards not included */
    size_t page_bytes;
    Memory kind;
    bool live;
    int number;
};

std::map<const char *, Allocation> allocations; /* by base; freed ones stay, to tell who uses them */
int open_depth;
bool managed_closed;
int numbers;

const char *kind_name(Memory kind)
{
    switch (kind) {
    case Memory::DEVICE: return "cudaMalloc";
    case Memory::MANAGED: return "cudaMallocManaged";
    case Memory::PINNED: return "cudaMallocHost";
    }
    return "?";
}

void protect(const Allocation &a, int rights)
{
    if (mprotect(a.pages, a.page_bytes, rights) != 0) {
        perror("cuda emulation: mprotect");
        abort();
    }
}

void protect_all(Memory kind, int rights)
{
    for (const auto &entry : allocations)
        if (entry.second.live && entry.second.kind == kind) protect(entry.second, rights);
}

bool closed(Memory kind)
{
    if (open_depth > 0) return false;
    return kind == Memory::DEVICE || (kind == Memory::MANAGED && managed_closed);
}

/* The odd bytes between an allocation and the ends of its pages. */
void watch(const Allocation &a)
{
    const size_t front = static_cast<size_t>(a.base - a.pages), used = (a.bytes + ALIGN - 1) / ALIGN * ALIGN;
    memset(a.pages, WATCHED, front);
    memset(a.base + a.bytes, WATCHED, a.page_bytes - front - a.bytes);
    if (!address_checks()) return;
    __asan_poison_memory_region(a.pages, front);
    __asan_poison_memory_region(a.base + a.bytes, used - a.bytes);
}

size_t first_changed(const char *from, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (static_cast<unsigned char>(from[i]) != WATCHED) return i;
    return bytes;
}

void check_watched(const Allocation &a)
{
    const size_t gap_before = static_cast<size_t>(a.base - a.pages), gap_behind = a.page_bytes - gap_before - a.bytes;
    const size_t front = std::min(gap_before, WATCHED_MAX), back = std::min(gap_behind, WATCHED_MAX);
    const char *file = block.launch ? block.launch->file : "host code";
    const int line = block.launch ? block.launch->line : 0;
    const size_t before = first_changed(a.base - front, front), behind = first_changed(a.base + a.bytes, back);
    if (before < front)
        report(file, line, "somebody wrote %zu bytes before %s allocation %d", front - before, kind_name(a.kind),
               a.number);
    if (behind < back)
        report(file, line, "somebody wrote byte %zu of %s allocation %d, which has %zu", a.bytes + behind,
               kind_name(a.kind), a.number, a.bytes);
}

Allocation *find(const void *at)
{
    auto next = allocations.upper_bound(static_cast<const char *>(at));
    if (next == allocations.begin()) return nullptr;
    return &std::prev(next)->second;
}

bool contains(const Allocation *a, const void *at, size_t bytes)
{
    return a != nullptr && a->live && bytes <= a->bytes &&
           static_cast<size_t>(static_cast<const char *>(at) - a->base) <= a->bytes - bytes;
}

void account(const Allocation &a, bool taken)
{
    if (a.kind == Memory::PINNED) {
        counts.pinned_bytes = taken ? counts.pinned_bytes + a.bytes : counts.pinned_bytes - a.bytes;
        return;
    }
    counts.device_bytes = taken ? counts.device_bytes + a.bytes : counts.device_bytes - a.bytes;
    if (counts.device_bytes > counts.peak_device_bytes) counts.peak_device_bytes = counts.device_bytes;
}
} // namespace

void *memory_take(Memory kind, size_t bytes)
{
    if (kind != Memory::PINNED && bytes > memory_free_bytes()) return nullptr;
    const Quiet quiet;
    const size_t pages = bytes == 0 ? PAGE : (bytes + PAGE - 1) / PAGE * PAGE;
    void *map = mmap(nullptr, pages + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) return nullptr;
    Allocation a = {};
    a.pages = static_cast<char *>(map) + PAGE;
    a.page_bytes = pages;
    a.base = guard_in_front() ? a.pages : a.pages + pages - (bytes + ALIGN - 1) / ALIGN * ALIGN;
    a.bytes = bytes;
    a.kind = kind;
    a.live = true;
    a.number = ++numbers;
    protect(a, PROT_READ | PROT_WRITE);
    if (bytes >= HUGE_FROM) madvise(a.pages, a.page_bytes, MADV_HUGEPAGE); /* cheaper to open and close */
    memset(a.base, 0xff, bytes);
    watch(a);
    if (closed(kind)) protect(a, PROT_NONE);
    allocations[a.base] = a;
    counts.allocations++;
    account(a, true);
    return a.base;
}

bool memory_free(Memory kind, void *at)
{
    Allocation *a = find(at);
    if (a == nullptr || a->base != at || !a->live || a->kind != kind) return false;
    protect(*a, PROT_READ | PROT_WRITE);
    if (!address_checks()) check_watched(*a);
    if (address_checks()) __asan_unpoison_memory_region(a->pages, a->page_bytes);
    madvise(a->pages, a->page_bytes, MADV_DONTNEED);
    protect(*a, PROT_NONE);
    a->live = false;
    account(*a, false);
    return true;
}

bool memory_contains(Memory kind, const void *at, size_t bytes)
{
    const Allocation *a = find(at);
    return contains(a, at, bytes) && a->kind == kind;
}

bool device_contains(const void *at, size_t bytes)
{
    return contains(find(at), at, bytes);
}

const char *device_describe(const void *at)
{
    static char text[160];
    const char *p = static_cast<const char *>(at);
    for (const auto &entry : allocations) {
        const Allocation &a = entry.second;
        if (p < a.pages - PAGE || p >= a.pages + a.page_bytes + PAGE) continue;
        snprintf(text, sizeof text, "byte %td of %s%s allocation %d, which has %zu", p - a.base, a.live ? "" : "freed ",
                 kind_name(a.kind), a.number, a.bytes);
        return text;
    }
    return nullptr;
}

size_t memory_total()
{
    return settings().memory_bytes;
}

size_t memory_free_bytes()
{
    return counts.device_bytes < memory_total() ? memory_total() - counts.device_bytes : 0;
}

DeviceOpen::DeviceOpen()
{
    if (open_depth++ > 0) return;
    protect_all(Memory::DEVICE, PROT_READ | PROT_WRITE);
    if (managed_closed) protect_all(Memory::MANAGED, PROT_READ | PROT_WRITE);
}

DeviceOpen::~DeviceOpen()
{
    if (--open_depth > 0) return;
    protect_all(Memory::DEVICE, PROT_NONE);
    if (managed_closed) protect_all(Memory::MANAGED, PROT_NONE);
}

void managed_close()
{
    if (managed_closed) return;
    managed_closed = true;
    if (open_depth == 0) protect_all(Memory::MANAGED, PROT_NONE);
}

void managed_open()
{
    if (!managed_closed) return;
    managed_closed = false;
    protect_all(Memory::MANAGED, PROT_READ | PROT_WRITE);
}

void memory_check_watched()
{
    if (address_checks()) return; /* exact there */
    for (const auto &entry : allocations)
        if (entry.second.live && entry.second.kind != Memory::PINNED) check_watched(entry.second);
}
} // namespace emu
