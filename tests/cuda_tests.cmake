# Test programs that run on the CUDA backend too: their cases are the same (tests/support/kernel_test.h).
qlora_cuda_test(backend matmul)
