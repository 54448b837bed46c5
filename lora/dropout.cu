/*
 * dropout.cu - dropout with the masks of lora/dropout.c. A thread takes 16 bytes: the eight elements that one Philox block
 * decides, 16 bits each, or of f32 half of them, so that neighbours touch neighbouring bytes and a block is made twice.
 * An element is read once and written once.
 */
#include "backend/cuda_philox.cuh"
#include "backend/cuda_vector.cuh"
#include "lora/ops.h"

enum { THREADS = 256, BLOCK_ELEMENTS = 8 };

typedef struct DeviceMask {
    Rng4 sub;
    uint32_t threshold;
    float keep;
} DeviceMask;

__device__ __forceinline__ bool dropped(const Rng4 &words, int element, uint32_t threshold)
{
    return (words.word[element / 2] >> (element % 2 * 16) & 0xffffu) < threshold;
}

/* Words of the N elements from `element` on, first of all the eight of a block or one of its halves. */
template <int N> __device__ __forceinline__ Rng4 pack_words(const Rng4 &sub, int64_t element)
{
    Rng4 words = philox_block(sub, static_cast<uint64_t>(element / BLOCK_ELEMENTS));
    if (N < BLOCK_ELEMENTS && element % BLOCK_ELEMENTS != 0) {
        words.word[0] = words.word[2];
        words.word[1] = words.word[3];
    }
    return words;
}

/* Rows are whole packs of N: N = 8 for 16-bit elements, 4 for f32. */
template <class T, int N>
static __global__ void dropout_packs_kernel(Rows<T> out, Rows<const T> in, DeviceMask m, PackGrid packs)
{
    for (int64_t i = thread_first(); i < packs.count; i += thread_step()) {
        const PackPlace at = pack_place<N>(packs, i);
        const Rng4 words = pack_words<N>(m.sub, i * N);
        float x[N];
        pack_load<N>(x, in.at(at.row, at.col));
        for (int k = 0; k < N; k++)
            x[k] = dropped(words, k, m.threshold) ? 0.0f : __fmul_rn(x[k], m.keep);
        pack_store<N>(out.at(at.row, at.col), x);
    }
}

/* Any rows: blocks are counted in the dense matrix and may cross from one row to the next. */
template <class T>
static __global__ void dropout_elements_kernel(Rows<T> out, Rows<const T> in, DeviceMask m, int64_t cols, int64_t count)
{
    const int64_t blocks = (count + BLOCK_ELEMENTS - 1) / BLOCK_ELEMENTS;
    for (int64_t i = thread_first(); i < blocks; i += thread_step()) {
        const Rng4 words = philox_block(m.sub, static_cast<uint64_t>(i));
#pragma unroll
        for (int k = 0; k < BLOCK_ELEMENTS; k++) {
            if (i * BLOCK_ELEMENTS + k >= count) break;
            const int64_t element = i * BLOCK_ELEMENTS + k, row = quotient(element, cols), col = element - row * cols;
            const float x = element_load(*in.at(row, col));
            *out.at(row, col) = element_round<T>(dropped(words, k, m.threshold) ? 0.0f : __fmul_rn(x, m.keep));
        }
    }
}

static void dropout_cuda(Backend *be, const Tensor *out, const Tensor *in, const Mask *m)
{
    const int64_t rows = tensor_rows(in), cols = tensor_cols(in), count = rows * cols;
    if (count == 0) return;
    const DeviceMask mask = {rng_subkey(m->key), m->threshold, m->keep};
    cuda_typed(in->dtype, [&](auto element) {
        typedef decltype(element) T;
        constexpr int N = cuda_pack<T>;
        if (cols % N == 0 && cuda_packed(out, N) && cuda_packed(in, N)) {
            const PackGrid packs = pack_grid(rows, cols, N);
            CUDA_LAUNCH(be, (dropout_packs_kernel<T, N>), cuda_thread_blocks(be, packs.count, THREADS), THREADS, 0,
                        cuda_rows<T>(out), cuda_rows<const T>(in), mask, packs);
        } else {
            const unsigned grid = cuda_thread_blocks(be, ceil_div(count, BLOCK_ELEMENTS), THREADS);
            CUDA_LAUNCH(be, (dropout_elements_kernel<T>), grid, THREADS, 0, cuda_rows<T>(out), cuda_rows<const T>(in),
                        mask, cols, count);
        }
    });
}

extern "C" const DropoutOps dropout_ops_cuda = {dropout_cuda};
