/*
 * state_file.c - the optimizer's states as one safetensors file.
 *
 *   state1.NAME, state2.NAME    (rows, cols) u8 codes or f32
 *   absmax1.NAME, absmax2.NAME  (blocks) f32; parameters with 8-bit states only
 *   clip_history                (100) f64, last global norms
 *   metadata: format, version, updates, eight_bit, beta1, beta2
 *
 * Loading looks at every byte before it writes the first one, so a file that is refused changes nothing.
 */
#include "optim/internal.h"

#include "base/mem.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FORMAT "qlora-adamw"
#define FORMAT_VERSION "1"
#define HISTORY "clip_history"

enum { CHUNK = 1 << 16, NAME_MAX_LENGTH = 512, NUMBER_MAX = 32 };

static bool tensor_name(char name[NAME_MAX_LENGTH], const char *what, int moment, const char *param, Err *err)
{
    const int length = snprintf(name, NAME_MAX_LENGTH, "%s%d.%s", what, moment, param);
    if (length > 0 && length < NAME_MAX_LENGTH) return true;
    return FAIL(err, ERR_CHECKPOINT, "the parameter name \"%.80s...\" is too long", param);
}

static size_t state_bytes(const StateSpan *s)
{
    return (size_t)s->count * (s->eight_bit ? 1 : sizeof(float));
}

static Tensor absmax_of(const Adamw *opt, int moment, const StateSpan *s)
{
    return tensor_slice_flat(moment == 1 ? &opt->absmax1 : &opt->absmax2, s->absmax, s->blocks);
}

/* --- saving --- */

static bool declare_param(SafetensorsWriter *w, const Param *p, const StateSpan *s, Err *err)
{
    char name[NAME_MAX_LENGTH];
    const int64_t shape[2] = {p->rows, p->cols};
    for (int moment = 1; moment <= 2; moment++) {
        if (!tensor_name(name, "state", moment, p->name, err)) return false;
        if (!safetensors_writer_declare(w, name, s->eight_bit ? DTYPE_U8 : DTYPE_F32, 2, shape, err)) return false;
        if (!s->eight_bit) continue;
        if (!tensor_name(name, "absmax", moment, p->name, err)) return false;
        if (!safetensors_writer_declare(w, name, DTYPE_F32, 1, &s->blocks, err)) return false;
    }
    return true;
}

static bool write_param(SafetensorsWriter *w, Adamw *opt, const StateSpan *s, char *chunk, Err *err)
{
    for (int moment = 1; moment <= 2; moment++) {
        for (size_t at = 0; at < state_bytes(s); at += CHUNK) {
            const size_t left = state_bytes(s) - at, length = left < CHUNK ? left : CHUNK;
            if (!adamw_read_state(opt, moment, s->offset + at, length, chunk, err)) return false;
            if (!safetensors_writer_data(w, chunk, length, err)) return false;
        }
        if (!s->eight_bit) continue;
        const Tensor absmax = absmax_of(opt, moment, s);
        for (int64_t at = 0; at < s->blocks; at += CHUNK / 4) {
            const int64_t left = s->blocks - at, count = left < CHUNK / 4 ? left : CHUNK / 4;
            const Tensor part = tensor_slice_flat(&absmax, at, count);
            backend_download(opt->be, chunk, &part);
            if (!safetensors_writer_data(w, chunk, (size_t)count * sizeof(float), err)) return false;
        }
    }
    return true;
}

static bool add_metadata(SafetensorsWriter *w, const Adamw *opt, Err *err)
{
    char updates[NUMBER_MAX], beta1[NUMBER_MAX], beta2[NUMBER_MAX];
    snprintf(updates, sizeof updates, "%lld", (long long)opt->updates);
    snprintf(beta1, sizeof beta1, "%.17g", opt->options.beta1);
    snprintf(beta2, sizeof beta2, "%.17g", opt->options.beta2);
    return safetensors_writer_metadata(w, "format", FORMAT, err) &&
           safetensors_writer_metadata(w, "version", FORMAT_VERSION, err) &&
           safetensors_writer_metadata(w, "updates", updates, err) &&
           safetensors_writer_metadata(w, "eight_bit", opt->options.eight_bit ? "true" : "false", err) &&
           safetensors_writer_metadata(w, "beta1", beta1, err) && safetensors_writer_metadata(w, "beta2", beta2, err);
}

static bool write_all(SafetensorsWriter *w, Adamw *opt, char *chunk, Err *err)
{
    const int64_t window = CLIP_WINDOW;
    if (!add_metadata(w, opt, err)) return false;
    for (int i = 0; i < opt->table->count; i++) {
        if (!declare_param(w, &opt->table->items[i], &opt->spans[i], err)) return false;
    }
    if (!safetensors_writer_declare(w, HISTORY, DTYPE_F64, 1, &window, err)) return false;
    if (!safetensors_writer_begin(w, err)) return false;
    for (int i = 0; i < opt->table->count; i++) {
        if (!write_param(w, opt, &opt->spans[i], chunk, err)) return false;
    }
    if (!backend_sync(opt->be, err)) return false; /* what a failed device gave is void */
    return safetensors_writer_data(w, opt->history.norms, sizeof opt->history.norms, err);
}

bool adamw_save(Adamw *opt, const char *path, Err *err)
{
    SafetensorsWriter *w = NULL;
    if (!adamw_check(opt, err)) return false;
    char *chunk = mem_alloc(CHUNK, 1, err);
    TRY(chunk != NULL);
    TRY(safetensors_writer_create(&w, path, err));
    TRY(write_all(w, opt, chunk, err));
    mem_free(chunk);
    return safetensors_writer_finish(w, err);
fail:
    mem_free(chunk);
    safetensors_writer_discard(w);
    return false;
}

/* --- loading --- */

typedef struct Loading {
    Adamw *opt;
    Safetensors st;
    const char *path;
    char *chunk;
    bool write; /* second walk: what was found good goes into the states */
} Loading;

static bool floats_good(const float *x, size_t count, bool negative)
{
    for (size_t i = 0; i < count; i++) {
        if (!isfinite(x[i]) || (!negative && x[i] < 0.0f)) return false;
    }
    return true;
}

static bool find(const SafetensorsEntry **out, const Loading *l, const char *name, DType dtype, int rank,
                 const int64_t *shape, Err *err)
{
    const SafetensorsEntry *e = safetensors_find(&l->st, name);
    if (!e) return FAIL(err, ERR_CHECKPOINT, "%s: tensor \"%s\" is missing", l->path, name);
    bool same = e->dtype == dtype && e->rank == rank;
    for (int i = 0; same && i < rank; i++)
        same = e->shape[i] == shape[i];
    if (!same)
        return FAIL(err, ERR_CHECKPOINT, "%s: tensor \"%s\" has another type or shape than this run's parameter",
                    l->path, name);
    *out = e;
    return true;
}

static bool load_state(Loading *l, const char *name, int moment, const Param *p, const StateSpan *s, Err *err)
{
    const SafetensorsEntry *e;
    const int64_t shape[2] = {p->rows, p->cols};
    if (!find(&e, l, name, s->eight_bit ? DTYPE_U8 : DTYPE_F32, 2, shape, err)) return false;
    for (size_t at = 0; at < e->bytes; at += CHUNK) {
        const size_t left = e->bytes - at, length = left < CHUNK ? left : CHUNK;
        if (!safetensors_read(&l->st, e, at, length, l->chunk, err)) return false;
        const bool good =
            s->eight_bit || floats_good((const float *)(void *)l->chunk, length / sizeof(float), moment == 1);
        if (!good)
            return FAIL(err, ERR_CHECKPOINT, "%s: tensor \"%s\" holds a value that no moment can have", l->path, name);
        if (l->write && !adamw_write_state(l->opt, moment, s->offset + at, length, l->chunk, err)) return false;
    }
    return true;
}

static bool load_absmax(Loading *l, const char *name, int moment, const StateSpan *s, Err *err)
{
    const SafetensorsEntry *e;
    if (!find(&e, l, name, DTYPE_F32, 1, &s->blocks, err)) return false;
    const Tensor absmax = absmax_of(l->opt, moment, s);
    for (size_t at = 0; at < e->bytes; at += CHUNK) {
        const size_t left = e->bytes - at, length = left < CHUNK ? left : CHUNK, count = length / sizeof(float);
        if (!safetensors_read(&l->st, e, at, length, l->chunk, err)) return false;
        if (!floats_good((const float *)(void *)l->chunk, count, false))
            return FAIL(err, ERR_CHECKPOINT, "%s: tensor \"%s\" holds a value that no scale can have", l->path, name);
        const Tensor part = tensor_slice_flat(&absmax, (int64_t)(at / sizeof(float)), (int64_t)count);
        if (l->write) backend_upload(l->opt->be, &part, l->chunk);
    }
    return true;
}

static bool load_param(Loading *l, int i, int *seen, Err *err)
{
    const Param *p = &l->opt->table->items[i];
    const StateSpan *s = &l->opt->spans[i];
    char name[NAME_MAX_LENGTH];
    for (int moment = 1; moment <= 2; moment++) {
        if (!tensor_name(name, "state", moment, p->name, err)) return false;
        if (!load_state(l, name, moment, p, s, err)) return false;
        ++*seen;
        if (!s->eight_bit) continue;
        if (!tensor_name(name, "absmax", moment, p->name, err)) return false;
        if (!load_absmax(l, name, moment, s, err)) return false;
        ++*seen;
    }
    return true;
}

static bool load_history(const Loading *l, ClipHistory *history, Err *err)
{
    const SafetensorsEntry *e;
    const int64_t window = CLIP_WINDOW;
    if (!find(&e, l, HISTORY, DTYPE_F64, 1, &window, err)) return false;
    if (!safetensors_read(&l->st, e, 0, sizeof history->norms, history->norms, err)) return false;
    for (int i = 0; i < CLIP_WINDOW; i++) {
        if (!isfinite(history->norms[i]) || history->norms[i] < 0.0)
            return FAIL(err, ERR_CHECKPOINT, "%s: tensor \"" HISTORY "\" holds a value that no norm can have", l->path);
    }
    return true;
}

static bool walk(Loading *l, bool write, Err *err)
{
    int seen = 1; /* the history */
    l->write = write;
    for (int i = 0; i < l->opt->table->count; i++) {
        if (!load_param(l, i, &seen, err)) return false;
    }
    if (seen == l->st.count) return true;
    return FAIL(err, ERR_CHECKPOINT, "%s: %d tensors belong to no parameter of this run", l->path, l->st.count - seen);
}

static bool expect(const Loading *l, const char *key, const char *value, Err *err)
{
    const char *found = safetensors_metadata(&l->st, key);
    if (found && strcmp(found, value) == 0) return true;
    return FAIL(err, ERR_CHECKPOINT,
                "%s: %s is \"%.40s\" and this run has \"%s\"; resume with the options it began with", l->path, key,
                found ? found : "missing", value);
}

static bool read_updates(const Loading *l, int64_t *updates, Err *err)
{
    const char *text = safetensors_metadata(&l->st, "updates");
    const size_t digits = text ? strspn(text, "0123456789") : 0;
    if (!text || digits == 0 || digits > 18 || text[digits] != '\0')
        return FAIL(err, ERR_CHECKPOINT, "%s: the number of updates \"%.40s\" is not valid", l->path,
                    text ? text : "missing");
    *updates = strtoll(text, NULL, 10);
    return true;
}

static bool check_metadata(const Loading *l, int64_t *updates, Err *err)
{
    char beta1[NUMBER_MAX], beta2[NUMBER_MAX];
    snprintf(beta1, sizeof beta1, "%.17g", l->opt->options.beta1);
    snprintf(beta2, sizeof beta2, "%.17g", l->opt->options.beta2);
    return expect(l, "format", FORMAT, err) && expect(l, "version", FORMAT_VERSION, err) &&
           expect(l, "eight_bit", l->opt->options.eight_bit ? "true" : "false", err) &&
           expect(l, "beta1", beta1, err) && expect(l, "beta2", beta2, err) && read_updates(l, updates, err);
}

bool adamw_load(Adamw *opt, const char *path, Err *err)
{
    Loading l = {.opt = opt, .path = path};
    int64_t updates = 0;
    ClipHistory history;
    if (!safetensors_open(&l.st, path, err)) return false;
    TRY((l.chunk = mem_alloc(CHUNK, 1, err)) != NULL);
    TRY(check_metadata(&l, &updates, err));
    TRY(load_history(&l, &history, err));
    TRY(walk(&l, false, err));
    TRY(walk(&l, true, err));
    TRY(backend_sync(opt->be, err));
    opt->updates = updates;
    opt->history = history;
    mem_free(l.chunk);
    safetensors_close(&l.st);
    return true;
fail:
    mem_free(l.chunk);
    safetensors_close(&l.st);
    return false;
}
