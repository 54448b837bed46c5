/*
 * cuda_words.cuh - moving rows as they are, whatever their type: as words of up to 16 bytes.
 */
#pragma once

#include "backend/cuda_vector.cuh"

/* Bytes of the widest word of which addresses, strides and rows of these tensors are multiples. */
static inline int cuda_word(const Tensor *t)
{
    const size_t size = dtype_bytes(t->dtype), gap = tensor_rows(t) > 1 ? static_cast<size_t>(t->stride) : 0;
    const size_t all = reinterpret_cast<uintptr_t>(t->data) | gap * size | static_cast<size_t>(tensor_cols(t)) * size;
    int word = 16;
    while (all % static_cast<size_t>(word) != 0)
        word /= 2;
    return word;
}

/* Calls f with a value of the word of this many bytes. */
template <class F> static inline void cuda_worded(int bytes, const F &f)
{
    switch (bytes) {
    case 1: f(WordOf<1>::Type()); return;
    case 2: f(WordOf<2>::Type()); return;
    case 4: f(WordOf<4>::Type()); return;
    case 8: f(WordOf<8>::Type()); return;
    case 16: f(WordOf<16>::Type()); return;
    default: CHECK(false);
    }
}

/* The rows of t in words of type W. */
template <class W> static inline Rows<W> cuda_word_rows(const Tensor *t)
{
    const size_t size = dtype_bytes(t->dtype);
    return Rows<W>{static_cast<W *>(t->data), static_cast<int64_t>(static_cast<size_t>(t->stride) * size / sizeof(W))};
}

static constexpr int WORD_THREADS = 256;

/*
 * to[to_index[i]] = from[from_index[i]], i < rows; a null index is i itself. Each word is read and written once; a
 * thread moves a word at a time, neighbours neighbouring ones.
 */
template <class W>
static __global__ void words_copy_kernel(Rows<W> to, Rows<const W> from, const int32_t *to_index,
                                         const int32_t *from_index, PackGrid grid)
{
    for (int64_t i = thread_first(); i < grid.count; i += thread_step()) {
        const PackPlace at = pack_place<1>(grid, i);
        const int64_t target = to_index ? to_index[at.row] : at.row, source = from_index ? from_index[at.row] : at.row;
        *to.at(target, at.col) = *from.at(source, at.col);
    }
}

/* The number of rows moved is that of the index, or of both tensors; indices lie on the device. */
static inline void cuda_words_copy(Backend *be, const Tensor *to, const Tensor *from, const int32_t *to_index,
                                   const int32_t *from_index)
{
    const int word = min(cuda_word(to), cuda_word(from));
    const int64_t rows = to_index ? tensor_rows(from) : tensor_rows(to);
    cuda_worded(word, [&](auto unit) {
        typedef decltype(unit) W;
        const int64_t words =
            static_cast<int64_t>(static_cast<size_t>(tensor_cols(to)) * dtype_bytes(to->dtype) / sizeof(W));
        const PackGrid grid = pack_grid(rows, words, 1);
        CUDA_LAUNCH(be, (words_copy_kernel<W>), cuda_thread_blocks(be, grid.count, WORD_THREADS), WORD_THREADS, 0,
                    cuda_word_rows<W>(to), cuda_word_rows<const W>(from), to_index, from_index, grid);
    });
}
