/*
 * blas.cpp - the part of cuBLAS that the program uses, checked as cuBLAS checks and queued like a kernel.
 *
 * The program loads cuBLAS at run time: cuda_library_symbol answers with the functions below. QLORA_CUDA_BLAS=missing
 * makes the library absent.
 */
#include "blas_product.h"
#include "block.h"
#include "device_memory.h"
#include "emulation.h"
#include "fault.h"
#include "stream.h"

#include "backend/cuda_blas.h"

#include <stdlib.h>
#include <string.h>

struct cublasContext {
    cudaStream_t stream;
};

using namespace emu;

namespace
{
cublasStatus_t status_of(cudaError_t e)
{
    if (e == cudaSuccess) return CUBLAS_STATUS_SUCCESS;
    return e == cudaErrorMemoryAllocation ? CUBLAS_STATUS_ALLOC_FAILED : CUBLAS_STATUS_EXECUTION_FAILED;
}

#define ENTER_BLAS()                                                                                                   \
    const std::lock_guard<std::recursive_mutex> lock(runtime_mutex());                                                 \
    if (const cudaError_t fault = fault_check(__func__)) return status_of(fault)

/* Products from f32, bf16 or f16 of one kind into f32 or the kind of the inputs. */
bool types_supported(const BlasProduct &p, cublasComputeType_t compute)
{
    if (compute != CUBLAS_COMPUTE_32F) return false;
    return blas_element_bytes(p.a.type) != 0 && p.a.type == p.b.type &&
           (p.c.type == CUDA_R_32F || p.c.type == p.a.type);
}

bool sizes_valid(const BlasProduct &p)
{
    if (p.m < 0 || p.n < 0 || p.k < 0) return false;
    const int a_rows = p.a.transposed ? p.k : p.m, b_rows = p.b.transposed ? p.n : p.k;
    return p.a.stride >= (a_rows > 1 ? a_rows : 1) && p.b.stride >= (b_rows > 1 ? b_rows : 1) &&
           p.c.stride >= (p.m > 1 ? p.m : 1);
}

void check_memory(const char *what, const char *name, const BlasMatrix &matrix, int rows, int columns)
{
    if (rows == 0 || columns == 0) return;
    const size_t elements =
        static_cast<size_t>(matrix.stride) * static_cast<size_t>(columns - 1) + static_cast<size_t>(rows);
    const size_t bytes = elements * blas_element_bytes(matrix.type);
    if (device_contains(matrix.data, bytes)) return;
    const char *where = device_describe(matrix.data);
    report(what, 0, "matrix %s of %d x %d (%zu bytes) is not in device memory: it starts at %s", name, rows, columns,
           bytes, where ? where : "an unknown address");
}

cublasStatus_t queue(const char *what, cublasHandle_t handle, const BlasProduct &p)
{
    check_memory(what, "A", p.a, p.a.transposed ? p.k : p.m, p.a.transposed ? p.m : p.k);
    check_memory(what, "B", p.b, p.b.transposed ? p.n : p.k, p.b.transposed ? p.k : p.n);
    check_memory(what, "C", p.c, p.m, p.n);
    return status_of(stream_enqueue(handle->stream, what, [p] { blas_product(p); }));
}

cublasStatus_t check(const BlasProduct &p, cublasHandle_t handle, cublasComputeType_t compute)
{
    if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
    if (!sizes_valid(p)) return CUBLAS_STATUS_INVALID_VALUE;
    return types_supported(p, compute) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

BlasMatrix matrix_of(const void *data, cudaDataType type, int stride, cublasOperation_t op)
{
    return {const_cast<void *>(data), type, stride, op != CUBLAS_OP_N};
}
} // namespace

cublasStatus_t cublasCreate_v2(cublasHandle_t *handle)
{
    ENTER_BLAS();
    *handle = new cublasContext{nullptr};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDestroy_v2(cublasHandle_t handle)
{
    ENTER_BLAS();
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream)
{
    ENTER_BLAS();
    if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
    handle->stream = stream;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t handle, void *workspace, size_t bytes)
{
    ENTER_BLAS();
    if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
    return bytes == 0 || device_contains(workspace, bytes) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k,
                            const void *alpha, const void *a, cudaDataType a_type, int lda, const void *b,
                            cudaDataType b_type, int ldb, const void *beta, void *c, cudaDataType c_type, int ldc,
                            cublasComputeType_t compute, cublasGemmAlgo_t)
{
    ENTER_BLAS();
    const BlasProduct p = {m,
                           n,
                           k,
                           *static_cast<const float *>(alpha),
                           *static_cast<const float *>(beta),
                           matrix_of(a, a_type, lda, op_a),
                           matrix_of(b, b_type, ldb, op_b),
                           matrix_of(c, c_type, ldc, CUBLAS_OP_N)};
    if (const cublasStatus_t status = check(p, handle, compute)) return status;
    return queue(__func__, handle, p);
}

void *cuda_emulated_blas_symbol(const char *name)
{
    const char *chosen = getenv("QLORA_CUDA_BLAS");
    if (chosen != nullptr && strcmp(chosen, "missing") == 0) return nullptr;
#define FUNCTION(symbol)                                                                                               \
    if (strcmp(name, #symbol) == 0) return reinterpret_cast<void *>(symbol)
    FUNCTION(cublasCreate_v2);
    FUNCTION(cublasDestroy_v2);
    FUNCTION(cublasSetStream_v2);
    FUNCTION(cublasSetWorkspace_v2);
    FUNCTION(cublasGemmEx);
#undef FUNCTION
    return nullptr;
}

/* backend/cuda.h: in place of backend/cuda_library.c */
extern "C" void *cuda_library_symbol(const char *name);
extern "C" const char *cuda_library_fault(void);

void *cuda_library_symbol(const char *name)
{
    return cuda_emulated_blas_symbol(name);
}

const char *cuda_library_fault(void)
{
    return "libcublas.so.13: cannot open shared object file (emulated)";
}
