#include "model/embedding.h"

#include "tests/support/kernel_test.h"

enum { ROWS = 40, COLS = 37, VOCABULARY = 11 };

typedef struct Rig {
    Tensor table, out, ids_row, ids;
} Rig;

static Rig rig_make(DType table, DType out)
{
    Rig r = {.table = kernel_random(table, VOCABULARY, COLS, COLS + 3, 1, 1.0f),
             .out = kernel_matrix(out, ROWS, COLS, COLS + 5),
             .ids_row = kernel_matrix(DTYPE_I32, 1, ROWS, ROWS)};
    r.ids = tensor_vector(r.ids_row.data, DTYPE_I32, ROWS);
    for (int i = 0; i < ROWS; i++)
        ((int32_t *)r.ids.data)[i] = i * 5 % VOCABULARY;
    return r;
}

static void rig_free(const Rig *r)
{
    kernel_check_guards(&r->out);
    kernel_free(&r->table);
    kernel_free(&r->out);
    kernel_free(&r->ids_row);
}

static void rows_of_the_table_are_copied(void **state)
{
    (void)state;
    Backend *be = kernel_backend(2, false);
    for (int k = 0; k < 4; k++) {
        const DType from = k % 2 ? DTYPE_BF16 : DTYPE_F32, to = k / 2 ? DTYPE_BF16 : DTYPE_F32;
        const Rig r = rig_make(from, to);
        const Neftune no_segment = {.alpha = 5.0f}; /* no noise either */
        embedding_forward(be, &r.out, &r.table, &r.ids, k % 2 ? &no_segment : NULL);
        for (int i = 0; i < ROWS; i++) {
            for (int j = 0; j < COLS; j++)
                assert_true(kernel_at(&r.out, i, j) == kernel_round(kernel_at(&r.table, i * 5 % VOCABULARY, j), to));
        }
        rig_free(&r);
    }
    kernel_close(be);
}

/* Table and result of whole packs; none, the table, or the result starts off a multiple of 16 bytes. */
static void tables_and_results_may_start_anywhere(void **state)
{
    (void)state;
    enum { WIDE = 40 };
    Backend *be = kernel_backend(2, false);
    for (int k = 0; k < 12; k++) {
        const DType from = k % 2 ? DTYPE_BF16 : DTYPE_F32, to = k / 2 % 2 ? DTYPE_BF16 : DTYPE_F32;
        const int moved = k / 4;
        const Tensor tables = kernel_random(from, VOCABULARY, WIDE + (moved == 1), 48, 1, 1.0f),
                     outs = kernel_matrix(to, VOCABULARY, WIDE + (moved == 2), 48),
                     row = kernel_matrix(DTYPE_I32, 1, VOCABULARY, VOCABULARY);
        const Tensor table = kernel_moved(&tables, moved == 1), out = kernel_moved(&outs, moved == 2);
        const Tensor ids = tensor_vector(row.data, DTYPE_I32, VOCABULARY);
        for (int i = 0; i < VOCABULARY; i++)
            ((int32_t *)ids.data)[i] = VOCABULARY - 1 - i;
        embedding_forward(be, &out, &table, &ids, NULL);
        kernel_settle();
        for (int i = 0; i < VOCABULARY; i++) {
            for (int j = 0; j < WIDE; j++)
                assert_true(kernel_get(&out, i, j) == kernel_round(kernel_get(&table, VOCABULARY - 1 - i, j), to));
        }
        const Tensor *all[] = {&tables, &outs, &row};
        for (size_t i = 0; i < ARRAY_COUNT(all); i++) {
            kernel_check_guards(all[i]);
            kernel_free(all[i]);
        }
    }
    kernel_close(be);
}

static void gather_row(int id)
{
    Backend *be = kernel_backend(1, false);
    const Rig r = rig_make(DTYPE_F32, DTYPE_F32);
    ((int32_t *)r.ids.data)[ROWS - 1] = id;
    embedding_forward(be, &r.out, &r.table, &r.ids, NULL);
    kernel_settle();
}

static void an_id_outside_of_the_table_is_noticed(void **state)
{
    (void)state;
    kernel_expect_trap(gather_row, VOCABULARY);
    kernel_expect_trap(gather_row, -1);
}

/* Uniform in +- alpha / sqrt(L C), L the length of the segment; the same numbers for every number of threads. */
static void noise_is_bounded_by_the_segment_and_reproducible(void **state)
{
    (void)state;
    static const int32_t starts[] = {0, 1, 1, 31, 40};
    const Neftune noise = {
        .alpha = 5.0f, .key = {.seed = 9, .purpose = RNG_NEFTUNE, .step = 3},
             .segments = 4, .starts = starts
    };
    const Rig r = rig_make(DTYPE_F32, DTYPE_F32), again = rig_make(DTYPE_F32, DTYPE_F32);
    for (int threads = 1; threads <= 2; threads++) {
        const Rig *to = threads == 1 ? &again : &r;
        Backend *be = kernel_backend(threads, false);
        embedding_forward(be, &to->out, &to->table, &to->ids, &noise);
        kernel_settle();
        kernel_close(be);
    }
    assert_true(kernel_equal(&r.out, &again.out));
    for (int s = 0; s < 4; s++) {
        const double most = 5.0 / sqrt((double)(starts[s + 1] - starts[s]) * COLS);
        double largest = 0.0, sum = 0.0;
        for (int i = starts[s]; i < starts[s + 1]; i++) {
            for (int j = 0; j < COLS; j++) {
                const double delta = kernel_at(&r.out, i, j) - kernel_at(&r.table, i * 5 % VOCABULARY, j);
                largest = fmax(largest, fabs(delta));
                sum += delta;
            }
        }
        const double count = (double)(starts[s + 1] - starts[s]) * COLS;
        if (count == 0.0) continue;
        assert_true(largest <= most * 1.0001 && largest > 0.8 * most && fabs(sum / count) < 0.5 * most);
    }
    rig_free(&r);
    rig_free(&again);
}

/* Widths for whole blocks of random numbers and for single words, enough elements for several rounds of a grid. */
static void noise_is_equal_to_the_bit_on_all_backends(void **state)
{
    (void)state;
    static const int32_t starts[] = {2, 3, 3, 40, 900, 901};
    static const int64_t widths[] = {36, 37, 38, 36}, spares[] = {0, 3, 2, 1};
    Backend *be = kernel_backend(2, false), *cpu = kernel_backend_of(BACKEND_CPU, 2, false);
    for (int k = 0; k < 8; k++) {
        const DType t = k % 2 ? DTYPE_BF16 : DTYPE_F32;
        const int64_t cols = widths[k / 2], stride = cols + spares[k / 2];
        const Neftune noise = {
            .alpha = 7.0f,
            .key = {.seed = 5, .purpose = RNG_NEFTUNE, .step = 1ull << 33},
            .segments = 5,
            .starts = starts
        };
        const Tensor table = kernel_random(t, VOCABULARY, cols, stride, 1, 1.0f),
                     wide = kernel_matrix(DTYPE_F32, VOCABULARY, cols, stride),
                     row = kernel_matrix(DTYPE_I32, 1, 903, 903);
        const Tensor ids = tensor_vector(row.data, DTYPE_I32, 903);
        const Tensor out = kernel_matrix(t, 903, cols, stride), want = kernel_matrix(DTYPE_F32, 903, cols, stride);
        for (int i = 0; i < 903; i++)
            ((int32_t *)ids.data)[i] = i * 5 % VOCABULARY;
        for (int64_t i = 0; i < VOCABULARY; i++) {
            for (int64_t j = 0; j < cols; j++)
                kernel_put(&wide, i, j, kernel_get(&table, i, j));
        }
        embedding_forward(cpu, &want, &wide, &ids, &noise); /* in f32: the sums before they are rounded */
        embedding_forward(be, &out, &table, &ids, &noise);
        kernel_settle();
        for (int64_t i = 0; i < 903; i++) {
            for (int64_t j = 0; j < cols; j++)
                assert_true(kernel_get(&out, i, j) == kernel_round(kernel_get(&want, i, j), t));
        }
        assert_true(kernel_at(&out, 901, 1) ==
                    kernel_at(&table, 901 * 5 % VOCABULARY, 1)); /* outside of all segments */
        assert_true(t == DTYPE_BF16 || kernel_at(&out, 900, 1) != kernel_at(&table, 900 * 5 % VOCABULARY, 1));
        const Tensor *all[] = {&table, &wide, &row, &out, &want};
        for (size_t i = 0; i < ARRAY_COUNT(all); i++) {
            kernel_check_guards(all[i]);
            kernel_free(all[i]);
        }
    }
    kernel_close(be);
    backend_close(cpu);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_of_the_table_are_copied),
        cmocka_unit_test(tables_and_results_may_start_anywhere),
        cmocka_unit_test(an_id_outside_of_the_table_is_noticed),
        cmocka_unit_test(noise_is_bounded_by_the_segment_and_reproducible),
        cmocka_unit_test(noise_is_equal_to_the_bit_on_all_backends),
    };
    return cmocka_run_group_tests_name("embedding", tests, NULL, NULL);
}
