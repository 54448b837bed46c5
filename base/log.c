#include "base/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool quiet;
static bool line_open; /* the terminal cursor stands after a status without newline */

enum { LINE_MAX_BYTES = 4608 };

static void put(const char *prefix, const char *format, va_list args, bool status)
{
    char line[LINE_MAX_BYTES];
    vsnprintf(line, sizeof line, format, args);
    const bool terminal = isatty(STDERR_FILENO);
    pthread_mutex_lock(&lock);
    if (line_open) fputs("\r\033[K", stderr);
    line_open = status && terminal;
    fprintf(stderr, "%s%s%s", prefix, line, line_open ? "" : "\n");
    fflush(stderr);
    pthread_mutex_unlock(&lock);
}

#define PUT(prefix, status)                                                                                            \
    do {                                                                                                               \
        va_list args;                                                                                                  \
        va_start(args, format);                                                                                        \
        put(prefix, format, args, status);                                                                             \
        va_end(args);                                                                                                  \
    } while (0)

void log_info(const char *format, ...)
{
    if (!quiet) PUT("qlora: ", false);
}

void log_warn(const char *format, ...)
{
    PUT("qlora: warning: ", false);
}

void log_plain(const char *format, ...)
{
    if (!quiet) PUT("", false);
}

void log_status(const char *format, ...)
{
    if (!quiet) PUT("", true);
}

static void error_line(const char *prefix, const char *format, ...)
{
    PUT(prefix, false);
}

void log_err(const Err *err)
{
    const char *prefix = err->located ? "" : "qlora: ";
    const char *at = err->text;
    while (*at) {
        const size_t n = strcspn(at, "\n");
        error_line(prefix, "%.*s", (int)n, at);
        at += n + (at[n] == '\n');
    }
}

static double now_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void log_progress(const char *what, double done, double total, const char *unit, bool final)
{
    static char current[64];
    static double started, printed;
    const bool terminal = isatty(STDERR_FILENO);
    const double now = now_seconds();
    if (strcmp(current, what) != 0) {
        snprintf(current, sizeof current, "%s", what);
        started = printed = now;
    }
    const double interval = terminal ? 0.2 : 5.0;
    if (!final && now - printed < interval) return;
    if (final && now - started < 2.0 && !line_open) {
        current[0] = '\0';
        return; /* it was over before anybody wondered */
    }
    printed = now;
    const double seconds = now - started > 1e-9 ? now - started : 1e-9;
    const double rate = done / seconds;
    if (total > 0 && !final) {
        log_status("%s: %.0f of %.0f %s, %.3g %s/s, %.0f s left", what, done, total, unit, rate, unit,
                   rate > 0 ? (total - done) / rate : 0.0);
    } else {
        log_status("%s: %.0f %s in %.1f s, %.3g %s/s", what, done, unit, seconds, rate, unit);
    }
    if (final) {
        current[0] = '\0';
        pthread_mutex_lock(&lock);
        if (line_open) fputc('\n', stderr);
        line_open = false;
        pthread_mutex_unlock(&lock);
    }
}

void log_set_quiet(bool on)
{
    quiet = on;
}
