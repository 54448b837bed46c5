/*
 * out = softmax(scale q k^T) v, block of keys by block of keys; maximum and sum follow as the blocks come.
 *
 * grid   one block of 4 warps for each (tile of queries, head): the last tiles first, they have the most keys; the heads
 *        of a tile side by side, so that those of one group share keys in the cache
 * warp   16 or 32 queries with all of their sums in registers; blocks of keys and values come through shared memory, the
 *        next one while this one is computed
 * exact  scores, softmax and sums in f32; weights are rounded to the element type for the second product
 * A warp leaves out blocks of which it sees nothing and masks only those at the edge of what it sees.
 */
#include "model/attention_cuda.cuh"

template <class T, int HEAD> struct ForwardTile {
    static constexpr int m_tiles = HEAD <= Multiply<T>::wide_head ? 2 : 1; /* of 16 queries a warp */
    static constexpr int queries = 16 * m_tiles * WARPS, keys = HEAD <= 80 ? 64 : 32;
    static constexpr int stage = 2 * keys * pitch_of<HEAD>; /* elements: keys, then values */
    static constexpr size_t bytes = size_t(queries * pitch_of<HEAD> + 2 * stage) * 2;
};

/* Running statistics of rows 8 h + lane / 4 of block m, as products leave them. */
template <int MT> struct Softmax {
    float max[MT][2], sum[MT][2]; /* of scores so far; `sum` is this lane's share */
};

template <int MT> __device__ __forceinline__ void softmax_begin(Softmax<MT> &r)
{
#pragma unroll
    for (int m = 0; m < MT; m++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            r.max[m][h] = LOWEST;
            r.sum[m][h] = 0.0f;
        }
    }
}

/* Scores of key0 .. that a row does not see; the row sees first .. row. */
template <int MT, int NT>
__device__ __forceinline__ void mask(float (&s)[MT][NT][4], const AttentionShape &a, int row, int key0)
{
    const int lane = threadIdx.x % WARP_SIZE;
#pragma unroll
    for (int m = 0; m < MT; m++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int query = row + 16 * m + 8 * h + lane / 4, first = first_key(a, query);
#pragma unroll
            for (int i = 0; i < 2 * NT; i++) {
                const int key = key0 + 8 * (i / 2) + lane % 4 * 2 + i % 2;
                if (key > query || key < first) s[m][i / 2][2 * h + i % 2] = MASKED;
            }
        }
    }
}

/* Largest scores of the rows so far, and what the sums so far are multiplied with to fit them. */
template <int MT, int NT>
__device__ __forceinline__ void raise(float (&shrink)[MT][2], Softmax<MT> &r, const float (&s)[MT][NT][4], float factor)
{
#pragma unroll
    for (int m = 0; m < MT; m++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float most = r.max[m][h];
#pragma unroll
            for (int n = 0; n < NT; n++)
                most = fmaxf(most, fmaxf(s[m][n][2 * h], s[m][n][2 * h + 1]));
            most = fmaxf(most, __shfl_xor_sync(FULL_WARP, most, 1));
            most = fmaxf(most, __shfl_xor_sync(FULL_WARP, most, 2));
            shrink[m][h] = ex2((r.max[m][h] - most) * factor);
            r.max[m][h] = most;
        }
    }
}

/* Scores become weights 2^((s - max) factor). */
template <int MT, int NT>
__device__ __forceinline__ void weigh(float (&s)[MT][NT][4], Softmax<MT> &r, const float (&shrink)[MT][2], float factor)
{
#pragma unroll
    for (int m = 0; m < MT; m++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float shift = -r.max[m][h] * factor;
            float sum = 0.0f;
#pragma unroll
            for (int n = 0; n < NT; n++) {
#pragma unroll
                for (int i = 2 * h; i < 2 * h + 2; i++) {
                    s[m][n][i] = ex2(fmaf(s[m][n][i], factor, shift));
                    sum += s[m][n][i];
                }
            }
            r.sum[m][h] = fmaf(r.sum[m][h], shrink[m][h], sum);
        }
    }
}

/* Once the largest scores stand, which is soon, all factors are 1 and nothing is to be done. */
template <int MT, int WIDTH>
__device__ __forceinline__ void rescale(float (&o)[MT][WIDTH][4], const float (&shrink)[MT][2])
{
    bool any = false;
#pragma unroll
    for (int i = 0; i < 2 * MT; i++)
        any = any || shrink[i / 2][i % 2] != 1.0f;
    if (!__any_sync(FULL_WARP, any)) return;
#pragma unroll
    for (int m = 0; m < MT; m++) {
#pragma unroll
        for (int d = 0; d < WIDTH; d++) {
#pragma unroll
            for (int i = 0; i < 4; i++)
                o[m][d][i] *= shrink[m][i / 2];
        }
    }
}

/* What a row's sums are divided by; lse = ln(sum) + max factor ln 2. */
template <int MT>
__device__ __forceinline__ void softmax_end(float (&inverse)[MT][2], const Softmax<MT> &r, const AttentionShape &a,
                                            int row, int head, float *lse, int64_t lse_stride)
{
    const int lane = threadIdx.x % WARP_SIZE;
#pragma unroll
    for (int m = 0; m < MT; m++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float sum = r.sum[m][h];
            sum += __shfl_xor_sync(FULL_WARP, sum, 1);
            sum += __shfl_xor_sync(FULL_WARP, sum, 2);
            inverse[m][h] = 1.0f / sum;
            const int query = row + 16 * m + 8 * h + lane / 4;
            if (lane % 4 == 0 && query < a.n)
                lse[query * lse_stride + head] = fmaf(r.max[m][h] * a.factor, ATTENTION_LN2, logf(sum));
        }
    }
}

/* One block of keys and values for 16 MT rows. */
template <int HEAD, class Score, int MT, int KEYS, class T>
__device__ __forceinline__ void add_block(float (&o)[MT][HEAD / 8][4], Softmax<MT> &r, const AttentionShape &a,
                                          const T *queries, int local, int row, const T *keys, int key0, bool edge)
{
    float s[MT][KEYS / 8][4], shrink[MT][2];
    set_zero(s);
    product_over_head<HEAD, MT, KEYS / 16>(s, queries, local, keys);
#pragma unroll
    for (int i = 0; i < MT * KEYS / 2; i++) {
        float &score = s[i / (KEYS / 2)][i / 4 % (KEYS / 8)][i % 4];
        score = Score::value(score);
    }
    if (edge) mask(s, a, row, key0);
    raise(shrink, r, s, a.factor);
    weigh(s, r, shrink, a.factor);
    rescale(o, shrink);
    uint32_t p[MT][KEYS / 16][4];
    as_operand<T>(p, s);
    product_over_rows<HEAD>(o, p, keys + KEYS * pitch_of<HEAD>);
}

template <class T, int HEAD, bool VECTOR, class Score>
static __global__ void __launch_bounds__(BLOCK, 2)
    attention_kernel(AttentionShape a, Heads<T> out, float *lse, int64_t lse_stride, Heads<const T> qkv)
{
    typedef ForwardTile<T, HEAD> Tile;
    constexpr int MT = Tile::m_tiles, KEYS = Tile::keys;
    SHARED_DYN(T, queries);
    T *const stages = queries + Tile::queries * pitch_of<HEAD>;

    const int tiles = (a.n + Tile::queries - 1) / Tile::queries, head = int(blockIdx.x) % a.heads;
    const int first = (tiles - 1 - int(blockIdx.x) / a.heads) * Tile::queries;
    const int begin = first_key(a, first), end = min(first + Tile::queries, a.n);
    const auto load_keys = [&](T *stage, int key0) {
        const int column = (a.heads + head / a.group) * a.head_dim;
        tile_load<HEAD, VECTOR, KEYS>(stage, qkv, column, key0, a.n, a.head_dim);
        tile_load<HEAD, VECTOR, KEYS>(stage + KEYS * pitch_of<HEAD>, qkv, column + a.kv_heads * a.head_dim, key0, a.n,
                                      a.head_dim);
    };
    tile_load<HEAD, VECTOR, Tile::queries>(queries, qkv, head * a.head_dim, first, a.n, a.head_dim);
    load_keys(stages, begin);
    cp_async_commit();

    /* rows of this warp, and the first keys that some and that all of them see */
    const int local = int(threadIdx.x) / WARP_SIZE * 16 * MT, row = first + local;
    const int some = first_key(a, row), all = first_key(a, row + 16 * MT - 1);
    Softmax<MT> rows;
    softmax_begin(rows);
    float o[MT][HEAD / 8][4];
    set_zero(o);
    int now = 0;
    for (int key0 = begin; key0 < end; key0 += KEYS, now ^= 1) {
        cp_async_wait<0>();
        __syncthreads(); /* this block is here, and nobody needs the one before */
        if (key0 + KEYS < end) load_keys(stages + (now ^ 1) * Tile::stage, key0 + KEYS);
        cp_async_commit();
        if (key0 < row + 16 * MT && key0 + KEYS > some && row < a.n)
            add_block<HEAD, Score, MT, KEYS>(o, rows, a, queries, local, row, stages + now * Tile::stage, key0,
                                             key0 + KEYS > row + 1 || all > key0);
    }
    float inverse[MT][2];
    softmax_end(inverse, rows, a, row, head, lse, lse_stride);
    __syncwarp(FULL_WARP);                          /* what other lanes read of these rows comes first */
    sums_to_tile<HEAD>(queries, local, o, inverse); /* where only this warp has read */
    __syncwarp(FULL_WARP);
    tile_store<HEAD, VECTOR, 16 * MT>(out, head * a.head_dim, row, a.n, a.head_dim, queries + local * pitch_of<HEAD>);
}

template <class T, int HEAD, bool VECTOR>
static void forward_sized(Backend *be, const AttentionShape &a, const Tensor *out, const Tensor *lse, const Tensor *qkv)
{
    typedef ForwardTile<T, HEAD> Tile;
    static_assert(Tile::bytes <= tiles_most<T, HEAD>, "shared memory");
    if (Tile::bytes > cuda_shared_most(be)) {
        attention_plain_forward(be, a, out, lse, qkv);
        return;
    }
    const unsigned blocks = static_cast<unsigned>(ceil_div(a.n, Tile::queries) * a.heads);
    CUDA_SHARED_LIMIT(be, (attention_kernel<T, HEAD, VECTOR, PlainScore>), Tile::bytes);
    CUDA_LAUNCH(be, (attention_kernel<T, HEAD, VECTOR, PlainScore>), blocks, BLOCK, Tile::bytes, a,
                heads_of<T>(out, a.head_dim), static_cast<float *>(lse->data), lse->stride,
                heads_of<const T>(qkv, a.head_dim));
}

template <class T>
static void forward_typed(Backend *be, const AttentionShape &a, const Tensor *out, const Tensor *lse, const Tensor *qkv)
{
    const bool vector = heads_of<const T>(qkv, a.head_dim).vector && heads_of<T>(out, a.head_dim).vector;
    attention_sized(a.head_dim, vector, [&](auto kind) {
        forward_sized<T, decltype(kind)::head, decltype(kind)::vector>(be, a, out, lse, qkv);
    });
}

void attention_forward_cuda(Backend *be, const Attention *at, const Tensor *out, const Tensor *lse, const Tensor *qkv,
                            const Tensor *scratch)
{
    (void)scratch;
    const AttentionShape a = attention_shape(be, at, qkv->shape[0]);
    switch (qkv->dtype) {
    case DTYPE_F32: attention_plain_forward(be, a, out, lse, qkv); return;
    case DTYPE_BF16: forward_typed<bf16>(be, a, out, lse, qkv); return;
    case DTYPE_F16: forward_typed<f16>(be, a, out, lse, qkv); return;
    default: CHECK(false);
    }
}
