/*
 * dataset_rows.h - what an open Dataset holds; dataset.c opens and splits it, dataset_rows.c lays out its rows,
 * cursor.c reads them.
 */
#pragma once

#include "data/dataset_build.h"
#include "data/pack.h"

struct Dataset {
    TokenStore store; /* samples as they were read */
    DataFiles files;
    const Dataset *owner; /* a validation split borrows store and files from it; else null */
    int64_t sequence_len;
    bool packing, shuffle;
    uint64_t seed;
    char key[HASH_TEXT];

    int64_t *order; /* (samples): index in the store; a source of weight 2 stands twice */
    int64_t samples;

    PackedRows packed; /* with packing: items are positions in `order` */
    int64_t *trained;  /* with packing (rows): targets of a row */
    int64_t rows;
    int64_t longest_row, most_segments; /* of any row */

    DatasetStats stats;
    char fingerprint[HASH_TEXT];
};

static inline const TokenSample *dataset_token_sample(const Dataset *d, int64_t sample)
{
    return &d->store.samples[d->order[sample]];
}

/* Rows, statistics and fingerprint after `order` has changed. */
bool dataset_lay_out(Dataset *d, Err *err) MUST_USE;

/* Row number of the row at `position` of an epoch. */
int64_t dataset_row_at(const Dataset *d, int64_t epoch, int64_t position);

/* With packing: positions in `order` of the *count samples of a row. */
const int64_t *dataset_row_items(const Dataset *d, int64_t row, int64_t *count);
