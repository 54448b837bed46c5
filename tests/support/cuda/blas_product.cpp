#include "blas_product.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>
#include <string.h>

#include <vector>

namespace emu
{
namespace
{
constexpr int TALL = 16, WIDE = 6; /* a tile of C that stays in registers */
typedef float Column __attribute__((vector_size(TALL * sizeof(float))));

float read(const BlasMatrix &matrix, size_t at)
{
    switch (matrix.type) {
    case CUDA_R_16BF: return __bfloat162float(static_cast<const __nv_bfloat16 *>(matrix.data)[at]);
    case CUDA_R_16F: return __half2float(static_cast<const __half *>(matrix.data)[at]);
    default: return static_cast<const float *>(matrix.data)[at];
    }
}

void write(const BlasMatrix &matrix, size_t at, float value)
{
    switch (matrix.type) {
    case CUDA_R_16BF: static_cast<__nv_bfloat16 *>(matrix.data)[at] = __float2bfloat16_rn(value); return;
    case CUDA_R_16F: static_cast<__half *>(matrix.data)[at] = __float2half_rn(value); return;
    default: static_cast<float *>(matrix.data)[at] = value; return;
    }
}

/*
 * Strips of `width` rows of op(A), or of columns of op(B), one k after the other; the last strip is filled with zeros.
 * `along_k`: consecutive k lie side by side in memory.
 */
std::vector<float> pack(const BlasMatrix &matrix, int count, int k, int width, bool along_k)
{
    const int strips = (count + width - 1) / width;
    std::vector<float> packed(static_cast<size_t>(strips) * static_cast<size_t>(width) * static_cast<size_t>(k));
    const size_t stride = static_cast<size_t>(matrix.stride);
    for (int i = 0; i < count; i++) {
        float *to =
            packed.data() + static_cast<size_t>(i / width) * static_cast<size_t>(width) * static_cast<size_t>(k);
        to += i % width;
        for (size_t p = 0; p < static_cast<size_t>(k); p++, to += width)
            *to = read(matrix, along_k ? p + stride * static_cast<size_t>(i) : p * stride + static_cast<size_t>(i));
    }
    return packed;
}

void multiply_tile(Column sums[WIDE], const float *a, const float *b, int k)
{
    Column s[WIDE] = {};
    for (int p = 0; p < k; p++, a += TALL, b += WIDE) {
        Column column;
        memcpy(&column, a, sizeof column);
        for (int j = 0; j < WIDE; j++)
            s[j] += column * b[j];
    }
    memcpy(sums, s, sizeof s);
}

void store_tile(const BlasProduct &p, const Column sums[WIDE], int row, int column)
{
    for (int j = 0; j < WIDE && column + j < p.n; j++)
        for (int i = 0; i < TALL && row + i < p.m; i++) {
            const size_t at =
                static_cast<size_t>(column + j) * static_cast<size_t>(p.c.stride) + static_cast<size_t>(row + i);
            const float product = p.alpha * sums[j][i];
            write(p.c, at, p.beta == 0.0f ? product : product + p.beta * read(p.c, at));
        }
}
} // namespace

size_t blas_element_bytes(cudaDataType type)
{
    switch (type) {
    case CUDA_R_16BF:
    case CUDA_R_16F: return 2;
    case CUDA_R_32F: return 4;
    default: return 0;
    }
}

void blas_product(const BlasProduct &p)
{
    const std::vector<float> a = pack(p.a, p.m, p.k, TALL, p.a.transposed);
    const std::vector<float> b = pack(p.b, p.n, p.k, WIDE, !p.b.transposed);
    for (int row = 0; row < p.m; row += TALL)
        for (int column = 0; column < p.n; column += WIDE) {
            Column sums[WIDE];
            const size_t k = static_cast<size_t>(p.k);
            multiply_tile(sums, a.data() + static_cast<size_t>(row) * k, b.data() + static_cast<size_t>(column) * k,
                          p.k);
            store_tile(p, sums, row, column);
        }
}
} // namespace emu
