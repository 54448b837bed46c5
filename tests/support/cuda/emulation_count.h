/*
 * emulation_count.h - what kernels ask of memory, counted by the variant of the emulation that sees every access.
 *
 * Kernel files are compiled with -fsanitize=thread and linked with cuda_emulation_count, whose functions answer the
 * sanitizer's calls. Accesses of the lanes of a warp at one place of the code, the n-th time, are one warp instruction.
 * Neighbouring scalar accesses at different places of the code that fill one aligned vector count as one vector access:
 * that is how g++ splits a 16-byte load. Counted is what the source asks for; caches are not modelled.
 */
#pragma once

#include <stddef.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Accesses of one kind: loads or stores, of global or of shared memory. */
typedef struct AccessCount {
    unsigned long long instructions;  /* of warps */
    unsigned long long lanes;         /* accesses of threads */
    unsigned long long bytes;         /* different bytes that the lanes of an instruction touch, added up */
    unsigned long long sectors;       /* global: 32-byte sectors of these instructions */
    unsigned long long first;         /* global: different bytes over the whole launch, in sectors */
    unsigned long long data;          /* global: those of `bytes` that emulation_count_data names */
    unsigned long long passes, least; /* shared: passes over the 32 banks; how few they could be */
} AccessCount;

typedef struct KernelCount {
    char name[160];
    unsigned long long launches, blocks, threads, barriers, mma, load_matrix, atomics;
    size_t block_threads, shared_bytes; /* of the largest launch: threads of a block, its dynamic shared memory */
    AccessCount global_loads, global_stores, shared_loads, shared_stores;
} KernelCount;

/* Kernels in the order of their first launch; counts add up over launches. */
size_t emulation_kernels(void);
KernelCount emulation_kernel(size_t i);
void emulation_count_reset(void); /* the data too */

/* Memory whose bytes are counted in `data` too: tensors that a kernel should go through once, beside the small tables
 * that it reads again and again from the caches. */
void emulation_count_data(const void *from, size_t bytes);

/* One line a kernel. Also written at the end of the program to the file that QLORA_CUDA_COUNT names. */
void emulation_count_print(FILE *out);

#ifdef __cplusplus
}
#endif
