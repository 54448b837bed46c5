#include "data/dataset_build.h"

#include "base/log.h"
#include "base/mem.h"
#include "data/rows.h"
#include "data/shapes.h"

#include <omp.h>
#include <string.h>

/* A batch of records is read by one thread and tokenized by all; its size bounds the memory for text. */
enum { BATCH_ROWS = 4096, BATCH_BYTES = 8 << 20 };

typedef struct PendingRow {
    size_t offset, length; /* in Builder.bytes */
    int64_t line, column;
    uint32_t source, file;
    Shape shape;
    int worker; /* whose tokens hold the result */
    size_t first, count;
} PendingRow;

typedef struct Worker {
    ShapeWork *work;
    ShapeTokens tokens;
    Err err;
    size_t failed; /* lowest row that failed here; SIZE_MAX: none */
} Worker;

typedef struct Builder {
    TokenStore store;
    const DataOptions *options;
    const DataFiles *files;
    ShapeRules rules;
    Text bytes;
    PendingRow *rows;
    size_t count, capacity;
    Worker *workers;
    int worker_count;
    int64_t *seen; /* open addressing over sample indices + 1, for dedupe */
    size_t seen_size;
    bool progress; /* more than one batch: worth a line */
} Builder;

static void builder_free(Builder *b)
{
    for (int i = 0; i < b->worker_count; i++) {
        shape_work_free(b->workers[i].work);
        shape_tokens_free(&b->workers[i].tokens);
    }
    mem_free(b->workers);
    mem_free(b->rows);
    mem_free(b->seen);
    text_free(&b->bytes);
    token_store_free(&b->store);
}

static bool builder_init(Builder *b, const DataOptions *options, const DataFiles *files, const Tokenizer *t,
                         const ChatTemplate *chat, Err *err)
{
    *b = (Builder){.options = options, .files = files};
    b->rules = (ShapeRules){.tokenizer = t,
                            .chat = chat,
                            .train_on_inputs = options->train_on_inputs,
                            .mask_history = options->mask_history,
                            .vocab_size = options->vocab_size};
    const int threads = options->threads > 0 ? options->threads : omp_get_max_threads();
    b->workers = mem_alloc((size_t)threads, sizeof *b->workers, err);
    if (!b->workers) return false;
    b->worker_count = threads;
    for (int i = 0; i < threads; i++)
        if (!shape_work_create(&b->workers[i].work, t, err)) return false;
    return token_store_begin(&b->store, err);
}

/* ---- tokenizing a batch ---- */

static const char *row_path(const Builder *b, const PendingRow *row)
{
    return b->files->sources[row->source].paths[row->file];
}

static bool tokenize_row(const Builder *b, Worker *w, PendingRow *row, Err *err)
{
    const Row text = {b->bytes.bytes + row->offset, row->length, row->line, row->column};
    json_t *record = NULL;
    row->first = w->tokens.count;
    if (!row_parse(&record, &text, row_path(b, row), err)) return false;
    const bool good =
        shape_tokenize(&w->tokens, w->work, &b->rules, &b->options->sources[row->source], row->shape, record, err);
    json_decref(record);
    if (!good) return row_place(err, row_path(b, row), row->line, row->column);
    row->count = w->tokens.count - row->first;
    return true;
}

/* Every row below the first failing one is looked at, so the error is the same for any number of threads. */
static bool tokenize_batch(Builder *b, Err *err)
{
    size_t failed = SIZE_MAX;
    for (int i = 0; i < b->worker_count; i++) {
        b->workers[i].tokens.count = 0;
        b->workers[i].failed = SIZE_MAX;
    }
#pragma omp parallel for schedule(dynamic, 8) num_threads(b->worker_count)
    for (size_t i = 0; i < b->count; i++) {
        size_t limit;
#pragma omp atomic read
        limit = failed;
        if (i > limit) continue;
        const int worker = omp_get_thread_num();
        Worker *w = &b->workers[worker];
        Err fault = {0};
        b->rows[i].worker = worker;
        if (tokenize_row(b, w, &b->rows[i], &fault)) continue;
        if (i < w->failed) {
            w->failed = i;
            w->err = fault;
        }
#pragma omp critical(dataset_build_failed)
        if (i < failed) {
#pragma omp atomic write
            failed = i;
        }
    }
    for (int i = 0; i < b->worker_count; i++) {
        if (failed == SIZE_MAX || b->workers[i].failed != failed) continue;
        *err = b->workers[i].err;
        return false;
    }
    return true;
}

/* ---- keeping samples ---- */

static uint64_t sample_hash(const Sample *s)
{
    const size_t bytes = (size_t)s->tokens * sizeof *s->ids;
    return hash_u64(s->ids, bytes) * 31 + hash_u64(s->labels, bytes);
}

static bool samples_equal(const Sample *a, const Sample *b)
{
    const size_t bytes = (size_t)a->tokens * sizeof *a->ids;
    return a->tokens == b->tokens && !memcmp(a->ids, b->ids, bytes) && !memcmp(a->labels, b->labels, bytes);
}

static int64_t *seen_slot(const Builder *b, const Sample *s)
{
    size_t at = (size_t)sample_hash(s) & (b->seen_size - 1);
    while (b->seen[at] > 0) {
        const Sample other = token_store_sample(&b->store, b->seen[at] - 1);
        if (samples_equal(s, &other)) break;
        at = (at + 1) & (b->seen_size - 1);
    }
    return &b->seen[at];
}

/* The table stays at most half full. */
static bool seen_reserve(Builder *b, Err *err)
{
    const size_t need = ((size_t)b->store.count + 1) * 2;
    if (need <= b->seen_size) return true;
    const size_t size = b->seen_size ? b->seen_size * 2 : 1024;
    int64_t *grown = mem_alloc(size, sizeof *grown, err);
    if (!grown) return false;
    mem_free(b->seen);
    b->seen = grown;
    b->seen_size = size;
    for (int64_t i = 0; i < b->store.count; i++) {
        const Sample s = token_store_sample(&b->store, i);
        *seen_slot(b, &s) = i + 1;
    }
    return true;
}

static bool keep_sample(Builder *b, const PendingRow *row, const int32_t *ids, int32_t *labels, int64_t tokens,
                        Err *err)
{
    int64_t trained = 0;
    labels[0] = TARGET_NONE; /* nothing precedes it */
    for (int64_t k = 0; k < tokens; k++)
        trained += labels[k] != TARGET_NONE;
    if (trained == 0) {
        b->store.stats.without_target++;
        return true;
    }
    if (b->options->dedupe) {
        const Sample sample = {ids, labels, tokens};
        if (!seen_reserve(b, err)) return false;
        int64_t *slot = seen_slot(b, &sample);
        if (*slot) {
            b->store.stats.duplicates++;
            return true;
        }
        *slot = b->store.count + 1;
    }
    const TokenSample from = {.line = row->line, .source = row->source, .file = row->file};
    return token_store_add(&b->store, from, ids, labels, tokens, err);
}

static bool fail_too_long(const Builder *b, const PendingRow *row, Err *err)
{
    (void)FAIL(err, ERR_DATA,
               "the sample has %zu tokens, more than sequence_len = %lld; raise sequence_len, or set "
               "excess_length_strategy to drop, truncate or split",
               row->count, (long long)b->options->sequence_len);
    return row_place(err, row_path(b, row), row->line, row->column);
}

static bool keep_row(Builder *b, const PendingRow *row, Err *err)
{
    DatasetStats *stats = &b->store.stats;
    ShapeTokens *t = &b->workers[row->worker].tokens;
    const int32_t *ids = t->ids + row->first;
    int32_t *labels = t->labels + row->first;
    const int64_t limit = b->options->sequence_len;
    int64_t left = (int64_t)row->count;
    if (left > stats->longest) stats->longest = left;
    if (left == 0) {
        stats->without_target++;
        return true;
    }
    if (left > limit) {
        switch (b->options->excess) {
        case EXCESS_DROP: stats->too_long++; return true;
        case EXCESS_ERROR: return fail_too_long(b, row, err);
        case EXCESS_SPLIT: stats->split++; break;
        case EXCESS_TRUNCATE:
            stats->truncated++;
            left = limit;
            break;
        }
    }
    while (left > 0) {
        const int64_t tokens = left < limit ? left : limit;
        if (!keep_sample(b, row, ids, labels, tokens, err)) return false;
        ids += tokens;
        labels += tokens;
        left -= tokens;
    }
    return true;
}

static bool flush(Builder *b, Err *err)
{
    if (b->count == 0) return true;
    if (!tokenize_batch(b, err)) return false;
    for (size_t i = 0; i < b->count; i++)
        if (!keep_row(b, &b->rows[i], err)) return false;
    for (int i = 0; i < b->worker_count; i++) {
        b->store.stats.straddling += b->workers[i].tokens.straddling;
        b->workers[i].tokens.straddling = 0;
    }
    b->count = 0;
    text_clear(&b->bytes);
    return true;
}

/* ---- reading ---- */

static bool push_row(Builder *b, const Row *row, uint32_t source, uint32_t file, Shape shape, Err *err)
{
    if (!mem_grow(&b->rows, &b->capacity, b->count + 1, sizeof *b->rows, err)) return false;
    b->rows[b->count] = (PendingRow){.offset = b->bytes.length,
                                     .length = row->length,
                                     .line = row->line,
                                     .column = row->column,
                                     .source = source,
                                     .file = file,
                                     .shape = shape};
    if (!text_add(&b->bytes, row->bytes, row->length, err)) return false;
    b->count++;
    b->store.stats.rows_read++;
    if (b->count < BATCH_ROWS && b->bytes.length < BATCH_BYTES) return true;
    if (!flush(b, err)) return false;
    b->progress = true;
    log_progress("tokenize", (double)b->store.stats.rows_read, 0, "records", false);
    return true;
}

static bool count_rows(const SourceFiles *files, int64_t *rows, Err *err)
{
    *rows = 0;
    for (size_t i = 0; i < files->count; i++) {
        RowReader *r = NULL;
        Row row;
        bool end = false;
        if (!row_reader_open(&r, files->paths[i], err)) return false;
        bool good = true;
        while ((good = row_reader_next(r, &row, &end, err)) && !end)
            (*rows)++;
        row_reader_close(r);
        if (!good) return false;
    }
    return true;
}

/* The shape of a file is that of its first record, unless the source names one. */
static bool find_shape(Shape *shape, const Row *row, const DataSource *source, const char *path, Err *err)
{
    json_t *record = NULL;
    if (!shape_from_type(shape, source->type, err)) return false;
    /* In Axolotl's files "completion" means plain text. */
    const bool either = source->type && !strcmp(source->type, "completion");
    if (*shape != SHAPE_AUTO && !either) return true;
    if (!row_parse(&record, row, path, err)) return false;
    Shape detected = SHAPE_AUTO;
    Err fault = {0};
    const bool good = shape_detect(&detected, record, source, &fault);
    json_decref(record);
    if (either) {
        if (good && detected == SHAPE_TEXT) *shape = SHAPE_TEXT;
        return true;
    }
    *shape = detected;
    if (good) return true;
    (void)FAIL(err, fault.code, "%s", fault.text);
    return row_place(err, path, row->line, row->column);
}

typedef struct Range {
    int64_t at, first, last; /* records of the source: read so far; wanted */
} Range;

static bool read_file(Builder *b, int source, size_t file, Range *range, Err *err)
{
    const char *path = b->files->sources[source].paths[file];
    const DataSource *options = &b->options->sources[source];
    RowReader *r = NULL;
    Row row;
    bool end = false;
    bool first = true;
    Shape shape = SHAPE_AUTO;
    TRY(row_reader_open(&r, path, err));
    while (range->at < range->last) {
        TRY(row_reader_next(r, &row, &end, err));
        if (end) break;
        if (first) TRY(find_shape(&shape, &row, options, path, err));
        first = false;
        if (range->at++ < range->first) continue;
        TRY(push_row(b, &row, (uint32_t)source, (uint32_t)file, shape, err));
    }
    row_reader_close(r);
    return true;
fail:
    row_reader_close(r);
    return false;
}

static bool read_source(Builder *b, int index, Err *err)
{
    const DataSource *source = &b->options->sources[index];
    const SourceFiles *files = &b->files->sources[index];
    const int64_t before = b->store.stats.rows_read;
    SourceSlice slice;
    Range range = {0};
    int64_t rows = INT64_MAX;
    if (!source_slice_parse(&slice, source->split, err)) return false;
    if (source_slice_needs_count(&slice) && !count_rows(files, &rows, err)) return false;
    source_slice_range(&slice, rows, &range.first, &range.last);
    if (source->max_samples > 0 && range.last - range.first > source->max_samples) {
        range.last = range.first + source->max_samples;
    }
    for (size_t i = 0; i < files->count && range.at < range.last; i++)
        if (!read_file(b, index, i, &range, err)) return false;
    if (b->store.stats.rows_read > before) return true;
    return FAIL(err, ERR_DATA, "%s has no records%s%s; expected JSON lines, or one JSON list of objects", source->path,
                source->split ? " in the split " : "", source->split ? source->split : "");
}

bool dataset_build(TokenStore *out, const DataOptions *options, const DataFiles *files, const Tokenizer *t,
                   const ChatTemplate *chat, Err *err)
{
    Builder b;
    TRY(builder_init(&b, options, files, t, chat, err));
    for (int i = 0; i < options->source_count; i++)
        TRY(read_source(&b, i, err));
    TRY(flush(&b, err));
    if (b.progress) log_progress("tokenize", (double)b.store.stats.rows_read, 0, "records", true);
    *out = b.store;
    b.store = (TokenStore){0};
    builder_free(&b);
    return true;
fail:
    builder_free(&b);
    return false;
}
