#include "trainer/inspect.h"

#include "base/check.h"
#include "base/mem.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum { HABIT_SAMPLES = 100000 }; /* looked at; enough for a share */

static int by_size(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Index of the smallest value that at least `percent` of the n sorted values do not exceed. */
static int64_t nearest_rank(int64_t n, int64_t percent)
{
    return (n * percent + 99) / 100 - 1;
}

bool inspect_lengths(Lengths *out, const Dataset *d, Err *err)
{
    const int64_t n = dataset_samples(d);
    int64_t *sizes = mem_alloc((size_t)n, sizeof *sizes, err);
    if (!sizes) return false;
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        sizes[i] = dataset_sample(d, i).tokens;
        sum += (double)sizes[i];
    }
    qsort(sizes, (size_t)n, sizeof *sizes, by_size);
    *out = (Lengths){0};
    if (n > 0) {
        *out = (Lengths){.shortest = sizes[0],
                         .median = sizes[nearest_rank(n, 50)],
                         .p95 = sizes[nearest_rank(n, 95)],
                         .longest = sizes[n - 1],
                         .mean = sum / (double)n};
    }
    mem_free(sizes);
    return true;
}

static bool is_stop(const Tokenizer *t, int32_t id)
{
    const int32_t *ids = NULL;
    const size_t n = tokenizer_stop_ids(t, &ids);
    for (size_t i = 0; i < n; i++) {
        if (ids[i] == id) return true;
    }
    return false;
}

static bool trains_stop(const Sample *s, const Tokenizer *t)
{
    for (int64_t k = 0; k < s->tokens; k++) {
        if (s->labels[k] != TARGET_NONE && is_stop(t, s->ids[k])) return true;
    }
    return false;
}

Habits inspect_habits(const Dataset *d, const Tokenizer *t)
{
    const int64_t all = dataset_samples(d), n = all < HABIT_SAMPLES ? all : HABIT_SAMPLES;
    const int32_t begin = tokenizer_bos(t);
    int64_t stops = 0, twice = 0;
    for (int64_t i = 0; i < n; i++) {
        const Sample s = dataset_sample(d, i);
        stops += trains_stop(&s, t);
        twice += begin >= 0 && s.tokens > 1 && s.ids[0] == begin && s.ids[1] == begin;
    }
    const double base = n > 0 ? (double)n : 1;
    return (Habits){.stops = (double)stops / base, .double_begin = (double)twice / base};
}

static void warn(Warnings *w, const char *format, ...) PRINTF_LIKE(2, 3);

static void warn(Warnings *w, const char *format, ...)
{
    CHECK(w->count < INSPECT_WARNINGS_MAX);
    va_list args;
    va_start(args, format);
    vsnprintf(w->text[w->count++], INSPECT_WARNING_TEXT, format, args);
    va_end(args);
}

void inspect_warnings(Warnings *out, const Dataset *d, const Habits *h, int64_t sequence_len)
{
    const DatasetStats *s = dataset_stats(d);
    const double read = s->rows_read > 0 ? (double)s->rows_read : 1;
    out->count = 0;
    if ((double)s->too_long > 0.05 * read) {
        warn(out, "%.0f %% of the records are longer than sequence_len %" PRId64 " and dropped",
             100 * (double)s->too_long / read, sequence_len);
    }
    if ((double)s->without_target > 0.05 * read) {
        warn(out, "%.0f %% of the records have no trained token and are dropped",
             100 * (double)s->without_target / read);
    }
    if (h->stops < 0.5) {
        warn(out, "an end marker is trained in only %.1f %% of the samples: the model will not learn to stop",
             100 * h->stops);
    }
    if (h->double_begin > 0) {
        warn(out, "%.1f %% of the samples start with two begin tokens: template and text both bring one",
             100 * h->double_begin);
    }
    if (s->straddling > 0) {
        warn(out, "%" PRId64 " tokens lie across the border of a trained span and are not trained", s->straddling);
    }
}
