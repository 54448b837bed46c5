/*
 * With p = 2^(s factor - lse log2 e) and ds = p (dp - delta), delta = rowsum(dout * out):
 *   dq = scale ds k,   dk = scale ds^T q,   dv = p^T dout;   dp = dout v^T.
 *
 * Three kernels: statistics of rows; dq by tile of queries; dk and dv by tile of keys, over all query heads that share
 * the key. Nothing is added up between blocks, so there are no atomics and no bit depends on the launch. The price: s
 * and dp are computed twice, 7 products instead of 5 (8 with heads over 128, where dk and dv do not fit the registers
 * together and are computed one after the other).
 * Products run transposed for keys, (keys, queries), so that p and ds come out as the left operand of the next product
 * and never leave the registers. They are rounded to the element type there; sums are f32.
 */
#include "model/attention_cuda.cuh"

static constexpr int STATISTICS_ROWS = 32;

/* --- statistics --- */

template <int N, class T>
__device__ __forceinline__ float row_dot(const Heads<const T> &a, const Heads<const T> &b, int64_t row, int64_t column,
                                         int dim)
{
    const T *x = a.data + row * a.stride + column, *y = b.data + row * b.stride + column;
    float sum = 0.0f;
    for (int i = int(threadIdx.x) % WARP_SIZE * N; i < dim; i += WARP_SIZE * N) {
        float u[N], v[N];
        pack_load<N>(u, x + i);
        pack_load<N>(v, y + i);
        for (int j = 0; j < N; j++)
            sum = fmaf(u[j], v[j], sum);
    }
    return warp_sum(sum);
}

/* grid: (32 rows, head); reads out and dout once, writes 8 bytes a row and head */
template <class T, int N>
static __global__ void __launch_bounds__(BLOCK, 4)
    attention_statistics_kernel(AttentionShape a, float *shift, float *delta, int64_t pitch, Heads<const T> out,
                                Heads<const T> dout, const float *lse, int64_t lse_stride)
{
    SHARED_ARRAY(float, sums, STATISTICS_ROWS);
    const int head = int(blockIdx.x) % a.heads, first = int(blockIdx.x) / a.heads * STATISTICS_ROWS;
#pragma unroll 1
    for (int i = int(threadIdx.x) / WARP_SIZE; i < STATISTICS_ROWS; i += WARPS) {
        float sum = 0.0f;
        if (first + i < a.n) sum = row_dot<N>(out, dout, first + i, int64_t(head) * a.head_dim, a.head_dim);
        if (threadIdx.x % WARP_SIZE == 0) sums[i] = sum;
    }
    __syncthreads();
    const int i = int(threadIdx.x), row = first + i;
    if (i >= STATISTICS_ROWS) return;
    shift[head * pitch + row] = row < a.n ? -lse[row * lse_stride + head] * float(ATTENTION_LOG2E) : 0.0f;
    delta[head * pitch + row] = sums[i];
}

int64_t attention_backward_floats_cuda(int64_t n, int heads)
{
    return 2 * heads * round_up(n, TILE_ROWS_MAX);
}

template <class T>
static Statistics statistics(Backend *be, const AttentionShape &a, const Tensor *dout, const Tensor *out,
                             const Tensor *lse, const Tensor *scratch)
{
    const int64_t pitch = round_up(a.n, TILE_ROWS_MAX);
    float *shift = static_cast<float *>(scratch->data), *delta = shift + a.heads * pitch;
    const Heads<const T> x = heads_of<const T>(out, a.head_dim), y = heads_of<const T>(dout, a.head_dim);
    const unsigned blocks = static_cast<unsigned>(pitch / STATISTICS_ROWS * a.heads);
    const float *l = static_cast<const float *>(lse->data);
    constexpr int n = cuda_pack<T>;
    if (x.vector && y.vector) {
        CUDA_LAUNCH(be, (attention_statistics_kernel<T, n>), blocks, BLOCK, 0, a, shift, delta, pitch, x, y, l,
                    lse->stride);
    } else {
        CUDA_LAUNCH(be, (attention_statistics_kernel<T, 1>), blocks, BLOCK, 0, a, shift, delta, pitch, x, y, l,
                    lse->stride);
    }
    return Statistics{shift, delta, pitch};
}

/* --- dq --- */

template <class T, int HEAD> struct QueryTile {
    static constexpr int m_tiles = HEAD <= Multiply<T>::wide_head ? 2 : 1; /* of 16 queries a warp */
    static constexpr int queries = 16 * m_tiles * WARPS, keys = HEAD <= 128 ? 32 : 16;
    static constexpr int block = keys * pitch_of<HEAD>; /* elements; two of keys and one of values */
    static constexpr size_t bytes = size_t(2 * queries * pitch_of<HEAD> + 3 * block) * 2;
};

/*
 * Scores and dp of visible pairs become ds; rows are queries. Pairs that are not visible have 0. `shift` and `delta` are
 * the head's: read again for every block, since no register is free to keep them.
 */
template <class Score, int MT, int NT>
__device__ __forceinline__ void query_weights(float (&s)[MT][NT][4], const float (&dp)[MT][NT][4],
                                              const AttentionShape &a, const float *shift, const float *delta, int row,
                                              int key0, bool edge)
{
    const int lane = threadIdx.x % WARP_SIZE;
#pragma unroll
    for (int m = 0; m < MT; m++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int query = row + 16 * m + 8 * h + lane / 4, low = edge ? first_key(a, query) : 0;
            const float minus_lse = shift[query], mean = delta[query];
#pragma unroll
            for (int i = 0; i < 2 * NT; i++) {
                const int key = key0 + 8 * (i / 2) + lane % 4 * 2 + i % 2;
                float &score = s[m][i / 2][2 * h + i % 2];
                const float value = Score::value(score), p = ex2(fmaf(value, a.factor, minus_lse));
                const bool hidden = edge && (key > query || key < low);
                score = hidden ? 0.0f : p * (dp[m][i / 2][2 * h + i % 2] - mean) * Score::slope(value);
            }
        }
    }
}

/* grid: (tile of queries, head), the last tiles first */
template <class T, int HEAD, bool VECTOR, class Score>
static __global__ void __launch_bounds__(BLOCK, 2)
    attention_dq_kernel(AttentionShape a, Heads<T> dqkv, Heads<const T> dout, Heads<const T> qkv, Statistics st)
{
    typedef QueryTile<T, HEAD> Tile;
    constexpr int MT = Tile::m_tiles, KEYS = Tile::keys;
    SHARED_DYN(T, queries);
    T *const douts = queries + Tile::queries * pitch_of<HEAD>, *const keys = douts + Tile::queries * pitch_of<HEAD>;
    T *const values = keys + 2 * Tile::block;

    const int tiles = (a.n + Tile::queries - 1) / Tile::queries, head = int(blockIdx.x) % a.heads;
    const int first = (tiles - 1 - int(blockIdx.x) / a.heads) * Tile::queries;
    const int begin = first_key(a, first), end = min(first + Tile::queries, a.n);
    const int column = head * a.head_dim, key_column = (a.heads + head / a.group) * a.head_dim;
    const int value_column = key_column + a.kv_heads * a.head_dim;
    tile_load<HEAD, VECTOR, Tile::queries>(queries, qkv, column, first, a.n, a.head_dim);
    tile_load<HEAD, VECTOR, Tile::queries>(douts, dout, column, first, a.n, a.head_dim);
    tile_load<HEAD, VECTOR, KEYS>(keys, qkv, key_column, begin, a.n, a.head_dim);
    tile_load<HEAD, VECTOR, KEYS>(values, qkv, value_column, begin, a.n, a.head_dim);
    cp_async_commit();

    /* rows of this warp, and the first keys that some and that all of them see */
    const int local = int(threadIdx.x) / WARP_SIZE * 16 * MT, row = first + local;
    const int some = first_key(a, row), all = first_key(a, row + 16 * MT - 1);
    float dq[MT][HEAD / 8][4];
    set_zero(dq);
    int now = 0;
    for (int key0 = begin; key0 < end; key0 += KEYS, now ^= 1) {
        const bool seen = key0 < row + 16 * MT && key0 + KEYS > some && row < a.n, more = key0 + KEYS < end;
        uint32_t ds[MT][KEYS / 16][4];
        cp_async_wait<0>();
        __syncthreads(); /* this block is here, and nobody needs the keys before */
        if (more)
            tile_load<HEAD, VECTOR, KEYS>(keys + (now ^ 1) * Tile::block, qkv, key_column, key0 + KEYS, a.n,
                                          a.head_dim);
        if (seen) {
            float s[MT][KEYS / 8][4], dp[MT][KEYS / 8][4];
            set_zero(s);
            set_zero(dp);
            product_over_head<HEAD, MT, KEYS / 16>(s, queries, local, keys + now * Tile::block);
            product_over_head<HEAD, MT, KEYS / 16>(dp, douts, local, values);
            query_weights<Score>(s, dp, a, st.shift + head * st.pitch, st.delta + head * st.pitch, row, key0,
                                 key0 + KEYS > row + 1 || all > key0);
            as_operand<T>(ds, s);
        }
        __syncthreads(); /* nobody needs the values any more */
        if (more) tile_load<HEAD, VECTOR, KEYS>(values, qkv, value_column, key0 + KEYS, a.n, a.head_dim);
        cp_async_commit(); /* of the next keys too */
        if (seen) product_over_rows<HEAD>(dq, ds, keys + now * Tile::block);
    }
    float factors[MT][2];
#pragma unroll
    for (int i = 0; i < 2 * MT; i++)
        factors[i / 2][i % 2] = a.scale;
    sums_to_tile<HEAD>(queries, local, dq, factors); /* where only this warp has read, before the last barrier */
    __syncwarp(FULL_WARP);
    tile_store<HEAD, VECTOR, 16 * MT>(dqkv, column, row, a.n, a.head_dim, queries + local * pitch_of<HEAD>);
}

/* --- dk and dv --- */

enum { DV = 1, DK = 2 };

template <class T, int HEAD> struct KeyTile {
    static constexpr int m_tiles = HEAD <= 64 ? 2 : 1; /* of 16 keys a warp */
    static constexpr int keys = 16 * m_tiles * WARPS, queries = HEAD > 64 && HEAD <= Multiply<T>::wide_head ? 32 : 16;
    static constexpr int stage = 2 * queries * pitch_of<HEAD>; /* elements: queries, then their gradients */
    static constexpr size_t bytes = size_t(2 * keys * pitch_of<HEAD> + 2 * stage) * 2;
};

/* Scores become p, 0 for pairs that are not visible; rows are keys. */
template <class Score, int MT, int NT>
__device__ __forceinline__ void key_weights(float (&s)[MT][NT][4], float (&slope)[MT][NT][4], const AttentionShape &a,
                                            const float *shift, int row, int query0, bool edge)
{
    const int lane = threadIdx.x % WARP_SIZE, column = query0 + lane % 4 * 2;
#pragma unroll
    for (int m = 0; m < MT; m++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int key = row + 16 * m + 8 * h + lane / 4, end = edge ? end_query(a, key) : 0;
#pragma unroll
            for (int i = 0; i < 2 * NT; i++) {
                const int query = column + 8 * (i / 2) + i % 2;
                float &score = s[m][i / 2][2 * h + i % 2];
                const float value = Score::value(score), p = ex2(fmaf(value, a.factor, shift[query]));
                slope[m][i / 2][2 * h + i % 2] = Score::slope(value);
                score = edge && (query < key || query >= end) ? 0.0f : p;
            }
        }
    }
}

/* dp become ds = p (dp - delta) */
template <int MT, int NT>
__device__ __forceinline__ void key_gradients(float (&dp)[MT][NT][4], const float (&p)[MT][NT][4],
                                              const float (&slope)[MT][NT][4], const float *delta, int query0)
{
    const int column = query0 + int(threadIdx.x) % 4 * 2;
#pragma unroll
    for (int n = 0; n < NT; n++) {
#pragma unroll
        for (int m = 0; m < MT; m++) {
#pragma unroll
            for (int i = 0; i < 4; i++)
                dp[m][n][i] = p[m][n][i] * (dp[m][n][i] - delta[column + 8 * n + i % 2]) * slope[m][n][i];
        }
    }
}

/* What a warp has of its 16 MT keys; a part that a kernel does not compute takes no room. */
template <int HEAD, int PARTS, int MT> struct KeySums {
    float dk[MT][PARTS & DK ? HEAD / 8 : 1][4], dv[MT][PARTS & DV ? HEAD / 8 : 1][4];
};

/* One block of queries of one head: `stage` holds them and their gradients, shift and delta are the head's. */
template <int HEAD, int PARTS, class Score, int QUERIES, int MT, class T>
__device__ __forceinline__ void add_queries(KeySums<HEAD, PARTS, MT> &sums, const AttentionShape &a, const T *keys,
                                            const T *values, int local, int row, const T *stage, int query0,
                                            const float *shift, const float *delta, bool edge)
{
    constexpr int NT = QUERIES / 8;
    const T *const douts = stage + QUERIES * pitch_of<HEAD>;
    float p[MT][NT][4], slope[MT][NT][4];
    set_zero(p);
    product_over_head<HEAD, MT, QUERIES / 16>(p, keys, local, stage);
    key_weights<Score>(p, slope, a, shift, row, query0, edge);
    uint32_t left[MT][QUERIES / 16][4];
    if constexpr ((PARTS & DV) != 0) {
        as_operand<T>(left, p);
        product_over_rows<HEAD>(sums.dv, left, douts);
    }
    if constexpr ((PARTS & DK) != 0) {
        float ds[MT][NT][4];
        set_zero(ds);
        product_over_head<HEAD, MT, QUERIES / 16>(ds, values, local, douts);
        key_gradients(ds, p, slope, delta, query0);
        as_operand<T>(left, ds);
        product_over_rows<HEAD>(sums.dk, left, stage);
    }
}

/* Sums of this warp over the tile that only it has read, and from there to their rows. */
template <int HEAD, bool VECTOR, int MT, class T>
__device__ __forceinline__ void store_sums(const Heads<T> &to, const AttentionShape &a, int column, T *tile, int local,
                                           int row, const float (&sums)[MT][HEAD / 8][4], float factor)
{
    float factors[MT][2];
#pragma unroll
    for (int i = 0; i < 2 * MT; i++)
        factors[i / 2][i % 2] = factor;
    __syncwarp(FULL_WARP); /* what other lanes read of these rows comes first */
    sums_to_tile<HEAD>(tile, local, sums, factors);
    __syncwarp(FULL_WARP);
    tile_store<HEAD, VECTOR, 16 * MT>(to, column, row, a.n, a.head_dim, tile + local * pitch_of<HEAD>);
}

/*
 * grid: (tile of keys, key head), the first tiles first: they are seen by the most queries. A block goes through the
 * query heads of the group, and for each through the queries from the first key on to the end of the last key's segment.
 */
template <class T, int HEAD, bool VECTOR, int PARTS, class Score>
static __global__ void __launch_bounds__(BLOCK, 2)
    attention_dkv_kernel(AttentionShape a, Heads<T> dqkv, Heads<const T> dout, Heads<const T> qkv, Statistics st)
{
    typedef KeyTile<T, HEAD> Tile;
    constexpr int MT = Tile::m_tiles, QUERIES = Tile::queries;
    SHARED_DYN(T, keys);
    T *const values = keys + Tile::keys * pitch_of<HEAD>, *const stages = values + Tile::keys * pitch_of<HEAD>;

    const int group = int(blockIdx.x) % a.kv_heads, first = int(blockIdx.x) / a.kv_heads * Tile::keys;
    const int end = end_query(a, first + Tile::keys - 1);
    const int key_column = (a.heads + group) * a.head_dim, value_column = key_column + a.kv_heads * a.head_dim;
    const auto load_queries = [&](T *stage, int head, int query0) {
        const int column = head * a.head_dim;
        tile_load<HEAD, VECTOR, QUERIES>(stage, qkv, column, query0, a.n, a.head_dim);
        tile_load<HEAD, VECTOR, QUERIES>(stage + QUERIES * pitch_of<HEAD>, dout, column, query0, a.n, a.head_dim);
    };
    tile_load<HEAD, VECTOR, Tile::keys>(keys, qkv, key_column, first, a.n, a.head_dim);
    if (PARTS & DK) tile_load<HEAD, VECTOR, Tile::keys>(values, qkv, value_column, first, a.n, a.head_dim);
    load_queries(stages, group * a.group, first);
    cp_async_commit();

    /* keys of this warp, and where the queries end that see some and that see all of them */
    const int local = int(threadIdx.x) / WARP_SIZE * 16 * MT, row = first + local;
    const int some = end_query(a, row + 16 * MT - 1), all = end_query(a, row);
    KeySums<HEAD, PARTS, MT> sums;
    set_zero(sums.dk);
    set_zero(sums.dv);
    T *stage = stages, *other = stages + Tile::stage;
    for (int head = group * a.group, query0 = first; head < (group + 1) * a.group;) {
        const bool more = query0 + QUERIES < end; /* of this head */
        const int next_head = more ? head : head + 1, next_query0 = more ? query0 + QUERIES : first;
        cp_async_wait<0>();
        __syncthreads(); /* this block is here, and nobody needs the one before */
        if (next_head < (group + 1) * a.group) load_queries(other, next_head, next_query0);
        cp_async_commit();
        if (query0 + QUERIES > row && query0 < some && row < a.n) {
            add_queries<HEAD, PARTS, Score, QUERIES>(sums, a, keys, values, local, row, stage, query0,
                                                     st.shift + head * st.pitch, st.delta + head * st.pitch,
                                                     query0 < row + 16 * MT - 1 || query0 + QUERIES > all);
        }
        head = next_head;
        query0 = next_query0;
        T *const swap = stage;
        stage = other;
        other = swap;
    }
    if constexpr ((PARTS & DK) != 0) store_sums<HEAD, VECTOR>(dqkv, a, key_column, keys, local, row, sums.dk, a.scale);
    if constexpr ((PARTS & DV) != 0) store_sums<HEAD, VECTOR>(dqkv, a, value_column, values, local, row, sums.dv, 1.0f);
}

/* --- launches --- */

/* What the kernels of one head size take. */
template <class T> struct Gradients {
    AttentionShape a;
    Heads<T> dqkv;
    Heads<const T> dout, qkv;
    Statistics st;
};

template <int HEAD, bool VECTOR, int PARTS, class T> static void launch_keys(Backend *be, const Gradients<T> &g)
{
    typedef KeyTile<T, HEAD> Tile;
    static_assert(Tile::bytes <= tiles_most<T, HEAD>, "shared memory");
    const unsigned blocks = static_cast<unsigned>(ceil_div(g.a.n, Tile::keys) * g.a.kv_heads);
    CUDA_SHARED_LIMIT(be, (attention_dkv_kernel<T, HEAD, VECTOR, PARTS, PlainScore>), Tile::bytes);
    CUDA_LAUNCH(be, (attention_dkv_kernel<T, HEAD, VECTOR, PARTS, PlainScore>), blocks, BLOCK, Tile::bytes, g.a, g.dqkv,
                g.dout, g.qkv, g.st);
}

template <int HEAD, bool VECTOR, class T> static void launch_queries(Backend *be, const Gradients<T> &g)
{
    typedef QueryTile<T, HEAD> Tile;
    static_assert(Tile::bytes <= tiles_most<T, HEAD>, "shared memory");
    const unsigned blocks = static_cast<unsigned>(ceil_div(g.a.n, Tile::queries) * g.a.heads);
    CUDA_SHARED_LIMIT(be, (attention_dq_kernel<T, HEAD, VECTOR, PlainScore>), Tile::bytes);
    CUDA_LAUNCH(be, (attention_dq_kernel<T, HEAD, VECTOR, PlainScore>), blocks, BLOCK, Tile::bytes, g.a, g.dqkv, g.dout,
                g.qkv, g.st);
}

/* False: the tiles do not fit this device. */
template <int HEAD, bool VECTOR, class T> static bool launch_sized(Backend *be, const Gradients<T> &g)
{
    if (max(QueryTile<T, HEAD>::bytes, KeyTile<T, HEAD>::bytes) > cuda_shared_most(be)) return false;
    launch_queries<HEAD, VECTOR>(be, g);
    if constexpr (HEAD <= 128) {
        launch_keys<HEAD, VECTOR, DK | DV>(be, g);
    } else {
        launch_keys<HEAD, VECTOR, DV>(be, g);
        launch_keys<HEAD, VECTOR, DK>(be, g);
    }
    return true;
}

template <class T>
static void backward_typed(Backend *be, const AttentionShape &a, const Tensor *dqkv, const Tensor *dout,
                           const Tensor *qkv, const Statistics &st)
{
    const Gradients<T> g = {a, heads_of<T>(dqkv, a.head_dim), heads_of<const T>(dout, a.head_dim),
                            heads_of<const T>(qkv, a.head_dim), st};
    attention_sized(a.head_dim, g.dqkv.vector && g.dout.vector && g.qkv.vector, [&](auto kind) {
        if (!launch_sized<decltype(kind)::head, decltype(kind)::vector>(be, g))
            attention_plain_backward(be, a, dqkv, dout, qkv, st);
    });
}

void attention_backward_cuda(Backend *be, const Attention *at, const Tensor *dqkv, const Tensor *dout,
                             const Tensor *out, const Tensor *lse, const Tensor *qkv, const Tensor *scratch)
{
    const AttentionShape a = attention_shape(be, at, qkv->shape[0]);
    cuda_typed(qkv->dtype, [&](auto type) {
        typedef decltype(type) T;
        const Statistics st = statistics<T>(be, a, dout, out, lse, scratch);
        if constexpr (sizeof(T) == 2)
            backward_typed<T>(be, a, dqkv, dout, qkv, st);
        else
            attention_plain_backward(be, a, dqkv, dout, qkv, st);
    });
}
