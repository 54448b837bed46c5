/*
 * matmul_cuda.c - matrix products by cuBLAS, sums in f32.
 *
 * cuBLAS stores by columns: our row-major out = op(a) op(b) is its out^T = op(b)^T op(a)^T, so a and b change places
 * and keep their flags. One handle on one stream with a fixed workspace gives the same bits in every run.
 */
#include "backend/cuda_state.h"
#include "backend/ops.h"

/* cuBLAS asks for 32 MiB on Hopper and newer; what it gets decides which kernels it picks. */
enum { WORKSPACE_HOPPER = 32 << 20, WORKSPACE = 8 << 20 };

static cudaDataType_t data_type(DType dtype)
{
    return dtype == DTYPE_F32 ? CUDA_R_32F : dtype == DTYPE_F16 ? CUDA_R_16F : CUDA_R_16BF;
}

static bool find_calls(CudaBlas *blas, Err *err)
{
    bool found = true;
#define X(field, symbol)                                                                                               \
    *(void **)&blas->field = cuda_library_symbol(#symbol);                                                             \
    found = found && blas->field;
    CUDA_BLAS_CALLS(X)
#undef X
    if (found) return true;
    return FAIL(err, ERR_DEVICE,
                "cuBLAS could not be loaded (%s); install libcublas 13 or 12 of the CUDA toolkit, put its folder into "
                "LD_LIBRARY_PATH or its path into QLORA_CUBLAS, or use --device cpu",
                cuda_library_fault());
}

bool cuda_blas_open(Backend *be, Err *err)
{
    CudaBlas *blas = &be->cuda->blas;
    const size_t bytes = be->cuda->capability >= 90 ? WORKSPACE_HOPPER : WORKSPACE;
    if (!find_calls(blas, err)) return false;
    const cublasStatus_t made = blas->create(&blas->handle);
    if (made != CUBLAS_STATUS_SUCCESS) {
        blas->handle = NULL;
        return FAIL(err, ERR_DEVICE, "cuBLAS could not start (status %d); its version must fit the driver's",
                    (int)made);
    }
    const cudaError_t e = cudaMalloc(&blas->workspace, bytes);
    if (e != cudaSuccess) {
        return FAIL(err, e == cudaErrorMemoryAllocation ? ERR_MEMORY : ERR_DEVICE,
                    "no %zu bytes of device memory for cuBLAS: %s", bytes, cudaGetErrorString(e));
    }
    if (blas->set_stream(blas->handle, be->cuda->stream) != CUBLAS_STATUS_SUCCESS ||
        blas->set_workspace(blas->handle, blas->workspace, bytes) != CUBLAS_STATUS_SUCCESS) {
        return FAIL(err, ERR_DEVICE, "cuBLAS did not accept its stream and workspace");
    }
    return true;
}

void cuda_blas_close(Backend *be)
{
    CudaBlas *blas = &be->cuda->blas;
    if (blas->handle) (void)blas->destroy(blas->handle);
    if (blas->workspace) (void)cudaFree(blas->workspace);
    *blas = (CudaBlas){0};
}

static void product_cuda(Backend *be, const Product *p)
{
    if (cuda_failed(be)) return;
    const CudaBlas *blas = &be->cuda->blas;
    const float beta = p->accumulate ? 1.0f : 0.0f;
    const cublasOperation_t op_a = p->transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t op_b = p->transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    CHECK(p->m < INT32_MAX && p->n < INT32_MAX && p->k < INT32_MAX);
    const cublasStatus_t status =
        blas->gemm(blas->handle, op_b, op_a, (int)p->n, (int)p->m, (int)p->k, &p->alpha, p->b, data_type(p->in),
                   (int)p->b_stride, p->a, data_type(p->in), (int)p->a_stride, &beta, p->out, data_type(p->to),
                   (int)p->out_stride, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    if (status != CUBLAS_STATUS_SUCCESS) {
        const cudaError_t e = cudaGetLastError();
        cuda_note(be, e != cudaSuccess ? e : cudaErrorUnknown, "cublasGemmEx");
    }
}

/* The library splits a long sum over its workspace by itself. */
static void gradient_cuda(Backend *be, const Product *p, float *scratch)
{
    (void)scratch;
    Product added = *p;
    added.accumulate = true;
    product_cuda(be, &added);
}

const MatmulOps matmul_ops_cuda = {.product = product_cuda, .gradient = gradient_cuda};
