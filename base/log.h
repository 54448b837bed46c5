/*
 * log.h - lines for people on stderr.
 *
 * Every line starts with "qlora: " unless it is part of a table or located in a file. log_progress overwrites one line
 * on a terminal and prints plain lines at most every few seconds elsewhere. A closed or full stderr never stops a run.
 * Machine-readable output goes to stdout, by the commands themselves.
 */
#pragma once

#include "base/err.h"

#ifdef __cplusplus
extern "C" {
#endif

/* "qlora: ..." */
void log_info(const char *format, ...) PRINTF_LIKE(1, 2);
void log_warn(const char *format, ...) PRINTF_LIKE(1, 2); /* "qlora: warning: ..." */

/* A line without prefix, for tables. */
void log_plain(const char *format, ...) PRINTF_LIKE(1, 2);

/* Errors of an Err, one a line, each with its own prefix. */
void log_err(const Err *err);

/* `what` done of total (total 0: unknown) units; rate and remaining time are added. `final` ends the line. */
void log_progress(const char *what, double done, double total, const char *unit, bool final);

/* A line of the caller's own that is overwritten by the next one on a terminal, and printed as a line elsewhere. */
void log_status(const char *format, ...) PRINTF_LIKE(1, 2);

/* Only warnings and errors from now on. */
void log_set_quiet(bool quiet);

#ifdef __cplusplus
}
#endif
