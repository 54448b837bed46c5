/*
 * Products of a few rows with a weight as it lies (out features by in features): what generation does. Bound by reading
 * the weight once, so it is neither packed nor converted: dot products of its rows with the rows of a.
 */
#include "backend/cpu.h"
#include "backend/matmul_cpu.h"

enum { ROWS_MOST = 2, COLUMNS = 16 };

/* Four sums side by side; the last part of K may be short. */
#if defined(__AVX512BF16__) && SIMD_AVX512
static float dot_bf16(const uint16_t *a, const uint16_t *b, int64_t n)
{
    __m512 sums[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
    int64_t i = 0;
    for (; i + 128 <= n; i += 128) {
        for (int k = 0; k < 4; k++) {
            sums[k] = _mm512_dpbf16_ps(sums[k], (__m512bh)_mm512_loadu_si512(a + i + 32 * k),
                                       (__m512bh)_mm512_loadu_si512(b + i + 32 * k));
        }
    }
    for (; i < n; i += 32) {
        const __mmask32 mask = n - i >= 32 ? 0xffffffffu : (1u << (n - i)) - 1u;
        sums[0] = _mm512_dpbf16_ps(sums[0], (__m512bh)_mm512_maskz_loadu_epi16(mask, a + i),
                                   (__m512bh)_mm512_maskz_loadu_epi16(mask, b + i));
    }
    const Lanes left = sums[0] + sums[1], right = sums[2] + sums[3];
    return lanes_sum(left + right);
}
#endif

static float dot(const void *a, const void *b, DType t, int64_t n)
{
#if defined(__AVX512BF16__) && SIMD_AVX512
    if (t == DTYPE_BF16) return dot_bf16(a, b, n);
#endif
    Lanes sums[4] = {lanes_zero(), lanes_zero(), lanes_zero(), lanes_zero()};
    int64_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
        for (int k = 0; k < 4; k++) {
            const int64_t at = i + k * LANES;
            sums[k] = lanes_fma(lanes_load(cpu_at_in(a, t, at), t, LANES), lanes_load(cpu_at_in(b, t, at), t, LANES),
                                sums[k]);
        }
    }
    for (; i < n; i += LANES)
        sums[0] =
            lanes_fma(lanes_load(cpu_at_in(a, t, i), t, n - i), lanes_load(cpu_at_in(b, t, i), t, n - i), sums[0]);
    const Lanes left = sums[0] + sums[1], right = sums[2] + sums[3];
    return lanes_sum(left + right);
}

static void write_element(const Product *p, int64_t row, int64_t column, float sum)
{
    char *out = cpu_at(p->out, p->to, row * p->out_stride + column);
    float value = p->alpha * sum;
    if (p->accumulate) value += *(const float *)(const void *)out;
    lanes_store(out, p->to, 1, lanes_set(value));
}

bool matmul_rows(const Product *p)
{
    if (p->m > ROWS_MOST || p->transpose_a || !p->transpose_b) return false;
#pragma omp parallel for schedule(static) if (p->n * p->k > CPU_PARALLEL_MIN)
    for (int64_t first = 0; first < p->n; first += COLUMNS) {
        const int64_t end = p->n - first < COLUMNS ? p->n : first + COLUMNS;
        for (int64_t j = first; j < end; j++) {
            const void *weight = cpu_at_in(p->b, p->in, j * p->b_stride);
            for (int64_t i = 0; i < p->m; i++)
                write_element(p, i, j, dot(cpu_at_in(p->a, p->in, i * p->a_stride), weight, p->in, p->k));
        }
    }
    return true;
}
