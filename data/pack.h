/*
 * pack.h - samples into rows of a fixed number of tokens, none of them cut.
 *
 * First fit over a bounded number of open rows, in the order given: rows stay near the order of their samples, and one
 * pass does it. A row is closed when the window is full and it is the oldest, or when nothing fits any more.
 */
#pragma once

#include "base/err.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Items of row r are items[starts[r] .. starts[r + 1]). */
typedef struct PackedRows {
    int64_t *starts; /* (rows + 1) */
    int64_t *items;  /* (items): indices 0 .. count-1 of the lengths given */
    int64_t rows;
} PackedRows;
void packed_rows_free(PackedRows *p);

/* Item k of the order is lengths[order[k]] tokens, at most `size`. `order` null: 0, 1, 2, ... */
bool packed_rows_make(PackedRows *out, const int64_t *lengths, const int64_t *order, int64_t count, int64_t size,
                      Err *err) MUST_USE;

#ifdef __cplusplus
}
#endif
