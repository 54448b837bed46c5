/*
 * inspect.h - what a look at the samples tells: lengths, and what should make a careful user stop.
 */
#pragma once

#include "data/dataset.h"

typedef struct Lengths {
    int64_t shortest, median, p95, longest;
    double mean;
} Lengths;

/* Tokens a sample, of all samples. */
bool inspect_lengths(Lengths *out, const Dataset *d, Err *err) MUST_USE;

/* Share of the samples in which some stop token is trained, and of those that start with two begin tokens. */
typedef struct Habits {
    double stops;
    double double_begin;
} Habits;
Habits inspect_habits(const Dataset *d, const Tokenizer *t);

enum { INSPECT_WARNINGS_MAX = 8, INSPECT_WARNING_TEXT = 256 };
typedef struct Warnings {
    char text[INSPECT_WARNINGS_MAX][INSPECT_WARNING_TEXT];
    int count;
} Warnings;
void inspect_warnings(Warnings *out, const Dataset *d, const Habits *h, int64_t sequence_len);
