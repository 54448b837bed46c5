/*
 * signals.h - SIGTERM, SIGINT and SIGUSR1 ask a run to save and stop; a second one ends the process at once.
 */
#pragma once

void signals_install(void);
void signals_restore(void); /* the default actions again; forgets what was asked */
int signals_asked(void);    /* the signal that came first, 0: none */
const char *signals_name(int number);
