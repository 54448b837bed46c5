/*
 * fill.cu - the buffer of a group in one launch: decoded weights, the adapters' strips, zeros between them.
 *
 * A thread writes a pack of a row at a time. The first O rows have K + R elements, the R rows below them K. Read: 0.516
 * bytes a weight (or the 16-bit weights that are not quantized) and the adapters once; written: the buffer once.
 */
#include "model/ops.h"
#include "quant/decode.cuh"

enum { THREADS = 256 };

/* One matrix of the group: quantized, or with `plain` rows in the compute type. */
template <class T> struct PartView {
    int64_t first_row, end_row;
    int64_t first_side, rank; /* rank 0: no adapter */
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
};

/* Columns K + col .. of row `row` < O: s B of this row's matrix in its own columns, zero elsewhere. */
template <class T, int N>
__device__ __forceinline__ void beside_pack(float (&x)[N], const PartView<T> &part, int64_t row, int64_t col)
{
#pragma unroll
    for (int k = 0; k < N; k++) {
        const int64_t rank = col + k - part.first_side;
        const bool inside = rank >= 0 && rank < part.rank;
        x[k] = inside ? __fmul_rn(part.b[(row - part.first_row) * part.rank + rank], part.scale) : 0.0f;
    }
}

/* Columns col .. of row O + side: A of the matrix that this side column belongs to; zero where it is nobody's. */
template <class T, int N>
__device__ __forceinline__ void below_pack(float (&x)[N], const FillView<T> &f, int64_t side, int64_t col)
{
    const float *from = nullptr;
#pragma unroll
    for (int i = 0; i < FILL_PARTS_MAX; i++) {
        const int64_t rank = side - f.parts[i].first_side;
        if (i < f.count && rank >= 0 && rank < f.parts[i].rank) from = f.parts[i].a + rank * f.cols;
    }
#pragma unroll
    for (int k = 0; k < N; k++)
        x[k] = from && col + k < f.cols ? from[col + k] : 0.0f;
}

/* Packs of W of the rows of one matrix. */
template <class T, int N>
__device__ __forceinline__ void weight_pack(float (&x)[N], const FillView<T> &f, const PartView<T> &part,
                                            const float *tables, int64_t row, int64_t col)
{
    const int64_t own = row - part.first_row;
    if (part.quantized)
        quant_pack<N>(x, part.quant, tables, own * f.cols + col);
    else
        pack_load<N>(x, part.plain.at(own, col));
}

/* Rows that show O x (K + R), without W when only the adapters changed; `part` holds the row. */
template <class T, int N>
__device__ __forceinline__ void upper_pack(const FillView<T> &f, const PartView<T> &part, const float *tables,
                                           int64_t row, int64_t col)
{
    float x[N];
    if (col < f.cols)
        weight_pack<T, N>(x, f, part, tables, row, col);
    else
        beside_pack<T, N>(x, part, row, col - f.cols);
    pack_store<N>(f.buffer.at(row, col), x);
}

/*
 * Packs are numbered row by row: first the O rows from column `start` (0, or K for the strips alone) to K + R, then the
 * R rows below, from 0 to K.
 */
template <class T, int N> static __global__ void fill_kernel(FillView<T> f, int64_t start)
{
    SHARED_ARRAY(float, tables, int{FILL_PARTS_MAX} * QUANT_TABLES);
    for (int i = 0; i < f.count; i++) {
        if (f.parts[i].quantized && start == 0) quant_load_tables(tables + i * QUANT_TABLES, f.parts[i].quant.tables);
    }
    const int64_t upper_row = (f.cols + f.side - start + N - 1) / N, upper = f.rows * upper_row;
    const int64_t lower_row = (f.cols + N - 1) / N, all = upper + f.side * lower_row;
    for (int64_t i = thread_first(); i < all; i += thread_step()) {
        if (i >= upper) {
            const int64_t side = quotient(i - upper, lower_row), col = (i - upper - side * lower_row) * N;
            float x[N];
            below_pack<T, N>(x, f, side, col);
            pack_store<N>(f.buffer.at(f.rows + side, col), x);
            continue;
        }
        const int64_t row = quotient(i, upper_row), col = start + (i - row * upper_row) * N;
#pragma unroll
        for (int p = 0; p < FILL_PARTS_MAX; p++) {
            if (p < f.count && row >= f.parts[p].first_row && row < f.parts[p].end_row)
                upper_pack<T, N>(f, f.parts[p], tables + p * QUANT_TABLES, row, col);
        }
    }
}

template <class T> static PartView<T> part_view(Backend *be, const FillPart *part, bool weights)
{
    PartView<T> v = {};
    v.first_row = part->first_row;
    v.end_row = part->first_row + part->rows;
    v.quantized = part->quant != nullptr;
    if (part->quant && weights) v.quant = quant_view(be, part->quant);
    if (!part->quant) v.plain = cuda_rows<const T>(&part->plain);
    v.first_side = part->first_side;
    v.rank = part->rank;
    v.scale = part->scale;
    if (part->rank > 0) {
        v.a = static_cast<const float *>(part->a.data);
        v.b = static_cast<const float *>(part->b.data);
    }
    return v;
}

template <class T, int N> static void launch(Backend *be, const Fill *f, bool weights)
{
    FillView<T> v = {};
    v.buffer = cuda_rows<T>(&f->buffer);
    v.rows = f->rows;
    v.cols = f->cols;
    v.side = f->side;
    v.count = f->count;
    for (int i = 0; i < f->count; i++)
        v.parts[i] = part_view<T>(be, &f->parts[i], weights);
    const int64_t elements = f->rows * (f->side + (weights ? f->cols : 0)) + f->side * f->cols;
    CUDA_LAUNCH(be, (fill_kernel<T, N>), cuda_thread_blocks(be, ceil_div(elements, N), THREADS), THREADS, 0, v,
                weights ? static_cast<int64_t>(0) : f->cols);
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

static void fill_cuda(Backend *be, const Fill *f, bool weights)
{
    cuda_typed(f->buffer.dtype, [&](auto element) {
        typedef decltype(element) T;
        constexpr int N = cuda_pack<T>;
        if (packed(f, N))
            launch<T, N>(be, f, weights);
        else
            launch<T, 1>(be, f, weights);
    });
}

extern "C" const FillOps fill_ops_cuda = {fill_cuda};
