/*
 * ops.h - what an update asks of a backend: norms of all gradients and a walk over pieces, each one launch on a device.
 *
 * Results come as one number or two a piece; what is decided from them is decided on the host (step.c). States and
 * parameters are the same bits on every backend. The f64 sums of a piece have an order of their own on each: only whether
 * and by how much to clip depends on them.
 */
#pragma once

#include "optim/internal.h"

#ifdef __cplusplus
extern "C" {
#endif

struct AdamwOps {
    /* Tables of its own from the state arena, or their size; and what they hold. */
    void (*place)(Adamw *opt, Arena *state);
    void (*start)(Adamw *opt);
    /* out[p]: of the gradient of parameter p. */
    void (*norms)(Adamw *opt, TensorNorm *out, const Tensor *grads);
    /* results[i]: squares of piece i after the value clamp, and as `capped` how many elements it changes. */
    void (*clamped_norms)(Adamw *opt, const Tensor *grads, float limit);
    /* Measures or updates the pieces of a batch. Results are there for sums of squares, or clamps of the variance. */
    void (*run)(Adamw *opt, const PieceBatch *batch, const UpdatePass *pass);
    /* Brings the results of all pieces to the host. */
    void (*collect)(Adamw *opt);
};

/* Host pointers to the bytes of one piece. */
typedef struct PieceData {
    float *params;
    const float *grads;
    void *state1, *state2; /* u8 or f32 */
    float *absmax1, *absmax2;
    const float *map1, *map2;
    bool eight_bit;
    int64_t count;
} PieceData;

PieceResult piece_measure(const PieceData *d, const UpdateRule *rule);
PieceResult piece_update(const PieceData *d, const UpdateRule *rule, const UpdateStep *step);

void adamw_norms_cpu(Adamw *opt, TensorNorm *out, const Tensor *grads);
void adamw_clamped_norms_cpu(Adamw *opt, const Tensor *grads, float limit);
void adamw_run_cpu(Adamw *opt, const PieceBatch *batch, const UpdatePass *pass);

#if QLORA_CUDA
extern const AdamwOps adamw_ops_cuda;
#endif

#ifdef __cplusplus
}
#endif
