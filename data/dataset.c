#include "data/dataset.h"

#include "base/check.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "data/dataset_rows.h"
#include "data/shapes.h"

#include <math.h>

/* ---- opening ---- */

static bool check_options(const DataOptions *o, Err *err)
{
    if (o->source_count <= 0) return FAIL(err, ERR_CONFIG, "datasets: no data set is given");
    if (o->sequence_len < 2 || o->sequence_len > INT32_MAX) {
        return FAIL(err, ERR_CONFIG, "sequence_len = %lld is outside of 2 to %d", (long long)o->sequence_len,
                    INT32_MAX);
    }
    for (int i = 0; i < o->source_count; i++) {
        const double weight = o->sources[i].weight;
        Shape shape;
        SourceSlice slice;
        if (!(weight >= 0.0 && weight <= 1000.0)) {
            return FAIL(err, ERR_CONFIG, "datasets: weight %g of %s is outside of 0 to 1000", weight,
                        o->sources[i].path);
        }
        if (!shape_from_type(&shape, o->sources[i].type, err)) return false;
        if (!source_slice_parse(&slice, o->sources[i].split, err)) return false;
    }
    return true;
}

/* One sentence that says where the records went and what to do. */
static bool fail_nothing(const DatasetStats *s, const DataOptions *o, Err *err)
{
    return FAIL(
        err, ERR_DATA,
        "there is nothing to learn in %s%s: of %lld records %lld have no trained token%s and %lld are longer than "
        "sequence_len = %lld (the longest has %lld tokens)%s",
        o->sources[0].path, o->source_count > 1 ? " and the other data sets" : "", (long long)s->rows_read,
        (long long)s->without_target,
        s->without_target > 0 ? " (look at roles, roles_to_train and the labels with `qlora inspect`)" : "",
        (long long)s->too_long, (long long)o->sequence_len, (long long)s->longest,
        s->too_long > 0 ? "; raise sequence_len, or set excess_length_strategy: truncate or split" : "");
}

/* The cache is a convenience: a disk that is full must not end the run. */
static bool save_cache(TokenStore *s, const DataOptions *o, const char *path, Err *err)
{
    Err fault = {0};
    if (token_cache_save(s, o->cache_folder, path, &fault)) return true;
    if (fault.code == ERR_MEMORY) return FAIL(err, ERR_MEMORY, "%s", fault.text);
    log_warn("the token cache was not written, so the next start tokenizes again: %s", fault.text);
    return true;
}

static bool load_or_build(Dataset *d, const DataOptions *o, const Tokenizer *t, const ChatTemplate *chat, Err *err)
{
    char *path = NULL;
    bool found = false;
    if (o->cache_folder) {
        path = token_cache_path(o->cache_folder, d->key, err);
        if (!path) return false;
        TRY(token_cache_load(&d->store, &found, path, d->key, err));
    }
    if (!found) {
        TRY(dataset_build(&d->store, o, &d->files, t, chat, err));
        if (d->store.count == 0) {
            (void)fail_nothing(&d->store.stats, o, err);
            goto fail;
        }
        TRY(token_store_finish(&d->store, d->key, err));
        if (path) TRY(save_cache(&d->store, o, path, err));
    }
    mem_free(path);
    return true;
fail:
    mem_free(path);
    return false;
}

/* ---- mixing ---- */

/* Samples of a source stand together in the store: [*first, *last). */
static void source_range(const Dataset *d, uint32_t source, int64_t *first, int64_t *last)
{
    while (*first < d->store.count && d->store.samples[*first].source < source)
        (*first)++;
    *last = *first;
    while (*last < d->store.count && d->store.samples[*last].source == source)
        (*last)++;
}

static int64_t rest_count(double weight, int64_t n)
{
    return (int64_t)llround((weight - floor(weight)) * (double)n);
}

/* Whole passes over a source, then a part of it drawn by the seed; always in file order. */
static void mix_source(Dataset *d, const DataSource *source, uint32_t index, int64_t first, int64_t last)
{
    const int64_t n = last - first;
    const double weight = source->weight > 0.0 ? source->weight : 1.0; /* 0: not given */
    const int64_t rest = rest_count(weight, n);
    const RngKey key = {.seed = d->seed, .purpose = RNG_MIX, .stream = index};
    for (int64_t pass = 0; pass < (int64_t)floor(weight); pass++)
        for (int64_t i = 0; i < n; i++)
            d->order[d->samples++] = first + i;
    for (int64_t i = 0; rest > 0 && i < n; i++)
        if ((int64_t)rng_permute(key, (uint64_t)n, (uint64_t)i) < rest) d->order[d->samples++] = first + i;
}

static bool mix(Dataset *d, const DataOptions *o, Err *err)
{
    int64_t first = 0;
    int64_t last = 0;
    double most = 0.0;
    for (int i = 0; i < o->source_count; i++) {
        source_range(d, (uint32_t)i, &first, &last);
        most += ((o->sources[i].weight > 0.0 ? o->sources[i].weight : 1.0) + 1.0) * (double)(last - first);
    }
    if (most > 1e12) return FAIL(err, ERR_DATA, "datasets: the weights make more than 10^12 samples");
    d->order = mem_alloc((size_t)most + 1, sizeof *d->order, err);
    if (!d->order) return false;
    first = 0;
    for (int i = 0; i < o->source_count; i++) {
        source_range(d, (uint32_t)i, &first, &last);
        mix_source(d, &o->sources[i], (uint32_t)i, first, last);
    }
    if (d->samples > 0) return true;
    return FAIL(err, ERR_DATA, "datasets: the weights leave no sample; raise them");
}

bool dataset_open(Dataset **out, const DataOptions *options, const Tokenizer *t, const ChatTemplate *chat, Err *err)
{
    if (!check_options(options, err)) return false;
    Dataset *d = mem_alloc(1, sizeof *d, err);
    if (!d) return false;
    d->sequence_len = options->sequence_len;
    d->packing = options->packing;
    d->shuffle = options->shuffle;
    d->seed = options->seed;
    TRY(data_files_find(&d->files, options, err));
    TRY(dataset_key(d->key, options, &d->files, t, chat, err));
    TRY(load_or_build(d, options, t, chat, err));
    TRY(mix(d, options, err));
    TRY(dataset_lay_out(d, err));
    *out = d;
    return true;
fail:
    dataset_close(d);
    return false;
}

void dataset_close(Dataset *d)
{
    if (!d) return;
    if (!d->owner) {
        token_store_free(&d->store);
        data_files_free(&d->files);
    }
    packed_rows_free(&d->packed);
    mem_free(d->trained);
    mem_free(d->order);
    mem_free(d);
}

/* ---- splitting ---- */

/* The first `count` samples of a permutation, as marks by index in the store. */
static bool draw(const Dataset *d, bool *picked, double size, int64_t *count, Err *err)
{
    bool *seen = mem_alloc((size_t)d->store.count, sizeof *seen, err);
    int64_t *unique = seen ? mem_alloc((size_t)d->samples, sizeof *unique, err) : NULL;
    if (!unique) {
        mem_free(seen);
        return false;
    }
    int64_t n = 0;
    for (int64_t i = 0; i < d->samples; i++) {
        if (!seen[d->order[i]]) unique[n++] = d->order[i];
        seen[d->order[i]] = true;
    }
    const double wanted = size < 1.0 ? round(size * (double)n) : floor(size);
    const bool good = wanted >= 1.0 && wanted < (double)n;
    *count = good ? (int64_t)wanted : 0;
    const RngKey key = {.seed = d->seed, .purpose = RNG_SPLIT};
    for (int64_t k = 0; k < *count; k++)
        picked[unique[rng_permute(key, (uint64_t)n, (uint64_t)k)]] = true;
    mem_free(seen);
    mem_free(unique);
    if (good) return true;
    return FAIL(err, ERR_DATA, "val_set_size = %g takes %.0f of %lld samples, which leaves one of the two sets empty",
                size, wanted, (long long)n);
}

/* Moves what is picked out of d->order: copies of a sample (weights above 1) all go, and count once. */
static void divide(Dataset *d, Dataset *v, bool *picked)
{
    int64_t left = 0;
    for (int64_t i = 0; i < d->samples; i++) {
        const int64_t sample = d->order[i];
        if (!picked[sample]) d->order[left++] = sample;
    }
    d->samples = left;
    for (int64_t sample = 0; sample < d->store.count; sample++)
        if (picked[sample]) v->order[v->samples++] = sample;
}

bool dataset_split(Dataset *d, Dataset **validation, double size, Err *err)
{
    int64_t count = 0;
    bool *picked = NULL;
    Dataset *v = mem_alloc(1, sizeof *v, err);
    if (!v) return false;
    *v = *d; /* borrows the store and takes the options */
    v->owner = d;
    v->order = NULL;
    v->samples = 0;
    v->packed = (PackedRows){0};
    v->trained = NULL;
    TRY((picked = mem_alloc((size_t)d->store.count, sizeof *picked, err)) != NULL);
    TRY(draw(d, picked, size, &count, err));
    TRY((v->order = mem_alloc((size_t)count, sizeof *v->order, err)) != NULL);
    divide(d, v, picked);
    TRY(dataset_lay_out(v, err));
    TRY(dataset_lay_out(d, err));
    mem_free(picked);
    *validation = v;
    return true;
fail:
    mem_free(picked);
    dataset_close(v);
    return false;
}

/* ---- reading ---- */

const DatasetStats *dataset_stats(const Dataset *d)
{
    return &d->stats;
}

const char *dataset_fingerprint(const Dataset *d)
{
    return d->fingerprint;
}

int64_t dataset_samples(const Dataset *d)
{
    return d->samples;
}

Sample dataset_sample(const Dataset *d, int64_t i)
{
    CHECK(i >= 0 && i < d->samples);
    return token_store_sample(&d->store, d->order[i]);
}

SamplePlace dataset_sample_place(const Dataset *d, int64_t i)
{
    CHECK(i >= 0 && i < d->samples);
    const TokenSample *s = dataset_token_sample(d, i);
    return (SamplePlace){.path = data_files_path(&d->files, s), .line = s->line};
}

int64_t dataset_count_lengths(const Dataset *d, int64_t low, int64_t high)
{
    int64_t count = 0;
    for (int64_t i = 0; i < d->samples; i++) {
        const int64_t tokens = dataset_token_sample(d, i)->tokens;
        count += tokens >= low && tokens < high;
    }
    return count;
}
