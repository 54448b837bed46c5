/* blas_product.h - the arithmetic behind the emulated cuBLAS: C = alpha * op(A) * op(B) + beta * C, column-major. */
#pragma once

#include <library_types.h>
#include <stddef.h>

namespace emu
{
struct BlasMatrix {
    void *data;
    cudaDataType type;
    int stride; /* leading dimension */
    bool transposed;
};

struct BlasProduct {
    int m, n, k;
    float alpha, beta;
    BlasMatrix a, b, c;
};

size_t blas_element_bytes(cudaDataType type); /* 0 for a type that is not supported */

/* Sums are f32 in the order of k; beta 0 does not read C. */
void blas_product(const BlasProduct &p);
} // namespace emu
