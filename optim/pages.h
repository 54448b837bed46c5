/*
 * pages.h - the file that holds the states of a paged optimizer: both moments one after the other.
 *
 * The file has no name once it is open, so it dies with the process. Its space is taken when it is made: a full disk
 * shows at the start of a run and not in the middle of an update.
 */
#pragma once

#include "base/file.h"

typedef struct Pages {
    File writing, reading; /* the same file */
    size_t region_bytes;
} Pages;

bool pages_open(Pages *out, const char *path, size_t region_bytes, Err *err) MUST_USE;
void pages_close(Pages *p); /* accepts a zeroed struct */

/* Bytes [first, first + length) of moment 1 or 2. */
bool pages_read(const Pages *p, int moment, size_t first, size_t length, void *to, Err *err) MUST_USE;
bool pages_write(Pages *p, int moment, size_t first, size_t length, const void *from, Err *err) MUST_USE;
