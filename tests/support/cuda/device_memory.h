/*
 * device_memory.h - device, managed and pinned memory of the emulated device.
 *
 * Each allocation has its own pages with an unmapped one beside it, so an access past its end is a fault (an access
 * before it with QLORA_CUDA_GUARD=front). Device memory is closed while host code runs and opened for kernels, copies
 * and products. Managed memory is open to the host while no work is pending. Fresh bytes are 0xFF (NaN); freed memory
 * is gone and its addresses are never used again.
 */
#pragma once

#include <stddef.h>

namespace emu
{
enum class Memory { DEVICE, MANAGED, PINNED };

/* Null when the device (or the machine) has no room. */
void *memory_take(Memory kind, size_t bytes);

/* False when nothing of this kind starts at `at`. */
bool memory_free(Memory kind, void *at);

/* Whether all bytes lie in one live allocation of the kind. */
bool memory_contains(Memory kind, const void *at, size_t bytes);

/* The same for all memory that kernels may use. */
bool device_contains(const void *at, size_t bytes);

/* "byte 17 of cudaMalloc allocation 3, which has 16"; null when nothing is near. */
const char *device_describe(const void *at);

size_t memory_total();
size_t memory_free_bytes();

/* While the device works; calls nest. */
class DeviceOpen
{
  public:
    DeviceOpen();
    ~DeviceOpen();
    DeviceOpen(const DeviceOpen &) = delete;
    DeviceOpen &operator=(const DeviceOpen &) = delete;
};

/* Work is pending: the host may not look at managed memory. */
void managed_close();
void managed_open();

/* Bytes beside allocations that nobody may write; reports a change. */
void memory_check_watched();
} // namespace emu
