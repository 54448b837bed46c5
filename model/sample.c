#include "model/sample.h"

#include "backend/cpu.h"
#include "model/ops.h"
#include "model/sample_weight.h"

/* The first of the largest; what is not a number does not count. */
static int64_t likeliest(const float *logits, int64_t n)
{
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++) {
        if (logits[i] > logits[best] || (isnan(logits[best]) && !isnan(logits[i]))) best = i;
    }
    return best;
}

typedef struct Row {
    const float *logits;
    int64_t count;
    float largest, factor;
} Row;

static uint64_t weight_at(const Row *r, int64_t i)
{
    return sample_weight(r->logits[i], r->largest, r->factor);
}

/* The sum of the weights from `least` on. */
static uint64_t sum_from(const Row *r, uint64_t least)
{
    uint64_t sum = 0;
    for (int64_t i = 0; i < r->count; i++) {
        const uint64_t w = weight_at(r, i);
        sum += w >= least ? w : 0;
    }
    return sum;
}

/* The highest threshold from which on the weights reach what is needed: one bit after the other. */
static SampleKept keep(const Row *r, uint64_t all, double top_p)
{
    const uint64_t needed = sample_needed(all, top_p);
    uint64_t threshold = 1;
    if (needed < all) {
        threshold = 0;
        for (int bit = 32; bit >= 0; bit--) {
            const uint64_t higher = threshold | (uint64_t)1 << bit;
            if (sum_from(r, higher) >= needed) threshold = higher;
        }
    }
    return sample_kept(threshold, sum_from(r, threshold + 1), needed);
}

static int32_t draw(const float *logits, int64_t count, const SampleRow *how)
{
    const int64_t best = likeliest(logits, count);
    const Row r = {.logits = logits, .count = count, .largest = logits[best], .factor = how->factor};
    const uint64_t all = how->factor > 0 ? sum_from(&r, 1) : 0;
    if (all == 0) return (int32_t)best;
    SampleKept kept = keep(&r, all, how->top_p);
    uint64_t place = sample_place(how->draw, kept.sum);
    for (int64_t i = 0; i < count; i++) {
        const uint64_t w = weight_at(&r, i);
        if (w < kept.threshold || (w == kept.threshold && kept.ties == 0)) continue;
        if (w == kept.threshold) kept.ties--;
        if (place < w) return (int32_t)i;
        place -= w;
    }
    CHECK(false); /* the weights add up to kept.sum */
    return (int32_t)best;
}

static void rows_cpu(Backend *be, const Tensor *ids, const Tensor *logits, const SampleRow *how)
{
    (void)be;
    const int64_t rows = tensor_rows(logits), cols = tensor_cols(logits);
#pragma omp parallel for schedule(static) if (rows * cols > CPU_PARALLEL_MIN)
    for (int64_t i = 0; i < rows; i++)
        ((int32_t *)ids->data)[i] = draw((const float *)cpu_row_in(logits, i), cols, &how[i]);
}

static const SampleOps sample_ops_cpu = {.rows = rows_cpu};

static const SampleOps *const sample_ops[BACKEND_COUNT] = {
    [BACKEND_CPU] = &sample_ops_cpu,
    [BACKEND_CUDA] = CUDA_OPS(sample_ops_cuda),
};

void sample_rows(Backend *be, const Tensor *ids, const Tensor *logits, const Sampling *how)
{
    enum { AT_ONCE = 64 };
    const int64_t rows = tensor_rows(logits);
    CHECK(logits->rank == 2 && logits->dtype == DTYPE_F32 && tensor_cols(logits) > 0);
    CHECK(ids->rank == 1 && ids->dtype == DTYPE_I32 && ids->shape[0] == rows);
    for (int64_t first = 0; first < rows; first += AT_ONCE) {
        SampleRow row[AT_ONCE];
        const int64_t n = rows - first < AT_ONCE ? rows - first : AT_ONCE;
        for (int64_t i = 0; i < n; i++)
            row[i] = sample_row(&how[first + i]);
        const Tensor to = tensor_slice_flat(ids, first, n), from = tensor_slice_rows(logits, first, n);
        backend_enter(be);
        sample_ops[backend_kind(be)]->rows(be, &to, &from, row);
        backend_leave(be);
    }
}
