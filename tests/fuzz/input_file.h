/* input_file.h - the fuzzer's bytes as a file in memory, for readers that take a path. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct InputFile {
    int fd;
    char path[64];
} InputFile;

static inline InputFile input_file_make(const uint8_t *bytes, size_t length)
{
    InputFile f = {.fd = memfd_create("input", 0)};
    if (f.fd < 0 || write(f.fd, bytes, length) != (ssize_t)length) abort();
    snprintf(f.path, sizeof f.path, "/proc/self/fd/%d", f.fd);
    return f;
}
