/* counting.h - tells the counting variant (counting.cpp) what no load or store of a kernel shows. */
#pragma once

#include "block.h"

namespace emu
{
/* Null unless the program is linked with cuda_emulation_count. */
struct CountingHooks {
    void (*mma)();
    void (*load_matrix)(const Deposit *lanes, int tiles); /* value: the address of the lane's row */
    void (*async_copy)(const void *dst, const void *src, int line);
    void (*begin)(const Launch &what);
    void (*barrier)(); /* all threads of the block have arrived */
    void (*end_block)();
    void (*end)();
};
extern const CountingHooks *counting;

inline void count_mma()
{
    if (counting) counting->mma();
}

inline void count_load_matrix(const Deposit *lanes, int tiles)
{
    if (counting) counting->load_matrix(lanes, tiles);
}

inline void count_async_copy(const void *dst, const void *src, int line)
{
    if (counting) counting->async_copy(dst, src, line);
}
} // namespace emu
