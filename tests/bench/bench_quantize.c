/*
 * bench_quantize.c - speed of 4-bit encoding and decoding, in GB/s of f32 input and of output, on one core and on all.
 *
 * Usage: bench_quantize [MEGABYTES]   of f32 values, 256 by default: far more than any cache holds. A second size of
 * 1 MB shows what the code does when memory is not the limit. The best of several rounds counts.
 */
#include "quant/nf4.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef struct Job {
    Backend *be;
    int64_t rows, cols;
    float *values;
    QuantHost host;
    QuantMatrix matrix;
    Tensor wide, narrow;
} Job;

static void *take(size_t bytes)
{
    void *p = malloc(bytes);
    if (!p) exit(5);
    memset(p, 1, bytes); /* touched, so that page faults are not measured */
    return p;
}

static Job make_job(Backend *be, int64_t rows, const QuantOptions *options)
{
    Job j = {.be = be, .rows = rows, .cols = 4096};
    const int64_t count = j.rows * j.cols;
    Arena measure = {.name = "weights"};
    quant_place(&j.matrix, &measure, options, j.rows, j.cols);
    j.values = take((size_t)count * sizeof(float));
    uint32_t x = 1;
    for (int64_t i = 0; i < count; i++) {
        x = x * 1664525u + 1013904223u;
        j.values[i] = ((float)(x >> 8) / 8388608.0f - 1.0f) * 0.02f;
    }
    const int64_t blocks = quant_blocks(&j.matrix);
    j.host.codes = j.matrix.codes.data = take((size_t)(count / 2));
    j.host.absmax = j.matrix.absmax.data = take((size_t)blocks * sizeof(float));
    j.host.nested_absmax = j.matrix.nested_absmax.data = take((size_t)blocks * sizeof(float));
    j.host.scratch_absmax = take((size_t)blocks * sizeof(float));
    j.wide = tensor_matrix(take((size_t)count * 4), DTYPE_F32, j.rows, j.cols);
    j.narrow = tensor_matrix(take((size_t)count * 2), DTYPE_BF16, j.rows, j.cols);
    return j;
}

static void free_job(Job *j)
{
    free(j->values);
    free(j->host.codes);
    free(j->host.absmax);
    free(j->host.nested_absmax);
    free(j->host.scratch_absmax);
    free(j->wide.data);
    free(j->narrow.data);
}

typedef enum Work { ENCODE, DECODE_F32, DECODE_BF16 } Work;

static void run(Job *j, Work work)
{
    Err err = {0};
    if (work == ENCODE && !quant_encode(&j->host, j->values, j->rows * j->cols, &j->matrix.options, &err)) {
        fprintf(stderr, "%s\n", err.text);
        exit(4);
    }
    if (work == DECODE_F32) quant_decode(j->be, &j->wide, &j->matrix);
    if (work == DECODE_BF16) quant_decode(j->be, &j->narrow, &j->matrix);
}

static double best(Job *j, Work work)
{
    double fastest = 1e9;
    const double end = seconds() + 1.0;
    do {
        const double start = seconds();
        run(j, work);
        const double taken = seconds() - start;
        if (taken < fastest) fastest = taken;
    } while (seconds() < end);
    return fastest;
}

static void measure(int64_t rows, const char *name, const QuantOptions *options, int threads)
{
    static const char *const works[] = {"encode", "decode to f32", "decode to bf16"};
    static const double bytes[] = {4, 4, 2};
    const BackendOptions cpu = {.kind = BACKEND_CPU, .threads = threads};
    Backend *be = NULL;
    Err err = {0};
    if (!backend_open(&be, &cpu, &err)) exit(6);
    Job j = make_job(be, rows, options);
    for (int w = 0; w < 3; w++) {
        const double taken = best(&j, (Work)w), count = (double)(j.rows * j.cols);
        printf("%-16s %-14s %6.0f MB f32, %2d threads: %6.2f GB/s of %s, %6.2f billion weights/s\n", name, works[w],
               count * 4e-6, threads, count * bytes[w] / taken * 1e-9, w == ENCODE ? "f32 input" : "output",
               count / taken * 1e-9);
    }
    free_job(&j);
    backend_close(be);
}

int main(int argc, char **argv)
{
    const int megabytes = argc > 1 ? atoi(argv[1]) : 256;
    const int threads = omp_get_num_procs();
    const int64_t sizes[2] = {64, (int64_t)megabytes * 1000000 / (4096 * 4)};
    static const QuantOptions options[2] = {
        {QUANT_NF4, 64, true},
        {QUANT_FP4, 64, true}
    };
    if (megabytes < 1) return 2;
    for (int s = 0; s < 2; s++) {
        for (int t = 1; t <= threads; t += threads > 1 ? threads - 1 : 1) {
            measure(sizes[s], "NF4, 64, double", &options[0], t);
            if (s == 0) measure(sizes[s], "FP4, 64, double", &options[1], t);
        }
    }
    return 0;
}
