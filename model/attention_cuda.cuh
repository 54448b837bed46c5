/*
 * attention_cuda.cuh - what the CUDA kernels of attention share: which keys a query sees, tiles in shared memory,
 * operands of tensor core products. Only model/attention*.cu look at it.
 *
 * Rows of a micro-batch are cut into tiles of queries and of keys, whatever the segments are, as on the CPU: no tile is
 * empty, several short segments share one, and a tile runs over the keys from the first that its first row sees to
 * its last row. What lies before a row's segment or after the row is masked.
 *
 * Kernels for 16-bit elements exist for head sizes 64, 80, 96, 128 and 256; heads of another size are filled up with
 * zeros in shared memory. Rows there are one 16-byte chunk longer than the head, an odd number of chunks, so that the
 * same columns of 8 rows lie in 8 different groups of banks: ldmatrix, fragments that are stored and copies that fill
 * tiles (tile_place) never meet in a bank.
 */
#pragma once

#include "backend/cuda_vector.cuh"
#include "model/attention.h"

#define ATTENTION_LOG2E 1.44269504088896340736
#define ATTENTION_LN2 0.69314718055994530942f

/* A masked score lies far below the lowest maximum, so its weight is exactly zero, also before a real key came. */
static constexpr float MASKED = -1e30f, LOWEST = -1e20f;

/* Statistics of backward are padded to a multiple of this many rows; every tile of rows divides it. */
static constexpr int TILE_ROWS_MAX = 128, WARPS = 4, BLOCK = WARPS * WARP_SIZE;

/* Sizes as kernels take them; `starts` lies on the device. */
typedef struct AttentionShape {
    int n, heads, kv_heads, group, head_dim, segments;
    int window; /* n when there is none */
    const int32_t *starts;
    float scale, factor; /* factor: scale * log2 e, for powers of 2 */
} AttentionShape;

AttentionShape attention_shape(Backend *be, const Attention *at, int64_t n);

/* A tensor of rows of heads. */
template <class T> struct Heads {
    T *data;
    int64_t stride; /* elements from row to row */
    bool vector;    /* 16 bytes at a time: aligned rows and heads */
};

template <class T> static inline Heads<T> heads_of(const Tensor *t, int head_dim)
{
    constexpr int n = 16 / sizeof(T);
    return Heads<T>{static_cast<T *>(t->data), t->stride, head_dim % n == 0 && cuda_packed(t, n)};
}

/* --- who sees whom --- */

/* The segment that holds row < n: the last that starts at or before it, so empty ones are passed over. */
__device__ __forceinline__ int segment_of(const AttentionShape &a, int row)
{
    int first = 0, last = a.segments - 1;
    while (first < last) {
        const int middle = first + (last - first + 1) / 2;
        if (a.starts[middle] <= row) {
            first = middle;
        } else {
            last = middle - 1;
        }
    }
    return first;
}

/* First key that a query sees; rows that do not exist are like the last one. */
__device__ __forceinline__ int first_key(const AttentionShape &a, int query)
{
    const int row = min(query, a.n - 1);
    return max(a.starts[segment_of(a, row)], row - a.window + 1);
}

/* One past the last query that sees a key. */
__device__ __forceinline__ int end_query(const AttentionShape &a, int key)
{
    const int row = min(key, a.n - 1);
    return min(a.starts[segment_of(a, row) + 1], row + a.window);
}

/*
 * What happens to the score of a visible pair (q k, not yet scaled), and its derivative: nothing here. A model with a
 * soft cap brings a rule of its own.
 */
struct PlainScore {
    static __device__ __forceinline__ float value(float score)
    {
        return score;
    }
    static __device__ __forceinline__ float slope(float)
    {
        return 1.0f;
    }
};

/* --- tiles in shared memory --- */

template <int HEAD> constexpr int pitch_of = HEAD + 8; /* elements of 2 bytes */

/*
 * Chunk i of a tile of rows, in the order in which consecutive threads copy them. 8 threads at a time write whole lines
 * of banks: 8 chunks of a row where rows have a multiple of 8, else 4 of rows r and r + 4, or 2 of rows r, r + 2, r + 4
 * and r + 6. From global memory they read at least 32 bytes in a row.
 */
struct TilePlace {
    int row, col; /* col in elements */
};

template <int HEAD> __device__ __forceinline__ TilePlace tile_place(int i)
{
    constexpr int chunks = HEAD / 8, wide = chunks % 8 == 0 ? 8 : chunks % 4 == 0 ? 4 : 2;
    static_assert(chunks % 2 == 0, "an odd pitch");
    const int patch = i / (8 * wide), inside = i % (8 * wide), line = inside % 8; /* 8 rows x `wide` chunks */
    const int row = patch / (chunks / wide) * 8 + inside / 8 + line / wide * wide;
    return TilePlace{row, (patch % (chunks / wide) * wide + line % wide) * 8};
}

/* Rows first .. first + ROWS of one head into a tile, zeros after row `limit` and after column `dim`. */
template <int HEAD, bool VECTOR, int ROWS, class T>
__device__ __forceinline__ void tile_load(T *tile, const Heads<const T> &from, int column, int first, int limit,
                                          int dim)
{
    constexpr int pitch = pitch_of<HEAD>;
    if (VECTOR) {
        const T *base = from.data + column;
#pragma unroll 1
        for (int i = threadIdx.x; i < ROWS * HEAD / 8; i += BLOCK) {
            const TilePlace at = tile_place<HEAD>(i);
            const bool valid = first + at.row < limit && at.col < dim;
            const T *src = valid ? base + (first + at.row) * from.stride + at.col : base;
            cp_async16_zfill(tile + at.row * pitch + at.col, src, valid ? 16 : 0);
        }
    } else {
        for (int i = threadIdx.x; i < ROWS * HEAD; i += BLOCK) {
            const int row = i / HEAD, col = i % HEAD;
            const bool valid = first + row < limit && col < dim;
            tile[row * pitch + col] =
                valid ? from.data[(first + row) * from.stride + column + col] : element_round<T>(0.0f);
        }
    }
}

/* Rows of a tile that one warp wrote, to one head of rows first .. limit. */
template <int HEAD, bool VECTOR, int ROWS, class T>
__device__ __forceinline__ void tile_store(const Heads<T> &to, int column, int first, int limit, int dim, const T *tile)
{
    constexpr int pitch = pitch_of<HEAD>;
    const int lane = threadIdx.x % WARP_SIZE;
    if (VECTOR) {
        for (int i = lane; i < ROWS * HEAD / 8; i += WARP_SIZE) {
            const TilePlace at = tile_place<HEAD>(i);
            if (first + at.row >= limit || at.col >= dim) continue;
            *reinterpret_cast<uint4 *>(to.data + (first + at.row) * to.stride + column + at.col) =
                *reinterpret_cast<const uint4 *>(tile + at.row * pitch + at.col);
        }
    } else {
        for (int i = lane; i < ROWS * HEAD; i += WARP_SIZE) {
            const int row = i / HEAD, col = i % HEAD;
            if (first + row < limit && col < dim)
                to.data[(first + row) * to.stride + column + col] = tile[row * pitch + col];
        }
    }
}

/* --- operands of products, 16 x 16 elements at a time (cuda.cuh says which lane holds what) --- */

/*
 * 16-bit elements of tensor core products. `wide_head`: heads up to this size get large tiles. With f16 all tiles fit the
 * 64 KiB of compute capability 7.5, but for those of heads over 128; there attention_plain.cu steps in.
 */
template <class T> struct Multiply;

template <> struct Multiply<f16> {
    static constexpr int wide_head = 64;
    static __device__ __forceinline__ void add(float c[4], const uint32_t a[4], const uint32_t b[2])
    {
        mma_f16_16x8x16(c, a, b, c);
    }
    static __device__ __forceinline__ uint32_t pair(float low, float high)
    {
        const __half2 two = __floats2half2_rn(low, high);
        uint32_t bits;
        memcpy(&bits, &two, sizeof bits);
        return bits;
    }
};

template <> struct Multiply<bf16> {
    static constexpr int wide_head = 128;
    static __device__ __forceinline__ void add(float c[4], const uint32_t a[4], const uint32_t b[2])
    {
        mma_bf16_16x8x16(c, a, b, c);
    }
    static __device__ __forceinline__ uint32_t pair(float low, float high)
    {
        const __nv_bfloat162 two = __floats2bfloat162_rn(low, high);
        uint32_t bits;
        memcpy(&bits, &two, sizeof bits);
        return bits;
    }
};

/* What the tiles of a block may take: shared memory of 7.5 for f16, of 8.6 and newer for the rest. */
template <class T, int HEAD> constexpr size_t tiles_most = (__is_same(T, f16) && HEAD <= 128 ? 64 : 99) << 10;

/* A from a tile of its rows. */
template <int HEAD, class T> __device__ __forceinline__ void load_a(uint32_t a[4], const T *tile, int row, int col)
{
    const int lane = threadIdx.x % WARP_SIZE;
    ldmatrix_x4(a, tile + (row + lane % 16) * pitch_of<HEAD> + col + lane / 16 * 8);
}

/* B of two products side by side, from a tile of its columns: k runs along the rows of the tile. */
template <int HEAD, class T> __device__ __forceinline__ void load_b(uint32_t b[4], const T *tile, int row, int col)
{
    const int lane = threadIdx.x % WARP_SIZE;
    ldmatrix_x4(b, tile + (row + lane / 16 * 8 + lane % 8) * pitch_of<HEAD> + col + lane / 8 % 2 * 8);
}

/* The same from a tile of its rows: k runs down the tile. */
template <int HEAD, class T> __device__ __forceinline__ void load_b_down(uint32_t b[4], const T *tile, int row, int col)
{
    const int lane = threadIdx.x % WARP_SIZE;
    ldmatrix_x4_trans(b, tile + (row + lane % 16) * pitch_of<HEAD> + col + lane / 16 * 8);
}

/* Of a product over the head, so many steps at a time: the operands of all of a long one would not fit the registers. */
template <int HEAD> constexpr int head_steps = HEAD > 96 ? 4 : HEAD / 16;

/* c += a b^T over the head: 16 MT rows of tile `a` from a_row on, 16 NT rows of tile `b`. */
template <int HEAD, int MT, int NT, class T>
__device__ __forceinline__ void product_over_head(float (&c)[MT][2 * NT][4], const T *a, int a_row, const T *b)
{
#pragma unroll head_steps < HEAD>
    for (int k = 0; k < HEAD; k += 16) {
        uint32_t left[MT][4];
#pragma unroll
        for (int m = 0; m < MT; m++)
            load_a<HEAD>(left[m], a, a_row + 16 * m, k);
#pragma unroll
        for (int n = 0; n < NT; n++) {
            uint32_t right[4];
            load_b<HEAD>(right, b, 16 * n, k);
#pragma unroll
            for (int m = 0; m < MT; m++) {
                Multiply<T>::add(c[m][2 * n], left[m], right);
                Multiply<T>::add(c[m][2 * n + 1], left[m], right + 2);
            }
        }
    }
}

/* c += a b: a (16 MT, 16 KT) in registers as a product left it, b 16 KT rows of a tile. */
template <int HEAD, int MT, int KT, class T>
__device__ __forceinline__ void product_over_rows(float (&c)[MT][HEAD / 8][4], const uint32_t (&a)[MT][KT][4],
                                                  const T *b)
{
#pragma unroll
    for (int k = 0; k < KT; k++) {
#pragma unroll
        for (int n = 0; n < HEAD / 16; n++) {
            uint32_t right[4];
            load_b_down<HEAD>(right, b, 16 * k, 16 * n);
#pragma unroll
            for (int m = 0; m < MT; m++) {
                Multiply<T>::add(c[m][2 * n], a[m][k], right);
                Multiply<T>::add(c[m][2 * n + 1], a[m][k], right + 2);
            }
        }
    }
}

/* The sum of a product as the left operand of the next one: two 16 x 8 blocks become one of 16 x 16. */
template <class T, int MT, int KT>
__device__ __forceinline__ void as_operand(uint32_t (&a)[MT][KT][4], const float (&c)[MT][2 * KT][4])
{
#pragma unroll
    for (int m = 0; m < MT; m++) {
#pragma unroll
        for (int k = 0; k < KT; k++) {
#pragma unroll
            for (int i = 0; i < 4; i++)
                a[m][k][i] = Multiply<T>::pair(c[m][2 * k + i / 2][i % 2 * 2], c[m][2 * k + i / 2][i % 2 * 2 + 1]);
        }
    }
}

template <int MT, int NT> __device__ __forceinline__ void set_zero(float (&c)[MT][NT][4])
{
#pragma unroll
    for (int m = 0; m < MT; m++) {
#pragma unroll
        for (int n = 0; n < NT; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++)
                c[m][n][i] = 0.0f;
        }
    }
}

/* 16 MT rows of sums, times a factor per row, rounded into rows `row` on of a tile. */
template <int HEAD, int MT, class T>
__device__ __forceinline__ void sums_to_tile(T *tile, int row, const float (&c)[MT][HEAD / 8][4],
                                             const float (&factors)[MT][2])
{
    const int lane = threadIdx.x % WARP_SIZE;
#pragma unroll
    for (int m = 0; m < MT; m++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            T *to = tile + (row + 16 * m + 8 * h + lane / 4) * pitch_of<HEAD> + lane % 4 * 2;
#pragma unroll
            for (int n = 0; n < HEAD / 8; n++) {
                const float factor = factors[m][h];
                *reinterpret_cast<uint32_t *>(to + 8 * n) =
                    Multiply<T>::pair(c[m][n][2 * h] * factor, c[m][n][2 * h + 1] * factor);
            }
        }
    }
}

/* --- launches --- */

/*
 * Calls f with the kind of the kernel that serves heads of `head_dim`. Where 16-byte accesses are not aligned, elements
 * are moved one by one: a rare case that has only two sizes.
 */
template <int HEAD, bool VECTOR> struct HeadKind {
    static constexpr int head = HEAD;
    static constexpr bool vector = VECTOR;
};

template <class F> static inline void attention_sized(int head_dim, bool vector, const F &f)
{
    CHECK(head_dim <= 256);
    if (!vector) return head_dim <= 64 ? f(HeadKind<64, false>()) : f(HeadKind<256, false>());
    if (head_dim <= 64) return f(HeadKind<64, true>());
    if (head_dim <= 80) return f(HeadKind<80, true>());
    if (head_dim <= 96) return f(HeadKind<96, true>());
    if (head_dim <= 128) return f(HeadKind<128, true>());
    f(HeadKind<256, true>());
}

/* --- between the files --- */

/* Where backward keeps, per head and row, -lse log2 e and rowsum(dout * out); zeros in rows n .. pitch. */
typedef struct Statistics {
    const float *shift, *delta; /* (heads, pitch) */
    int64_t pitch;
} Statistics;

/* attention_plain.cu: f32 on CUDA cores, and f16 of heads whose tiles do not fit the device */
void attention_plain_forward(Backend *be, const AttentionShape &a, const Tensor *out, const Tensor *lse,
                             const Tensor *qkv);
void attention_plain_backward(Backend *be, const AttentionShape &a, const Tensor *dqkv, const Tensor *dout,
                              const Tensor *qkv, const Statistics &s);

void attention_forward_cuda(Backend *be, const Attention *at, const Tensor *out, const Tensor *lse, const Tensor *qkv,
                            const Tensor *scratch);
void attention_backward_cuda(Backend *be, const Attention *at, const Tensor *dqkv, const Tensor *dout,
                             const Tensor *out, const Tensor *lse, const Tensor *qkv, const Tensor *scratch);
void attention_decode_cuda(Backend *be, const Attention *at, const Tensor *out, const Tensor *q, const Tensor *keys,
                           const Tensor *values, int64_t capacity, const int32_t *lengths, const Tensor *scratch);
int64_t attention_decode_floats_cuda(int64_t longest, int heads, int head_dim);
int64_t attention_backward_floats_cuda(int64_t n, int heads);
