#include "model/linear.h"

#include "backend/elementwise.h"
#include "backend/matmul.h"
#include "model/fill.h"
#include "model/rows.h"
#include "model/thin.h"

/* bf16 products run on pairs of 16 columns, f32 ones on 16. */
static int64_t side_multiple(DType dtype)
{
    return dtype == DTYPE_F32 ? 16 : 32;
}

void linear_init(Linear *l, int64_t cols, DType dtype)
{
    l->cols = cols;
    l->rows = l->side = 0;
    for (int i = 0; i < l->count; i++) {
        LinearPart *part = &l->parts[i];
        part->first_row = l->rows;
        part->first_side = l->side;
        l->rows += part->rows;
        l->side += part->adapter ? part->adapter->r : 0;
    }
    l->side = round_up(l->side, side_multiple(dtype));
}

int64_t linear_buffer(const Linear *l)
{
    return (l->rows + l->side) * (l->cols + l->side);
}

void linear_place(Linear *l, Arena *weights, DType dtype)
{
    for (int i = 0; i < l->count; i++) {
        LinearPart *part = &l->parts[i];
        if (part->quantized) {
            const QuantOptions options = part->quant.options;
            quant_place(&part->quant, weights, &options, part->rows, l->cols);
        } else {
            part->plain = arena_matrix(weights, dtype, part->rows, l->cols);
        }
    }
    if (l->has_bias) l->bias = arena_vector(weights, dtype, l->rows);
    if (l->resident) l->kept = arena_matrix(weights, dtype, l->rows + l->side, l->cols + l->side);
    l->kept_fresh = false;
}

int64_t linear_gradient_scratch(const Linear *l, int64_t n)
{
    int64_t most = 0, ranks = 0;
    for (int i = 0; i < l->count; i++) {
        if (!l->parts[i].adapter) continue;
        const int64_t r = l->parts[i].adapter->r, b = matmul_gradient_scratch(n, l->parts[i].rows, r);
        ranks += r;
        most = most > b ? most : b;
    }
    const int64_t a = ranks > 0 ? matmul_gradient_scratch(n, ranks, l->cols) : 0;
    return most > a ? most : a;
}

/* ---- the buffer ---- */

static Fill fill_of(const LinearWork *w, const Linear *l)
{
    Fill f = {.rows = l->rows, .cols = l->cols, .side = l->side, .count = l->count};
    f.buffer = l->kept;
    if (!l->resident) {
        const Tensor flat = tensor_slice_flat(&w->weights[l->slot], 0, linear_buffer(l));
        f.buffer = tensor_matrix(flat.data, flat.dtype, l->rows + l->side, l->cols + l->side);
    }
    for (int i = 0; i < l->count; i++) {
        const LinearPart *part = &l->parts[i];
        FillPart *to = &f.parts[i];
        *to = (FillPart){.rows = part->rows, .first_row = part->first_row, .plain = part->plain};
        if (part->quantized) to->quant = &part->quant;
        if (!part->adapter) continue;
        to->rank = part->adapter->r;
        to->first_side = part->first_side;
        to->scale = part->adapter->scale;
        to->a = lora_param(&w->params, &w->lora->table.items[part->adapter->a]);
        to->b = lora_param(&w->params, &w->lora->table.items[part->adapter->b]);
    }
    return f;
}

void linear_fill(const LinearWork *w, Linear *const *groups, int count)
{
    Fill fills[FILL_GROUPS_MAX];
    int stale = 0;
    CHECK(count <= FILL_GROUPS_MAX);
    for (int i = 0; i < count; i++) {
        Linear *l = groups[i];
        if (l->resident ? l->kept_fresh : w->held[l->slot] == l) continue;
        fills[stale++] = fill_of(w, l);
        l->kept_fresh = l->resident;
        if (!l->resident) w->held[l->slot] = l;
    }
    if (stale > 0) fill_buffers(w->be, fills, stale, true);
}

/* The filled buffer (O + R, K + R). */
static Tensor buffer_fill(const LinearWork *w, Linear *l)
{
    linear_fill(w, &l, 1);
    return fill_of(w, l).buffer;
}

void linear_refresh(const LinearWork *w, Linear *l)
{
    if (l->resident && l->kept_fresh && l->side > 0) {
        const Fill f = fill_of(w, l);
        fill_buffers(w->be, &f, 1, false);
    }
    if (w->held[l->slot] == l) w->held[l->slot] = NULL;
}

/* ---- the side columns ---- */

static RngKey mask_key(const LinearPass *p, const LinearPart *part)
{
    RngKey key = p->key;
    key.stream += (uint32_t)part->module;
    return key;
}

static Tensor masked_input(const LinearWork *w, const LinearPass *p, const LinearPart *part, const Tensor *x)
{
    const Tensor rows = tensor_slice_rows(&w->masked, 0, tensor_rows(x));
    const Tensor out = tensor_slice_cols(&rows, 0, tensor_cols(x));
    lora_dropout(w->be, &out, x, p->dropout, mask_key(p, part));
    return out;
}

/* Side columns of x (N, K + R): x A^T, or matrix by matrix from masked copies. */
static void side_of_input(const LinearWork *w, const Linear *l, const LinearPass *p, const Tensor *x,
                          const Tensor *buffer)
{
    const Tensor input = tensor_slice_cols(x, 0, l->cols);
    const Tensor side = tensor_slice_cols(x, l->cols, l->side);
    const Tensor below = tensor_slice_rows(buffer, l->rows, l->side);
    const Tensor a = tensor_slice_cols(&below, 0, l->cols);
    if (p->dropout == 0) {
        matmul(w->be, &(Matmul){.out = &side, .a = &input, .b = &a, .transpose_b = true});
        return;
    }
    tensor_zero(w->be, &side);
    for (int i = 0; i < l->count; i++) {
        const LinearPart *part = &l->parts[i];
        if (!part->adapter) continue;
        const Tensor masked = masked_input(w, p, part, &input);
        const Tensor to = tensor_slice_cols(&side, part->first_side, part->adapter->r);
        const Tensor rows = tensor_slice_rows(&a, part->first_side, part->adapter->r);
        matmul(w->be, &(Matmul){.out = &to, .a = &masked, .b = &rows, .transpose_b = true});
    }
}

static void side_of_gradient(const LinearWork *w, const Linear *l, const Tensor *dy, const Tensor *buffer)
{
    const Tensor gradient = tensor_slice_cols(dy, 0, l->rows);
    const Tensor side = tensor_slice_cols(dy, l->rows, l->side);
    const Tensor rows = tensor_slice_rows(buffer, 0, l->rows);
    const Tensor b = tensor_slice_cols(&rows, l->cols, l->side);
    matmul(w->be, &(Matmul){.out = &side, .a = &gradient, .b = &b});
}

/* ---- forward ---- */

int64_t linear_thin_scratch(const Linear *l)
{
    return thin_scratch(l->cols, l->side);
}

static ThinPart thin_part(const LinearWork *w, const LinearPart *part)
{
    ThinPart thin = {.rows = part->rows, .quant = part->quantized ? &part->quant : NULL, .plain = part->plain};
    if (!part->adapter) return thin;
    thin.rank = part->adapter->r;
    thin.scale = part->adapter->scale;
    thin.a = lora_param(&w->params, &w->lora->table.items[part->adapter->a]);
    thin.b = lora_param(&w->params, &w->lora->table.items[part->adapter->b]);
    return thin;
}

/* A few rows at a time; they are read once more for each four of them. */
static void forward_thin(const LinearWork *w, const Linear *l, const Tensor *y, const Tensor *x)
{
    Thin t = {.count = l->count, .bias = l->has_bias ? &l->bias : NULL};
    for (int i = 0; i < l->count; i++)
        t.parts[i] = thin_part(w, &l->parts[i]);
    for (int64_t first = 0; first < tensor_rows(x); first += THIN_ROWS) {
        const int64_t left = tensor_rows(x) - first, n = left < THIN_ROWS ? left : THIN_ROWS;
        const Tensor rows = tensor_slice_rows(x, first, n), input = tensor_slice_cols(&rows, 0, l->cols);
        const Tensor out = tensor_slice_rows(y, first, n);
        thin_forward(w->be, &t, &out, &input, &w->thin);
    }
}

void linear_forward(const LinearWork *w, Linear *l, const LinearPass *p, const Tensor *y, const Tensor *x)
{
    CHECK(tensor_cols(x) == l->cols + l->side && tensor_cols(y) == l->rows);
    if (p->thin) {
        forward_thin(w, l, y, x);
        return;
    }
    const Tensor buffer = buffer_fill(w, l);
    const Tensor weights = tensor_slice_rows(&buffer, 0, l->rows);
    if (l->side > 0) side_of_input(w, l, p, x, &buffer);
    matmul(w->be, &(Matmul){.out = y, .a = x, .b = &weights, .transpose_b = true});
    if (l->has_bias) rows_add_vector(w->be, y, &l->bias);
}

/* ---- backward ---- */

/* dB += s dy^T (x A^T) of every matrix. */
static void gradients_of_b(const LinearWork *w, const Linear *l, const Tensor *dy, const Tensor *x)
{
    for (int i = 0; i < l->count; i++) {
        const LinearPart *part = &l->parts[i];
        const LoraAdapter *ad = part->adapter;
        if (!ad) continue;
        const Tensor db = lora_param(&w->grads, &w->lora->table.items[ad->b]);
        const Tensor own_dy = tensor_slice_cols(dy, part->first_row, part->rows);
        const Tensor own_x_side = tensor_slice_cols(x, l->cols + part->first_side, ad->r);
        matmul_gradient(w->be, &db, &own_dy, &own_x_side, ad->scale, &w->partial);
    }
}

/* dA of `ranks` rows from that of `part` on += (dy s B)^T x. */
static void gradient_of_a(const LinearWork *w, const Linear *l, const LinearPart *part, int64_t ranks, const Tensor *dy,
                          const Tensor *input)
{
    const Param *a = &w->lora->table.items[part->adapter->a];
    const Tensor flat = tensor_slice_flat(&w->grads, a->offset, ranks * l->cols);
    const Tensor da = tensor_matrix(flat.data, flat.dtype, ranks, l->cols);
    const Tensor dy_side = tensor_slice_cols(dy, l->rows + part->first_side, ranks);
    matmul_gradient(w->be, &da, &dy_side, input, 1.0f, &w->partial);
}

/* Whether the A of `next` lies right behind `ranks` rows from the A of `first` on (LoraModule.input). */
static bool follows(const LinearWork *w, const Linear *l, const LinearPart *first, int64_t ranks,
                    const LinearPart *next)
{
    const Param *items = w->lora->table.items;
    return !next->adapter || items[next->adapter->a].offset == items[first->adapter->a].offset + ranks * l->cols;
}

/* Matrices that share x are one product, unless each has its own mask on it. */
static void gradients_of_a(const LinearWork *w, const Linear *l, const LinearPass *p, const Tensor *dy, const Tensor *x)
{
    const Tensor input = tensor_slice_cols(x, 0, l->cols);
    for (int i = 0, end = 0; i < l->count; i = end) {
        const LinearPart *first = &l->parts[i];
        end = i + 1;
        if (!first->adapter) continue;
        int64_t ranks = first->adapter->r;
        if (p->dropout > 0) {
            const Tensor masked = masked_input(w, p, first, &input);
            gradient_of_a(w, l, first, ranks, dy, &masked);
            continue;
        }
        for (; end < l->count && follows(w, l, first, ranks, &l->parts[end]); end++)
            ranks += l->parts[end].adapter ? l->parts[end].adapter->r : 0;
        gradient_of_a(w, l, first, ranks, dy, &input);
    }
}

/* dx += mask * (dy s B) A, matrix by matrix. */
static void masked_gradient(const LinearWork *w, const Linear *l, const LinearPass *p, const LinearPart *part,
                            const Tensor *dx, const Tensor *dy, const Tensor *buffer)
{
    const Tensor side = tensor_slice_cols(dy, l->rows + part->first_side, part->adapter->r);
    const Tensor below = tensor_slice_rows(buffer, l->rows + part->first_side, part->adapter->r);
    const Tensor a = tensor_slice_cols(&below, 0, l->cols);
    const Tensor rows = tensor_slice_rows(&w->masked, 0, tensor_rows(dy));
    const Tensor part_dx = tensor_slice_cols(&rows, 0, l->cols);
    matmul(w->be, &(Matmul){.out = &part_dx, .a = &side, .b = &a});
    lora_dropout(w->be, &part_dx, &part_dx, p->dropout, mask_key(p, part));
    tensor_add(w->be, dx, dx, &part_dx);
}

static void input_gradient(const LinearWork *w, const Linear *l, const LinearPass *p, const Tensor *dx,
                           const Tensor *dy, const Tensor *buffer)
{
    const int64_t k = l->rows + (p->dropout > 0 ? 0 : l->side);
    const Tensor gradient = tensor_slice_cols(dy, 0, k);
    const Tensor rows = tensor_slice_rows(buffer, 0, k);
    const Tensor weights = tensor_slice_cols(&rows, 0, l->cols);
    matmul(w->be, &(Matmul){.out = dx, .a = &gradient, .b = &weights});
    for (int i = 0; i < l->count && p->dropout > 0; i++) {
        if (l->parts[i].adapter) masked_gradient(w, l, p, &l->parts[i], dx, dy, buffer);
    }
}

void linear_backward(const LinearWork *w, Linear *l, const LinearPass *p, const Tensor *dx, const Tensor *dy)
{
    CHECK(tensor_cols(dy) == l->rows + l->side);
    if (l->side == 0 && !dx) return;
    const Tensor buffer = buffer_fill(w, l);
    if (l->side > 0) side_of_gradient(w, l, dy, &buffer);
    if (dx) input_gradient(w, l, p, dx, dy, &buffer);
}

void linear_gradients(const LinearWork *w, Linear *l, const LinearPass *p, const Tensor *dy, const Tensor *x,
                      bool side_filled)
{
    if (l->side == 0) return;
    CHECK(tensor_cols(dy) == l->rows + l->side && tensor_cols(x) == l->cols + l->side);
    if (!side_filled) {
        const Tensor buffer = buffer_fill(w, l);
        side_of_input(w, l, p, x, &buffer);
    }
    gradients_of_b(w, l, dy, x);
    gradients_of_a(w, l, p, dy, x);
}
