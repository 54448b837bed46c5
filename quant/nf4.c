#include "quant/nf4.h"

#include "backend/cpu.h"
#include "backend/simd.h"
#include "quant/kernels.h"
#include "quant/nested.h"
#include "quant/ops.h"

const float quant_levels[2][16] = {
    [QUANT_NF4] = {-1.0f, -0.6961928009986877f,   -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f,
                   -0.18477343022823334f,                                                                                   -0.09105003625154495f, 0.0f,  0.07958029955625534f, 0.16093020141124725f,
                   0.24611230194568634f,                                                                                                                                                                                       0.33791524171829224f, 0.44070982933044434f, 0.5626170039176941f,
                   0.7229568362236023f,                                                                                                                                                                                                                                                                               1.0f  },
    [QUANT_FP4] = {0.0f,  0.0052083334885537624f, 0.6666666865348816f,  1.0f,                  0.3333333432674408f,   0.5f,
                   0.1666666716337204f,                                                                                                            0.25f, -0.0f,                -0.0052083334885537624f, -0.6666666865348816f, -1.0f,
                   -0.3333333432674408f,                                                                                                                                                                                                                                   -0.5f,               -0.1666666716337204f, -0.25f},
};

/* --- layout --- */

static int64_t blocks_of(const QuantOptions *options, int64_t count)
{
    return ceil_div(count, options->block);
}

static void check_options(const QuantOptions *options)
{
    const int block = options->block;
    CHECK(block >= 32 && block <= 4096 && (block & (block - 1)) == 0);
    CHECK(options->type == QUANT_NF4 || options->type == QUANT_FP4);
}

void quant_place(QuantMatrix *m, Arena *a, const QuantOptions *options, int64_t rows, int64_t cols)
{
    check_options(options);
    CHECK(rows > 0 && cols > 0);
    const int64_t count = rows * cols, blocks = blocks_of(options, count);
    *m = (QuantMatrix){.options = *options, .rows = rows, .cols = cols, .source_dtype = DTYPE_F32};
    blockwise_map_signed(m->map);
    m->codes = arena_vector(a, DTYPE_U8, ceil_div(count, 2));
    m->absmax = arena_vector(a, options->double_quant ? DTYPE_U8 : DTYPE_F32, blocks);
    m->nested_absmax = tensor_vector(NULL, DTYPE_F32, 0);
    if (options->double_quant) m->nested_absmax = arena_vector(a, DTYPE_F32, ceil_div(blocks, NESTED_BLOCK));
}

int64_t quant_blocks(const QuantMatrix *m)
{
    return blocks_of(&m->options, m->rows * m->cols);
}

size_t quant_matrix_bytes(const QuantOptions *options, int64_t rows, int64_t cols)
{
    const int64_t count = rows * cols, blocks = blocks_of(options, count);
    const int64_t scales = options->double_quant ? blocks + 4 * ceil_div(blocks, NESTED_BLOCK) : 4 * blocks;
    return (size_t)(ceil_div(count, 2) + scales);
}

/* --- encoding --- */

static int64_t first_not_finite(const float *x, int64_t n)
{
    int64_t i = 0;
    while (i < n && isfinite(x[i]))
        i++;
    return i;
}

/* Flat index of the first value that is not finite, or `count`. */
static int64_t encode_blocks(uint8_t *codes, float *absmax, const float *values, int64_t count,
                             const QuantOptions *options)
{
    const int64_t blocks = blocks_of(options, count), size = options->block;
    int64_t bad = count;
#pragma omp parallel for schedule(static) reduction(min : bad)
    for (int64_t b = 0; b < blocks; b++) {
        const int64_t first = b * size, n = count - first < size ? count - first : size;
        if (!kernel_encode(codes + first / 2, absmax + b, values + first, n, options->type) && first < bad)
            bad = first + first_not_finite(values + first, n);
    }
    return bad;
}

bool quant_refuse(int64_t index, float value, Err *err)
{
    return FAIL(err, ERR_MODEL, "the weight at flat index %lld is %s; only finite weights can be quantized",
                (long long)index, isnan(value) ? "NaN" : "infinite");
}

bool quant_encode(QuantHost *out, const float *values, int64_t count, const QuantOptions *options, Err *err)
{
    check_options(options);
    float *absmax = options->double_quant ? out->scratch_absmax : out->absmax;
    const int64_t bad = encode_blocks(out->codes, absmax, values, count, options);
    if (bad < count) return quant_refuse(bad, values[bad], err);
    out->offset = 0.0f;
    if (options->double_quant) quant_nest(out, absmax, blocks_of(options, count));
    return true;
}

void quant_nest(QuantHost *out, const float *absmax, int64_t count)
{
    float map[256];
    blockwise_map_signed(map);
    nested_encode(out->absmax, out->nested_absmax, &out->offset, map, absmax, count);
}

static void encode_cpu(Backend *be, const QuantEncode *e, const QuantOptions *options)
{
    (void)be;
    const float *values = e->values.data;
    const int64_t count = tensor_count(&e->values), blocks = blocks_of(options, count);
    int64_t *bad = e->bad.data;
    for (int64_t b = 0; b < blocks; b++) {
        const int64_t at = b * options->block, left = count - at, n = left < options->block ? left : options->block;
        uint8_t *codes = (uint8_t *)e->codes.data + at / 2;
        if (kernel_encode(codes, (float *)e->absmax.data + b, values + at, n, options->type)) continue;
        const int64_t place = e->first + at + first_not_finite(values + at, n);
        if (place < *bad) *bad = place;
    }
}

/* --- decoding --- */

static float absmax_at(const QuantMatrix *m, int64_t block)
{
    if (!m->options.double_quant) return ((const float *)m->absmax.data)[block];
    const uint8_t code = ((const uint8_t *)m->absmax.data)[block];
    return nested_value(m->map, code, ((const float *)m->nested_absmax.data)[block / NESTED_BLOCK], m->offset);
}

/*
 * A block knows only 16 different values, so these are computed once and the elements are looked up: the multiply and
 * the rounding of each element, at a fraction of the work.
 */
static void decode_run(void *out, DType dtype, const QuantMatrix *m, int64_t first, int64_t count, float absmax)
{
    union {
        float wide[16];
        uint16_t narrow[16];
    } values;
    const Lanes levels = lanes_load_f32(quant_levels[m->options.type]);
    lanes_store(&values, dtype, LANES, levels * lanes_set(absmax));
    if (dtype == DTYPE_F32) {
        kernel_decode_f32(out, m->codes.data, first, count, values.wide);
    } else {
        kernel_decode_u16(out, m->codes.data, first, count, values.narrow);
    }
}

/* Elements [first, last) of the flat index, cut where blocks end. */
static void decode_row(char *row, DType dtype, const QuantMatrix *m, int64_t first, int64_t last)
{
    const int64_t size = m->options.block;
    for (int64_t at = first; at < last;) {
        const int64_t block = at / size, end = (block + 1) * size;
        const int64_t n = (end < last ? end : last) - at;
        decode_run(row, dtype, m, at, n, absmax_at(m, block));
        row += (size_t)n * dtype_bytes(dtype);
        at += n;
    }
}

static void decode_cpu(Backend *be, const Tensor *w, const QuantMatrix *m)
{
    (void)be;
    const size_t stride = (size_t)w->stride * dtype_bytes(w->dtype);
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < m->rows; r++)
        decode_row((char *)w->data + (size_t)r * stride, w->dtype, m, r * m->cols, (r + 1) * m->cols);
}

static const QuantOps quant_ops_cpu = {.decode = decode_cpu, .encode = encode_cpu};
static const QuantOps *const quant_ops[BACKEND_COUNT] = {
    [BACKEND_CPU] = &quant_ops_cpu,
    [BACKEND_CUDA] = CUDA_OPS(quant_ops_cuda),
};

void quant_decode(Backend *be, const Tensor *w, const QuantMatrix *m)
{
    CHECK(cpu_is_float(be, w));
    CHECK(tensor_rows(w) == m->rows && tensor_cols(w) == m->cols);
    backend_enter(be);
    quant_ops[backend_kind(be)]->decode(be, w, m);
    backend_leave(be);
}

void quant_encode_on(Backend *be, const QuantEncode *e, const QuantOptions *options)
{
    const int64_t count = tensor_count(&e->values);
    check_options(options);
    CHECK(e->values.dtype == DTYPE_F32 && e->codes.dtype == DTYPE_U8 && e->absmax.dtype == DTYPE_F32);
    CHECK(e->bad.dtype == DTYPE_I64 && tensor_count(&e->bad) == 1 && e->first % options->block == 0);
    CHECK(tensor_count(&e->codes) >= ceil_div(count, 2) && tensor_count(&e->absmax) >= blocks_of(options, count));
    if (count == 0) return;
    backend_enter(be);
    quant_ops[backend_kind(be)]->encode(be, e, options);
    backend_leave(be);
}
