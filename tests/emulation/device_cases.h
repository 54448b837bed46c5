/* device_cases.h - launches that return what the functions of backend/cuda.cuh give. Memory is managed. */
#pragma once

#include <cuda_runtime.h>
#include <stdint.h>

/* d (16, 8) = a (16, 16) * b (16, 8) + c, row-major; elements of a and b are bf16 or f16 */
void run_multiply(float *d, const uint16_t *a, const uint16_t *b, const float *c, bool f16);

/* Of four 8x8 tiles, by lane: x4, x4_trans, x2, x2_trans: 12 words */
void run_matrices(uint32_t *out, const uint16_t *in);

/* By lane: index, up, down, xor of value 100 + lane */
void run_shuffles(int *out, int argument, int width);

/* By thread: sum, maximum, sum in f64; 32, 96 or 1024 threads */
void run_sums(float *out, const float *in, int threads);

/* Adds 1 + 1000 * block + thread to the element of the thread. */
void run_indices(unsigned *out, dim3 grid, dim3 block);
void run_zero_filled(int4 *out, const int4 *in, int valid);

/* Of 150 threads: maximum, minimum, bits, the first, how many were first, an exchange */
void run_atomics(int *values);
