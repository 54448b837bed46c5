/*
 * One query per sequence against its cache: bound by reading the cache. Keys are cut into pieces of PIECE rows; a warp
 * takes one piece of one head and leaves (maximum, sum, sum of p v), and a second kernel joins the pieces in order. So
 * the cut, and with it every bit, depends on the length alone. Query heads that share keys are neighbours in a block.
 */
#include "model/attention_rows.cuh"

static constexpr int PIECE = 128, KEYS_PER_LANE = PIECE / WARP_SIZE;

/* Floats of one (sequence, head, piece). */
static __host__ __device__ int64_t part_floats(int head_dim)
{
    return 2 + head_dim;
}

int64_t attention_decode_floats_cuda(int64_t longest, int heads, int head_dim)
{
    return ceil_div(longest, PIECE) * heads * part_floats(head_dim);
}

/* `pieces`: of the longest of the sequences; `window` is at least 1 and at most its length; `lengths` is on the device. */
typedef struct Decode {
    int heads, group, dim, pieces, sequences, window;
    int64_t capacity;
    const int32_t *lengths;
    float factor;
    float *parts; /* (sequences, pieces, heads) */
} Decode;

__device__ __forceinline__ float *part_of(const Decode &d, int64_t sequence, int piece, int head)
{
    return d.parts + ((sequence * d.pieces + piece) * d.heads + head) * part_floats(d.dim);
}

/* First key that the query of a sequence sees. */
__device__ __forceinline__ int first_seen(const Decode &d, int sequence)
{
    return max(d.lengths[sequence] - d.window, 0);
}

template <class T>
static __global__ void __launch_bounds__(BLOCK)
    attention_piece_kernel(Decode d, Heads<const T> q, Heads<const T> keys, Heads<const T> values)
{
    SHARED_ARRAY(float, shared, WARPS *PIECE);
    const int warp = int(threadIdx.x) / WARP_SIZE, lane = int(threadIdx.x) % WARP_SIZE;
    float *const weights = shared + warp * PIECE;
    const int64_t item = int64_t(blockIdx.x) * WARPS + warp, place = quotient(item, d.heads);
    const int head = int(item - place * d.heads), sequence = int(quotient(place, d.pieces));
    const int piece = int(place - int64_t(sequence) * d.pieces), first = piece * PIECE;
    if (sequence >= d.sequences || first >= d.lengths[sequence]) return;
    const int count = min(PIECE, d.lengths[sequence] - first), hidden = first_seen(d, sequence) - first;
    if (hidden >= PIECE) return;
    const int key_head = head / d.group;
    const int64_t row = sequence * d.capacity + first;
    const T *query = head_at(q, sequence, head, d.dim);

    float s[KEYS_PER_LANE], max = LOWEST, sum = 0.0f, o[COLUMNS] = {};
#pragma unroll
    for (int i = 0; i < KEYS_PER_LANE; i++) {
        const int key = lane + i * WARP_SIZE;
        s[i] = MASKED;
        if (key < count && key >= hidden)
            s[i] = dot(query, head_at(keys, row + key, key_head, d.dim), d.dim, q.vector && keys.vector);
        max = fmaxf(max, s[i]);
    }
    max = warp_max(max);
#pragma unroll
    for (int i = 0; i < KEYS_PER_LANE; i++) {
        const float p = exp2f((s[i] - max) * d.factor);
        weights[lane + i * WARP_SIZE] = p;
        sum += p;
    }
    sum = warp_sum(sum); /* a meeting of the warp, but no order of memory: */
    __syncwarp(FULL_WARP);
    add_rows(o, weights, head_at(values, row, key_head, d.dim), values.stride, count, d.dim);
    float *part = part_of(d, sequence, piece, head);
    store_row(part + 2, o, 1.0f, d.dim);
    if (lane == 0) {
        part[0] = max;
        part[1] = sum;
    }
}

template <class T> static __global__ void __launch_bounds__(BLOCK) attention_join_kernel(Decode d, Heads<T> out)
{
    const int lane = int(threadIdx.x) % WARP_SIZE;
    const Item at = item_of(d.sequences, d.heads);
    if (!at.valid) return;
    const int pieces = (d.lengths[at.row] + PIECE - 1) / PIECE, first = first_seen(d, at.row) / PIECE;
    float max = LOWEST, sum = 0.0f, o[COLUMNS] = {};
    for (int i = first + lane; i < pieces; i += WARP_SIZE)
        max = fmaxf(max, part_of(d, at.row, i, at.head)[0]);
    max = warp_max(max);
    for (int i = first; i < pieces; i++) {
        const float *part = part_of(d, at.row, i, at.head);
        const float factor = exp2f((part[0] - max) * d.factor);
        sum = fmaf(factor, part[1], sum);
        add_rows(o, &factor, part + 2, 0, 1, d.dim);
    }
    store_row(head_at(out, at.row, at.head, d.dim), o, 1.0f / sum, d.dim);
}

/* Sequences first .. first + d.sequences. */
template <class T>
static void decode_some(Backend *be, Decode d, const Tensor *out, const Tensor *q, const Tensor *keys,
                        const Tensor *values, int64_t first)
{
    const Tensor to = tensor_slice_rows(out, first, d.sequences), from = tensor_slice_rows(q, first, d.sequences);
    const int64_t rows = d.sequences * d.capacity;
    const Tensor k = tensor_slice_rows(keys, first * d.capacity, rows);
    const Tensor v = tensor_slice_rows(values, first * d.capacity, rows);
    d.lengths += first;
    CUDA_LAUNCH(be, attention_piece_kernel<T>, blocks_of(static_cast<int64_t>(d.sequences) * d.heads * d.pieces), BLOCK,
                0, d, heads_of<const T>(&from, d.dim), heads_of<const T>(&k, d.dim), heads_of<const T>(&v, d.dim));
    CUDA_LAUNCH(be, attention_join_kernel<T>, blocks_of(static_cast<int64_t>(d.sequences) * d.heads), BLOCK, 0, d,
                heads_of<T>(&to, d.dim));
}

void attention_decode_cuda(Backend *be, const Attention *at, const Tensor *out, const Tensor *q, const Tensor *keys,
                           const Tensor *values, int64_t capacity, const int32_t *lengths, const Tensor *scratch)
{
    const int64_t sequences = q->shape[0];
    int64_t longest = 0;
    for (int64_t b = 0; b < sequences; b++)
        longest = lengths[b] > longest ? lengths[b] : longest;
    const int64_t room = tensor_count(scratch) / attention_decode_floats_cuda(longest, at->heads, at->head_dim);
    CHECK(room > 0);
    Decode d = {};
    d.heads = at->heads;
    d.group = at->heads / at->kv_heads;
    d.dim = at->head_dim;
    d.pieces = static_cast<int>(ceil_div(longest, PIECE));
    d.window = static_cast<int>(at->window > 0 && at->window < longest ? at->window : longest);
    d.capacity = capacity;
    d.lengths = static_cast<const int32_t *>(cuda_stage(be, lengths, static_cast<size_t>(sequences) * sizeof *lengths));
    d.factor = static_cast<float>(static_cast<double>(at->scale) * ATTENTION_LOG2E);
    d.parts = static_cast<float *>(scratch->data);
    for (int64_t first = 0; first < sequences; first += room) {
        d.sequences = static_cast<int>(sequences - first < room ? sequences - first : room);
        cuda_typed(q->dtype, [&](auto type) { decode_some<decltype(type)>(be, d, out, q, keys, values, first); });
    }
}
