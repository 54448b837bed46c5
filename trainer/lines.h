/*
 * lines.h - standard input (or any stream) line by line, of any length and with any bytes in it.
 */
#pragma once

#include "base/text.h"

#include <stdint.h>
#include <stdio.h>

typedef struct Lines {
    FILE *stream;   /* borrowed */
    int64_t number; /* of the last line read, from 1 */
    Text line;      /* without its newline; owned */
} Lines;

/* The next line into lines->line; *end is set instead when there is none. */
bool lines_next(Lines *lines, bool *end, Err *err) MUST_USE;
void lines_free(Lines *lines);
