/* A group of matrices with adapters times one to four rows, against f64 on the decoded weights. */
#include "model/thin.h"

#include "tests/support/kernel_test.h"

typedef enum Kind {
    NF4,
    NF4_SINGLE /* absmax as f32 */,
    NF4_MOVED /* codes off a multiple of 16 bytes */,
    FP4,
    PLAIN_F32,
    PLAIN_BF16
} Kind;

typedef struct PartCase {
    Kind kind;
    int64_t rows, rank, spare; /* of plain rows */
} PartCase;

static const struct Case {
    const char *name;
    int64_t cols;
    int block, parts;
    PartCase part[THIN_PARTS];
    DType in, out, bias; /* bias I32: none */
    int64_t x_spare;
} cases[] = {
    {"one run",                32,   32,   1, {{NF4, 5, 0, 0}},                                   DTYPE_F32,  DTYPE_F32,  DTYPE_I32,  0},
    {"three parts",            576,  64,   3, {{NF4, 9, 16, 0}, {NF4, 4, 16, 0}, {NF4, 6, 8, 0}}, DTYPE_F32,  DTYPE_F32,  DTYPE_F32,  0},
    {"bf16 in and out",
     1600,                           64,
     3,                                       {{NF4, 7, 33, 0}, {NF4, 2, 0, 0}, {NF4, 1, 3, 0}},
     DTYPE_BF16,                                                                                              DTYPE_BF16,
     DTYPE_BF16,                                                                                                                      8},
    {"two whole tiles",        2048, 64,   1, {{NF4, 8, 40, 0}},                                  DTYPE_BF16, DTYPE_F32,  DTYPE_I32,  0},
    {"blocks over rows",       96,   4096, 2, {{NF4_SINGLE, 6, 4, 0}, {FP4, 3, 0, 0}},            DTYPE_F32,  DTYPE_BF16, DTYPE_F32,  5},
    {"odd width",              33,   32,   2, {{NF4, 7, 5, 0}, {FP4, 6, 0, 0}},                   DTYPE_F32,  DTYPE_F32,  DTYPE_BF16, 0},
    {"even width, no runs",    50,   64,   1, {{NF4, 7, 2, 0}},                                   DTYPE_BF16, DTYPE_F32,  DTYPE_I32,  0},
    {"plain",                  256,  64,   2, {{PLAIN_BF16, 9, 16, 8}, {PLAIN_F32, 5, 3, 4}},     DTYPE_BF16, DTYPE_F32,  DTYPE_F32,  0},
    {"plain, odd",             77,   64,   2, {{PLAIN_BF16, 6, 2, 3}, {PLAIN_F32, 5, 0, 3}},      DTYPE_F32,  DTYPE_F32,  DTYPE_I32,  3},
    {"plain and quantized",    320,  64,   2, {{PLAIN_F32, 3, 1, 0}, {NF4, 9, 2, 0}},             DTYPE_F32,  DTYPE_F32,  DTYPE_I32,  0},
    {"half a pack at the end", 76,   64,   1, {{PLAIN_BF16, 6, 2, 4}},                            DTYPE_F32,  DTYPE_F32,  DTYPE_I32,  0},
    {"one rank, odd",          33,   32,   1, {{NF4, 3, 1, 0}},                                   DTYPE_F32,  DTYPE_F32,  DTYPE_I32,  3},
    {"codes moved",            96,   64,   2, {{NF4_MOVED, 6, 0, 0}, {NF4, 2, 0, 0}},             DTYPE_F32,  DTYPE_F32,  DTYPE_I32,  0},
    {"plain rows off",         76,   64,   2, {{PLAIN_BF16, 6, 2, 3}, {PLAIN_F32, 5, 0, 3}},      DTYPE_F32,  DTYPE_F32,  DTYPE_I32,  0},
    {"plain rows of 8 bytes",  76,   64,   1, {{PLAIN_BF16, 6, 0, 0}},                            DTYPE_F32,  DTYPE_F32,  DTYPE_I32,  0},
    {"many columns",           2176, 64,   1, {{NF4, 6, 2, 0}},                                   DTYPE_BF16, DTYPE_F32,  DTYPE_I32,  0},
    {"many ranks",             32,   64,   2, {{NF4, 5, 200, 0}, {NF4, 5, 90, 0}},                DTYPE_F32,  DTYPE_F32,  DTYPE_I32,  0},
    {"many rows",              64,   64,   2, {{NF4, 901, 8, 0}, {PLAIN_BF16, 330, 0, 0}},        DTYPE_F32,  DTYPE_F32,  DTYPE_F32,  0},
};

/* A part and what it is made of. */
typedef struct Sample {
    ThinPart part;
    QuantMatrix quant;
    Arena arena;
    Tensor plain, a, b;
    char *moved;         /* codes and 8 bytes in front of them */
    double *w, *wa, *wb; /* the same in f64 */
} Sample;

static void upload_quant(QuantMatrix *m, const QuantHost *host)
{
    memcpy(m->codes.data, host->codes, tensor_bytes(&m->codes));
    memcpy(m->absmax.data, host->absmax, tensor_bytes(&m->absmax));
    if (m->options.double_quant) memcpy(m->nested_absmax.data, host->nested_absmax, tensor_bytes(&m->nested_absmax));
    m->offset = m->options.double_quant ? host->offset : 0.0f;
}

/* Random weights, quantized; the CPU decodes them for the reference. */
static void quantize(Sample *s, const struct Case *c, const PartCase *p, uint64_t seed)
{
    const QuantOptions options = {.type = p->kind == FP4 ? QUANT_FP4 : QUANT_NF4,
                                  .block = c->block,
                                  .double_quant = p->kind == NF4 || p->kind == NF4_MOVED};
    Err err = {0};
    quant_place(&s->quant, &s->arena, &options, p->rows, c->cols);
    const size_t bytes = s->arena.peak;
    s->arena = (Arena){.name = "test", .base = kernel_memory(bytes), .size = bytes};
    quant_place(&s->quant, &s->arena, &options, p->rows, c->cols);
    const size_t blocks = (size_t)quant_blocks(&s->quant), count = (size_t)(p->rows * c->cols);
    const Tensor w = kernel_random(DTYPE_F32, p->rows, c->cols, c->cols, seed, 1.0f);
    QuantHost host = {malloc(count), malloc(4 * blocks), malloc(4 * blocks), malloc(4 * blocks), 0.0f};
    assert_true(quant_encode(&host, w.data, (int64_t)count, &options, &err));
    if (p->kind == NF4_MOVED) {
        s->moved = kernel_memory(tensor_bytes(&s->quant.codes) + 8);
        s->quant.codes.data = s->moved + 8;
    }
    upload_quant(&s->quant, &host);
    Backend *cpu = kernel_backend_of(BACKEND_CPU, 1, false);
    quant_decode(cpu, &w, &s->quant);
    backend_close(cpu);
    s->w = kernel_values(&w);
    kernel_free(&w);
    free(host.codes);
    free(host.absmax);
    free(host.nested_absmax);
    free(host.scratch_absmax);
}

static void sample_make(Sample *s, const struct Case *c, const PartCase *p, uint64_t seed)
{
    *s = (Sample){
        .part = {.rows = p->rows, .rank = p->rank, .scale = 0.5f}
    };
    if (p->kind == PLAIN_F32 || p->kind == PLAIN_BF16) {
        const DType t = p->kind == PLAIN_F32 ? DTYPE_F32 : DTYPE_BF16;
        s->plain = s->part.plain = kernel_random(t, p->rows, c->cols, c->cols + p->spare, seed, 1.0f);
        s->w = kernel_values(&s->plain);
    } else {
        quantize(s, c, p, seed);
        s->part.quant = &s->quant;
    }
    if (p->rank == 0) return;
    s->a = s->part.a = kernel_random(DTYPE_F32, p->rank, c->cols, c->cols, seed + 1, 0.2f);
    s->b = s->part.b = kernel_random(DTYPE_F32, p->rows, p->rank, p->rank, seed + 2, 1.0f);
    s->wa = kernel_values(&s->a);
    s->wb = kernel_values(&s->b);
}

static void sample_free(Sample *s)
{
    if (s->arena.base) kernel_memory_free(s->arena.base);
    if (s->moved) kernel_memory_free(s->moved);
    if (s->plain.data) kernel_free(&s->plain);
    if (s->a.data) kernel_free(&s->a);
    if (s->b.data) kernel_free(&s->b);
    free(s->w);
    free(s->wa);
    free(s->wb);
}

/* Row o of a part times x; `size` gets the sum of the absolute terms. */
static double exact(const Sample *s, int64_t o, const double *x, int64_t cols, double *size)
{
    double sum = 0.0;
    *size = 0.0;
    for (int64_t k = 0; k < cols; k++) {
        sum += s->w[o * cols + k] * x[k];
        *size += fabs(s->w[o * cols + k] * x[k]);
    }
    for (int64_t q = 0; q < s->part.rank; q++) {
        double h = 0.0, h_size = 0.0;
        for (int64_t k = 0; k < cols; k++) {
            h += s->wa[q * cols + k] * x[k];
            h_size += fabs(s->wa[q * cols + k] * x[k]);
        }
        sum += 0.5 * s->wb[o * s->part.rank + q] * h;
        *size += 0.5 * fabs(s->wb[o * s->part.rank + q]) * h_size;
    }
    return sum;
}

static void check_row(const struct Case *c, const Sample *samples, const Tensor *y, const Tensor *bias, const double *x,
                      int64_t i)
{
    int64_t o = 0;
    for (int p = 0; p < c->parts; p++) {
        for (int64_t r = 0; r < samples[p].part.rows; r++, o++) {
            double size;
            double want = exact(&samples[p], r, x + i * c->cols, c->cols, &size);
            if (bias) want += kernel_at(bias, 0, o);
            const double got = kernel_at(y, i, o), rounding = kernel_unit(c->out) * fabs(want);
            if (!(fabs(got - want) <= 1e-6 * size + rounding + 1e-6))
                fail_msg("%s: row %lld, output %lld: %.9g, not %.9g", c->name, (long long)i, (long long)o, got, want);
        }
    }
}

static void check(Backend *be, const struct Case *c, int64_t n)
{
    Sample samples[THIN_PARTS];
    Thin t = {.count = c->parts};
    int64_t rows = 0, ranks = 0;
    for (int p = 0; p < c->parts; p++) {
        sample_make(&samples[p], c, &c->part[p], 10 * (uint64_t)p + 1);
        t.parts[p] = samples[p].part;
        rows += c->part[p].rows;
        ranks += c->part[p].rank;
    }
    const Tensor x = kernel_random(c->in, n, c->cols, c->cols + c->x_spare, 90, 1.0f),
                 y = kernel_matrix(c->out, n, rows, rows + 3);
    const Tensor scratch = kernel_matrix(DTYPE_F32, 1, thin_scratch(c->cols, ranks), thin_scratch(c->cols, ranks));
    const bool biased = c->bias != DTYPE_I32;
    const Tensor bias_row = kernel_random(biased ? c->bias : DTYPE_F32, 1, rows, rows, 91, 1.0f);
    const Tensor bias = tensor_vector(bias_row.data, bias_row.dtype, rows);
    t.bias = biased ? &bias : NULL;
    double *values = kernel_values(&x);
    thin_forward(be, &t, &y, &x, &scratch);
    for (int64_t i = 0; i < n; i++)
        check_row(c, samples, &y, biased ? &bias_row : NULL, values, i);
    const Tensor *all[] = {&x, &y, &scratch, &bias_row};
    for (size_t i = 0; i < ARRAY_COUNT(all); i++) {
        kernel_check_guards(all[i]);
        kernel_free(all[i]);
    }
    for (int p = 0; p < c->parts; p++)
        sample_free(&samples[p]);
    free(values);
}

static void groups_equal_the_products_of_decoded_weights(void **state)
{
    (void)state;
    Backend *be = kernel_backend(2, false);
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        for (int64_t n = 1; n <= THIN_ROWS; n++)
            check(be, &cases[i], n);
    }
    kernel_close(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(groups_equal_the_products_of_decoded_weights),
    };
    return cmocka_run_group_tests_name("thin", tests, NULL, NULL);
}
