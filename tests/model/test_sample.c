/* The token that is picked, against an independent sort in f64, and its chances over many draws. */
#include "model/ops.h"
#include "model/sample.h"
#include "model/sample_weight.h"

#include "tests/support/kernel_test.h"

enum { COLS_MAX = 5000 };

static Sampling sampling(double temperature, double top_p, uint64_t seed)
{
    return (Sampling){
        .temperature = (float)temperature, .top_p = top_p, .key = {.seed = seed, .purpose = RNG_SAMPLING}
    };
}

static void pick(Backend *be, int32_t *out, const Tensor *logits, const Sampling *how)
{
    const int64_t n = tensor_rows(logits);
    const Tensor row = kernel_matrix(DTYPE_I32, 1, n, n), ids = tensor_vector(row.data, DTYPE_I32, n);
    sample_rows(be, &ids, logits, how);
    kernel_check_guards(&row);
    memcpy(out, row.data, (size_t)n * sizeof *out);
    kernel_free(&row);
}

static int32_t pick_one(Backend *be, const Tensor *logits, int64_t r, Sampling how)
{
    int32_t id;
    const Tensor row = tensor_slice_rows(logits, r, 1);
    pick(be, &id, &row, &how);
    return id;
}

typedef struct Token {
    uint64_t weight;
    int32_t id;
} Token;

static int by_weight(const void *a, const void *b)
{
    const Token *x = a, *y = b;
    if (x->weight != y->weight) return x->weight < y->weight ? 1 : -1;
    return (x->id > y->id) - (x->id < y->id);
}

static int by_id(const void *a, const void *b)
{
    const Token *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

static Token tokens[COLS_MAX];

/* By sorting: the likeliest whose weights reach top_p of all, back in the order of tokens; how many, and their sum. */
static int64_t keep_by_sort(const Tensor *logits, int64_t r, const SampleRow *row, uint64_t *sum)
{
    const int64_t n = tensor_cols(logits);
    double largest = -INFINITY;
    for (int64_t i = 0; i < n; i++)
        largest = fmax(largest, kernel_get(logits, r, i));
    uint64_t all = 0;
    for (int64_t i = 0; i < n; i++) {
        tokens[i] = (Token){sample_weight((float)kernel_get(logits, r, i), (float)largest, row->factor), (int32_t)i};
        all += tokens[i].weight;
    }
    qsort(tokens, (size_t)n, sizeof *tokens, by_weight);
    int64_t kept = 0;
    *sum = 0;
    while (kept < n && (kept == 0 || (double)*sum < row->top_p * (double)all))
        *sum += tokens[kept++].weight;
    qsort(tokens, (size_t)kept, sizeof *tokens, by_id);
    return kept;
}

/* The one of them at the draw. */
static int32_t expected(const Tensor *logits, int64_t r, const Sampling *how)
{
    uint64_t sum, past = 0;
    const SampleRow row = sample_row(how);
    const int64_t kept = keep_by_sort(logits, r, &row, &sum);
    const uint64_t place = (uint64_t)(row.draw * (double)sum);
    for (int64_t i = 0; i < kept; i++) {
        past += tokens[i].weight;
        if (place < past) return tokens[i].id;
    }
    fail_msg("no token at the draw");
    return 0;
}

/* Widths below, at and over the threads of a block; emulated threads are slow, so they take fewer of everything. */
#if QLORA_TEST_CUDA
static const int64_t widths[] = {1, 37, 2500};
static const double tops[] = {1, 0.6, 1e-6};
enum { SEEDS = 6, DRAWS = 64 };
#else
static const int64_t widths[] = {1, 2, 37, 1023, 1024, 1025, 2500, 5000};
static const double tops[] = {1, 0.9, 0.6, 0.1, 1e-6};
enum { SEEDS = 40, DRAWS = 20032 };
#endif

/* Row 0: five levels, so that ties stand before and after heavier tokens; row 1: one token as heavy as all others
 * together, so that thresholds are small numbers; row 2: no two alike. */
static Tensor three_rows(int64_t width)
{
    const Tensor logits = kernel_random(DTYPE_F32, 3, width, width + 5, (uint64_t)width, 6.0f);
    for (int64_t i = 0; i < width; i++) {
        kernel_put(&logits, 0, i, (double)((i * 7919 + i / 3) % 5));
        kernel_put(&logits, 1, i, kernel_get(&logits, 1, i) * 0.05 + (i == width / 2 ? log((double)width) : 0));
    }
    return logits;
}

static void draws_are_those_of_a_sort(void **state)
{
    (void)state;
    Backend *be = kernel_backend(2, false);
    static const double temperatures[] = {4, 1, 0.3};
    uint64_t seed = 0;
    for (size_t w = 0; w < ARRAY_COUNT(widths); w++) {
        const Tensor logits = three_rows(widths[w]);
        for (size_t i = 0; i < 3 * ARRAY_COUNT(tops); i++) {
            Sampling how[3];
            int32_t ids[3];
            for (int r = 0; r < 3; r++)
                how[r] = sampling(temperatures[r], tops[i / 3], ++seed);
            pick(be, ids, &logits, how);
            for (int r = 0; r < 3; r++)
                assert_int_equal(ids[r], expected(&logits, r, &how[r]));
        }
        kernel_free(&logits);
    }
    kernel_close(be);
}

/* All equal: then every token weighs the same, and what is kept are the first ones. */
static void among_equals_the_first_are_kept(void **state)
{
    (void)state;
    Backend *be = kernel_backend(2, false);
    const Tensor logits = kernel_matrix(DTYPE_F32, 1, 3000, 3000);
    int32_t most = -1;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        const int32_t id = pick_one(be, &logits, 0, sampling(1, 0.25, seed));
        assert_in_range(id, 0, 749);
        most = id > most ? id : most;
    }
    assert_true(most > 400);
    kernel_free(&logits);
    kernel_close(be);
}

static void greedy_takes_the_first_of_the_largest(void **state)
{
    (void)state;
    Backend *be = kernel_backend(2, false);
    for (size_t w = 0; w < ARRAY_COUNT(widths); w++) {
        const int64_t n = widths[w];
        const Tensor logits = kernel_random(DTYPE_F32, 1, n, n, w + 1, 4.0f);
        for (int64_t i = 0; i < n; i += n / 7 + 1) {
            kernel_put(&logits, 0, i, 50.0);
            kernel_put(&logits, 0, n - 1, 50.0);
            assert_int_equal(pick_one(be, &logits, 0, sampling(0, 1, 1)), i);
            kernel_put(&logits, 0, i, -5.0);
        }
        for (int64_t i = n < 1024 ? -1 : 1023; i >= 0; i -= 32) { /* of each warp of a block once */
            kernel_put(&logits, 0, i, 60.0);
            assert_int_equal(pick_one(be, &logits, 0, sampling(0, 1, 1)), i);
            kernel_put(&logits, 0, i, -5.0);
        }
        kernel_free(&logits);
    }
    kernel_close(be);
}

static void negative_zeros_and_numbers_below_zero_are_compared_as_numbers(void **state)
{
    (void)state;
    Backend *be = kernel_backend(2, false);
    static const struct {
        double values[4];
        int32_t first;
    } rows[] = {
        {{-3, -1, -2, -1},                 1},
        {{-0.0, 0.0, -1, 0.0},             0},
        {{-INFINITY, -1e30, -INFINITY, 0}, 3},
        {{NAN, -2, -1, NAN},               2},
        {{NAN, NAN, NAN, NAN},             0},
        {{1, INFINITY, NAN, INFINITY},     1},
    };
    const Tensor logits = kernel_matrix(DTYPE_F32, 1, 4, 4);
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        for (int64_t c = 0; c < 4; c++)
            kernel_put(&logits, 0, c, rows[i].values[c]);
        assert_int_equal(pick_one(be, &logits, 0, sampling(0, 1, 1)), rows[i].first);
    }
    /* what is not a number is never drawn, and a row with an infinite logit yields it */
    for (int64_t c = 0; c < 4; c++)
        kernel_put(&logits, 0, c, rows[3].values[c]);
    for (uint64_t seed = 0; seed < SEEDS; seed++)
        assert_in_range(pick_one(be, &logits, 0, sampling(2, 1, seed)), 1, 2);
    for (int64_t c = 0; c < 4; c++)
        kernel_put(&logits, 0, c, rows[5].values[c]);
    assert_int_equal(pick_one(be, &logits, 0, sampling(2, 0.5, 1)), 1);
    kernel_free(&logits);
    kernel_close(be);
}

static void weights_are_the_exponential(void **state)
{
    (void)state;
    for (double x = 0; x > -23; x -= 0.0137) {
        const double exact = exp((double)(float)x / 0.7) * 0x1p32;
        const double got = (double)sample_weight((float)x, 0.0f, 1.44269504088896340736f / 0.7f);
        if (exact < 0.5) break;
        if (!(fabs(got - exact) <= 4e-6 * exact + 1)) fail_msg("e^%g: %.1f instead of %.1f", x / 0.7, got, exact);
    }
    assert_true(sample_weight(3.5f, 3.5f, 1.0f) == (uint64_t)1 << 32);
}

/* Chi-squared over 8 tokens whose chances are known; 24.3 is exceeded once in a thousand times, and seeds are fixed. */
static void tokens_come_as_often_as_they_weigh(void **state)
{
    (void)state;
    enum { TOKENS = 8, ROWS = 64 };
    Backend *be = kernel_backend(2, false);
    const Tensor logits = kernel_matrix(DTYPE_F32, ROWS, TOKENS, TOKENS);
    double chance[TOKENS], sum = 0, squares = 0;
    int seen[TOKENS] = {0};
    for (int i = 0; i < TOKENS; i++)
        sum += chance[i] = exp(-0.3 * i / 0.8);
    for (int64_t r = 0; r < ROWS; r++) {
        for (int i = 0; i < TOKENS; i++)
            kernel_put(&logits, r, i, -0.3 * i);
    }
    for (uint64_t at = 0; at < DRAWS; at += ROWS) {
        Sampling how[ROWS];
        int32_t ids[ROWS];
        for (uint64_t r = 0; r < ROWS; r++)
            how[r] = sampling(0.8, 1, at + r);
        pick(be, ids, &logits, how);
        for (int r = 0; r < ROWS; r++)
            seen[ids[r]]++;
    }
    for (int i = 0; i < TOKENS; i++) {
        const double want = DRAWS * chance[i] / sum;
        squares += (seen[i] - want) * (seen[i] - want) / want;
    }
    assert_true(squares < 24.3);
    kernel_free(&logits);
    kernel_close(be);
}

#if QLORA_TEST_CUDA
enum { RUNS_WIDTH = 2300, ROWS_MAX = 16 }; /* a thread's run of neighbours has three tokens */

/* A few tokens that weigh something: two to the power of the logit, from 1 for -32 on. */
static const struct Few {
    double top_p;
    struct {
        int id, logit;
    } tokens[10];
} few[] = {
  /* of six ties three are kept; the third is the first of its run, between others that weigh more */
    {10.7 / 14,                     {{0, -1}, {1, 0}, {2, -1}, {3, -1}, {4, -1}, {5, 0}, {300, -1}, {301, 0}, {302, -1}, {2299, 0}}},
 /* of five tokens of the least weight three are kept */
    {(0x1p32 + 2.5) / (0x1p32 + 5), {{5, -32}, {699, -32}, {700, 0}, {701, -32}, {702, -32}, {2000, -32}}                          },
    {1,                             {{0, 0}, {1, -32}, {1500, -32}}                                                                },
};

/* A draw at the first place of every token that is kept, and one at its last. */
static void every_place_yields_its_token(void **state)
{
    (void)state;
    Backend *be = kernel_backend(2, false);
    for (size_t k = 0; k < ARRAY_COUNT(few); k++) {
        const Tensor logits = kernel_matrix(DTYPE_F32, ROWS_MAX, RUNS_WIDTH, RUNS_WIDTH),
                     ids = kernel_matrix(DTYPE_I32, 1, ROWS_MAX, ROWS_MAX);
        SampleRow how[ROWS_MAX];
        for (int64_t r = 0; r < ROWS_MAX; r++) {
            for (int64_t i = 0; i < RUNS_WIDTH; i++)
                kernel_put(&logits, r, i, -100.0);
            for (size_t i = 0; i < ARRAY_COUNT(few[k].tokens) && (i == 0 || few[k].tokens[i].id > 0); i++)
                kernel_put(&logits, r, few[k].tokens[i].id, few[k].tokens[i].logit);
            how[r] = (SampleRow){.factor = 1.0f, .top_p = few[k].top_p};
        }
        uint64_t sum, past = 0;
        const int64_t kept = keep_by_sort(&logits, 0, &how[0], &sum);
        assert_in_range(kept, 1, ROWS_MAX / 2);
        for (int64_t i = 0; i < kept; past += tokens[i++].weight) {
            how[2 * i].draw = ((double)past + 0.5) / (double)sum;
            how[2 * i + 1].draw = ((double)(past + tokens[i].weight) - 0.5) / (double)sum;
        }
        const Tensor rows = tensor_slice_rows(&logits, 0, 2 * kept);
        sample_ops_cuda.rows(be, &ids, &rows, how);
        kernel_settle();
        for (int64_t i = 0; i < 2 * kept; i++)
            assert_int_equal(((const int32_t *)ids.data)[i], tokens[i / 2].id);
        kernel_check_guards(&ids);
        kernel_free(&ids);
        kernel_free(&logits);
    }
    kernel_close(be);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(draws_are_those_of_a_sort),
        cmocka_unit_test(among_equals_the_first_are_kept),
        cmocka_unit_test(greedy_takes_the_first_of_the_largest),
        cmocka_unit_test(negative_zeros_and_numbers_below_zero_are_compared_as_numbers),
        cmocka_unit_test(weights_are_the_exponential),
        cmocka_unit_test(tokens_come_as_often_as_they_weigh),
#if QLORA_TEST_CUDA
        cmocka_unit_test(every_place_yields_its_token),
#endif
    };
    return cmocka_run_group_tests_name("sample", tests, NULL, NULL);
}
