#include "backend/cuda_row_cache.cuh"
#include "model/ops.h"

/*
 * A block of 1024 takes a row of logits at a time. The first pass finds maximum, sum of exponentials and sum of logits
 * together; the second, where a gradient is asked for, writes it. In between the row stays in shared memory as far as it
 * fits (f32: 58,000 logits of compute capability 9.0, 41,000 of 8.0, 25,000 of 8.6, 8.9 and 12.0, 16,000 of 7.5) and is
 * read a second time beyond that, the latest part first, because the second-level cache still has it. So f32 logits
 * move 4 bytes each without a gradient; with one 8 in place and 6 into 16 bits, plus up to 4 for what fits nowhere.
 * Sums are f32; a thread adds its elements in order, threads are added in a fixed order.
 */
static constexpr int BLOCK = 1024;

/* Below every finite logit that a model yields; where nothing has been seen. */
static constexpr float LOWEST = -3.0e38f;

struct RowStats {
    float max;
    float sum;   /* of e^(x - max) */
    float total; /* of x: for smoothing, and to notice what is not finite (0 * NaN stays NaN in the loss) */
};

/* The sum is rescaled when the maximum moves. */
template <int N> static __device__ __forceinline__ void absorb(RowStats *s, const float (&x)[N], int64_t count)
{
    float max = s->max;
    for (int k = 0; k < N; k++)
        max = fmaxf(max, k < count ? x[k] : LOWEST);
    if (max > s->max) s->sum *= expf(s->max - max);
    s->max = max;
    for (int k = 0; k < N; k++) {
        s->sum += k < count ? expf(x[k] - max) : 0.0f;
        s->total += x[k]; /* zeros beyond the row */
    }
}

static __device__ RowStats combine(const RowStats &own, float *scratch)
{
    RowStats s;
    s.max = block_max<BLOCK>(own.max, scratch);
    s.sum = block_sum<BLOCK>(own.sum * expf(own.max - s.max), scratch);
    s.total = block_sum<BLOCK>(own.total, scratch);
    return s;
}

/* What a launch works on. */
template <class In, class Out> struct Batch {
    float *losses;
    Rows<Out> gradient; /* null: only losses; may be logits */
    Rows<const In> logits;
    const int32_t *targets;
    int64_t rows, cols;
    float smoothing, scale;
};

template <class In, class Out>
static __device__ float loss_of(const Batch<In, Out> &b, const RowStats &s, float target_logit)
{
    const float lse = s.max + logf(s.sum), mean = s.total / static_cast<float>(b.cols);
    return fmaf(b.smoothing, lse - mean, (1.0f - b.smoothing) * (lse - target_logit));
}

/* scale * (softmax - (1 - smoothing) * onehot - smoothing / V); `target` counts from the first element of x. */
template <int N, class In, class Out>
static __device__ __forceinline__ void gradient_of(float (&x)[N], const Batch<In, Out> &b, const RowStats &s,
                                                   int64_t target)
{
    const float uniform = b.scale * b.smoothing / static_cast<float>(b.cols), factor = b.scale / s.sum;
    for (int k = 0; k < N; k++) {
        const float p = expf(x[k] - s.max);
        x[k] = k == target ? fmaf(b.scale, p / s.sum - (1.0f - b.smoothing), -uniform) : fmaf(p, factor, -uniform);
    }
}

template <int N> static __device__ __forceinline__ int64_t round_col(int round)
{
    return (static_cast<int64_t>(round) * BLOCK + threadIdx.x) * N;
}

template <class In, class Out, int N>
static __global__ void __launch_bounds__(BLOCK, 1) rows_kernel(Batch<In, Out> b, RowRounds rounds)
{
    SHARED_DYN(unsigned char, shared);
    SHARED_ARRAY(float, scratch, BLOCK / WARP_SIZE);
    RowCache<In, N, BLOCK> cache(shared, rounds.kept);
    for (int64_t row = blockIdx.x; row < b.rows; row += gridDim.x) {
        const int32_t target = b.targets[row];
        if (target < 0 || target >= b.cols) __trap();
        const float target_logit = element_load(*b.logits.at(row, target)); /* before it may be overwritten */
        RowStats own = {LOWEST, 0.0f, 0.0f};
        float x[N];
        for (int round = 0; round < rounds.all; round++) {
            const int64_t col = round_col<N>(round);
            if (col >= b.cols) break;
            cache.first(x, round, b.logits.at(row, col), b.cols - col);
            absorb<N>(&own, x, b.cols - col);
        }
        const RowStats s = combine(own, scratch);
        if (threadIdx.x == 0) b.losses[row] = loss_of(b, s, target_logit);
        if (!b.gradient.data) continue;
        for (int round = rounds.all - 1; round >= 0; round--) {
            const int64_t col = round_col<N>(round);
            if (col >= b.cols) continue;
            cache.again(x, round, b.logits.at(row, col), b.cols - col);
            gradient_of<N>(x, b, s, target - col);
            pack_store<N>(b.gradient.at(row, col), x, b.cols - col);
        }
    }
}

template <class In, class Out, int N> static void launch(Backend *be, const Batch<In, Out> &b)
{
    const RowRounds rounds = row_rounds<In, N, BLOCK>(b.cols, 1, b.gradient.data ? cuda_row_memory(be) : 0);
    const size_t bytes = rounds.row_bytes + 16; /* never none: the kernel names it */
    if (bytes > SHARED_PLAIN) CUDA_SHARED_LIMIT(be, (rows_kernel<In, Out, N>), bytes);
    CUDA_LAUNCH(be, (rows_kernel<In, Out, N>), cuda_blocks(be, b.rows, 2048 / BLOCK), BLOCK, bytes, b, rounds);
}

static void run_cuda(Backend *be, const Tensor *losses, const Tensor *gradient, const Tensor *logits,
                     const int32_t *targets, float smoothing, float scale)
{
    const Tensor none = tensor_vector(nullptr, logits->dtype, 0), *out = gradient ? gradient : &none;
    cuda_typed(logits->dtype, out->dtype, [&](auto from, auto to) {
        typedef decltype(from) In;
        typedef decltype(to) Out;
        constexpr int N = cuda_pack<In, Out>;
        const bool packed = cuda_packed(logits, N) && cuda_packed(out, N);
        const Batch<In, Out> b = {static_cast<float *>(losses->data),
                                  cuda_rows<Out>(out),
                                  cuda_rows<const In>(logits),
                                  targets,
                                  logits->shape[0],
                                  logits->shape[1],
                                  smoothing,
                                  scale};
        (packed ? launch<In, Out, N> : launch<In, Out, 1>)(be, b);
    });
}

extern "C" const CrossEntropyOps cross_entropy_ops_cuda = {run_cuda};
