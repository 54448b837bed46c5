#include "backend/cuda_vector.cuh"
#include "model/ops.h"
#include "model/sample_weight.h"

/*
 * A block of 1024 draws from one row. Sums of weights are integers, so threads take every 1024th logit; only the last
 * step needs the order of tokens: there a thread takes a run of neighbours, and the first thread looks for the run and
 * then for the token. A greedy row is read once, a drawn one twice and once more for each of the 33 bits of the top-p
 * threshold, all but the first time from the caches: 0.5 MB for 128,000 logits.
 */
static constexpr int BLOCK = 1024;

struct RowLogits {
    const float *logits;
    int64_t count;
    float largest, factor;
};

static __device__ __forceinline__ uint64_t weight_at(const RowLogits &r, int64_t i)
{
    return sample_weight(r.logits[i], r.largest, r.factor);
}

/* Logits in an order of integers: of equals the first, and what is not a number below all. */
static __device__ __forceinline__ uint64_t rank_of(float logit, int64_t i)
{
    if (isnan(logit)) return 0;
    const float value = logit + 0.0f; /* -0 is 0 */
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    bits = bits >> 31 ? ~bits : bits | 0x80000000u;
    return static_cast<uint64_t>(bits) << 32 | (0xffffffffu - static_cast<uint32_t>(i));
}

static __device__ uint64_t block_largest(uint64_t value, uint64_t *scratch)
{
    for (int distance = WARP_SIZE / 2; distance > 0; distance /= 2)
        value = max(value, __shfl_xor_sync(FULL_WARP, value, distance));
    if (threadIdx.x % WARP_SIZE == 0) scratch[threadIdx.x / WARP_SIZE] = value;
    __syncthreads();
    for (int i = 0; i < BLOCK / WARP_SIZE; i++)
        value = max(value, scratch[i]);
    __syncthreads();
    return value;
}

static __device__ int64_t likeliest(const float *logits, int64_t count, uint64_t *scratch)
{
    uint64_t best = 0;
    for (int64_t i = threadIdx.x; i < count; i += BLOCK)
        best = max(best, rank_of(logits[i], i));
    best = block_largest(best, scratch);
    return best == 0 ? 0 : static_cast<int64_t>(0xffffffffu - static_cast<uint32_t>(best));
}

static __device__ uint64_t sum_from(const RowLogits &r, uint64_t least, uint64_t *scratch)
{
    uint64_t sum = 0;
    for (int64_t i = threadIdx.x; i < r.count; i += BLOCK) {
        const uint64_t w = weight_at(r, i);
        sum += w >= least ? w : 0;
    }
    return block_sum<BLOCK>(sum, scratch);
}

static __device__ SampleKept keep(const RowLogits &r, uint64_t all, double top_p, uint64_t *scratch)
{
    const uint64_t needed = sample_needed(all, top_p);
    uint64_t threshold = 1;
    if (needed < all) {
        threshold = 0;
        for (int bit = 32; bit >= 0; bit--) {
            const uint64_t higher = threshold | static_cast<uint64_t>(1) << bit;
            if (sum_from(r, higher, scratch) >= needed) threshold = higher;
        }
    }
    return sample_kept(threshold, sum_from(r, threshold + 1, scratch), needed);
}

/* Of a run of tokens: the weights over the threshold, and how many lie on it. */
struct Run {
    uint64_t above, ties;
};

static __device__ Run run_of(const RowLogits &r, uint64_t threshold, int64_t first, int64_t end)
{
    Run run = {0, 0};
    for (int64_t i = first; i < end; i++) {
        const uint64_t w = weight_at(r, i);
        if (w > threshold) run.above += w;
        if (w == threshold) run.ties++;
    }
    return run;
}

/* The token at `place` of the kept weights, whose runs of `length` tokens are added up already; one thread. */
static __device__ int64_t find(const RowLogits &r, SampleKept kept, uint64_t place, const Run *runs, int64_t length)
{
    int64_t first = 0;
    for (int t = 0; t < BLOCK; t++, first += length) {
        const uint64_t ties = min(runs[t].ties, kept.ties), sum = runs[t].above + ties * kept.threshold;
        if (place < sum) break;
        place -= sum;
        kept.ties -= ties;
    }
    for (int64_t i = first; i < r.count; i++) {
        const uint64_t w = weight_at(r, i);
        if (w < kept.threshold || (w == kept.threshold && kept.ties == 0)) continue;
        if (w == kept.threshold) kept.ties--;
        if (place < w) return i;
        place -= w;
    }
    return 0; /* not reached: the weights add up to kept.sum */
}

static __global__ void __launch_bounds__(BLOCK)
    sample_kernel(int32_t *ids, Rows<const float> logits, int64_t count, const SampleRow *how)
{
    SHARED_ARRAY(uint64_t, scratch, BLOCK / WARP_SIZE);
    SHARED_ARRAY(Run, runs, BLOCK);
    const SampleRow row = how[blockIdx.x];
    RowLogits r = {logits.at(blockIdx.x, 0), count, 0.0f, row.factor};
    const int64_t best = likeliest(r.logits, count, scratch);
    r.largest = r.logits[best];
    const uint64_t all = row.factor > 0.0f ? sum_from(r, 1, scratch) : 0;
    if (all == 0) {
        if (threadIdx.x == 0) ids[blockIdx.x] = static_cast<int32_t>(best);
        return;
    }
    const SampleKept kept = keep(r, all, row.top_p, scratch);
    const int64_t length = (count + BLOCK - 1) / BLOCK, first = min(length * threadIdx.x, count);
    runs[threadIdx.x] = run_of(r, kept.threshold, first, min(first + length, count));
    __syncthreads();
    if (threadIdx.x > 0) return;
    ids[blockIdx.x] = static_cast<int32_t>(find(r, kept, sample_place(row.draw, kept.sum), runs, length));
}

static void rows_cuda(Backend *be, const Tensor *ids, const Tensor *logits, const SampleRow *how)
{
    const int64_t rows = tensor_rows(logits);
    const void *staged = cuda_stage(be, how, static_cast<size_t>(rows) * sizeof *how);
    CUDA_LAUNCH(be, sample_kernel, static_cast<unsigned>(rows), BLOCK, 0, static_cast<int32_t *>(ids->data),
                cuda_rows<const float>(logits), tensor_cols(logits), static_cast<const SampleRow *>(staged));
}

extern "C" const SampleOps sample_ops_cuda = {rows_cuda};
