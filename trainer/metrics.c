#include "trainer/metrics.h"

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { LINE_LIMIT = 1 << 24 }; /* bytes; a line with a sample may be long */

/* One line in the caller's frame: the step loop must not allocate. */
typedef struct Line {
    char text[METRICS_LINE_MAX];
    size_t length;
} Line;

static void put(Line *l, const char *format, ...) PRINTF_LIKE(2, 3);

static void put(Line *l, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    const int n = vsnprintf(l->text + l->length, sizeof l->text - l->length, format, args);
    va_end(args);
    CHECK(n >= 0 && (size_t)n < sizeof l->text - l->length);
    l->length += (size_t)n;
}

static void put_real(Line *l, const char *key, double value)
{
    if (!isfinite(value)) {
        put(l, ", \"%s\": null", key);
        return;
    }
    char number[40];
    snprintf(number, sizeof number, "%.17g", value);
    const bool real = strpbrk(number, ".e") != NULL; /* 2 would be read back as an integer */
    put(l, ", \"%s\": %s%s", key, number, real ? "" : ".0");
}

static void put_count(Line *l, const char *key, int64_t value)
{
    put(l, ", \"%s\": %" PRId64, key, value);
}

bool metrics_flush(MetricsLog *log, Err *err)
{
    if (log->used == 0) return true;
    if (!file_append(log->path, log->pending, log->used, err)) return false;
    log->used = 0;
    return true;
}

static bool append(Line *l, MetricsLog *log, Err *err)
{
    const time_t now = time(NULL);
    struct tm utc;
    char text[32];
    gmtime_r(&now, &utc);
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
    put(l, ", \"time\": \"%s\"}\n", text);
    if (l->length > METRICS_PENDING_MAX - log->used) {
        return FAIL(err, ERR_DISK, "%s cannot be written and too many lines are waiting; newer ones are lost",
                    log->path);
    }
    memcpy(log->pending + log->used, l->text, l->length);
    log->used += l->length;
    return metrics_flush(log, err);
}

bool metrics_update(MetricsLog *log, const UpdateMetrics *m, Err *err)
{
    const AdamwReport *r = &m->report;
    Line l = {.length = 0};
    put(&l, "{\"step\": %" PRId64, m->step);
    put_real(&l, "epoch", m->epoch);
    put_real(&l, "loss", m->loss);
    put_real(&l, "learning_rate", m->learning_rate);
    put_real(&l, "grad_norm", r->grad_norm);
    put_count(&l, "tokens", m->tokens);
    put_count(&l, "trained_tokens", m->trained_tokens);
    put_real(&l, "tokens_per_second", m->seconds > 0 ? (double)m->tokens / m->seconds : 0);
    put_real(&l, "seconds", m->seconds);
    put_count(&l, "peak_memory_bytes", (int64_t)m->peak_memory_bytes);
    put_count(&l, "host_memory_bytes", (int64_t)m->host_memory_bytes);
    put(&l, ", \"applied\": %s", r->applied ? "true" : "false");
    put_real(&l, "loss_scale", m->loss_scale);
    put_count(&l, "overflowed_updates", m->overflows);
    put_count(&l, "norm_clipped", r->norm_clipped);
    put_count(&l, "percentile_clipped", r->percentile_clipped);
    put_count(&l, "value_clipped", r->value_clipped);
    put_count(&l, "variance_floored", r->variance_floored);
    put_count(&l, "variance_capped", r->variance_capped);
    put_count(&l, "rms_clipped", r->rms_clipped);
    return append(&l, log, err);
}

bool metrics_eval(MetricsLog *log, const EvalMetrics *m, Err *err)
{
    Line l = {.length = 0};
    put(&l, "{\"step\": %" PRId64, m->step);
    put_real(&l, "eval_loss", m->loss);
    put_real(&l, "perplexity", exp(m->loss));
    put_count(&l, "tokens", m->tokens);
    put_real(&l, "seconds", m->seconds);
    return append(&l, log, err);
}

/* *step: -1 when the line is not one of ours; *has: it holds `member`. Out of memory is no such line: the log would be
 * cut there. */
static bool step_of_line(int64_t *step, bool *has, const char *member, const char *line, size_t length, Err *err)
{
    Err fault = {0};
    json_t *root = NULL;
    *step = -1;
    *has = false;
    if (!json_parse(&root, line, length, "a log", ERR_DISK, &fault)) {
        return fault.code != ERR_MEMORY || FAIL(err, ERR_MEMORY, "%s", fault.text);
    }
    const json_t *found = json_object_get(root, "step");
    if (json_is_integer(found)) *step = (int64_t)json_integer_value(found);
    if (member) *has = json_object_get(root, member) != NULL;
    json_decref(root);
    return true;
}

/* Bytes of the whole lines of a log up to `step`. */
static bool measure_lines(size_t *keep, const FileMap *log, int64_t step, const char *redone, Err *err)
{
    *keep = 0;
    while (*keep < log->length) {
        const char *line = log->bytes + *keep;
        const size_t left = log->length - *keep;
        const char *end = memchr(line, '\n', left < LINE_LIMIT ? left : LINE_LIMIT);
        int64_t found;
        bool has;
        if (!end) break; /* not of ours, or the process died while it wrote this one */
        if (!step_of_line(&found, &has, redone, line, (size_t)(end - line), err)) return false;
        if (found < 0 || found > step || (found == step && has)) break;
        *keep += (size_t)(end - line) + 1;
    }
    return true;
}

bool metrics_cut(const char *path, int64_t step, const char *redone, Err *err)
{
    if (!file_exists(path)) return true;
    FileMap map;
    if (!file_map(&map, path, ERR_DISK, err)) return false;
    size_t keep;
    const bool ok = measure_lines(&keep, &map, step, redone, err), cut = ok && keep < map.length;
    file_unmap(&map);
    return ok && (!cut || file_truncate(path, keep, err));
}

bool metrics_open(MetricsLog *out, const char *path, int64_t step, const char *redone, Err *err)
{
    MetricsLog log = {0};
    if (!metrics_cut(path, step, redone, err)) return false;
    log.path = mem_copy_text(path, err);
    log.pending = mem_alloc(METRICS_PENDING_MAX, 1, err);
    if (!log.path || !log.pending) {
        metrics_close(&log);
        return false;
    }
    *out = log;
    return true;
}

void metrics_close(MetricsLog *log)
{
    mem_free(log->path);
    mem_free(log->pending);
    *log = (MetricsLog){0};
}
