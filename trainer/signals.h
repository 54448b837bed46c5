/*
 * signals.h - SIGTERM, SIGINT and SIGUSR1 ask a run to save and stop; a second one ends the process at once.
 *
 * No handler runs on a thread that computes: the matrix library keeps its stack pointer in a heap block during some
 * products, and the kernel would write the handler's frame below that block, over whatever lies there. So every thread
 * blocks these signals, and one thread that does nothing else waits for them.
 */
#pragma once

#include "base/err.h"

/* Blocks the signals and starts the thread that takes them; once a process. Threads inherit what is blocked, so this
 * comes before any other is started. Until signals_listen they do what they did before: by default, end the process. */
bool signals_open(Err *err) MUST_USE;
void signals_listen(void);  /* from now on they ask to stop */
void signals_restore(void); /* as before signals_listen; forgets what was asked */
int signals_asked(void);    /* the signal that came first, 0: none */
const char *signals_name(int number);
