/*
 * schedule.h - who runs next: the order of threads and blocks is an input of a test.
 *
 *   in-order     ascending, the first that became ready first
 *   reverse      descending
 *   random:SEED  any ready thread; blocks in any order
 *   priority:SEED  strict random priorities by warp, then by lane, with a demotion now and then: a favoured warp runs
 *                ahead as far as it can, which shows overwritten data that plain random order never does
 * Taken from QLORA_CUDA_ORDER or emulation_order (emulation.h).
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <vector>

namespace emu
{
enum { THREADS_MAX = 1024 };

bool schedule_set(const char *text);
const char *schedule_text();

/* Empties the queue and draws new priorities. */
void schedule_begin(int threads);
void schedule_ready(int thread);
int schedule_next(); /* -1 when nobody is ready */

bool schedule_descending();

/* Whether an asynchronous copy is made when it is issued, rather than when it is waited for. */
bool schedule_copies_early();

/* Empty when blocks run in ascending order. */
std::vector<uint32_t> schedule_blocks(size_t blocks);
} // namespace emu
