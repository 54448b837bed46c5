#include "model/decoder.h"

#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "model/rope.h"

#include <math.h>
#include <string.h>

enum { CHUNK_ELEMENTS = 1 << 20 }; /* of a tensor that is only converted: 4 MB of f32 on the host */

/* One tensor of the base model and where it goes. */
typedef struct Item {
    char name[160];
    int64_t rows, cols; /* a vector is (n, 1) */
    bool vector;
    Tensor to;        /* in the compute type */
    LinearPart *part; /* instead of `to`: a quantized matrix */
    bool on_host;     /* `to` is pinned memory */
} Item;

typedef struct Plan {
    Item *items;
    int count;
} Plan;

/* ---- places ---- */

/* A step reads as many rows as it has tokens: the link carries them, and the table's place is free for other things. */
static bool in_host_memory(const Model *m)
{
    return m->options.host_embeddings && !m->spec.tied;
}

size_t model_host_embedding_bytes(const Model *m)
{
    return in_host_memory(m) && m->embed.rank > 0 ? tensor_bytes(&m->embed) : 0;
}

void weights_place(Model *m, Arena *a)
{
    const DType dtype = m->options.compute;
    const ModelSpec *s = &m->spec;
    m->embed = in_host_memory(m) ? tensor_matrix(NULL, dtype, s->vocab, s->hidden) /* until weights_load */
                                 : arena_matrix(a, dtype, s->vocab, s->hidden);
    for (int i = 0; i < s->layers; i++) {
        Layer *l = &m->layers[i];
        l->norm1 = arena_vector(a, dtype, s->hidden);
        l->norm2 = arena_vector(a, dtype, s->hidden);
        linear_place(&l->qkv, a, dtype);
        linear_place(&l->o, a, dtype);
        linear_place(&l->gate_up, a, dtype);
        linear_place(&l->down, a, dtype);
    }
    m->head.norm = arena_vector(a, dtype, s->hidden);
    m->head.table = s->tied ? m->embed : arena_matrix(a, dtype, s->vocab, s->hidden);
    const int64_t cache = m->options.cache_tokens;
    m->rope = arena_matrix(a, DTYPE_F32, m->n_max > cache ? m->n_max : cache, s->head_dim);
}

/* ---- what there is to read ---- */

static void add_vector(Plan *p, const char *name, const Tensor *to)
{
    Item *item = &p->items[p->count++];
    snprintf(item->name, sizeof item->name, "%s", name);
    item->vector = true;
    item->rows = tensor_count(to);
    item->cols = 1;
    item->to = *to;
}

static void add_matrix(Plan *p, const char *name, const Tensor *to)
{
    Item *item = &p->items[p->count++];
    snprintf(item->name, sizeof item->name, "%s", name);
    item->rows = tensor_rows(to);
    item->cols = tensor_cols(to);
    item->to = *to;
}

static void add_group(Plan *p, const Model *m, Linear *l)
{
    for (int i = 0; i < l->count; i++) {
        LinearPart *part = &l->parts[i];
        char name[160];
        snprintf(name, sizeof name, "%s.weight", m->modules[part->module].path);
        if (part->quantized) {
            Item *item = &p->items[p->count++];
            memcpy(item->name, name, sizeof name);
            item->rows = part->rows;
            item->cols = l->cols;
            item->part = part;
        } else {
            add_matrix(p, name, &part->plain);
        }
        if (!l->has_bias) continue;
        const Tensor bias = tensor_slice_flat(&l->bias, part->first_row, part->rows);
        snprintf(name, sizeof name, "%s.bias", m->modules[part->module].path);
        add_vector(p, name, &bias);
    }
}

static bool plan_make(Plan *p, Model *m, Err *err)
{
    *p = (Plan){0};
    p->items = mem_alloc((size_t)m->spec.layers * 16 + 3, sizeof *p->items, err);
    if (!p->items) return false;
    add_matrix(p, "model.embed_tokens.weight", &m->embed);
    p->items[0].on_host = in_host_memory(m);
    for (int i = 0; i < m->spec.layers; i++) {
        Layer *l = &m->layers[i];
        char name[160];
        snprintf(name, sizeof name, "model.layers.%d.input_layernorm.weight", i);
        add_vector(p, name, &l->norm1);
        snprintf(name, sizeof name, "model.layers.%d.post_attention_layernorm.weight", i);
        add_vector(p, name, &l->norm2);
        add_group(p, m, &l->qkv);
        add_group(p, m, &l->o);
        add_group(p, m, &l->gate_up);
        add_group(p, m, &l->down);
    }
    add_vector(p, "model.norm.weight", &m->head.norm);
    if (!m->spec.tied) add_matrix(p, "lm_head.weight", &m->head.table);
    return true;
}

static const SourceTensor *find_checked(const ModelSource *source, const Item *item, Err *err)
{
    const SourceTensor *t = source_find(source, item->name);
    if (!t) {
        FAIL(err, ERR_MODEL, "%s: tensor %s is missing", source_path(source), item->name);
        return NULL;
    }
    const bool fits = item->vector ? t->rank == 1 && t->shape[0] == item->rows
                                   : t->rank == 2 && t->shape[0] == item->rows && t->shape[1] == item->cols;
    if (fits) return t;
    const long long second = t->rank == 2 ? (long long)t->shape[1] : 1;
    FAIL(err, ERR_MODEL, "%s: tensor %s has shape (%lld, %lld); the config asks for (%lld, %lld)", source_path(source),
         item->name, (long long)t->shape[0], second, (long long)item->rows, (long long)item->cols);
    return NULL;
}

/* A tensor nobody asked for means another architecture than the config says. */
static bool check_strangers(const Plan *p, const ModelSource *source, bool tied, Err *err)
{
    for (int i = 0; i < source_count(source); i++) {
        const char *name = source_tensor(source, i)->name;
        bool known = strstr(name, "rotary_emb.inv_freq") || (tied && strcmp(name, "lm_head.weight") == 0);
        for (int j = 0; !known && j < p->count; j++)
            known = strcmp(p->items[j].name, name) == 0;
        char shown[256];
        if (!known)
            return FAIL(err, ERR_MODEL, "%s: tensor %s has no place in a model of this config", source_path(source),
                        text_printable(shown, sizeof shown, name, strlen(name)));
    }
    return true;
}

/* ---- reading ---- */

/* Bits of the least size that is not stored: what f16 would round to infinity, or infinity itself. */
static uint32_t refused_bits(DType dtype)
{
    return dtype == DTYPE_F16 ? 0x477ff000u /* 65520 */ : 0x7f800000u;
}

static bool refuse(float value, const Item *item, int64_t at, Err *err)
{
    const long long row = (long long)(at / item->cols), col = (long long)(at % item->cols);
    if (!isfinite(value))
        return FAIL(err, ERR_MODEL, "tensor %s holds %g at row %lld, column %lld", item->name, (double)value, row, col);
    return FAIL(err, ERR_MODEL,
                "tensor %s holds %g at row %lld, column %lld; fp16 ends at 65504: set bnb_4bit_compute_dtype: fp32",
                item->name, (double)value, row, col);
}

/* Values of element `first` on: whether the type they are computed in can hold them. */
static bool check_values(const float *values, int64_t count, int64_t first, const Item *item, DType dtype, Err *err)
{
    const uint32_t limit = refused_bits(dtype);
    uint32_t any = 0; /* integers, so that the loop vectorises */
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        any |= (bits & 0x7fffffffu) >= limit;
    }
    if (!any) return true;
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        if ((bits & 0x7fffffffu) >= limit) return refuse(values[i], item, first + i, err);
    }
    return true;
}

/* All cores share the rows; the first failure in row order is reported. */
static bool read_rows(const ModelSource *source, const SourceTensor *t, int64_t first, int64_t count, int64_t cols,
                      float *to, Err *err)
{
    enum { PIECES = 16 };
    Err errors[PIECES] = {0};
    const int64_t piece = ceil_div(count, PIECES);
#pragma omp parallel for schedule(dynamic)
    for (int i = 0; i < PIECES; i++) {
        const int64_t from = i * piece, n = count - from < piece ? count - from : piece;
        if (n > 0 && !source_read(source, t, first + from, n, to + from * cols, &errors[i])) continue;
    }
    for (int i = 0; i < PIECES; i++) {
        if (errors[i].code == ERR_NONE) continue;
        *err = errors[i];
        return false;
    }
    return true;
}

/* Rows of a matrix that is encoded; decoded weights are no larger, so what f16 cannot hold is seen here. */
typedef struct MatrixRows {
    WeightsRows rows; /* the first member: read_matrix gets a pointer to it */
    const Item *item;
    DType compute;
} MatrixRows;

static bool read_matrix(const WeightsRows *rows, int64_t first, int64_t count, float *to, Err *err)
{
    const MatrixRows *m = (const MatrixRows *)(const void *)rows;
    const int64_t cols = m->item->cols;
    if (!read_rows(rows->source, rows->tensor, first, count, cols, to, err)) return false;
    return m->compute != DTYPE_F16 || check_values(to, count * cols, first * cols, m->item, m->compute, err);
}

static void upload(Backend *be, const Tensor *to, float *values, bool on_host)
{
    if (to->dtype != DTYPE_F32) {
        uint16_t *narrow = (uint16_t *)(void *)values; /* overtakes nothing: it is the shorter one */
        for (int64_t i = 0; i < tensor_count(to); i++) {
            const uint16_t bits = to->dtype == DTYPE_F16 ? f16_from_f32(values[i]) : bf16_from_f32(values[i]);
            memcpy(&narrow[i], &bits, sizeof bits);
        }
    }
    if (on_host)
        memcpy(to->data, values, tensor_bytes(to)); /* dense, and read by nothing yet */
    else
        backend_upload(be, to, values);
}

static bool load_plain(Model *m, const ModelSource *source, const SourceTensor *t, const Item *item, float *buffer,
                       Err *err)
{
    const int64_t most = CHUNK_ELEMENTS / item->cols > 0 ? CHUNK_ELEMENTS / item->cols : 1;
    for (int64_t first = 0; first < item->rows; first += most) {
        const int64_t n = item->rows - first < most ? item->rows - first : most;
        if (!read_rows(source, t, first, n, item->cols, buffer, err)) return false;
        if (!check_values(buffer, n * item->cols, first * item->cols, item, item->to.dtype, err)) return false;
        const Tensor to =
            item->vector ? tensor_slice_flat(&item->to, first, n) : tensor_slice_rows(&item->to, first, n);
        upload(m->be, &to, buffer, item->on_host);
    }
    return true;
}

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Host arrays of the largest quantized matrix; its values only as far as the host encodes it. */
typedef struct Staging {
    float *values; /* also the chunks of plain tensors */
    QuantHost host;
} Staging;

static void staging_free(Staging *s)
{
    mem_free(s->values);
    mem_free(s->host.codes);
    mem_free(s->host.absmax);
    mem_free(s->host.nested_absmax);
    mem_free(s->host.scratch_absmax);
    *s = (Staging){0};
}

static bool staging_make(Staging *s, const Model *m, const Plan *p, Err *err)
{
    int64_t most = CHUNK_ELEMENTS, blocks = 1, codes = 0;
    *s = (Staging){0};
    for (int i = 0; i < p->count; i++) {
        const Item *item = &p->items[i];
        if (item->part) {
            const int64_t n = item->rows * item->cols, nb = quant_blocks(&item->part->quant);
            const int64_t there = weights_encode_rows(m, &item->part->quant) * item->cols;
            most = there ? larger(most, there < n ? there : n) : larger(most, n);
            codes = larger(codes, n);
            blocks = nb > blocks ? nb : blocks;
        } else if (item->cols > most) {
            most = item->cols;
        }
    }
    TRY(s->values = mem_alloc((size_t)most, sizeof *s->values, err));
    TRY(s->host.codes = mem_alloc((size_t)codes / 2 + 1, 1, err));
    TRY(s->host.absmax = mem_alloc((size_t)blocks, sizeof(float), err));
    TRY(s->host.nested_absmax = mem_alloc((size_t)blocks / 256 + 1, sizeof *s->host.nested_absmax, err));
    TRY(s->host.scratch_absmax = mem_alloc((size_t)blocks, sizeof *s->host.scratch_absmax, err));
    return true;
fail:
    staging_free(s);
    return false;
}

/* Weights of a matrix that came in 4 bits: none is larger than the absmax of its block. */
static bool check_absmax(const Model *m, const QuantMatrix *q, const QuantHost *host, const Item *item, Err *err)
{
    const bool nested = q->options.double_quant;
    const float *sizes = nested ? host->nested_absmax : (const float *)host->absmax, more = nested ? q->offset : 0.0f;
    const int64_t count = nested ? ceil_div(quant_blocks(q), 256) : quant_blocks(q);
    for (int64_t i = 0; m->options.compute == DTYPE_F16 && i < count; i++) {
        if (sizes[i] + more >= 65520.0f)
            return FAIL(err, ERR_MODEL,
                        "tensor %s holds 4-bit weights up to %g; fp16 ends at 65504: set bnb_4bit_compute_dtype: fp32",
                        item->name, (double)(sizes[i] + more));
    }
    return true;
}

static bool load_quantized(Model *m, const ModelSource *source, const SourceTensor *t, const Item *item, Staging *s,
                           Err *err)
{
    QuantMatrix *q = &item->part->quant;
    if (t->prequantized) {
        if (!source_read_quantized(source, t, q, &s->host, err)) return false;
        q->offset = q->options.double_quant ? s->host.offset : 0;
        if (!check_absmax(m, q, &s->host, item, err)) return false;
    } else if (weights_encode_rows(m, q) > 0) {
        const MatrixRows rows = {
            .rows = {.read = read_matrix, .source = source, .tensor = t},
              .item = item, .compute = m->options.compute
        };
        q->source_dtype = t->dtype;
        return weights_encode(m, q, &rows.rows, s->values, &s->host, err) || err_note(err, "tensor %s", item->name);
    } else {
        const int64_t n = item->rows * item->cols;
        if (!read_rows(source, t, 0, item->rows, item->cols, s->values, err)) return false;
        if (m->options.compute == DTYPE_F16 && !check_values(s->values, n, 0, item, DTYPE_F16, err)) return false;
        if (!quant_encode(&s->host, s->values, n, &q->options, err)) return err_note(err, "tensor %s", item->name);
        q->offset = q->options.double_quant ? s->host.offset : 0;
        q->source_dtype = t->dtype;
    }
    backend_upload(m->be, &q->codes, s->host.codes);
    backend_upload(m->be, &q->absmax, s->host.absmax);
    if (q->options.double_quant) backend_upload(m->be, &q->nested_absmax, s->host.nested_absmax);
    return true;
}

static bool load_item(Model *m, const ModelSource *source, const Item *item, Staging *s, Err *err)
{
    const SourceTensor *t = find_checked(source, item, err);
    if (!t) return false;
    if (!item->part && t->prequantized)
        return FAIL(err, ERR_MODEL, "%s: tensor %s is stored in 4 bits and is needed in 16", source_path(source),
                    item->name);
    return item->part ? load_quantized(m, source, t, item, s, err) : load_plain(m, source, t, item, s->values, err);
}

static bool load_all(Model *m, const ModelSource *source, const Plan *p, Staging *s, Err *err)
{
    double total = 0, done = 0;
    for (int i = 0; i < p->count; i++)
        total += (double)(p->items[i].rows * p->items[i].cols);
    for (int i = 0; i < p->count; i++) {
        if (!load_item(m, source, &p->items[i], s, err)) return false;
        done += (double)(p->items[i].rows * p->items[i].cols);
        log_progress("loading", done * 1e-6, total * 1e-6, "M weights", i + 1 == p->count);
    }
    return true;
}

static bool load_rope(Model *m, Err *err)
{
    float *frequencies = mem_alloc((size_t)m->spec.head_dim, sizeof *frequencies, err);
    if (!frequencies) return false;
    spec_rope_frequencies(&m->spec, frequencies);
    rope_table(m->be, &m->rope, frequencies, 1.0f);
    mem_free(frequencies);
    return true;
}

static bool reserve_embeddings(Model *m, Err *err)
{
    if (!in_host_memory(m)) return true;
    m->host_table = backend_pinned_reserve(m->be, "the embedding table", tensor_bytes(&m->embed), err);
    m->embed.data = m->host_table;
    return m->host_table != NULL;
}

bool weights_load(Model *m, const ModelSource *source, Err *err)
{
    Plan p = {0};
    Staging s = {0};
    const bool ok = reserve_embeddings(m, err) && plan_make(&p, m, err) &&
                    check_strangers(&p, source, m->spec.tied, err) && staging_make(&s, m, &p, err) &&
                    load_all(m, source, &p, &s, err) && load_rope(m, err);
    staging_free(&s);
    mem_free(p.items);
    return ok && backend_sync(m->be, err);
}
