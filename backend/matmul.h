/*
 * matmul.h - dense matrix products.
 *
 * out (M, N) = alpha * op(a) (M, K) x op(b) (K, N) [+ out]. Sums are f32 whatever the inputs. a and b share one dtype
 * (f32 or bf16); out is f32 or that dtype. All three may be strided matrices. On the CPU one or two rows are dot
 * products, bf16 runs on AMX tiles where there are any, everything else is oneDNN's (Debian libdnnl); with
 * BackendOptions.reference all of it is plain loops of ours.
 * Deterministic: the same shapes, strides, dtypes and thread count give the same bits. From three rows on a row of
 * `out` does not depend on how many others there are, nor on the threads (oneDNN: as measured with AVX-512; on other
 * processors within rounding).
 */
#pragma once

#include "backend/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Matmul {
    const Tensor *out;
    const Tensor *a; /* (M, K), or (K, M) with transpose_a */
    const Tensor *b; /* (K, N), or (N, K) with transpose_b */
    bool transpose_a;
    bool transpose_b;
    bool accumulate; /* add to what is in out; out must be f32 */
    float alpha;     /* 0 means 1 */
} Matmul;

void matmul(Backend *be, const Matmul *op);

/*
 * dw (P, Q) f32 += alpha * a^T (N, P) x b (N, Q): the product of a weight gradient, where N is long and P x Q small.
 * The rows are cut into fixed chunks whose results are added in order, so the bits do not depend on the thread count.
 * `scratch` holds matmul_gradient_scratch() f32 elements.
 */
void matmul_gradient(Backend *be, const Tensor *dw, const Tensor *a, const Tensor *b, float alpha,
                     const Tensor *scratch);
int64_t matmul_gradient_scratch(int64_t n, int64_t p, int64_t q);

#ifdef __cplusplus
}
#endif
