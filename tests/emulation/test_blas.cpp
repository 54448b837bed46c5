/*
 * test_blas.cpp - products of the emulated cuBLAS against sums in f64, the calls that cuBLAS refuses, and its real values.
 */
#include "emulation.h"

#include "backend/cuda_blas.h"
#include "base/tensor.h"

#include <cuda_runtime.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

extern "C" {
#include <cmocka.h>
}

#include <vector>

#if __has_include(<cublas_api.h>)
#    include <cuComplex.h>
#    include <cuda_bf16.h>
#    include <cuda_fp16.h>
namespace real
{
#    include <cublas_api.h>
}
#    define SAME(name) static_assert(static_cast<int>(name) == static_cast<int>(real::name))
SAME(CUBLAS_STATUS_SUCCESS);
SAME(CUBLAS_STATUS_NOT_INITIALIZED);
SAME(CUBLAS_STATUS_ALLOC_FAILED);
SAME(CUBLAS_STATUS_INVALID_VALUE);
SAME(CUBLAS_STATUS_EXECUTION_FAILED);
SAME(CUBLAS_STATUS_NOT_SUPPORTED);
SAME(CUBLAS_OP_N);
SAME(CUBLAS_OP_T);
SAME(CUBLAS_COMPUTE_16F);
SAME(CUBLAS_COMPUTE_32F);
SAME(CUBLAS_GEMM_DEFAULT);
#    undef SAME
#endif

namespace
{

struct Product {
    int m, n, k;
    cublasOperation_t op_a, op_b;
    cudaDataType in, out;
    float alpha, beta;
};

float get(const void *data, cudaDataType type, size_t i)
{
    if (type == CUDA_R_32F) return static_cast<const float *>(data)[i];
    const uint16_t bits = static_cast<const uint16_t *>(data)[i];
    return type == CUDA_R_16BF ? bf16_to_f32(bits) : f16_to_f32(bits);
}

void put(void *data, cudaDataType type, size_t i, float value)
{
    if (type == CUDA_R_32F)
        static_cast<float *>(data)[i] = value;
    else
        static_cast<uint16_t *>(data)[i] = type == CUDA_R_16BF ? bf16_from_f32(value) : f16_from_f32(value);
}

size_t element_bytes(cudaDataType type)
{
    return type == CUDA_R_32F ? 4 : 2;
}

void *matrix(cudaDataType type, size_t elements, unsigned seed)
{
    void *p = nullptr;
    assert_int_equal(cudaMallocManaged(&p, elements * element_bytes(type), cudaMemAttachGlobal), cudaSuccess);
    for (size_t i = 0; i < elements; i++)
        put(p, type, i, static_cast<float>((i * 2654435761u + seed) % 2001) / 1000.0f - 1.0f);
    return p;
}

double tolerance(cudaDataType out, int k)
{
    const double sums = 1.2e-7 * (k + 4);
    return out == CUDA_R_32F ? sums : (out == CUDA_R_16BF ? 1.0 / 256 : 1.0 / 2048) + sums;
}

void check_element(const Product &p, const void *a, const void *b, const void *c, float before, int row, int column,
                   int lda, int ldb, int ldc)
{
    const double kept = p.beta == 0.0f ? 0.0 : static_cast<double>(p.beta) * static_cast<double>(before);
    double sum = 0.0, magnitude = fabs(kept);
    for (int i = 0; i < p.k; i++) {
        const size_t at_a = static_cast<size_t>(p.op_a == CUBLAS_OP_N ? i * lda + row : row * lda + i);
        const size_t at_b = static_cast<size_t>(p.op_b == CUBLAS_OP_N ? column * ldb + i : i * ldb + column);
        const double x = static_cast<double>(get(a, p.in, at_a)), y = static_cast<double>(get(b, p.in, at_b));
        sum += x * y;
        magnitude += fabs(x * y);
    }
    const double expected = static_cast<double>(p.alpha) * sum + kept;
    const double got = static_cast<double>(get(c, p.out, static_cast<size_t>(column * ldc + row)));
    if (!(fabs(got - expected) <= tolerance(p.out, p.k) * (magnitude + fabs(expected)) + 1e-6))
        fail_msg("(%d, %d) of %d x %d x %d: %g, should be %g", row, column, p.m, p.n, p.k, got, expected);
}

void check_product(cublasHandle_t handle, const Product &p)
{
    const int lda = (p.op_a == CUBLAS_OP_N ? p.m : p.k) + 3, ldb = (p.op_b == CUBLAS_OP_N ? p.k : p.n) + 1;
    const int ldc = p.m + 2, a_columns = p.op_a == CUBLAS_OP_N ? p.k : p.m,
              b_columns = p.op_b == CUBLAS_OP_N ? p.n : p.k;
    void *a = matrix(p.in, static_cast<size_t>(lda * a_columns), 1),
         *b = matrix(p.in, static_cast<size_t>(ldb * b_columns), 2);
    const size_t c_elements = static_cast<size_t>(ldc * p.n);
    void *c = matrix(p.out, c_elements, 3);
    if (p.beta == 0.0f) put(c, p.out, 0, NAN); /* must not be read */
    std::vector<float> before(c_elements);
    for (size_t i = 0; i < c_elements; i++)
        before[i] = get(c, p.out, i);
    assert_int_equal(cublasGemmEx(handle, p.op_a, p.op_b, p.m, p.n, p.k, &p.alpha, a, p.in, lda, b, p.in, ldb, &p.beta,
                                  c, p.out, ldc, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
                     CUBLAS_STATUS_SUCCESS);
    assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
    for (int column = 0; column < p.n; column++) {
        for (int row = 0; row < p.m; row++)
            check_element(p, a, b, c, before[static_cast<size_t>(column * ldc + row)], row, column, lda, ldb, ldc);
        for (int row = p.m; row < ldc; row++) /* what lies between columns stays */
            assert_true(get(c, p.out, static_cast<size_t>(column * ldc + row)) ==
                        before[static_cast<size_t>(column * ldc + row)]);
    }
    cudaFree(a), cudaFree(b), cudaFree(c);
}

void products_equal_sums_in_f64(void **)
{
    cublasHandle_t handle;
    assert_int_equal(cublasCreate_v2(&handle), CUBLAS_STATUS_SUCCESS);
    static const struct {
        cudaDataType in, out;
    } types[] = {
        {CUDA_R_32F,  CUDA_R_32F },
        {CUDA_R_16BF, CUDA_R_16BF},
        {CUDA_R_16BF, CUDA_R_32F },
        {CUDA_R_16F,  CUDA_R_16F },
        {CUDA_R_16F,  CUDA_R_32F },
    };
    static const int sizes[][3] = {
        {1,  1,  1  },
        {16, 6,  8  },
        {17, 7,  33 },
        {40, 1,  5  },
        {1,  40, 100},
    };
    for (const auto &type : types)
        for (const auto &size : sizes)
            for (const cublasOperation_t op_a : {CUBLAS_OP_N, CUBLAS_OP_T})
                for (const cublasOperation_t op_b : {CUBLAS_OP_N, CUBLAS_OP_T})
                    for (const float beta : {0.0f, 1.0f, 0.5f})
                        check_product(handle,
                                      Product{size[0], size[1], size[2], op_a, op_b, type.in, type.out, 0.75f, beta});
    assert_int_equal(cublasDestroy_v2(handle), CUBLAS_STATUS_SUCCESS);
}

cublasStatus_t try_product(cublasHandle_t handle, int lda, cudaDataType b_type, cudaDataType c_type,
                           cublasComputeType_t compute)
{
    const float one = 1.0f;
    void *p = matrix(CUDA_R_32F, 1024, 1);
    const cublasStatus_t status = cublasGemmEx(handle, CUBLAS_OP_N, CUBLAS_OP_N, 8, 8, 8, &one, p, CUDA_R_16BF, lda, p,
                                               b_type, 8, &one, p, c_type, 8, compute, CUBLAS_GEMM_DEFAULT);
    cudaDeviceSynchronize();
    cudaFree(p);
    return status;
}

void wrong_calls_are_refused(void **)
{
    cublasHandle_t handle;
    cublasCreate_v2(&handle);
    const cublasComputeType_t f32 = CUBLAS_COMPUTE_32F;
    assert_int_equal(try_product(handle, 8, CUDA_R_16BF, CUDA_R_32F, f32), CUBLAS_STATUS_SUCCESS);
    assert_int_equal(try_product(handle, 7, CUDA_R_16BF, CUDA_R_32F, f32), CUBLAS_STATUS_INVALID_VALUE);
    assert_int_equal(try_product(handle, 8, CUDA_R_32F, CUDA_R_32F, f32), CUBLAS_STATUS_NOT_SUPPORTED);
    assert_int_equal(try_product(handle, 8, CUDA_R_16BF, CUDA_R_16F, f32), CUBLAS_STATUS_NOT_SUPPORTED);
    assert_int_equal(try_product(handle, 8, CUDA_R_16BF, CUDA_R_32F, CUBLAS_COMPUTE_16F), CUBLAS_STATUS_NOT_SUPPORTED);
    assert_int_equal(try_product(nullptr, 8, CUDA_R_16BF, CUDA_R_32F, f32), CUBLAS_STATUS_NOT_INITIALIZED);
    cublasDestroy_v2(handle);
}

void calls_fail_on_demand(void **)
{
    cublasHandle_t handle;
    assert_true(emulation_fault("cublasCreate_v2:1:2:once"));
    assert_int_equal(cublasCreate_v2(&handle), CUBLAS_STATUS_ALLOC_FAILED);
    assert_int_equal(cublasCreate_v2(&handle), CUBLAS_STATUS_SUCCESS);
    assert_true(emulation_fault("cublasGemmEx:1:700:once"));
    assert_int_equal(try_product(handle, 8, CUDA_R_16BF, CUDA_R_32F, CUBLAS_COMPUTE_32F),
                     CUBLAS_STATUS_EXECUTION_FAILED);
    assert_true(emulation_fault(nullptr));
    cublasDestroy_v2(handle);
}

void functions_are_found_by_name(void **)
{
    assert_non_null(cuda_emulated_blas_symbol("cublasGemmEx"));
    assert_non_null(cuda_emulated_blas_symbol("cublasCreate_v2"));
    assert_null(cuda_emulated_blas_symbol("cublasSomethingElse"));
}
} // namespace

int main()
{
    const CMUnitTest tests[] = {
        cmocka_unit_test(products_equal_sums_in_f64),
        cmocka_unit_test(wrong_calls_are_refused),
        cmocka_unit_test(calls_fail_on_demand),
        cmocka_unit_test(functions_are_found_by_name),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
