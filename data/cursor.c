#include "data/dataset.h"

#include "base/check.h"
#include "base/mem.h"
#include "data/dataset_rows.h"

#include <string.h>

struct BatchCursor {
    const Dataset *data;
    int64_t rows;     /* most in a batch */
    int64_t capacity; /* tokens */
    int64_t segment_capacity;
    int32_t *ids, *targets, *positions; /* (capacity) */
    int32_t *starts;                    /* (segment_capacity + 1) */
};

bool batch_cursor_create(BatchCursor **out, const Dataset *d, int64_t micro_batch_size, Err *err)
{
    uint64_t tokens = 0;
    CHECK(micro_batch_size > 0);
    if (!checked_mul((uint64_t)micro_batch_size, (uint64_t)d->longest_row, &tokens) || tokens > INT32_MAX) {
        return FAIL(err, ERR_CONFIG, "micro_batch_size = %lld times rows of %lld tokens is more than 2^31 tokens",
                    (long long)micro_batch_size, (long long)d->longest_row);
    }
    BatchCursor *c = mem_alloc(1, sizeof *c, err);
    if (!c) return false;
    c->data = d;
    c->rows = micro_batch_size;
    c->capacity = (int64_t)tokens;
    c->segment_capacity = micro_batch_size * d->most_segments;
    TRY((c->ids = mem_alloc(tokens, sizeof *c->ids, err)) != NULL);
    TRY((c->targets = mem_alloc(tokens, sizeof *c->targets, err)) != NULL);
    TRY((c->positions = mem_alloc(tokens, sizeof *c->positions, err)) != NULL);
    TRY((c->starts = mem_alloc((size_t)c->segment_capacity + 1, sizeof *c->starts, err)) != NULL);
    *out = c;
    return true;
fail:
    batch_cursor_free(c);
    return false;
}

void batch_cursor_free(BatchCursor *c)
{
    if (!c) return;
    mem_free(c->ids);
    mem_free(c->targets);
    mem_free(c->positions);
    mem_free(c->starts);
    mem_free(c);
}

int64_t batch_cursor_capacity(const BatchCursor *c)
{
    return c->capacity;
}

/* The target of a token is the label of the next one; the last token of a segment has no next one. */
static void add_segment(BatchCursor *c, Batch *b, int64_t sample)
{
    const Sample s = dataset_sample(c->data, sample);
    const int64_t at = b->tokens;
    CHECK(b->segments < c->segment_capacity && at + s.tokens <= c->capacity);
    memcpy(c->ids + at, s.ids, (size_t)s.tokens * sizeof *s.ids);
    memcpy(c->targets + at, s.labels + 1, (size_t)(s.tokens - 1) * sizeof *s.labels);
    c->targets[at + s.tokens - 1] = TARGET_NONE;
    for (int64_t k = 0; k < s.tokens; k++)
        c->positions[at + k] = (int32_t)k;
    c->starts[b->segments++] = (int32_t)at;
    b->tokens += s.tokens;
    b->trained_tokens += dataset_token_sample(c->data, sample)->trained;
}

void batch_cursor_get(BatchCursor *c, int64_t first_row, int64_t count, Batch *out)
{
    const Dataset *d = c->data;
    CHECK(first_row >= 0 && count > 0 && count <= c->rows);
    Batch b = {.ids = c->ids, .targets = c->targets, .positions = c->positions, .starts = c->starts};
    for (int64_t i = first_row; i < first_row + count; i++) {
        const int64_t row = dataset_row_at(d, i / d->rows, i % d->rows);
        if (!d->packing) {
            add_segment(c, &b, row);
            continue;
        }
        int64_t items = 0;
        const int64_t *item = dataset_row_items(d, row, &items);
        for (int64_t k = 0; k < items; k++)
            add_segment(c, &b, item[k]);
    }
    c->starts[b.segments] = (int32_t)b.tokens;
    *out = b;
}
