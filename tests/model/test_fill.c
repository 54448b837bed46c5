/* The buffer of a group: decoded weights, s B beside them, A below, zeros between the adapters. */
#include "model/fill.h"

#include "tests/support/quantized.h"

typedef struct Case {
    int64_t cols, rows[3]; /* rows 0: no such matrix */
    int64_t ranks[3];      /* 0: no adapter */
    int64_t side, spare;
    int64_t gap;         /* side columns before the first adapter */
    int64_t plain_spare; /* columns between rows of the third matrix */
    int moved;           /* adapters that start off a multiple of 16 bytes: 1 A, 2 B */
} Case;

static const Case cases[] = {
    {64,  {96, 32, 32},  {8, 8, 8},  32, 0,  0, 0, 0},
    {64,  {96, 32, 32},  {8, 0, 16}, 32, 32, 0, 0, 0},
    {128, {40, 0, 0},    {16, 0, 0}, 16, 0,  0, 0, 0},
    {128, {40, 8, 0},    {0, 3, 0},  16, 16, 0, 0, 0},
    {64,  {24, 24, 0},   {0, 0, 0},  0,  0,  0, 0, 0},
    {30,  {20, 11, 5},   {3, 1, 2},  16, 1,  0, 0, 0}, /* nothing is aligned */
    {72,  {9, 3, 0},     {5, 5, 0},  10, 6,  0, 0, 0},
    {64,  {40, 24, 0},   {2, 8, 0},  16, 0,  0, 0, 0}, /* packs of four of a strip that end outside of an adapter */
    {64,  {1, 0, 0},     {3, 0, 0},  16, 0,  0, 0, 0},
    {64,  {24, 24, 0},   {4, 4, 0},  16, 0,  2, 0, 0},
    {520, {9, 519, 17},  {4, 0, 8},  48, 0,  0, 0, 0}, /* more spans than warps run at once; several of plain weights */
    {128, {400, 100, 0}, {8, 8, 0},  16, 0,  0, 0, 0}, /* several rounds of a grid */
    {31,  {300, 0, 0},   {3, 0, 0},  3,  1,  0, 0, 0},
    {64,  {24, 8, 0},    {8, 0, 0},  8,  1,  0, 0, 0}, /* rows of the buffer start anywhere */
    {64,  {16, 8, 9},    {0, 0, 0},  0,  0,  0, 3, 0}, /* rows of the third matrix do */
    {64,  {24, 8, 0},    {8, 4, 0},  16, 0,  0, 0, 1},
    {64,  {24, 8, 0},    {8, 4, 0},  16, 0,  0, 0, 2},
};

/* Matrices 0 and 1 in 4 bits of different kinds, matrix 2 in the compute type. */
static const QuantOptions kinds[2] = {
    {QUANT_NF4, 64, true },
    {QUANT_FP4, 32, false}
};

typedef struct Rig {
    Fill fill;
    QuantMatrix quant[2];
    Tensor whole; /* the buffer's storage */
} Rig;

static Tensor adapter_make(int64_t rows, int64_t cols, uint64_t seed, int moved)
{
    const int64_t n = rows * cols + moved;
    const Tensor whole = kernel_random(DTYPE_F32, 1, n, n, seed, 1.0f);
    return tensor_matrix((float *)whole.data + moved, DTYPE_F32, rows, cols);
}

static void adapter_free(Tensor t, int moved)
{
    t.data = (float *)t.data - moved;
    kernel_free(&t);
}

static Rig rig_make(const Case *c, DType dtype)
{
    Rig r = {
        .fill = {.cols = c->cols, .side = c->side}
    };
    int64_t side = c->gap;
    for (int i = 0; i < 3 && c->rows[i] > 0; i++) {
        FillPart *part = &r.fill.parts[r.fill.count++];
        *part = (FillPart){.rows = c->rows[i], .first_row = r.fill.rows, .rank = c->ranks[i], .first_side = side};
        if (i < 2)
            r.quant[i] = quantized_make(c->rows[i], c->cols, &kinds[i]);
        else
            part->plain = kernel_random(dtype, c->rows[i], c->cols, c->cols + c->plain_spare, 5, 1.0f);
        if (c->ranks[i] > 0) {
            part->a = adapter_make(c->ranks[i], c->cols, (uint64_t)i, c->moved == 1);
            part->b = adapter_make(c->rows[i], c->ranks[i], (uint64_t)i + 9, c->moved == 2);
            part->scale = 0.5f + (float)i;
        }
        r.fill.rows += c->rows[i];
        side += c->ranks[i];
    }
    const int64_t rows = r.fill.rows + c->side, cols = c->cols + c->side;
    r.whole = kernel_matrix(dtype, rows, cols, cols + c->spare);
    r.fill.buffer = r.whole;
    return r;
}

static void rig_free(Rig *r, const Case *c)
{
    kernel_free(&r->whole);
    for (int i = 0; i < r->fill.count; i++) {
        const FillPart *part = &r->fill.parts[i];
        if (i < 2)
            quantized_free(&r->quant[i]);
        else
            kernel_free(&part->plain);
        if (part->rank == 0) continue;
        adapter_free(part->a, c->moved == 1);
        adapter_free(part->b, c->moved == 2);
    }
}

/* What belongs at a place of the buffer; `weights` false: W is still what it was, `before`. */
static double expected(const Rig *r, int64_t row, int64_t col, bool weights, double before)
{
    const Fill *f = &r->fill;
    for (int i = 0; i < f->count; i++) {
        const FillPart *part = &f->parts[i];
        const int64_t own = row - part->first_row, right = col - f->cols - part->first_side;
        const int64_t below = row - f->rows - part->first_side;
        if (row < f->rows && own >= 0 && own < part->rows && col < f->cols) {
            if (!weights) return before;
            return i < 2 ? (double)quantized_at(&r->quant[i], own * f->cols + col) : kernel_at(&part->plain, own, col);
        }
        if (row < f->rows && own >= 0 && own < part->rows && right >= 0 && right < part->rank)
            return (double)((float)kernel_at(&part->b, own, right) * part->scale);
        if (row >= f->rows && col < f->cols && below >= 0 && below < part->rank) return kernel_at(&part->a, below, col);
    }
    return 0.0;
}

static void poison(const Rig *r)
{
    for (int64_t row = 0; row < r->whole.shape[0]; row++) {
        for (int64_t col = 0; col < r->whole.shape[1]; col++)
            kernel_set(&r->whole, row, col, 7);
    }
}

static void check_buffer(const Rig *r, DType dtype, bool weights)
{
    const Fill *f = &r->fill;
    for (int64_t row = 0; row < f->rows + f->side; row++) {
        for (int64_t col = 0; col < f->cols + f->side; col++) {
            if (row >= f->rows && col >= f->cols) continue; /* the corner is nobody's */
            const double want = kernel_round(expected(r, row, col, weights, 7), dtype);
            if (kernel_at(&r->whole, row, col) != want) {
                fail_msg("width %lld, row %lld, column %lld: %.9g instead of %.9g", (long long)f->cols, (long long)row,
                         (long long)col, kernel_at(&r->whole, row, col), want);
            }
        }
    }
    kernel_check_guards(&r->whole);
}

/* `count` cases as groups of one call. */
static void check(Backend *be, const Case *c, int count, DType dtype)
{
    Rig r[FILL_GROUPS_MAX];
    Fill fills[FILL_GROUPS_MAX];
    for (int i = 0; i < count; i++) {
        r[i] = rig_make(&c[i], dtype);
        fills[i] = r[i].fill;
        for (int k = 0; k < fills[i].count && k < 2; k++)
            fills[i].parts[k].quant = &r[i].quant[k];
    }
    for (int weights = 0; weights < 2; weights++) {
        for (int i = 0; i < count; i++)
            poison(&r[i]);
        fill_buffers(be, fills, count, weights);
        kernel_settle();
        for (int i = 0; i < count; i++)
            check_buffer(&r[i], dtype, weights);
    }
    for (int i = 0; i < count; i++)
        rig_free(&r[i], &c[i]);
}

static void the_buffer_holds_weights_adapters_and_zeros(void **state)
{
    (void)state;
    Backend *be = kernel_backend(2, false);
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        check(be, &cases[i], 1, DTYPE_F32);
        check(be, &cases[i], 1, DTYPE_BF16);
    }
    kernel_close(be);
}

/* Small and large ones together, and such as are aligned with such as are not. */
static void groups_filled_together_do_not_meet(void **state)
{
    (void)state;
    Backend *be = kernel_backend(2, false);
    for (size_t first = 0; first + FILL_GROUPS_MAX <= ARRAY_COUNT(cases); first += FILL_GROUPS_MAX + 1)
        check(be, &cases[first], FILL_GROUPS_MAX, DTYPE_BF16);
    check(be, &cases[0], 3, DTYPE_F32);
    kernel_close(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_buffer_holds_weights_adapters_and_zeros),
        cmocka_unit_test(groups_filled_together_do_not_meet),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
