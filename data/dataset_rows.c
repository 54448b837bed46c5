#include "data/dataset_rows.h"

#include "base/check.h"
#include "base/mem.h"
#include "base/rng.h"

/* Streams of RNG_SHUFFLE: the order of rows in an epoch, and the order in which samples are packed. */
enum { STREAM_ROWS = 0, STREAM_PACKING = 1 };

static int64_t *packing_order(const Dataset *d, Err *err)
{
    int64_t *order = mem_alloc((size_t)d->samples, sizeof *order, err);
    const RngKey key = {.seed = d->seed, .purpose = RNG_SHUFFLE, .stream = STREAM_PACKING};
    for (int64_t i = 0; order && i < d->samples; i++)
        order[i] = d->shuffle ? (int64_t)rng_permute(key, (uint64_t)d->samples, (uint64_t)i) : i;
    return order;
}

static bool count_row_targets(Dataset *d, Err *err)
{
    d->trained = mem_alloc((size_t)d->packed.rows, sizeof *d->trained, err);
    if (!d->trained) return false;
    for (int64_t r = 0; r < d->packed.rows; r++) {
        int64_t tokens = 0;
        for (int64_t k = d->packed.starts[r]; k < d->packed.starts[r + 1]; k++) {
            d->trained[r] += dataset_token_sample(d, d->packed.items[k])->trained;
            tokens += dataset_token_sample(d, d->packed.items[k])->tokens;
        }
        const int64_t segments = d->packed.starts[r + 1] - d->packed.starts[r];
        if (tokens > d->longest_row) d->longest_row = tokens;
        if (segments > d->most_segments) d->most_segments = segments;
    }
    return true;
}

static bool pack(Dataset *d, Err *err)
{
    int64_t *order = packing_order(d, err);
    int64_t *lengths = order ? mem_alloc((size_t)d->samples, sizeof *lengths, err) : NULL;
    bool good = lengths != NULL;
    for (int64_t i = 0; good && i < d->samples; i++)
        lengths[i] = dataset_token_sample(d, i)->tokens;
    good = good && packed_rows_make(&d->packed, lengths, order, d->samples, d->sequence_len, err);
    mem_free(order);
    mem_free(lengths);
    return good && count_row_targets(d, err);
}

static void count_stats(Dataset *d)
{
    d->stats = d->store.stats;
    d->stats.samples = d->samples;
    d->stats.tokens = d->stats.trained_tokens = 0;
    for (int64_t i = 0; i < d->samples; i++) {
        d->stats.tokens += dataset_token_sample(d, i)->tokens;
        d->stats.trained_tokens += dataset_token_sample(d, i)->trained;
    }
}

static bool take_fingerprint(Dataset *d, Err *err)
{
    Hash *h = NULL;
    const uint64_t parts[] = {(uint64_t)d->sequence_len, d->packing, d->shuffle, d->seed, (uint64_t)d->samples};
    if (!hash_create(&h, err)) return false;
    hash_add(h, d->key, sizeof d->key);
    hash_add(h, parts, sizeof parts);
    hash_add(h, d->order, (size_t)d->samples * sizeof *d->order);
    hash_finish(h, d->fingerprint);
    return true;
}

bool dataset_lay_out(Dataset *d, Err *err)
{
    packed_rows_free(&d->packed);
    mem_free(d->trained);
    d->trained = NULL;
    d->longest_row = d->most_segments = 0;
    if (d->packing) {
        if (!pack(d, err)) return false;
        d->rows = d->packed.rows;
    } else {
        d->rows = d->samples;
        d->most_segments = 1;
        for (int64_t i = 0; i < d->samples; i++)
            if (dataset_token_sample(d, i)->tokens > d->longest_row)
                d->longest_row = dataset_token_sample(d, i)->tokens;
    }
    count_stats(d);
    return take_fingerprint(d, err);
}

int64_t dataset_rows(const Dataset *d)
{
    return d->rows;
}

int64_t dataset_row_at(const Dataset *d, int64_t epoch, int64_t position)
{
    CHECK(epoch >= 0 && position >= 0 && position < d->rows);
    if (!d->shuffle) return position;
    const RngKey key = {.seed = d->seed, .purpose = RNG_SHUFFLE, .stream = STREAM_ROWS, .step = (uint64_t)epoch};
    return (int64_t)rng_permute(key, (uint64_t)d->rows, (uint64_t)position);
}

const int64_t *dataset_row_items(const Dataset *d, int64_t row, int64_t *count)
{
    CHECK(d->packing);
    *count = d->packed.starts[row + 1] - d->packed.starts[row];
    return d->packed.items + d->packed.starts[row];
}

int64_t dataset_row_trained(const Dataset *d, int64_t epoch, int64_t row)
{
    const int64_t r = dataset_row_at(d, epoch, row);
    return d->packing ? d->trained[r] : (int64_t)dataset_token_sample(d, r)->trained;
}

int64_t dataset_row_sample(const Dataset *d, int64_t epoch, int64_t row, int64_t k)
{
    const int64_t r = dataset_row_at(d, epoch, row);
    if (!d->packing) return k == 0 ? r : -1;
    int64_t count = 0;
    const int64_t *items = dataset_row_items(d, r, &count);
    return k < count ? items[k] : -1;
}
