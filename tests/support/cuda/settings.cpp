#include "settings.h"
#include "counts.h"
#include "fault.h"
#include "fiber.h"
#include "schedule.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace emu
{
EmulationCounts counts;

namespace
{
bool set_streams(Settings *s, const char *text)
{
    if (strcmp(text, "eager") == 0) {
        s->deferred = false;
        return true;
    }
    s->stream_choice = strcmp(text, "oldest") == 0     ? StreamChoice::oldest
                       : strcmp(text, "youngest") == 0 ? StreamChoice::youngest
                                                       : StreamChoice::drawn;
    s->deferred = s->stream_choice != StreamChoice::drawn;
    if (s->deferred) return true;
    if (strncmp(text, "deferred", 8) != 0) return false;
    s->deferred = true;
    const uint64_t seed = text[8] == ':' ? strtoull(text + 9, nullptr, 10) : 0;
    s->stream_state = (seed + 1) * 0x9e3779b97f4a7c15ull;
    return true;
}

bool set_capability(Settings *s, const char *text)
{
    return sscanf(text, "%d.%d", &s->major, &s->minor) == 2;
}

void demand(bool good, const char *name, const char *text)
{
    if (good) return;
    fprintf(stderr, "cuda emulation: %s=%s: see tests/support/cuda/emulation.h\n", name, text);
    exit(2);
}

Settings from_environment()
{
    Settings s;
    if (const char *text = getenv("QLORA_CUDA_ORDER")) demand(schedule_set(text), "QLORA_CUDA_ORDER", text);
    if (const char *text = getenv("QLORA_CUDA_STREAMS")) demand(set_streams(&s, text), "QLORA_CUDA_STREAMS", text);
    if (const char *text = getenv("QLORA_CUDA_CAPABILITY"))
        demand(set_capability(&s, text), "QLORA_CUDA_CAPABILITY", text);
    if (const char *text = getenv("QLORA_CUDA_MEMORY")) s.memory_bytes = strtoull(text, nullptr, 10);
    if (const char *text = getenv("QLORA_CUDA_DEVICES")) s.devices = atoi(text);
    if (const char *text = getenv("QLORA_CUDA_GUARD")) s.guard_in_front = strcmp(text, "front") == 0;
    if (const char *text = getenv("QLORA_CUDA_FAULT")) demand(fault_set(text), "QLORA_CUDA_FAULT", text);
    return s;
}
} // namespace

Settings &settings()
{
    static Settings s = from_environment();
    return s;
}

bool guard_in_front()
{
    return settings().guard_in_front;
}

size_t shared_limit()
{
    switch (settings().major * 10 + settings().minor) {
    case 75: return 64 << 10;
    case 80:
    case 87: return 163 << 10;
    case 86:
    case 89:
    case 120: return 99 << 10;
    default: return 227 << 10;
    }
}

uint64_t stream_choose(uint64_t n)
{
    const StreamChoice choice = settings().stream_choice;
    if (choice == StreamChoice::drawn) return stream_draw_below(n);
    return choice == StreamChoice::oldest ? 0 : n - 1;
}

uint64_t stream_draw_below(uint64_t n)
{
    uint64_t &state = settings().stream_state;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (state >> 16) % n;
}
} // namespace emu

using namespace emu;

bool emulation_order(const char *text)
{
    settings();
    return schedule_set(text);
}

bool emulation_streams(const char *text)
{
    return set_streams(&settings(), text);
}

bool emulation_capability(const char *text)
{
    return set_capability(&settings(), text);
}

void emulation_memory(size_t bytes)
{
    settings().memory_bytes = bytes;
}

bool emulation_fault(const char *text)
{
    settings();
    return fault_set(text);
}

long emulation_calls(const char *function)
{
    return fault_calls(function);
}

EmulationCounts emulation_counts(void)
{
    counts.switches = fiber_switches;
    return counts;
}
