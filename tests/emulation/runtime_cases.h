/* runtime_cases.h - a kernel that does nothing, launched in all ways. */
#pragma once

#include <cuda_runtime.h>

void launch_nothing(dim3 grid, dim3 block, size_t shared_bytes);
cudaError_t permit_nothing(size_t shared_bytes); /* cudaFuncSetAttribute */
