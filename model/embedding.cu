#include "backend/cuda_philox.cuh"
#include "backend/cuda_vector.cuh"
#include "model/ops.h"

/*
 * A thread takes one pack at a time, neighbouring threads neighbouring packs, in blocks of 256 that fill the device. The
 * gather reads and writes each element once (the table may also lie in pinned host memory), the noise changes it in
 * place; both are bound by memory. Noise is the CPU's to the bit: every operation is rounded by itself.
 */
static constexpr int THREADS = 256;

/* out = table[ids] */
template <class To, class From, int N>
static __global__ void gather_kernel(Rows<To> out, Rows<const From> table, const int32_t *ids, int64_t vocabulary,
                                     PackGrid grid)
{
    for (int64_t i = thread_first(); i < grid.count; i += thread_step()) {
        const PackPlace at = pack_place<N>(grid, i);
        const int32_t id = ids[at.row];
        if (id < 0 || id >= vocabulary) __trap();
        float x[N];
        pack_load<N>(x, table.at(id, at.col), at.left);
        pack_store<N>(out.at(at.row, at.col), x, at.left);
    }
}

template <class To, class From, int N>
static void gather_launch(Backend *be, const Tensor *out, const Tensor *table, const int32_t *ids)
{
    const PackGrid grid = pack_grid(out->shape[0], out->shape[1], N);
    CUDA_LAUNCH(be, (gather_kernel<To, From, N>), cuda_thread_blocks(be, grid.count, THREADS), THREADS, 0,
                cuda_rows<To>(out), cuda_rows<const From>(table), ids, table->shape[0], grid);
}

static void forward_cuda(Backend *be, const Tensor *out, const Tensor *table, const int32_t *ids)
{
    cuda_typed(out->dtype, table->dtype, [&](auto to, auto from) {
        typedef decltype(to) To;
        typedef decltype(from) From;
        constexpr int N = cuda_pack<To, From>;
        const bool packed = cuda_packed(out, N) && cuda_packed(table, N);
        (packed ? gather_launch<To, From, N> : gather_launch<To, From, 1>)(be, out, table, ids);
    });
}

/* --- noise --- */

typedef struct Noise {
    float alpha;
    Rng4 key;              /* folded: rng_subkey */
    const int32_t *starts; /* (segments + 1), on the device */
    int segments;
} Noise;

/* alpha / sqrt(L C) of the segment that holds the row, 0 outside of all of them. */
static __device__ float magnitude_at(const Noise &noise, int64_t row, int64_t cols)
{
    int low = 0, high = noise.segments; /* the segment, if any, is in [low, high) */
    if (row < noise.starts[0] || row >= noise.starts[high]) return 0.0f;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (noise.starts[middle] <= row)
            low = middle;
        else
            high = middle;
    }
    const int64_t count = (noise.starts[low + 1] - noise.starts[low]) * cols;
    return __fdiv_rn(noise.alpha, __fsqrt_rn(__ll2float_rn(count)));
}

/* Without an index into registers, which would go through memory. */
static __device__ __forceinline__ uint32_t word_of(const Rng4 &r, unsigned k)
{
    return k < 2 ? (k == 0 ? r.word[0] : r.word[1]) : (k == 2 ? r.word[2] : r.word[3]);
}

/* Element (i, j) is word i * C + j of the sequence; a pack is a block of it (N = 4) or one word. */
template <class T, int N> static __global__ void noise_kernel(Rows<T> out, Noise noise, PackGrid grid)
{
    static_assert(N == 4 || N == 1, "a block of random numbers has four words");
    for (int64_t i = thread_first(); i < grid.count; i += thread_step()) {
        const PackPlace at = pack_place<N>(grid, i);
        const float magnitude = magnitude_at(noise, at.row, grid.cols);
        if (magnitude == 0.0f) continue;
        const uint64_t word = static_cast<uint64_t>(at.row * grid.cols + at.col);
        const Rng4 random = philox_block(noise.key, word / 4);
        float x[N];
        pack_load<N>(x, out.at(at.row, at.col));
        for (int k = 0; k < N; k++) {
            const float unit = philox_unit(word_of(random, static_cast<unsigned>(word + static_cast<unsigned>(k)) % 4));
            x[k] = __fadd_rn(x[k], __fmul_rn(__fsub_rn(2.0f * unit, 1.0f), magnitude));
        }
        pack_store<N>(out.at(at.row, at.col), x);
    }
}

template <class T, int N> static void noise_launch(Backend *be, const Tensor *out, const Noise &noise)
{
    const PackGrid grid = pack_grid(out->shape[0], out->shape[1], N);
    CUDA_LAUNCH(be, (noise_kernel<T, N>), cuda_thread_blocks(be, grid.count, THREADS), THREADS, 0, cuda_rows<T>(out),
                noise, grid);
}

static void noise_cuda(Backend *be, const Tensor *out, const Neftune *neftune)
{
    if (neftune->segments == 0) return;
    const size_t bytes = (static_cast<size_t>(neftune->segments) + 1) * sizeof *neftune->starts;
    const Noise noise = {neftune->alpha, rng_subkey(neftune->key),
                         static_cast<const int32_t *>(cuda_stage(be, neftune->starts, bytes)), neftune->segments};
    const bool packed = out->shape[1] % 4 == 0 && cuda_packed(out, 4);
    cuda_typed(out->dtype, [&](auto type) {
        typedef decltype(type) T;
        (packed ? noise_launch<T, 4> : noise_launch<T, 1>)(be, out, noise);
    });
}

extern "C" const EmbeddingOps embedding_ops_cuda = {forward_cuda, noise_cuda};
