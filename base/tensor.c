#include "base/tensor.h"

#include <string.h>

static const struct {
    size_t bytes;
    const char *name;
} dtypes[DTYPE_COUNT] = {
#define X(dtype, bytes, name) {bytes, name},
    DTYPES(X)
#undef X
};

size_t dtype_bytes(DType dtype)
{
    CHECK(dtype < DTYPE_COUNT);
    return dtypes[dtype].bytes;
}

const char *dtype_name(DType dtype)
{
    CHECK(dtype < DTYPE_COUNT);
    return dtypes[dtype].name;
}

bool dtype_from_name(DType *out, const char *name)
{
    for (int i = 0; i < DTYPE_COUNT; i++) {
        if (strcmp(dtypes[i].name, name) == 0) {
            *out = (DType)i;
            return true;
        }
    }
    return false;
}

Tensor tensor_make(void *data, DType dtype, int rank, const int64_t *shape)
{
    CHECK(rank >= 1 && rank <= TENSOR_RANK_MAX);
    Tensor t = {.data = data, .dtype = dtype, .rank = rank, .stride = shape[rank - 1]};
    for (int i = 0; i < rank; i++) {
        CHECK(shape[i] >= 0);
        t.shape[i] = shape[i];
    }
    return t;
}

Tensor tensor_vector(void *data, DType dtype, int64_t n)
{
    return tensor_make(data, dtype, 1, &n);
}

Tensor tensor_matrix(void *data, DType dtype, int64_t rows, int64_t cols)
{
    const int64_t shape[2] = {rows, cols};
    return tensor_make(data, dtype, 2, shape);
}

int64_t tensor_rows(const Tensor *t)
{
    int64_t rows = 1;
    for (int i = 0; i + 1 < t->rank; i++)
        rows *= t->shape[i];
    return rows;
}

int64_t tensor_cols(const Tensor *t)
{
    return t->shape[t->rank - 1];
}

int64_t tensor_count(const Tensor *t)
{
    return tensor_rows(t) * tensor_cols(t);
}

bool tensor_dense(const Tensor *t)
{
    return t->stride == tensor_cols(t) || tensor_rows(t) <= 1;
}

size_t tensor_bytes(const Tensor *t)
{
    if (tensor_count(t) == 0) return 0;
    return (size_t)((tensor_rows(t) - 1) * t->stride + tensor_cols(t)) * dtype_bytes(t->dtype);
}

static void *offset(const Tensor *t, int64_t elements)
{
    return t->data ? (char *)t->data + (size_t)elements * dtype_bytes(t->dtype) : NULL;
}

Tensor tensor_slice_rows(const Tensor *t, int64_t first, int64_t count)
{
    CHECK(t->rank == 2 && first >= 0 && count >= 0 && first + count <= t->shape[0]);
    Tensor slice = *t;
    slice.data = offset(t, first * t->stride);
    slice.shape[0] = count;
    return slice;
}

Tensor tensor_slice_cols(const Tensor *t, int64_t first, int64_t count)
{
    CHECK(t->rank == 2 && first >= 0 && count >= 0 && first + count <= t->shape[1]);
    Tensor slice = *t;
    slice.data = offset(t, first);
    slice.shape[1] = count;
    return slice;
}

Tensor tensor_slice_flat(const Tensor *t, int64_t first, int64_t count)
{
    CHECK(tensor_dense(t) && first >= 0 && count >= 0 && first + count <= tensor_count(t));
    return tensor_vector(offset(t, first), t->dtype, count);
}

float f16_to_f32(uint16_t bits)
{
    const uint32_t sign = (uint32_t)(bits & 0x8000u) << 16;
    const uint32_t exponent = (bits >> 10) & 0x1fu;
    uint32_t mantissa = bits & 0x3ffu;
    uint32_t wide;
    if (exponent == 0x1f) {
        wide = sign | 0x7f800000u | (mantissa << 13);
    } else if (exponent != 0) {
        wide = sign | ((exponent + 112) << 23) | (mantissa << 13);
    } else if (mantissa == 0) {
        wide = sign;
    } else { /* subnormal: shift the leading one into place */
        uint32_t shift = 0;
        while (!(mantissa & 0x400u)) {
            mantissa <<= 1;
            shift++;
        }
        wide = sign | ((113 - shift) << 23) | ((mantissa & 0x3ffu) << 13);
    }
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

uint16_t f16_from_f32(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    const uint16_t sign = (uint16_t)((bits >> 16) & 0x8000u);
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
    if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* rounds to infinity */
    if (magnitude < 0x33000000u) return sign;                        /* below half of the smallest subnormal */
    uint32_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
    const int exponent = (int)(magnitude >> 23) - 112;
    int shift = 13;
    uint32_t base = 0;
    if (exponent <= 0) {
        shift += 1 - exponent;
    } else {
        base = (uint32_t)(exponent - 1) << 10; /* the implicit one adds the missing exponent step */
    }
    const uint32_t half = 1u << (shift - 1);
    const uint32_t rest = mantissa & ((1u << shift) - 1);
    mantissa >>= shift;
    if (rest > half || (rest == half && (mantissa & 1u))) mantissa++;
    return (uint16_t)(sign | (base + mantissa));
}
