/* settings.h - what emulation.h and the environment set. */
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace emu
{
enum class StreamChoice { drawn, oldest, youngest };

struct Settings {
    size_t memory_bytes = 8ull << 30;
    int major = 9, minor = 0;
    int devices = 1;
    bool deferred = false;
    uint64_t stream_state = 1; /* of the random order of deferred streams */
    StreamChoice stream_choice = StreamChoice::drawn;
    bool guard_in_front = false;
};

/* The first call reads the environment. */
Settings &settings();

bool guard_in_front();

/* Shared memory a block may have, by compute capability. */
size_t shared_limit();

uint64_t stream_draw_below(uint64_t n);

/* Which of n streams that could go on does, the oldest first. */
uint64_t stream_choose(uint64_t n);
} // namespace emu
