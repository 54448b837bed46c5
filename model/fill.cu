/*
 * fill.cu - the buffers of several groups in one launch: decoded weights, the adapters' strips, zeros between them.
 *
 * A row of blocks (blockIdx.y) belongs to a group. First warps take the weights, a span of a matrix at a time, then threads the strips, a pack of four at a time: beside W
 * the first O rows have R columns, and below it lie R rows of K. Read: 0.516 bytes a weight (or the 16-bit weights that
 * are not quantized) and the adapters once; written: the buffer once.
 */
#include "model/ops.h"
#include "quant/decode.cuh"

enum { THREADS = 256 };

/* One matrix of the group: quantized, or with `plain` rows in the compute type. */
template <class T> struct PartView {
    int64_t first_row, end_row;
    int64_t first_side, rank; /* rank 0: no adapter */
    int64_t spans;            /* of its weights; 0: they stay as they are */
    bool quantized;
    QuantView quant;
    Rows<const T> plain;
    const float *a, *b; /* (rank, K), (rows, rank) */
    float scale;
};

template <class T> struct FillView {
    Rows<T> buffer;
    int64_t rows, cols, side; /* O, K, R */
    PartView<T> parts[FILL_PARTS_MAX];
    int count;
    bool quads; /* packs of four of a strip are packs of A or B, or outside of both */
};

/* --- weights --- */

/* As many plain weights as a quantized span has, copied. */
template <int N, class T, class Put>
__device__ __forceinline__ void plain_span(const PartView<T> &part, const SpanRows &place, int64_t left, const Put &put)
{
    const int count = static_cast<int>(min(left, static_cast<int64_t>(QUANT_SPAN)));
    for (int i = static_cast<int>(threadIdx.x) % WARP_SIZE * N; i < count; i += WARP_SIZE * N) {
        float x[N];
        pack_load<N>(x, place.at(part.plain, 0, i));
        put(i, x);
    }
}

/* Spans are numbered through all matrices. */
template <int N, class T> __device__ __forceinline__ void put_weights(const FillView<T> &f, const float *tables)
{
    int64_t span = warp_first();
#pragma unroll
    for (int p = 0; p < FILL_PARTS_MAX; p++) {
        const PartView<T> &part = f.parts[p];
        for (; span < part.spans; span += warp_step()) {
            const int64_t first = span * (part.quantized ? part.quant.span : QUANT_SPAN);
            const SpanRows place(first, f.cols);
            const auto put = [&](int weight, const float(&x)[N]) {
                pack_store<N>(place.at(f.buffer, part.first_row, weight), x);
            };
            if (part.quantized)
                quant_span<N>(part.quant, tables + p * QUANT_TABLES, span, put);
            else
                plain_span<N>(part, place, (part.end_row - part.first_row) * f.cols - first, put);
        }
        span -= part.spans;
    }
}

/* --- strips --- */

/* N elements from `at` on, of which those before `count` are there. */
template <int N> __device__ __forceinline__ void strip_load(float (&x)[N], const float *from, int64_t at, int64_t count)
{
#pragma unroll
    for (int k = 0; k < N; k++)
        x[k] = at + k >= 0 && at + k < count ? from[at + k] : 0.0f;
}

/* Columns K + side .. of a row: s B of this row's matrix in its own columns, zero elsewhere. */
template <int N, class T>
__device__ __forceinline__ void beside_pack(float (&x)[N], const FillView<T> &f, int64_t row, int64_t side)
{
#pragma unroll
    for (int p = 0; p < FILL_PARTS_MAX; p++) {
        const PartView<T> &part = f.parts[p];
        if (p >= f.count || row < part.first_row || row >= part.end_row) continue;
        const float *from = part.b + (row - part.first_row) * part.rank;
        const int64_t at = side - part.first_side;
        if (f.quads && at >= 0 && at < part.rank)
            pack_load<N>(x, from + at);
        else
            strip_load<N>(x, from, at, part.rank);
#pragma unroll
        for (int k = 0; k < N; k++)
            x[k] = __fmul_rn(x[k], part.scale);
    }
}

/* Columns col .. of row O + side: A of the matrix that this side column belongs to; zero where it is nobody's. */
template <int N, class T>
__device__ __forceinline__ void below_pack(float (&x)[N], const FillView<T> &f, int64_t side, int64_t col)
{
#pragma unroll
    for (int p = 0; p < FILL_PARTS_MAX; p++) {
        const PartView<T> &part = f.parts[p];
        const int64_t rank = side - part.first_side;
        if (p >= f.count || rank < 0 || rank >= part.rank) continue;
        if (f.quads)
            pack_load<N>(x, part.a + rank * f.cols + col);
        else
            strip_load<N>(x, part.a + rank * f.cols, col, f.cols);
    }
}

/* Packs are numbered row by row: first the columns beside W, then the rows below it. */
template <int N, class T> __device__ __forceinline__ void put_strips(const FillView<T> &f)
{
    const int64_t beside_row = (f.side + N - 1) / N, below_row = (f.cols + N - 1) / N;
    const int64_t beside = f.rows * beside_row, all = beside + f.side * below_row;
    for (int64_t i = thread_first(); i < all; i += thread_step()) {
        float x[N] = {};
        if (i < beside) {
            const int64_t row = quotient(i, beside_row), side = (i - row * beside_row) * N;
            beside_pack<N>(x, f, row, side);
            pack_store<N>(f.buffer.at(row, f.cols + side), x);
        } else {
            const int64_t side = quotient(i - beside, below_row), col = (i - beside - side * below_row) * N;
            below_pack<N>(x, f, side, col);
            pack_store<N>(f.buffer.at(f.rows + side, col), x);
        }
    }
}

template <class T> struct Groups {
    FillView<T> group[FILL_GROUPS_MAX];
};

template <class T, int N>
static __global__ void __launch_bounds__(THREADS, 4) fill_kernel(const __grid_constant__ Groups<T> groups)
{
    const FillView<T> &f = groups.group[blockIdx.y];
    SHARED_ARRAY(float, tables, int{FILL_PARTS_MAX} * QUANT_TABLES);
    for (int i = 0; i < f.count; i++) {
        if (f.parts[i].quantized && f.parts[i].spans > 0)
            quant_load_tables(tables + i * QUANT_TABLES, f.parts[i].quant.tables);
    }
    put_weights<N>(f, tables);
    put_strips<(N > 4 ? 4 : N)>(f);
}

/* --- launches --- */

template <class T> static PartView<T> part_view(Backend *be, const FillPart *part, int64_t cols, bool weights)
{
    PartView<T> v = {};
    v.first_row = part->first_row;
    v.end_row = part->first_row + part->rows;
    v.quantized = part->quant != nullptr;
    if (part->quant && weights) v.quant = quant_view(be, part->quant);
    if (!part->quant) v.plain = cuda_rows<const T>(&part->plain);
    if (weights) v.spans = part->quant ? quant_spans(v.quant) : ceil_div(part->rows * cols, QUANT_SPAN);
    v.first_side = part->first_side;
    v.rank = part->rank;
    v.scale = part->scale;
    if (part->rank > 0) {
        v.a = static_cast<const float *>(part->a.data);
        v.b = static_cast<const float *>(part->b.data);
    }
    return v;
}

/* Whether strips can be read four at a time; K is a multiple of four. */
static bool quads(const Fill *f)
{
    bool yes = true;
    for (int i = 0; i < f->count; i++) {
        const FillPart *part = &f->parts[i];
        yes = yes && part->rank % 4 == 0 && part->first_side % 4 == 0;
        if (part->rank > 0) yes = yes && cuda_packed(&part->a, 4) && cuda_packed(&part->b, 4);
    }
    return yes;
}

template <class T, int N> static FillView<T> group_view(Backend *be, const Fill *f, bool weights)
{
    FillView<T> v = {};
    v.buffer = cuda_rows<T>(&f->buffer);
    v.rows = f->rows;
    v.cols = f->cols;
    v.side = f->side;
    v.count = f->count;
    v.quads = N > 1 && quads(f);
    for (int i = 0; i < f->count; i++)
        v.parts[i] = part_view<T>(be, &f->parts[i], f->cols, weights);
    return v;
}

/* Threads that have something to do at once. */
template <class T, int N> static int64_t group_threads(const FillView<T> &v)
{
    int64_t threads = ceil_div(v.rows * v.side + v.side * v.cols, min(N, 4));
    for (int i = 0; i < v.count; i++)
        threads = max(threads, v.parts[i].spans * WARP_SIZE);
    return threads;
}

template <class T, int N> static void launch(Backend *be, const Fill *groups, int count, bool weights)
{
    Groups<T> views = {};
    int64_t threads = 1;
    for (int i = 0; i < count; i++) {
        views.group[i] = group_view<T, N>(be, &groups[i], weights);
        threads = max(threads, group_threads<T, N>(views.group[i]));
    }
    const dim3 grid(cuda_thread_blocks(be, threads, THREADS), static_cast<unsigned>(count));
    CUDA_LAUNCH(be, (fill_kernel<T, N>), grid, THREADS, 0, views);
}

/* Whether no pack of n crosses from W into a strip, and all are aligned. */
static bool packed(const Fill *f, int n)
{
    bool yes = f->cols % n == 0 && f->side % n == 0 && cuda_packed(&f->buffer, n);
    for (int i = 0; i < f->count; i++) {
        const FillPart *part = &f->parts[i];
        yes = yes && (part->quant ? quant_packed(part->quant, n) : cuda_packed(&part->plain, n));
    }
    return yes;
}

static void fill_cuda(Backend *be, const Fill *groups, int count, bool weights)
{
    cuda_typed(groups[0].buffer.dtype, [&](auto element) {
        typedef decltype(element) T;
        constexpr int N = cuda_pack<T>;
        bool all = true;
        for (int i = 0; i < count; i++) {
            CHECK(groups[i].cols <= INT32_MAX);
            all = all && packed(&groups[i], N);
        }
        if (all)
            launch<T, N>(be, groups, count, weights);
        else
            launch<T, 1>(be, groups, count, weights);
    });
}

extern "C" const FillOps fill_ops_cuda = {fill_cuda};
