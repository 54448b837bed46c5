/* Decoding against the formula: windows, gaps, rows that start anywhere, many pieces. */
#include "model/attention.h"

#include "tests/support/kernel_test.h"

#if QLORA_TEST_CUDA
#    include "backend/cuda.h"
#endif

static const float SCALE = 0.2f;

enum { SEQUENCES = 3, MOVED_Q = 1, MOVED_KEYS, MOVED_VALUES, MOVED_OUT };

typedef struct Case {
    const char *name;
    int heads, kv_heads, head_dim, window;
    int32_t lengths[SEQUENCES]; /* the first is not always the longest */
    int64_t key_spare, value_spare;
    int moved; /* which tensor starts off a multiple of 16 bytes */
} Case;

/* Pieces have 128 keys on CUDA and 256 on the CPU. */
static const Case cases[] = {
    {"the longest first", 2, 1, 16,  0,   {300, 5, 129},    0, 0, 0           },
    {"whole pieces",      2, 2, 64,  0,   {128, 256, 1},    0, 0, 0           },
    {"gaps",              4, 2, 8,   0,   {127, 130, 257},  8, 3, 0           },
    {"one key seen",      3, 1, 8,   1,   {200, 130, 7},    3, 8, 0           },
    {"a short window",    2, 1, 32,  60,  {200, 257, 61},   0, 8, 0           },
    {"a piece as window", 2, 1, 8,   128, {128, 300, 400},  0, 0, 0           },
    {"over a piece",      2, 1, 8,   129, {385, 129, 257},  0, 0, 0           },
    {"a window for all",  2, 1, 8,   400, {390, 20, 129},   0, 0, 0           },
    {"heads of 256",      2, 1, 256, 70,  {129, 2, 40},     0, 0, 0           },
    {"heads of 6",        5, 5, 6,   0,   {131, 33, 64},    2, 0, 0           },
    {"many pieces",       1, 1, 2,   0,   {4500, 4096, 33}, 0, 0, 0           },
    {"queries moved",     2, 1, 16,  0,   {70, 131, 3},     8, 8, MOVED_Q     },
    {"keys moved",        2, 1, 16,  0,   {70, 131, 3},     8, 8, MOVED_KEYS  },
    {"values moved",      2, 1, 16,  0,   {70, 131, 3},     8, 8, MOVED_VALUES},
    {"result moved",      2, 1, 16,  0,   {70, 131, 3},     8, 8, MOVED_OUT   },
};

/* One head of one sequence in f64; `first` is the first row of the cache that is seen, `last` the newest. */
static void decode_exact(double *out, const Case *c, const Tensor *q, const Tensor *keys, const Tensor *values,
                         int64_t sequence, int h, int64_t first, int64_t last)
{
    const int column = h / (c->heads / c->kv_heads) * c->head_dim;
    double *p = kernel_zeros(last - first + 1), max = -INFINITY, total = 0.0;
    for (int64_t row = first; row <= last; row++) {
        for (int j = 0; j < c->head_dim; j++)
            p[row - first] +=
                (double)SCALE * kernel_get(q, sequence, h * c->head_dim + j) * kernel_get(keys, row, column + j);
        max = fmax(max, p[row - first]);
    }
    memset(out, 0, (size_t)c->head_dim * sizeof *out);
    for (int64_t row = first; row <= last; row++) {
        const double weight = exp(p[row - first] - max);
        total += weight;
        for (int j = 0; j < c->head_dim; j++)
            out[j] += weight * kernel_get(values, row, column + j);
    }
    for (int j = 0; j < c->head_dim; j++)
        out[j] /= total;
    free(p);
}

static void check_decoded(const Case *c, const Tensor *out, const Tensor *q, const Tensor *keys, const Tensor *values,
                          int64_t capacity)
{
    for (int64_t b = 0; b < SEQUENCES; b++) {
        const int64_t last = b * capacity + c->lengths[b] - 1;
        const int64_t seen = c->window && c->window < c->lengths[b] ? c->window : c->lengths[b];
        for (int h = 0; h < c->heads; h++) {
            double want[256];
            decode_exact(want, c, q, keys, values, b, h, last - seen + 1, last);
            for (int j = 0; j < c->head_dim; j++) {
                const double got = kernel_get(out, b, h * c->head_dim + j);
                const double allowed =
                    1e-5 + (q->dtype == DTYPE_F32 ? 0.0 : 1.1 * kernel_unit(q->dtype) * fabs(want[j]));
                if (!(fabs(got - want[j]) <= allowed))
                    fail_msg("%s: sequence %d, head %d, column %d: %.9g, not %.9g", c->name, (int)b, h, j, got,
                             want[j]);
            }
        }
    }
}

static void check_decode(Backend *be, const Case *c, DType dtype)
{
    int64_t capacity = 0;
    for (int b = 0; b < SEQUENCES; b++)
        capacity = c->lengths[b] > capacity ? c->lengths[b] : capacity;
    capacity += 5;
    const int64_t wide = c->heads * c->head_dim, narrow = c->kv_heads * c->head_dim;
    const int64_t floats = attention_scratch(be, capacity, c->heads, c->kv_heads, c->head_dim);
    const Tensor whole[] = {
        kernel_random(dtype, SEQUENCES, wide + (c->moved == MOVED_Q), wide + 8, 6, 1.0f),
        kernel_random(dtype, SEQUENCES * capacity, narrow + (c->moved == MOVED_KEYS), narrow + c->key_spare, 7, 1.0f),
        kernel_random(dtype, SEQUENCES * capacity, narrow + (c->moved == MOVED_VALUES), narrow + c->value_spare, 8,
                      1.0f),
        kernel_matrix(dtype, SEQUENCES, wide + (c->moved == MOVED_OUT), wide + 8),
        kernel_random(DTYPE_F32, 1, floats, floats, 3, NAN),
    };
    Tensor part[4];
    for (int i = 0; i < 4; i++)
        part[i] = kernel_moved(&whole[i], c->moved == i + 1);
    const Attention at = {
        .heads = c->heads, .kv_heads = c->kv_heads, .head_dim = c->head_dim, .scale = SCALE, .window = c->window};
    attention_decode(be, &at, &part[3], &part[0], &part[1], &part[2], capacity, c->lengths, &whole[4]);
    kernel_settle();
    check_decoded(c, &part[3], &part[0], &part[1], &part[2], capacity);
    for (size_t i = 0; i < ARRAY_COUNT(whole); i++) {
        kernel_check_guards(&whole[i]);
        kernel_free(&whole[i]);
    }
}

/* What lies behind an array that is staged looks like lengths, too: nobody may read past its own. */
static void fill_staging(Backend *be)
{
#if QLORA_TEST_CUDA
    int32_t *threes = malloc(CUDA_STAGE_MAX);
    assert_non_null(threes);
    for (size_t i = 0; i < CUDA_STAGE_MAX / sizeof *threes; i++)
        threes[i] = 3;
    assert_non_null(cuda_stage(be, threes, CUDA_STAGE_MAX));
    free(threes);
#else
    (void)be;
#endif
}

static void decoding_is_the_formula_for_every_layout(void **state)
{
    (void)state;
    Backend *be = kernel_backend(2, false);
    fill_staging(be);
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        check_decode(be, &cases[i], DTYPE_F32);
        check_decode(be, &cases[i], DTYPE_BF16);
    }
    kernel_close(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decoding_is_the_formula_for_every_layout),
    };
    return cmocka_run_group_tests_name("attention_decode", tests, NULL, NULL);
}
