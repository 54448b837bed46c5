#include "backend/cuda.cuh"
#include "runtime_cases.h"

namespace
{
__global__ void nothing()
{
}
} // namespace

void launch_nothing(dim3 grid, dim3 block, size_t shared_bytes)
{
    CUDA_LAUNCH_ON(nullptr, nothing, grid, block, shared_bytes);
}

cudaError_t permit_nothing(size_t shared_bytes)
{
    return cudaFuncSetAttribute(reinterpret_cast<const void *>(nothing), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                static_cast<int>(shared_bytes));
}
