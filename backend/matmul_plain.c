/*
 * Plain products: the reference the library is tested against, and the way out where it has no kernel.
 *
 * A block of ROWS x COLS sums is held in f32 and runs over all of K; elements are converted as they are read. Every
 * sum runs over k in order, so a row of the result depends on nothing but its inputs.
 */
#include "backend/cpu.h"
#include "backend/matmul_cpu.h"

enum { ROWS = 8, COLS = 64 };

static float element(const void *data, DType dtype, int64_t i)
{
    return dtype == DTYPE_F32 ? ((const float *)data)[i] : bf16_to_f32(((const uint16_t *)data)[i]);
}

/* Elements (k, first .. first + n) of op(b). */
static void read_b(float *to, const Product *p, int64_t k, int64_t first, int64_t n)
{
    const int64_t at = p->transpose_b ? first * p->b_stride + k : k * p->b_stride + first;
    const int64_t step = p->transpose_b ? p->b_stride : 1;
    for (int64_t j = 0; j < n; j++)
        to[j] = element(p->b, p->in, at + j * step);
}

static float read_a(const Product *p, int64_t row, int64_t k)
{
    return element(p->a, p->in, p->transpose_a ? k * p->a_stride + row : row * p->a_stride + k);
}

static void write_row(const Product *p, const float *sums, int64_t row, int64_t first, int64_t n)
{
    char *out = cpu_at(p->out, p->to, row * p->out_stride + first);
    for (int64_t j = 0; j < n; j++) {
        const float value = p->alpha * sums[j];
        if (p->to == DTYPE_F32) {
            float *y = (float *)out + j;
            *y = p->accumulate ? *y + value : value;
        } else {
            ((uint16_t *)out)[j] = bf16_from_f32(value);
        }
    }
}

static void block(const Product *p, int64_t row, int64_t first)
{
    const int64_t rows = p->m - row < ROWS ? p->m - row : ROWS;
    const int64_t n = p->n - first < COLS ? p->n - first : COLS;
    float sums[ROWS][COLS] = {{0}};
    float line[COLS] = {0};
    for (int64_t k = 0; k < p->k; k++) {
        read_b(line, p, k, first, n);
        for (int64_t i = 0; i < rows; i++) {
            const float x = read_a(p, row + i, k);
            for (int64_t j = 0; j < COLS; j++)
                sums[i][j] += x * line[j];
        }
    }
    for (int64_t i = 0; i < rows; i++)
        write_row(p, sums[i], row + i, first, n);
}

void matmul_plain(const Product *p, bool parallel)
{
    const int64_t across = ceil_div(p->n, COLS), down = ceil_div(p->m, ROWS);
#pragma omp parallel for schedule(static) if (parallel && p->m * p->n * p->k > CPU_PARALLEL_MIN)
    for (int64_t i = 0; i < across * down; i++)
        block(p, i / across * ROWS, i % across * COLS);
}
