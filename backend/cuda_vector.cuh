/*
 * cuda_vector.cuh - elements in memory, f32 in registers: packs of up to 16 bytes that one instruction loads or stores.
 *
 * A pack is N consecutive elements of type T (float, __nv_bfloat16, __half) that start on a multiple of N: 4, 8 or 16 bytes for
 * the memory, N floats for the code. Kernels are templates over T and N. A host function picks N = 16 bytes' worth of
 * the widest type involved (cuda_pack) when every row of every tensor starts on such a multiple (cuda_packed), and N = 1
 * otherwise. One N for all tensors of a kernel keeps every instruction of a warp on consecutive bytes. A row that is no
 * multiple of N ends with a part of a pack, element by element.
 */
#pragma once

#include "backend/cuda.cuh"

typedef __nv_bfloat16 bf16;
typedef __half f16;

/* --- elements --- */

__device__ __forceinline__ float element_load(float x)
{
    return x;
}

__device__ __forceinline__ float element_load(bf16 x)
{
    return __bfloat162float(x);
}

__device__ __forceinline__ float element_load(f16 x)
{
    return __half2float(x);
}

template <class T> __device__ __forceinline__ T element_round(float x);

template <> __device__ __forceinline__ float element_round<float>(float x)
{
    return x;
}

template <> __device__ __forceinline__ bf16 element_round<bf16>(float x)
{
    return __float2bfloat16_rn(x);
}

/* Beyond 65504 it becomes infinite: gradients show an overflow that way. */
template <> __device__ __forceinline__ f16 element_round<f16>(float x)
{
    return __float2half_rn(x);
}

/* --- packs --- */

/* Words of 1 to 16 bytes; 32 are two, for small vectors that stay in the caches beside packs of 8 narrow elements. */
struct alignas(16) TwoWords {
    uint4 low, high;
};

template <int BYTES> struct WordOf;
template <> struct WordOf<1> {
    typedef uint8_t Type;
};
template <> struct WordOf<2> {
    typedef uint16_t Type;
};
template <> struct WordOf<4> {
    typedef uint32_t Type;
};
template <> struct WordOf<8> {
    typedef uint2 Type;
};
template <> struct WordOf<16> {
    typedef uint4 Type;
};
template <> struct WordOf<32> {
    typedef TwoWords Type;
};

template <class T, int N> union Pack {
    typename WordOf<int(sizeof(T)) * N>::Type word;
    T element[N];
    __device__ Pack() : word()
    {
    }
};

/* All N elements at p, a multiple of N elements. */
template <int N, class T> __device__ __forceinline__ void pack_load(float (&x)[N], const T *p)
{
    Pack<T, N> pack;
    pack.word = *reinterpret_cast<const decltype(pack.word) *>(p);
    for (int i = 0; i < N; i++)
        x[i] = element_load(pack.element[i]);
}

template <int N, class T> __device__ __forceinline__ void pack_store(T *p, const float (&x)[N])
{
    Pack<T, N> pack;
    for (int i = 0; i < N; i++)
        pack.element[i] = element_round<T>(x[i]);
    *reinterpret_cast<decltype(pack.word) *>(p) = pack.word;
}

/* The first `count` (at least 1; more than N is N) elements at p; `filler` beyond them. */
template <int N, class T>
__device__ __forceinline__ void pack_load(float (&x)[N], const T *p, int64_t count, float filler = 0.0f)
{
    if (count >= N) {
        pack_load<N>(x, p);
        return;
    }
    for (int i = 0; i < N; i++)
        x[i] = i < count ? element_load(p[i]) : filler;
}

template <int N, class T> __device__ __forceinline__ void pack_store(T *p, const float (&x)[N], int64_t count)
{
    if (count >= N) {
        pack_store<N>(p, x);
        return;
    }
    for (int i = 0; i < N; i++) {
        if (i < count) p[i] = element_round<T>(x[i]);
    }
}

/* --- host side: types and packs --- */

/* Elements of a pack for kernels that touch these types: 16 bytes of the widest. */
template <class... T> static constexpr int cuda_pack = ((sizeof(T) > 2) || ...) ? 4 : 8;

/* Whether packs of n elements can be used on the rows of t. */
static inline bool cuda_packed(const Tensor *t, int n)
{
    const size_t size = dtype_bytes(t->dtype), all = size * static_cast<size_t>(n);
    const bool one = tensor_rows(t) <= 1;
    return reinterpret_cast<uintptr_t>(t->data) % all == 0 && (one || static_cast<size_t>(t->stride) * size % all == 0);
}

/* Calls f with a value of the element type: cuda_typed(t->dtype, [&](auto type) { typedef decltype(type) T; ... }); */
template <class F> static inline void cuda_typed(DType dtype, const F &f)
{
    switch (dtype) {
    case DTYPE_F32: f(float()); return;
    case DTYPE_BF16: f(bf16()); return;
    case DTYPE_F16: f(f16()); return;
    default: CHECK(false);
    }
}

/* A model computes in one 16-bit type, so no kernel mixes both: that would be half of all kernels of several types. */
template <class T, class... Types> static constexpr bool cuda_any = (__is_same(T, Types) || ...);
template <class... T> static constexpr bool cuda_mixable = !(cuda_any<bf16, T...> && cuda_any<f16, T...>);

/* The same for kernels of two types. */
template <class F> static inline void cuda_typed(DType first, DType second, const F &f)
{
    cuda_typed(first, [&](auto a) {
        cuda_typed(second, [&](auto b) {
            if constexpr (cuda_mixable<decltype(a), decltype(b)>)
                f(a, b);
            else
                CHECK(false);
        });
    });
}

/* --- rows --- */

/* Rows of a tensor as kernels see them. */
template <class T> struct Rows {
    T *data;
    int64_t stride;
    __device__ T *at(int64_t row, int64_t col) const
    {
        return data + row * stride + col;
    }
};

template <class T> static inline Rows<T> cuda_rows(const Tensor *t)
{
    return Rows<T>{static_cast<T *>(t->data), t->stride};
}

/* --- loops over work --- */

/*
 * Blocks of a launch that loops over `items` (one block takes one at a time): as many as run at once, `each` on a
 * multiprocessor. Results must not depend on it. One that finds nothing to do when there is no item.
 */
static inline unsigned cuda_blocks(const Backend *be, int64_t items, int each)
{
    const int64_t most = static_cast<int64_t>(cuda_multiprocessors(be)) * each;
    return static_cast<unsigned>(max(min(items, most), static_cast<int64_t>(1)));
}

/* The same for `threads` threads a block, each of which takes an item at a time; fills every multiprocessor. */
static inline unsigned cuda_thread_blocks(const Backend *be, int64_t items, int threads)
{
    enum { RESIDENT = 2048 }; /* threads of a multiprocessor, at most */
    return cuda_blocks(be, ceil_div(items, threads), RESIDENT / threads);
}

/* Bytes of dynamic shared memory that a block can ask for (CUDA_SHARED_LIMIT above 48 KiB). */
static inline size_t cuda_shared_most(const Backend *be)
{
    switch (cuda_capability(be)) {
    case 75: return 64 << 10;
    case 80:
    case 87: return 163 << 10;
    case 90:
    case 100:
    case 103: return 227 << 10;
    default: return 99 << 10; /* 8.6, 8.9, 12.0 and what is newer */
    }
}

/* The first item of this thread and the distance to its next one, for loops over single elements or packs. */
__device__ __forceinline__ int64_t thread_first()
{
    return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

__device__ __forceinline__ int64_t thread_step()
{
    return static_cast<int64_t>(gridDim.x) * blockDim.x;
}

/* The same for loops of whole warps over items. */
__device__ __forceinline__ int64_t warp_first()
{
    return thread_first() / WARP_SIZE;
}

__device__ __forceinline__ int64_t warp_step()
{
    return thread_step() / WARP_SIZE;
}

/* a / b of non-negative numbers: 64-bit divisions take a hundred instructions, 32-bit ones twenty. */
__device__ __forceinline__ int64_t quotient(int64_t a, int64_t b)
{
    if (((a | b) >> 32) == 0) return static_cast<uint32_t>(a) / static_cast<uint32_t>(b);
    return a / b;
}

/* Packs of rows x cols elements, numbered row by row. Tensors without gaps are one long row. */
typedef struct PackGrid {
    int64_t cols, per_row, count;
} PackGrid;

typedef struct PackPlace {
    int64_t row, col, left; /* `left`: elements of the row from here on */
} PackPlace;

static inline PackGrid pack_grid(int64_t rows, int64_t cols, int n)
{
    const int64_t per_row = ceil_div(cols, n);
    return PackGrid{cols, per_row, rows * per_row};
}

template <int N> __device__ __forceinline__ PackPlace pack_place(const PackGrid &g, int64_t i)
{
    const int64_t row = i < g.per_row ? 0 : quotient(i, g.per_row), col = (i - row * g.per_row) * N;
    return PackPlace{row, col, g.cols - col};
}
