/*
 * process.h - what the operating system knows about this process and machine: memory in use and memory left.
 *
 * Reads /proc and the control group without allocating, so the step loop may call it.
 */
#pragma once

#include <stdint.h>

uint64_t process_resident_bytes(void);  /* now (VmRSS) */
uint64_t process_peak_bytes(void);      /* highest so far (VmHWM) */
uint64_t process_available_bytes(void); /* what could still be taken: the smaller of machine and control group */

/* Freed heap goes back to the system, so that it does not count twice beside the arenas. */
void process_trim(void);

double process_seconds(void); /* monotonic */
