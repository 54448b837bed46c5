/*
 * process.h - what the operating system knows about this process: memory in use, time.
 *
 * Reads /proc without allocating, so the step loop may call it.
 */
#pragma once

#include <stdint.h>

uint64_t process_resident_bytes(void); /* now (VmRSS) */
uint64_t process_peak_bytes(void);     /* highest so far (VmHWM) */

/* Freed heap goes back to the system, so that it does not count twice beside the arenas. */
void process_trim(void);

double process_seconds(void); /* monotonic */
