#include "backend/cuda_vector.cuh"
#include "model/ops.h"
#include "quant/nested.h"

/*
 * Two launches for a group: the inputs as f32, and x A^T of all parts; then the outputs.
 *
 * A warp takes four rows of a matrix at a time, so that what it loads of x serves four rows, and adds up over its lanes
 * in a fixed order. Of 4-bit rows a lane loads 16 bytes of codes, 32 weights of one block: 0.5 bytes a weight and their
 * absmax, each once; bound by memory, and on fast memory by the table lookups. Rows that do not start on 16 bytes of
 * codes, and blocks that straddle lanes, are decoded a weight at a time.
 */
static constexpr int THREADS = 256, WARPS = THREADS / WARP_SIZE, ROWS = 4;
static constexpr int RUN = 32 /* weights in 16 bytes of codes */, TILE = RUN * WARP_SIZE;

static __device__ __forceinline__ int lane_of()
{
    return static_cast<int>(threadIdx.x) % WARP_SIZE;
}

/* --- what the kernels get --- */

enum Storage {
    STORAGE_RUNS,
    STORAGE_CODES,
    STORAGE_F32,
    STORAGE_BF16,
    STORAGE_F16
}; /* runs: codes, 16 bytes at a time */

typedef struct PartTables {
    float levels[16];
    float map[256]; /* of nested absmax */
} PartTables;

typedef struct Part {
    Storage storage;
    int64_t rows;
    const void *weights; /* codes or elements */
    int64_t stride;      /* of plain rows */
    bool packed;         /* plain rows and x start on 16 bytes */
    int block_shift;
    const float *absmax; /* or null: nested */
    const uint8_t *nested_codes;
    const float *nested_absmax;
    float offset;
    int64_t rank;
    float scale;
    Rows<const float> a, b;
} Part;

typedef struct Group {
    Part parts[THIN_PARTS];
    const PartTables *tables; /* one a part */
    int count;
    int64_t cols, ranks;
    float *x;       /* (n, K) */
    float *ordered; /* (n, K) as runs of codes want it, see ordered_place; null: no part wants it */
    float *h;       /* (n, ranks): x A^T of all parts */
    bool a_packed;  /* rows of every A and of the input are packs of four */
} Group;

typedef struct Output {
    void *y;
    DType dtype;
    int64_t stride;
    const void *bias; /* or null */
    DType bias_dtype;
} Output;

/* Sums of the four rows of a warp, for n inputs. */
template <int n> struct Sums {
    float of[ROWS][n];
};

/* --- inputs --- */

/*
 * Lane l takes elements 32 l .. 32 l + 31 of a tile of 1024 (fewer lanes take the last tile), four at a time: those that
 * the lanes read together lie together.
 */
static __device__ __forceinline__ int64_t ordered_place(int64_t k, int64_t cols)
{
    const int64_t tile = k / TILE * TILE, left = cols - tile;
    const int lanes = static_cast<int>(min(left, static_cast<int64_t>(TILE))) / RUN, at = static_cast<int>(k - tile);
    return tile + (at % RUN / 4 * lanes + at / RUN) * 4 + at % 4;
}

/* sums[r][i] += row r . x_i, the share of this lane: every 32nd pack of N elements */
template <int N, int R, int n, class T, class X>
static __device__ __forceinline__ void dense_lane(float (&sums)[R][n], const T *const (&rows)[R], Rows<const X> x,
                                                  int64_t cols)
{
    for (int64_t k = lane_of() * N; k < cols; k += WARP_SIZE * N) {
        float in[n][N], w[N];
        for (int i = 0; i < n; i++)
            pack_load<N>(in[i], x.at(i, k), cols - k);
        for (int r = 0; r < R; r++) {
            pack_load<N>(w, rows[r] + k, cols - k);
            for (int i = 0; i < n; i++) {
                for (int j = 0; j < N; j++)
                    sums[r][i] = fmaf(w[j], in[i][j], sums[r][i]);
            }
        }
    }
}

/* Side column q of the group: which part's A, and which row of it. */
static __device__ const float *side_row(const Group &g, int64_t q)
{
    const Part *part = g.parts;
    for (; q >= part->rank; part++)
        q -= part->rank;
    return part->a.at(q, 0);
}

template <class X, int n> static __global__ void inputs_kernel(Group g, Rows<const X> x)
{
    for (int64_t e = thread_first(); e < n * g.cols; e += thread_step()) {
        const int64_t i = quotient(e, g.cols), k = e - i * g.cols;
        const float value = element_load(*x.at(i, k));
        g.x[e] = value;
        if (g.ordered) g.ordered[i * g.cols + ordered_place(k, g.cols)] = value;
    }
    for (int64_t q = warp_first(); q < g.ranks; q += warp_step()) {
        const float *const rows[1] = {side_row(g, q)};
        float sums[1][n] = {};
        if (g.a_packed) {
            dense_lane<4>(sums, rows, x, g.cols);
        } else {
            dense_lane<1>(sums, rows, x, g.cols);
        }
        for (int i = 0; i < n; i++) {
            const float sum = warp_sum(sums[0][i]);
            if (lane_of() == i) g.h[i * g.ranks + q] = sum;
        }
    }
}

/* --- outputs --- */

/* One product and one sum, rounded one by one, as decoding does (quant/nf4.h). */
static __device__ __forceinline__ float absmax_at(const Part &p, const PartTables &tables, int64_t block)
{
    if (p.absmax) return p.absmax[block];
    return __fadd_rn(__fmul_rn(tables.map[p.nested_codes[block]], p.nested_absmax[block / NESTED_BLOCK]), p.offset);
}

/* The four rows of a warp; rows past the end are the last one again, and nobody keeps their sums. */
static __device__ __forceinline__ int64_t row_of(const Part &p, int64_t first, int r)
{
    return min(first + r, p.rows - 1);
}

/* `levels` is this lane's own copy of the table, a level every 32 words: no two lanes ever want the same bank. */
template <int n>
static __device__ void runs_lane(Sums<n> *sums, const Group &g, int part, int64_t first, const float *levels)
{
    const Part &p = g.parts[part];
    for (int64_t k = lane_of() * RUN; k < g.cols; k += TILE) {
        const int64_t tile = k - lane_of() * RUN;
        const int64_t lanes = min(g.cols - tile, static_cast<int64_t>(TILE)) / RUN;
        Pack<uint32_t, 4> codes[ROWS];
        float dots[ROWS][n] = {}, absmax[ROWS];
        for (int r = 0; r < ROWS; r++) {
            const int64_t at = row_of(p, first, r) * g.cols + k;
            codes[r].word =
                load_once(reinterpret_cast<const uint4 *>(static_cast<const uint8_t *>(p.weights) + at / 2));
            absmax[r] = absmax_at(p, g.tables[part], at >> p.block_shift);
        }
#pragma unroll
        for (int four = 0; four < RUN / 4; four++) {
            float x[n][4];
            for (int i = 0; i < n; i++)
                pack_load<4>(x[i], g.ordered + i * g.cols + tile + (four * lanes + lane_of()) * 4);
            for (int j = 0; j < 4; j++) {
                const int shift = (four % 2 * 2 + j / 2) * 8 + (j % 2 == 0 ? 4 : 0); /* even ones in high nibbles */
                for (int r = 0; r < ROWS; r++) {
                    const float level = levels[(codes[r].element[four / 2] >> shift & 15u) * WARP_SIZE];
                    for (int i = 0; i < n; i++)
                        dots[r][i] = fmaf(level, x[i][j], dots[r][i]);
                }
            }
        }
        for (int r = 0; r < ROWS; r++) {
            for (int i = 0; i < n; i++)
                sums->of[r][i] = fmaf(absmax[r], dots[r][i], sums->of[r][i]);
        }
    }
}

/* Weights at any place, one at a time. */
template <int n>
static __device__ void codes_lane(Sums<n> *sums, const Group &g, int part, int64_t first, const float *levels)
{
    const Part &p = g.parts[part];
    for (int64_t k = lane_of(); k < g.cols; k += WARP_SIZE) {
        for (int r = 0; r < ROWS; r++) {
            const int64_t at = row_of(p, first, r) * g.cols + k;
            const unsigned two = static_cast<const uint8_t *>(p.weights)[at / 2],
                           code = (at % 2 ? two : two >> 4) & 15u;
            const float w = levels[code * WARP_SIZE] * absmax_at(p, g.tables[part], at >> p.block_shift);
            for (int i = 0; i < n; i++)
                sums->of[r][i] = fmaf(w, g.x[i * g.cols + k], sums->of[r][i]);
        }
    }
}

template <class T, int n> static __device__ void plain_lane(Sums<n> *sums, const Group &g, const Part &p, int64_t first)
{
    const T *rows[ROWS];
    const Rows<const float> x = {g.x, g.cols};
    for (int r = 0; r < ROWS; r++)
        rows[r] = static_cast<const T *>(p.weights) + row_of(p, first, r) * p.stride;
    if (p.packed) {
        dense_lane<cuda_pack<T>>(sums->of, rows, x, g.cols);
    } else {
        dense_lane<1>(sums->of, rows, x, g.cols);
    }
}

/* + scale * h B^T; `side` is the part's first column of h */
template <int n>
static __device__ void adapter_lane(Sums<n> *sums, const Group &g, const Part &p, int64_t first, int64_t side)
{
    for (int64_t q = lane_of(); q < p.rank; q += WARP_SIZE) {
        for (int r = 0; r < ROWS; r++) {
            const float b = p.scale * *p.b.at(row_of(p, first, r), q);
            for (int i = 0; i < n; i++)
                sums->of[r][i] = fmaf(b, g.h[i * g.ranks + side + q], sums->of[r][i]);
        }
    }
}

/* One element of a type that only the launch knows. */
static __device__ float load_any(const void *from, DType dtype, int64_t i)
{
    if (dtype == DTYPE_F32) return static_cast<const float *>(from)[i];
    return dtype == DTYPE_F16 ? element_load(static_cast<const f16 *>(from)[i])
                              : element_load(static_cast<const bf16 *>(from)[i]);
}

static __device__ void store_any(void *to, DType dtype, int64_t i, float value)
{
    if (dtype == DTYPE_F32)
        static_cast<float *>(to)[i] = value;
    else if (dtype == DTYPE_F16)
        static_cast<f16 *>(to)[i] = element_round<f16>(value);
    else
        static_cast<bf16 *>(to)[i] = element_round<bf16>(value);
}

static __device__ void output_store(const Output &out, int64_t i, int64_t o, float value)
{
    if (out.bias) value += load_any(out.bias, out.bias_dtype, o);
    store_any(out.y, out.dtype, i * out.stride + o, value);
}

/* Rows first .. first + 3 of a part; `before` are the rows and `side` the ranks of the parts in front of it. */
template <int n>
static __device__ void output_rows(const Group &g, const Output &out, int part, int64_t first, int64_t before,
                                   int64_t side, const float *levels)
{
    const Part &p = g.parts[part];
    Sums<n> sums = {};
    switch (p.storage) {
    case STORAGE_RUNS: runs_lane<n>(&sums, g, part, first, levels); break;
    case STORAGE_CODES: codes_lane<n>(&sums, g, part, first, levels); break;
    case STORAGE_F32: plain_lane<float, n>(&sums, g, p, first); break;
    case STORAGE_BF16: plain_lane<bf16, n>(&sums, g, p, first); break;
    case STORAGE_F16: plain_lane<f16, n>(&sums, g, p, first); break;
    }
    adapter_lane<n>(&sums, g, p, first, side);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
#pragma unroll
        for (int i = 0; i < n; i++) {
            const float value = warp_sum(sums.of[r][i]);
            if (lane_of() == r * n + i && first + r < p.rows) output_store(out, i, before + first + r, value);
        }
    }
}

template <int n> static __global__ void __launch_bounds__(THREADS) outputs_kernel(Group g, Output out, int64_t fours)
{
    constexpr int TABLE = 16 * WARP_SIZE;
    SHARED_ARRAY(float, levels, THIN_PARTS *TABLE);
    for (int i = static_cast<int>(threadIdx.x); i < g.count * TABLE; i += THREADS)
        levels[i] = g.tables[i / TABLE].levels[i % TABLE / WARP_SIZE];
    __syncthreads();
    for (int64_t item = warp_first(); item < fours; item += warp_step()) {
        int part = 0;
        int64_t four = item, before = 0, side = 0;
        for (; four >= (g.parts[part].rows + ROWS - 1) / ROWS; part++) {
            four -= (g.parts[part].rows + ROWS - 1) / ROWS;
            before += g.parts[part].rows;
            side += g.parts[part].rank;
        }
        output_rows<n>(g, out, part, four * ROWS, before, side, levels + part * TABLE + lane_of());
    }
}

/* --- launches --- */

static Part quant_part(const QuantMatrix *m, PartTables *tables)
{
    Part p = {};
    const bool nested = m->options.double_quant;
    const bool runs = m->cols % RUN == 0 && reinterpret_cast<uintptr_t>(m->codes.data) % 16 == 0;
    p.storage = runs ? STORAGE_RUNS : STORAGE_CODES;
    p.weights = m->codes.data;
    while (1 << p.block_shift < m->options.block)
        p.block_shift++;
    p.absmax = nested ? nullptr : static_cast<const float *>(m->absmax.data);
    p.nested_codes = nested ? static_cast<const uint8_t *>(m->absmax.data) : nullptr;
    p.nested_absmax = static_cast<const float *>(m->nested_absmax.data);
    p.offset = m->offset;
    for (int i = 0; i < 16; i++)
        tables->levels[i] = quant_levels[m->options.type][i];
    for (int i = 0; i < 256; i++)
        tables->map[i] = m->map[i];
    return p;
}

static Part plain_part(const Tensor *w)
{
    Part p = {};
    p.storage = w->dtype == DTYPE_F32 ? STORAGE_F32 : w->dtype == DTYPE_F16 ? STORAGE_F16 : STORAGE_BF16;
    p.weights = w->data;
    p.stride = w->stride;
    p.packed = cuda_packed(w, w->dtype == DTYPE_F32 ? 4 : 8) && w->shape[1] % 4 == 0; /* rows of x follow each other */
    return p;
}

static Part part_of(const ThinPart *t, PartTables *tables)
{
    Part p = t->quant ? quant_part(t->quant, tables) : plain_part(&t->plain);
    p.rows = t->rows;
    p.rank = t->rank;
    p.scale = t->scale;
    if (t->rank > 0) {
        p.a = cuda_rows<const float>(&t->a);
        p.b = cuda_rows<const float>(&t->b);
    }
    return p;
}

static Group group_of(Backend *be, const Thin *t, const Tensor *x, float *scratch)
{
    Group g = {};
    PartTables tables[THIN_PARTS] = {};
    const int64_t n = tensor_rows(x), cols = tensor_cols(x);
    bool runs = false;
    g.count = t->count;
    g.cols = cols;
    g.a_packed = cuda_packed(x, 4);
    for (int i = 0; i < t->count; i++) {
        g.parts[i] = part_of(&t->parts[i], &tables[i]);
        g.ranks += t->parts[i].rank;
        g.a_packed = g.a_packed && (t->parts[i].rank == 0 || cuda_packed(&t->parts[i].a, 4));
        runs = runs || g.parts[i].storage == STORAGE_RUNS;
    }
    g.tables = static_cast<const PartTables *>(cuda_stage(be, tables, sizeof tables));
    g.x = scratch;
    g.ordered = runs ? scratch + n * cols : nullptr;
    g.h = scratch + 2 * n * cols;
    return g;
}

template <int n> static void launch(Backend *be, const Group &g, const Tensor *x, const Output &out)
{
    const int64_t items = max(ceil_div(n * g.cols, THREADS), ceil_div(g.ranks, WARPS));
    int64_t fours = 0;
    for (int i = 0; i < g.count; i++)
        fours += ceil_div(g.parts[i].rows, ROWS);
    cuda_typed(x->dtype, [&](auto type) {
        typedef decltype(type) X;
        CUDA_LAUNCH(be, (inputs_kernel<X, n>), cuda_blocks(be, items, 2048 / THREADS), THREADS, 0, g,
                    cuda_rows<const X>(x));
    });
    CUDA_LAUNCH(be, (outputs_kernel<n>), cuda_blocks(be, ceil_div(fours, WARPS), 2048 / THREADS), THREADS, 0, g, out,
                fours);
}

static void forward_cuda(Backend *be, const Thin *t, const Tensor *y, const Tensor *x, float *scratch)
{
    const Group g = group_of(be, t, x, scratch);
    const Output out = {y->data, y->dtype, y->stride, t->bias ? t->bias->data : nullptr,
                        t->bias ? t->bias->dtype : DTYPE_F32};
    switch (tensor_rows(x)) { /* constants, so that the sums stay in registers */
    case 1: launch<1>(be, g, x, out); break;
    case 2: launch<2>(be, g, x, out); break;
    case 3: launch<3>(be, g, x, out); break;
    case 4: launch<4>(be, g, x, out); break;
    default: CHECK(false);
    }
}

extern "C" const ThinOps thin_ops_cuda = {forward_cuda};
