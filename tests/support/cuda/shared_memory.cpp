/*
 * shared_memory.cpp - the shared arrays of a block: fresh bytes are 0xFF (NaN), and an access past the end is a fault.
 *
 * Every array ends at an unmapped page; bytes before it and the odd ones behind it hold a pattern that is checked when
 * the block ends. Blocks use the same memory in turn, except with race detection: there each array of each block has
 * its own, or blocks would seem to share it.
 */
#include "block.h"
#include "sanitizers.h"
#include "settings.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <map>
#include <string>

namespace emu
{
namespace
{
constexpr size_t PAGE = 4096;
constexpr size_t STATIC_MAX = 48 << 10;
constexpr size_t FRONT = 64; /* bytes before an array that are watched */
constexpr size_t RACE_ARENA = 4ull << 30;
constexpr unsigned char WATCHED = 0xfc;

struct Array {
    const void *site;
    const char *name;
    char *base;
    size_t bytes;
    size_t tail; /* watched bytes behind it */
};

std::vector<Array> arrays; /* of this block; the dynamic memory is one of them */
size_t static_bytes;
char dynamic_site;
std::map<std::pair<const void *, size_t>, Array> regions; /* taken once, used by block after block */
char *race_arena;
size_t race_used;

/* Not memset, which ThreadSanitizer would take for an access of the thread that runs. */
void fill(char *at, int byte, size_t bytes)
{
#if defined(__x86_64__)
    asm volatile("rep stosb" : "+D"(at), "+c"(bytes) : "a"(byte) : "memory");
#else
    for (volatile char *p = at; bytes > 0; bytes--)
        *p++ = static_cast<char>(byte);
#endif
}

char *map_pages(size_t bytes)
{
    void *map = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) {
        perror("cuda emulation: no memory for shared arrays");
        abort();
    }
    return static_cast<char *>(map);
}

Array make_region(const void *site, const char *name, size_t bytes, size_t align)
{
    const size_t padded = (bytes + align - 1) / align * align;
    const size_t pages = (padded + FRONT + PAGE - 1) / PAGE * PAGE;
    char *map = map_pages(pages + PAGE);
    mprotect(map + pages, PAGE, PROT_NONE);
    const Array array = {site, name, map + pages - padded, bytes, padded - bytes};
    fill(array.base - FRONT, WATCHED, FRONT);
    fill(array.base + bytes, WATCHED, array.tail);
    if (address_checks()) {
        __asan_poison_memory_region(array.base - FRONT, FRONT);
        __asan_poison_memory_region(array.base + bytes, array.tail);
    }
    return array;
}

Array take_from_race_arena(const void *site, const char *name, size_t bytes)
{
    race_used = (race_used + 127) / 128 * 128;
    if (race_used + bytes + 128 > RACE_ARENA) {
        fprintf(stderr, "cuda emulation: too many blocks with shared memory for race detection in one launch\n");
        abort();
    }
    const Array array = {site, name, race_arena + race_used, bytes, 0};
    race_used += bytes + 128;
    return array;
}

void *add_array(const void *site, const char *name, size_t bytes, size_t align)
{
    Array array;
    if (race_detection()) {
        array = take_from_race_arena(site, name, bytes);
    } else {
        Array &region = regions[{site, bytes}];
        if (region.base == nullptr) region = make_region(site, name, bytes, align);
        array = region;
    }
    fill(array.base, 0xff, bytes);
    arrays.push_back(array);
    return array.base;
}

void check_watched(const Array &array)
{
    if (address_checks() || race_detection()) return;
    const unsigned char *front = reinterpret_cast<const unsigned char *>(array.base) - FRONT;
    const unsigned char *back = reinterpret_cast<const unsigned char *>(array.base) + array.bytes;
    for (size_t i = 0; i < FRONT; i++)
        if (front[i] != WATCHED)
            report(block.launch->file, block.launch->line, "the kernel wrote %zu bytes before shared array %s",
                   FRONT - i, array.name);
    for (size_t i = 0; i < array.tail; i++)
        if (back[i] != WATCHED)
            report(block.launch->file, block.launch->line, "the kernel wrote %zu bytes past the end of shared array %s",
                   i, array.name);
}
} // namespace

void shared_begin_launch()
{
    race_used = 0;
    if (race_detection() && race_arena == nullptr) race_arena = map_pages(RACE_ARENA);
}

void shared_begin_block(size_t dynamic_bytes)
{
    arrays.clear();
    static_bytes = 0;
    if (dynamic_bytes > 0) add_array(&dynamic_site, "of the launch (SHARED_DYN)", dynamic_bytes, 128);
}

void shared_end_block()
{
    for (const Array &array : arrays)
        check_watched(array);
}

void *shared_array(const void *site, const char *name, size_t bytes, const char *file, int line)
{
    for (const Array &array : arrays)
        if (array.site == site) return array.base;
    Quiet quiet;
    static_bytes += bytes;
    if (static_bytes > STATIC_MAX)
        report(file, line, "shared arrays of %zu bytes: at most %zu, or use SHARED_DYN", static_bytes, STATIC_MAX);
    const size_t all = static_bytes + block.launch->shared_bytes, most = launch_shared_most(*block.launch);
    if (all > most)
        report(file, line, "%zu bytes of shared memory in a block: this device has %zu%s", all, most,
               most < shared_limit() ? " without CUDA_SHARED_LIMIT" : "");
    return add_array(site, name, bytes, 16);
}

void *shared_dynamic()
{
    if (block.launch->shared_bytes == 0)
        report(block.launch->file, block.launch->line, "the kernel uses SHARED_DYN, the launch asks for 0 bytes");
    return arrays[0].base;
}

bool shared_contains(const void *at, size_t bytes)
{
    const char *p = static_cast<const char *>(at);
    for (const Array &array : arrays)
        if (p >= array.base && p + bytes <= array.base + array.bytes) return true;
    return false;
}

const char *shared_describe(const void *at)
{
    static char text[200];
    const char *p = static_cast<const char *>(at);
    for (const Array &array : arrays) {
        if (p < array.base - PAGE || p > array.base + array.bytes + PAGE) continue;
        snprintf(text, sizeof text, "byte %td of shared array %s, which has %zu", p - array.base, array.name,
                 array.bytes);
        return text;
    }
    return nullptr;
}
} // namespace emu
