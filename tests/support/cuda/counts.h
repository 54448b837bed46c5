/* counts.h - what the emulation did so far; tests read it with emulation_counts. */
#pragma once

#include "emulation.h"

namespace emu
{
extern EmulationCounts counts;
} // namespace emu
