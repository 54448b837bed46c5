/*
 * update.cu - the arithmetic of update.c on a device, the same bits.
 *
 * A warp takes a block of 256 elements, a lane two packs of 4 of it (128 elements apart), so that every access of a warp
 * is 512 or 128 consecutive bytes. Each element moves once: 4 bytes of gradient, 8 of parameter and, in and out, 2 or 8
 * bytes of each moment's state. Every operation is rounded by itself, in the order of update.c.
 */
#include "optim/pieces.cuh"

#include <float.h>

static constexpr int PACK = 4, PACKS = STATE_BLOCK / (PACK * WARP_SIZE), LANE_ELEMENTS = PACK * PACKS;

/* --- the maps, in shared memory --- */

/*
 * A search meets every 64th entry, then every 32nd and so on: one bank for all lanes. A gap after each 32 entries spreads
 * them over all banks.
 */
static constexpr int MAP_CODES = 256, MAP_SLOTS = MAP_CODES + MAP_CODES / WARP_SIZE;

static __device__ __forceinline__ float map_value(const float *map, int code)
{
    return map[code + code / WARP_SIZE];
}

static __device__ void load_maps(float *shared, const float *maps)
{
    for (int i = static_cast<int>(threadIdx.x); i < 2 * MAP_CODES; i += PIECE_THREADS) {
        const int code = i % MAP_CODES;
        shared[i / MAP_CODES * MAP_SLOTS + code + code / WARP_SIZE] = maps[i];
    }
    __syncthreads();
}

/* blockwise_codes of one value: rounded to one of 65,536 steps, then the nearest code. No step lies half way between two. */
static __device__ __forceinline__ unsigned code_of(const float *map, float x)
{
    const float place = __fmul_rn(__fadd_rn(x, 1.0f), 0.5f);
    const float step = floorf(__fadd_rn(__fmul_rn(place, 65535.0f), 0.5f));
    const float y = __fsub_rn(__fmul_rn(step, 2.0f / 65535.0f), 1.0f);
    int at = 127;
#pragma unroll
    for (int width = 64; width > 0; width /= 2)
        at += y > map_value(map, at) ? width : -width;
    const float value = map_value(map, at);
    const bool above = y > value;
    const int other = above ? at + 1 : max(at - 1, 0);
    const float middle = __fmul_rn(__fadd_rn(value, map_value(map, other)), 0.5f);
    return static_cast<unsigned>((above ? y > middle : y < middle) ? other : at);
}

/* --- one block of elements, in the registers of a warp --- */

typedef struct UpdateWork {
    const Piece *pieces;
    PieceResult *results;
    const UpdateStep *steps;
    const float *maps;
    float *params;
    const float *grads;
    char *state1, *state2; /* of the batch */
    float *absmax1, *absmax2;
    int64_t first, last;
    size_t offset;
    bool count_clamps;
    UpdateRule rule;
} UpdateWork;

/* Of one lane; elements past the end of the parameter have no gradient. */
typedef struct LaneBlock {
    float m[LANE_ELEMENTS], v[LANE_ELEMENTS], g[LANE_ELEMENTS];
} LaneBlock;

typedef struct BlockPlace {
    int64_t element; /* in the flat buffers */
    size_t offset;   /* in the states of the batch */
    int64_t scale;   /* -1: states of 32 bits */
    int count;       /* elements of the parameter in this block */
} BlockPlace;

static __device__ __forceinline__ BlockPlace block_place(const UpdateWork &w, const Piece &piece, int block)
{
    const int first = block * STATE_BLOCK;
    const bool eight_bit = piece.scale >= 0;
    const size_t bytes = static_cast<size_t>(first) * (eight_bit ? 1 : sizeof(float));
    return BlockPlace{piece.element + first, piece.offset - w.offset + bytes, eight_bit ? piece.scale + block : -1,
                      min(piece.count - first, static_cast<int>(STATE_BLOCK))};
}

/* The first element of pack `pack` of this lane, in the block. */
static __device__ __forceinline__ int pack_at(int pack)
{
    return PACK * (pack * WARP_SIZE + static_cast<int>(threadIdx.x) % WARP_SIZE);
}

static __device__ __forceinline__ bool lane_has(const BlockPlace &at, int i)
{
    return pack_at(i / PACK) + i % PACK < at.count;
}

typedef float LanePack[PACK];

static __device__ __forceinline__ LanePack &lane_pack(float *x, int pack)
{
    return *reinterpret_cast<LanePack *>(x + pack * PACK);
}

static __device__ __forceinline__ float within(float x, float low, float high)
{
    x = x < low ? low : x;
    return x > high ? high : x;
}

static __device__ __forceinline__ void load_gradient(LaneBlock &b, const UpdateWork &w, const BlockPlace &at)
{
    for (int pack = 0; pack < PACKS; pack++) {
        const int i = pack_at(pack);
        pack_load<PACK>(lane_pack(b.g, pack), w.grads + at.element + i, at.count - i);
    }
    const float limit = w.rule.clip_value;
    for (int i = 0; i < LANE_ELEMENTS; i++) {
        const float g = limit > 0.0f ? within(b.g[i], -limit, limit) : b.g[i];
        b.g[i] = __fmul_rn(g, w.rule.clip_factor);
    }
}

static __device__ __forceinline__ void load_codes(float *x, const char *codes, const float *map, float scale)
{
    for (int pack = 0; pack < PACKS; pack++) {
        const uint32_t word = *reinterpret_cast<const uint32_t *>(codes + pack_at(pack));
        for (int k = 0; k < PACK; k++)
            x[pack * PACK + k] = __fmul_rn(map_value(map, static_cast<int>(word >> (8 * k) & 255u)), scale);
    }
}

static __device__ __forceinline__ void load_floats(float *x, const char *state)
{
    for (int pack = 0; pack < PACKS; pack++)
        pack_load<PACK>(lane_pack(x, pack), reinterpret_cast<const float *>(state) + pack_at(pack));
}

static __device__ __forceinline__ void load_states(LaneBlock &b, const UpdateWork &w, const BlockPlace &at,
                                                   const float *maps)
{
    if (at.scale >= 0) {
        load_codes(b.m, w.state1 + at.offset, maps, w.absmax1[at.scale]);
        load_codes(b.v, w.state2 + at.offset, maps + MAP_SLOTS, w.absmax2[at.scale]);
    } else {
        load_floats(b.m, w.state1 + at.offset);
        load_floats(b.v, w.state2 + at.offset);
    }
}

static __device__ __forceinline__ void advance_moments(LaneBlock &b, const UpdateRule &r)
{
    for (int i = 0; i < LANE_ELEMENTS; i++) {
        const float g = b.g[i];
        b.m[i] = __fadd_rn(__fmul_rn(r.beta1, b.m[i]), __fmul_rn(r.one_minus_beta1, g));
        b.v[i] = __fadd_rn(__fmul_rn(r.beta2, b.v[i]), __fmul_rn(__fmul_rn(r.one_minus_beta2, g), g));
    }
}

typedef struct LaneResult {
    double sum_squares;
    int floored, capped;
} LaneResult;

static __device__ __forceinline__ void clamp_variance(LaneBlock &b, const UpdateRule &r, const BlockPlace &at,
                                                      LaneResult &result)
{
    const float low = r.variance_min, high = r.variance_max > 0.0f ? r.variance_max : FLT_MAX;
    for (int i = 0; i < LANE_ELEMENTS; i++) {
        if (!lane_has(at, i)) continue;
        result.floored += b.v[i] < low;
        result.capped += b.v[i] > high;
        b.v[i] = within(b.v[i], low, high);
    }
}

static __device__ __forceinline__ float denominator(float v, const UpdateRule &r)
{
    return __fadd_rn(__fdiv_rn(__fsqrt_rn(v), r.root_correction2), r.epsilon);
}

/* --- what becomes of it --- */

static __device__ __forceinline__ void add_squares(const LaneBlock &b, const UpdateRule &r, const BlockPlace &at,
                                                   LaneResult &result)
{
    for (int i = 0; i < LANE_ELEMENTS; i++) {
        if (!lane_has(at, i)) continue;
        const double u = __ddiv_rn(static_cast<double>(__fdiv_rn(b.m[i], r.correction1)),
                                   static_cast<double>(denominator(b.v[i], r)));
        result.sum_squares = fma(u, u, result.sum_squares);
    }
}

static __device__ __forceinline__ void update_params(const LaneBlock &b, const UpdateWork &w, const BlockPlace &at,
                                                     const UpdateStep &s)
{
    for (int pack = 0; pack < PACKS; pack++) {
        const int first = pack_at(pack), left = at.count - first;
        float p[PACK];
        pack_load<PACK>(p, w.params + at.element + first, left);
        for (int k = 0; k < PACK; k++) {
            const int i = pack * PACK + k;
            const float move = __fdiv_rn(__fmul_rn(s.step, b.m[i]), denominator(b.v[i], w.rule));
            p[k] = __fadd_rn(__fmul_rn(p[k], s.decay), move);
        }
        pack_store<PACK>(w.params + at.element + first, p, left);
    }
}

/* Bits without the sign order like integers (blockwise_largest). */
static __device__ __forceinline__ float block_largest(const float *x, const BlockPlace &at)
{
    int most = 0;
    for (int i = 0; i < LANE_ELEMENTS; i++) {
        if (lane_has(at, i)) most = max(most, __float_as_int(x[i]) & INT32_MAX);
    }
    for (int distance = WARP_SIZE / 2; distance > 0; distance /= 2)
        most = max(most, __shfl_xor_sync(FULL_WARP, most, distance));
    return __int_as_float(most);
}

static __device__ __forceinline__ void store_codes(char *codes, float *absmax, const float *x, const float *map,
                                                   const BlockPlace &at)
{
    const float most = block_largest(x, at);
    const bool tiny = most < FLT_MIN;
    const float reciprocal = tiny ? 0.0f : __fdiv_rn(1.0f, most);
    __syncwarp(FULL_WARP); /* every lane has read the old scale */
    if (threadIdx.x % WARP_SIZE == 0) absmax[at.scale] = tiny ? 0.0f : most;
    for (int pack = 0; pack < PACKS; pack++) {
        uint32_t word = 0;
        for (int k = 0; k < PACK; k++) {
            const int i = pack * PACK + k;
            word |= code_of(map, lane_has(at, i) ? __fmul_rn(x[i], reciprocal) : 0.0f) << (8 * k);
        }
        *reinterpret_cast<uint32_t *>(codes + pack_at(pack)) = word;
    }
}

static __device__ __forceinline__ void store_floats(char *state, float *x)
{
    for (int pack = 0; pack < PACKS; pack++)
        pack_store<PACK>(reinterpret_cast<float *>(state) + pack_at(pack), lane_pack(x, pack));
}

static __device__ __forceinline__ void store_states(LaneBlock &b, const UpdateWork &w, const BlockPlace &at,
                                                    const float *maps)
{
    if (at.scale >= 0) {
        store_codes(w.state1 + at.offset, w.absmax1, b.m, maps, at);
        store_codes(w.state2 + at.offset, w.absmax2, b.v, maps + MAP_SLOTS, at);
    } else {
        store_floats(w.state1 + at.offset, b.m);
        store_floats(w.state2 + at.offset, b.v);
    }
}

template <bool MEASURE>
static __device__ __forceinline__ void run_block(const UpdateWork &w, const Piece &piece, int block, const float *maps,
                                                 LaneResult &result)
{
    const BlockPlace at = block_place(w, piece, block);
    LaneBlock b;
    load_gradient(b, w, at);
    load_states(b, w, at, maps);
    advance_moments(b, w.rule);
    if (w.count_clamps) clamp_variance(b, w.rule, at, result);
    if (MEASURE) {
        add_squares(b, w.rule, at, result);
    } else {
        update_params(b, w, at, w.steps[piece.param]);
        store_states(b, w, at, maps);
    }
}

/* Sums over a piece: each lane its elements in order, then the warps as block_sum adds them. */
template <bool MEASURE> static __global__ void __launch_bounds__(PIECE_THREADS) pieces_kernel(UpdateWork w)
{
    SHARED_ARRAY(float, maps, 2 * MAP_SLOTS);
    SHARED_ARRAY(double, sums, PIECE_WARPS);
    SHARED_ARRAY(int, counts, PIECE_WARPS);
    load_maps(maps, w.maps);
    for (int64_t i = w.first + blockIdx.x; i < w.last; i += gridDim.x) {
        const Piece piece = w.pieces[i];
        LaneResult mine = {0.0, 0, 0};
        for (int block = static_cast<int>(threadIdx.x) / WARP_SIZE; block * STATE_BLOCK < piece.count;
             block += PIECE_WARPS)
            run_block<MEASURE>(w, piece, block, maps, mine);
        if (!MEASURE && !w.count_clamps) continue;
        const double sum = block_sum<PIECE_THREADS>(mine.sum_squares, sums);
        const int floored = block_sum<PIECE_THREADS>(mine.floored, counts);
        const int capped = block_sum<PIECE_THREADS>(mine.capped, counts);
        if (threadIdx.x == 0) w.results[i] = PieceResult{sum, floored, capped};
    }
}

/* --- host side --- */

static void run_cuda(Adamw *opt, const PieceBatch *b, const UpdatePass *pass)
{
    const UpdateRule &r = pass->rule;
    const size_t steps_bytes = static_cast<size_t>(opt->table->count) * sizeof(UpdateStep);
    const UpdateWork w = {
        device_pieces(opt),
        device_results(opt),
        static_cast<const UpdateStep *>(cuda_stage(opt->be, opt->steps, steps_bytes)),
        static_cast<const float *>(opt->device_maps.data),
        piece_base(pass->params),
        piece_base(pass->grads),
        static_cast<char *>(b->state1.data),
        static_cast<char *>(b->state2.data),
        static_cast<float *>(opt->absmax1.data),
        static_cast<float *>(opt->absmax2.data),
        b->first,
        b->last,
        b->offset,
        r.variance_min > 0.0f || r.variance_max > 0.0f,
        r,
    };
    const unsigned grid = piece_grid(opt, b->last - b->first);
    if (pass->measure)
        CUDA_LAUNCH(opt->be, pieces_kernel<true>, grid, PIECE_THREADS, 0, w);
    else
        CUDA_LAUNCH(opt->be, pieces_kernel<false>, grid, PIECE_THREADS, 0, w);
}

static Tensor table_place(Arena *state, size_t bytes)
{
    return arena_vector(state, DTYPE_U8, static_cast<int64_t>(bytes));
}

static void place_cuda(Adamw *opt, Arena *state)
{
    const size_t pieces = static_cast<size_t>(opt->piece_count);
    opt->device_pieces = table_place(state, pieces * sizeof(Piece));
    opt->device_results = table_place(state, pieces * sizeof(PieceResult));
    opt->device_maps = table_place(state, sizeof opt->map1 + sizeof opt->map2);
}

static void start_cuda(Adamw *opt)
{
    const Tensor first = tensor_slice_flat(&opt->device_maps, 0, sizeof opt->map1);
    const Tensor second = tensor_slice_flat(&opt->device_maps, sizeof opt->map1, sizeof opt->map2);
    backend_upload(opt->be, &opt->device_pieces, opt->pieces);
    backend_upload(opt->be, &first, opt->map1);
    backend_upload(opt->be, &second, opt->map2);
}

void adamw_collect_cuda(Adamw *opt)
{
    backend_download(opt->be, opt->results, &opt->device_results);
}

extern "C" const AdamwOps adamw_ops_cuda = {
    place_cuda, start_cuda, adamw_norms_cuda, adamw_clamped_norms_cuda, run_cuda, adamw_collect_cuda,
};
