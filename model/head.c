#include "model/decoder.h"

#include "backend/elementwise.h"
#include "backend/matmul.h"
#include "model/cross_entropy.h"
#include "model/rmsnorm.h"
#include "model/rows.h"
#include "model/thin.h"

/* Logits and their gradient, when the caller does not choose the rows. Fewer rows mean more passes over the table. */
enum { LOGITS_BYTES = 48 << 20 };

static int64_t choose_rows(const Model *m)
{
    if (m->options.loss_rows > 0) return m->options.loss_rows < m->n_max ? m->options.loss_rows : m->n_max;
    const bool separate = m->options.training && m->options.compute != DTYPE_F32;
    const int64_t row_bytes = m->spec.vocab * (separate ? 6 : 4);
    int64_t rows = LOGITS_BYTES / row_bytes / 16 * 16;
    if (rows < 16) rows = 16;
    return rows < m->n_max ? rows : m->n_max;
}

void head_place(Model *m, Arena *a)
{
    Head *h = &m->head;
    const DType dtype = m->options.compute;
    h->rows = choose_rows(m);
    h->logits = arena_matrix(a, DTYPE_F32, h->rows, m->spec.vocab);
    h->x = arena_matrix(a, dtype, h->rows, m->spec.hidden);
    h->xn = arena_matrix(a, dtype, h->rows, m->spec.hidden);
    h->losses = arena_vector(a, DTYPE_F32, m->n_max);
    h->index = arena_vector(a, DTYPE_I32, m->n_max);
    h->targets = arena_vector(a, DTYPE_I32, m->n_max);
    if (!m->options.training) return;
    h->gradient = dtype == DTYPE_F32 ? h->logits : arena_matrix(a, dtype, h->rows, m->spec.vocab);
    h->dxn = arena_matrix(a, dtype, h->rows, m->spec.hidden);
    h->dx = arena_matrix(a, dtype, h->rows, m->spec.hidden);
}

/* Logits (n, V) of n hidden rows. */
static Tensor project(const Model *m, const Tensor *x)
{
    const Head *h = &m->head;
    const Tensor xn = tensor_slice_rows(&h->xn, 0, tensor_rows(x));
    const Tensor logits = tensor_slice_rows(&h->logits, 0, tensor_rows(x));
    rmsnorm_forward(m->be, &xn, x, &h->norm, m->spec.norm_eps);
    if (tensor_rows(x) <= THIN_ROWS) {
        const Thin t = {.count = 1, .parts = {{.rows = m->spec.vocab, .plain = h->table}}};
        thin_forward(m->be, &t, &logits, &xn, &m->linear.thin);
        return logits;
    }
    matmul(m->be, &(Matmul){.out = &logits, .a = &xn, .b = &h->table, .transpose_b = true});
    return logits;
}

/* Rows that have a target, staged on the host and uploaded. */
static int64_t collect(Model *m, const Batch *batch)
{
    int64_t n = 0;
    for (int64_t i = 0; i < batch->tokens; i++) {
        if (batch->targets[i] == TARGET_NONE) continue;
        m->host_rows[n] = (int32_t)i;
        m->host_ids[n++] = batch->targets[i];
    }
    if (n == 0) return 0;
    const Tensor index = tensor_slice_flat(&m->head.index, 0, n), targets = tensor_slice_flat(&m->head.targets, 0, n);
    backend_upload(m->be, &index, m->host_rows);
    backend_upload(m->be, &targets, m->host_ids);
    return n;
}

static void chunk_backward(Model *m, const Tensor *gradient, const Tensor *x, const Tensor *index)
{
    const Head *h = &m->head;
    const int64_t n = tensor_rows(x);
    const Tensor dxn = tensor_slice_rows(&h->dxn, 0, n), dx = tensor_slice_rows(&h->dx, 0, n);
    const Tensor to = tensor_slice_cols(&m->work.dx, 0, m->spec.hidden);
    matmul(m->be, &(Matmul){.out = &dxn, .a = gradient, .b = &h->table});
    rmsnorm_backward(m->be, &dx, NULL, &dxn, x, &h->norm, m->spec.norm_eps, false);
    rows_scatter(m->be, &to, &dx, index);
}

double head_loss(Model *m, const Batch *batch, const Tensor *hidden, int64_t update_tokens, bool train)
{
    const Head *h = &m->head;
    const int64_t trained = collect(m, batch);
    const float smoothing = train ? m->options.label_smoothing : 0;
    const float scale = train ? m->loss_scale / (float)update_tokens : 1.0f;
    if (train) {
        const Tensor all = tensor_slice_rows(&m->work.dx, 0, batch->tokens);
        const Tensor dx = tensor_slice_cols(&all, 0, m->spec.hidden);
        tensor_zero(m->be, &dx);
    }
    for (int64_t first = 0; first < trained; first += h->rows) {
        const int64_t n = trained - first < h->rows ? trained - first : h->rows;
        const Tensor index = tensor_slice_flat(&h->index, first, n), x = tensor_slice_rows(&h->x, 0, n);
        const Tensor targets = tensor_slice_flat(&h->targets, first, n);
        const Tensor losses = tensor_slice_flat(&h->losses, first, n);
        rows_gather(m->be, &x, hidden, &index);
        const Tensor logits = project(m, &x);
        Tensor gradient;
        if (train) gradient = tensor_slice_rows(&h->gradient, 0, n);
        cross_entropy(m->be, &losses, train ? &gradient : NULL, &logits, &targets, smoothing, scale);
        if (train) chunk_backward(m, &gradient, &x, &index);
    }
    if (trained == 0) return 0;
    const Tensor losses = tensor_slice_flat(&h->losses, 0, trained);
    backend_download(m->be, m->host_losses, &losses);
    double sum = 0;
    for (int64_t i = 0; i < trained; i++)
        sum += (double)m->host_losses[i];
    return sum;
}

void head_sample(Model *m, const Tensor *hidden, const Sampling *how, int32_t *ids)
{
    for (int64_t first = 0; first < tensor_rows(hidden); first += m->head.rows) {
        const int64_t left = tensor_rows(hidden) - first, n = left < m->head.rows ? left : m->head.rows;
        const Tensor x = tensor_slice_rows(hidden, first, n), to = tensor_slice_flat(&m->head.index, 0, n);
        const Tensor logits = project(m, &x);
        sample_rows(m->be, &to, &logits, how + first);
        backend_download(m->be, ids + first, &to);
    }
}

void head_logits(Model *m, const Tensor *hidden, float *out)
{
    for (int64_t first = 0; first < tensor_rows(hidden); first += m->head.rows) {
        const int64_t left = tensor_rows(hidden) - first, n = left < m->head.rows ? left : m->head.rows;
        const Tensor x = tensor_slice_rows(hidden, first, n);
        const Tensor logits = project(m, &x);
        backend_download(m->be, out + first * m->spec.vocab, &logits);
    }
}
