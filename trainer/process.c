#include "trainer/process.h"

#include <fcntl.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { PROC_BYTES = 4096 };

/* The first PROC_BYTES - 1 bytes of a small file; "" when it cannot be read. */
static void read_small(const char *path, char text[PROC_BYTES])
{
    text[0] = '\0';
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    const ssize_t n = read(fd, text, PROC_BYTES - 1);
    text[n > 0 ? n : 0] = '\0';
    close(fd);
}

/* "VmRSS:   1234 kB" -> bytes; 0 when absent */
static uint64_t field_bytes(const char *text, const char *name)
{
    const char *at = strstr(text, name);
    return at ? strtoull(at + strlen(name), NULL, 10) * 1024 : 0;
}

uint64_t process_resident_bytes(void)
{
    char text[PROC_BYTES];
    read_small("/proc/self/status", text);
    return field_bytes(text, "\nVmRSS:");
}

uint64_t process_peak_bytes(void)
{
    char text[PROC_BYTES];
    read_small("/proc/self/status", text);
    return field_bytes(text, "\nVmHWM:");
}

void process_trim(void)
{
    malloc_trim(0);
}

double process_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
