/*
 * Attention in f32 on CUDA cores: the formula with little cleverness, for reference; and in f16 where the
 * tiles of large heads do not fit a device's shared memory.
 *
 * A warp takes one row of one head. 32 partners at a time: each lane computes the score of its own, then every lane adds
 * all 32 to its own columns of the result. Sums run in the order of the partners, so no bit depends on the launch.
 */
#include "model/attention_rows.cuh"

template <class T, class Score>
static __global__ void __launch_bounds__(BLOCK)
    attention_plain_kernel(AttentionShape a, Heads<T> out, float *lse, int64_t lse_stride, Heads<const T> qkv)
{
    SHARED_ARRAY(float, shared, BLOCK);
    const int lane = threadIdx.x % WARP_SIZE, dim = a.head_dim;
    float *const weights = shared + threadIdx.x / WARP_SIZE * WARP_SIZE;
    const Item at = item_of(a.n, a.heads);
    if (!at.valid) return;
    const int key_head = a.heads + at.head / a.group, value_head = key_head + a.kv_heads;
    const T *query = head_at(qkv, at.row, at.head, dim);
    float max = LOWEST, sum = 0.0f, o[COLUMNS] = {};
    for (int key0 = first_key(a, at.row); key0 <= at.row; key0 += WARP_SIZE) {
        const int count = min(WARP_SIZE, at.row + 1 - key0);
        float s = MASKED;
        if (lane < count) s = Score::value(dot(query, head_at(qkv, key0 + lane, key_head, dim), dim, qkv.vector));
        const float most = fmaxf(max, warp_max(s)), shrink = exp2f((max - most) * a.factor);
        const float p = exp2f((s - most) * a.factor);
        max = most;
        sum = fmaf(sum, shrink, p);
        weights[lane] = p;
        __syncwarp(FULL_WARP);
        for (int j = 0; j < COLUMNS; j++)
            o[j] *= shrink;
        add_rows<T>(o, weights, head_at(qkv, key0, value_head, dim), qkv.stride, count, dim);
        __syncwarp(FULL_WARP); /* before the weights are written again */
    }
    sum = warp_sum(sum);
    store_row<T>(head_at(out, at.row, at.head, dim), o, 1.0f / sum, dim);
    if (lane == 0) lse[at.row * lse_stride + at.head] = fmaf(max * a.factor, ATTENTION_LN2, logf(sum));
}

/* p and ds of one pair; q and dout of the query, k and v of the key. */
template <class T, class Score>
__device__ __forceinline__ void pair_weights(float *p, float *ds, const T *q, const T *dout, const T *k, const T *v,
                                             float shift, float delta, const AttentionShape &a, bool vector)
{
    const float s = Score::value(dot(q, k, a.head_dim, vector));
    *p = exp2f(fmaf(s, a.factor, shift));
    *ds = *p * (dot(dout, v, a.head_dim, vector) - delta) * Score::slope(s);
}

template <class T, class Score>
static __global__ void __launch_bounds__(BLOCK)
    attention_plain_dq_kernel(AttentionShape a, Heads<T> dqkv, Heads<const T> dout, Heads<const T> qkv, Statistics st)
{
    SHARED_ARRAY(float, shared, BLOCK);
    const int lane = threadIdx.x % WARP_SIZE, dim = a.head_dim;
    float *const weights = shared + threadIdx.x / WARP_SIZE * WARP_SIZE;
    const Item at = item_of(a.n, a.heads);
    if (!at.valid) return;
    const int key_head = a.heads + at.head / a.group, value_head = key_head + a.kv_heads;
    const float shift = st.shift[at.head * st.pitch + at.row], delta = st.delta[at.head * st.pitch + at.row];
    float dq[COLUMNS] = {};
    for (int key0 = first_key(a, at.row); key0 <= at.row; key0 += WARP_SIZE) {
        const int count = min(WARP_SIZE, at.row + 1 - key0);
        float p = 0.0f, ds = 0.0f;
        if (lane < count) {
            pair_weights<T, Score>(&p, &ds, head_at(qkv, at.row, at.head, dim), head_at(dout, at.row, at.head, dim),
                                   head_at(qkv, key0 + lane, key_head, dim), head_at(qkv, key0 + lane, value_head, dim),
                                   shift, delta, a, qkv.vector && dout.vector);
        }
        weights[lane] = ds;
        __syncwarp(FULL_WARP);
        add_rows<T>(dq, weights, head_at(qkv, key0, key_head, dim), qkv.stride, count, dim);
        __syncwarp(FULL_WARP);
    }
    store_row<T>(head_at(dqkv, at.row, at.head, dim), dq, a.scale, dim);
}

template <class T, class Score>
static __global__ void __launch_bounds__(BLOCK, 2) /* or ptxas spills to fit more blocks */
    attention_plain_dkv_kernel(AttentionShape a, Heads<T> dqkv, Heads<const T> dout, Heads<const T> qkv, Statistics st)
{
    SHARED_ARRAY(float, shared, 2 * BLOCK);
    const int lane = threadIdx.x % WARP_SIZE, dim = a.head_dim;
    float *const ps = shared + threadIdx.x / WARP_SIZE * 2 * WARP_SIZE, *const dss = ps + WARP_SIZE;
    const Item at = item_of(a.n, a.kv_heads);
    if (!at.valid) return;
    const int key_head = a.heads + at.head, value_head = key_head + a.kv_heads, end = end_query(a, at.row);
    const T *k = head_at(qkv, at.row, key_head, dim), *v = head_at(qkv, at.row, value_head, dim);
    float dk[COLUMNS] = {}, dv[COLUMNS] = {};
    for (int head = at.head * a.group; head < (at.head + 1) * a.group; head++) {
        for (int query0 = at.row; query0 < end; query0 += WARP_SIZE) {
            const int count = min(WARP_SIZE, end - query0), query = query0 + lane;
            float p = 0.0f, ds = 0.0f;
            if (lane < count) {
                pair_weights<T, Score>(&p, &ds, head_at(qkv, query, head, dim), head_at(dout, query, head, dim), k, v,
                                       st.shift[head * st.pitch + query], st.delta[head * st.pitch + query], a,
                                       qkv.vector && dout.vector);
            }
            ps[lane] = p;
            dss[lane] = ds;
            __syncwarp(FULL_WARP);
            add_rows<T>(dk, dss, head_at(qkv, query0, head, dim), qkv.stride, count, dim);
            add_rows<T>(dv, ps, head_at(dout, query0, head, dim), dout.stride, count, dim);
            __syncwarp(FULL_WARP);
        }
    }
    store_row<T>(head_at(dqkv, at.row, key_head, dim), dk, a.scale, dim);
    store_row<T>(head_at(dqkv, at.row, value_head, dim), dv, 1.0f, dim);
}

/* Calls f with a value of the element type; no device needs these kernels for bf16. */
template <class F> static void plain_typed(const Tensor *t, const F &f)
{
    if (t->dtype == DTYPE_F16)
        f(f16());
    else
        f(float());
}

void attention_plain_forward(Backend *be, const AttentionShape &a, const Tensor *out, const Tensor *lse,
                             const Tensor *qkv)
{
    CHECK(qkv->dtype != DTYPE_BF16);
    plain_typed(qkv, [&](auto type) {
        typedef decltype(type) T;
        CUDA_LAUNCH(be, (attention_plain_kernel<T, PlainScore>), blocks_of(int64_t(a.n) * a.heads), BLOCK, 0, a,
                    heads_of<T>(out, a.head_dim), static_cast<float *>(lse->data), lse->stride,
                    heads_of<const T>(qkv, a.head_dim));
    });
}

void attention_plain_backward(Backend *be, const AttentionShape &a, const Tensor *dqkv, const Tensor *dout,
                              const Tensor *qkv, const Statistics &s)
{
    CHECK(qkv->dtype != DTYPE_BF16);
    plain_typed(qkv, [&](auto type) {
        typedef decltype(type) T;
        const Heads<T> to = heads_of<T>(dqkv, a.head_dim);
        const Heads<const T> from = heads_of<const T>(qkv, a.head_dim), d = heads_of<const T>(dout, a.head_dim);
        CUDA_LAUNCH(be, (attention_plain_dq_kernel<T, PlainScore>), blocks_of(int64_t(a.n) * a.heads), BLOCK, 0, a, to,
                    d, from, s);
        CUDA_LAUNCH(be, (attention_plain_dkv_kernel<T, PlainScore>), blocks_of(int64_t(a.n) * a.kv_heads), BLOCK, 0, a,
                    to, d, from, s);
    });
}
