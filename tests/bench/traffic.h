/*
 * traffic.h - every CUDA kernel once at small shapes, on emulated threads that count its memory traffic
 * (tests/support/cuda/emulation_count.h), beside the least that the operation has to move.
 *
 * Counts are what the source asks for, not times: caches and clocks are not modelled.
 */
#pragma once

#include "backend/backend.h"
#include "tests/support/cuda/emulation_count.h"

/* One operation at one shape. */
typedef struct TrafficRow {
    const char *operation;
    char shape[64];
    DType dtype;
    bool aligned;           /* rows are whole packs and tiles */
    bool attention;         /* tiles are read again by every tile that sees them */
    KernelCount count;      /* of its kernels, added up */
    uint64_t reads, writes; /* least possible bytes of data */
    double least_mma;       /* products of visible pairs alone; 0: none */
} TrafficRow;

/* Useful bytes of the sectors asked for, in percent; 100 when there are none. */
double traffic_useful(const AccessCount *a, const AccessCount *b);
double traffic_passes(const AccessCount *a, uint64_t least); /* over the data; 0 when none is expected */
unsigned long long traffic_conflicts(const KernelCount *c);  /* passes over banks beyond the least */

/* Who hears of it; both may be null. */
typedef struct TrafficSink {
    void (*row)(const TrafficRow *row, void *state);
    void (*kernel)(const KernelCount *kernel, void *state); /* each kernel of an operation, by itself */
    void *state;
} TrafficSink;

/* `only`: operations whose name begins so; null: all. False when there is no emulated device. */
bool traffic_run(const char *only, const TrafficSink *sink, Err *err) MUST_USE;

/* --- for the files with scenes --- */

typedef struct Traffic {
    Backend *be;
    Arena arena;
    const char *only;
    TrafficRow row;
    TrafficSink sink;
} Traffic;

/* False: this one is not asked for. Tensors of the scene before are gone. */
bool traffic_scene(Traffic *t, const char *operation, DType dtype, bool aligned, const char *shape, ...)
    __attribute__((format(printf, 5, 6)));

/* Numbers from -0.5 to 0.5; integers from 0 to limit - 1, neighbours far apart. */
Tensor traffic_matrix(Traffic *t, DType dtype, int64_t rows, int64_t cols);
Tensor traffic_strided(Traffic *t, DType dtype, int64_t rows, int64_t cols, int64_t stride);
Tensor traffic_vector(Traffic *t, DType dtype, int64_t n);
Tensor traffic_indices(Traffic *t, int64_t n, int32_t limit);

/* From here on kernels are counted; then what they must read and write, `bytes` 0: the elements of the tensor. */
void traffic_start(Traffic *t);
void traffic_reads(Traffic *t, const Tensor *x, uint64_t bytes);
void traffic_writes(Traffic *t, const Tensor *x, uint64_t bytes);

/* Kernels whose name holds the text, or all. May be called several times after one start. */
void traffic_end(Traffic *t, const char *kernel);

void traffic_of_weights(Traffic *t);
void traffic_of_layers(Traffic *t);
void traffic_of_optimizer(Traffic *t);
void traffic_of_attention(Traffic *t);
