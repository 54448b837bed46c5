/*
 * count_kernels.cpp - counts by kernel: takes accesses (count_hooks.cpp) and what warps do together (counting.h).
 */
#include "count_kernels.h"
#include "count_access.h"
#include "count_names.h"
#include "counting.h"
#include "device_memory.h"

#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <deque>
#include <map>
#include <string>

namespace emu
{
namespace
{
struct Counted {
    KernelCount count;
    Touched touched; /* of the launch that runs */
};

/* Never destroyed: the table is printed when the program ends. */
std::deque<Counted> &kernels = *new std::deque<Counted>;
std::map<const void *, Counted *> &by_function = *new std::map<const void *, Counted *>;
Counted *running;
std::vector<Access> accesses;

/* As the symbol table has it, or else as the launch wrote it. */
void set_name(KernelCount *count, const Launch &what)
{
    std::string name = kernel_name(what.kernel);
    if (name.empty()) name = what.name;
    name.resize(std::min(name.size(), sizeof count->name - 1));
    strcpy(count->name, name.c_str());
}

void flush()
{
    access_flush(&accesses, &running->count, &running->touched);
}

void begin(const Launch &what)
{
    Counted *&found = by_function[what.kernel];
    if (found == nullptr) {
        kernels.push_back(Counted());
        found = &kernels.back();
        set_name(&found->count, what);
    }
    running = found;
    running->touched = Touched();
    KernelCount &count = running->count;
    count.launches++;
    count.block_threads = std::max<size_t>(count.block_threads, 1ul * what.block.x * what.block.y * what.block.z);
    count.shared_bytes = std::max(count.shared_bytes, what.shared_bytes);
}

void barrier()
{
    running->count.barriers++;
    flush();
}

void end_block()
{
    running->count.blocks++;
    running->count.threads += static_cast<unsigned long long>(block.threads);
    flush();
}

void end()
{
    running = nullptr;
}

void mma()
{
    running->count.mma++;
}

/* Each tile of 8 rows of 16 bytes is one pass when the rows lie in different banks. */
void load_matrix(const Deposit *lanes, int tiles)
{
    KernelCount &count = running->count;
    count.load_matrix++;
    count.shared_loads.instructions++;
    count.shared_loads.lanes += 32;
    count.shared_loads.bytes += static_cast<unsigned long long>(tiles) * 128;
    for (int tile = 0; tile < tiles; tile++) {
        uintptr_t rows[32];
        for (int row = 0; row < 8; row++)
            rows[row] = lanes[tile * 8 + row].value;
        unsigned least = 0;
        count.shared_loads.passes += bank_passes(rows, 0xffu, 16, &least);
        count.shared_loads.least += least;
    }
}

void async_copy(const void *dst, const void *src, int line)
{
    if (src != nullptr) count_access(src, 16, false, reinterpret_cast<void *>(static_cast<uintptr_t>(line)));
    count_access(dst, 16, true, reinterpret_cast<void *>(static_cast<uintptr_t>(line)));
}

const CountingHooks hooks = {mma, load_matrix, async_copy, begin, barrier, end_block, end};

void print_at_exit()
{
    FILE *out = fopen(getenv("QLORA_CUDA_COUNT"), "w");
    if (out == nullptr) return;
    emulation_count_print(out);
    fclose(out);
}

__attribute__((constructor)) void connect()
{
    counting = &hooks;
    if (getenv("QLORA_CUDA_COUNT") != nullptr) atexit(print_at_exit);
}

double percent(unsigned long long part, unsigned long long whole)
{
    return whole == 0 ? 100.0 : 100.0 * static_cast<double>(part) / static_cast<double>(whole);
}

unsigned long long conflicts(const AccessCount &count)
{
    return count.passes - count.least;
}
} // namespace

/* A thread's own stack and constants of the program are registers and constant memory on a device. */
void count_access(const void *at, size_t bytes, bool store, const void *place)
{
    if (running == nullptr || block.current == nullptr || bytes == 0) return;
    Access access = {};
    access.place = reinterpret_cast<uintptr_t>(place);
    access.address = reinterpret_cast<uintptr_t>(at);
    access.thread = static_cast<uint16_t>(block.current->number);
    access.store = store;
    if (shared_contains(at, bytes))
        access.space = Space::SHARED;
    else if (device_contains(at, bytes))
        access.space = Space::GLOBAL;
    else
        return;
    for (; bytes > 16; bytes -= 16, access.address += 16) {
        access.bytes = 16;
        access_add(&accesses, access);
    }
    access.bytes = static_cast<uint8_t>(bytes);
    access_add(&accesses, access);
}

void count_atomic()
{
    if (running != nullptr) running->count.atomics++;
}
} // namespace emu

using namespace emu;

size_t emulation_kernels(void)
{
    return kernels.size();
}

KernelCount emulation_kernel(size_t i)
{
    return kernels[i].count;
}

void emulation_count_reset(void)
{
    kernels.clear();
    by_function.clear();
    data_clear();
}

void emulation_count_data(const void *from, size_t bytes)
{
    data_add(reinterpret_cast<uintptr_t>(from), bytes);
}

void emulation_count_print(FILE *out)
{
    fprintf(out, "%-64s %8s %12s %12s %7s %7s %6s %6s %10s %10s %10s\n", "kernel", "launches", "loaded", "stored",
            "useful%", "useful%", "passes", "passes", "conflicts", "conflicts", "mma");
    fprintf(out, "%-64s %8s %12s %12s %7s %7s %6s %6s %10s %10s %10s\n", "", "", "bytes", "bytes", "loads", "stores",
            "load", "store", "sh. loads", "sh. stores", "");
    for (const Counted &kernel : kernels) {
        const KernelCount &c = kernel.count;
        const AccessCount &l = c.global_loads, &s = c.global_stores;
        fprintf(out, "%-64s %8llu %12llu %12llu %7.1f %7.1f %6.2f %6.2f %10llu %10llu %10llu\n", c.name, c.launches,
                l.bytes, s.bytes, percent(l.bytes, 32 * l.sectors), percent(s.bytes, 32 * s.sectors),
                percent(l.sectors, l.first) / 100.0, percent(s.sectors, s.first) / 100.0, conflicts(c.shared_loads),
                conflicts(c.shared_stores), c.mma);
    }
}
