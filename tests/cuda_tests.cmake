# Test programs that run on the CUDA backend too: their cases are the same (tests/support/kernel_test.h, e2e/scene.h).
qlora_cuda_test(backend matmul)
qlora_cuda_test(e2e equal)
qlora_cuda_test(e2e resume)
qlora_cuda_test(cuda training)
