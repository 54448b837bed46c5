# Test programs that run on the CUDA backend too: their cases are the same (tests/support/kernel_test.h, e2e/scene.h).
qlora_cuda_test(backend matmul KERNELS)
qlora_cuda_test(backend elementwise KERNELS)
qlora_cuda_test(model swiglu KERNELS)
qlora_cuda_test(model rmsnorm KERNELS)
qlora_cuda_test(model rope KERNELS)
qlora_cuda_test(e2e equal)
qlora_cuda_test(e2e resume)
qlora_cuda_test(cuda training)
