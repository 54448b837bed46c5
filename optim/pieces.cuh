/*
 * pieces.cuh - what both kernel files of optim/ need: pieces and their results on the device.
 *
 * Tables lie in the state arena: the pieces and maps as the host has them, written once, and one result a piece. A block
 * of threads takes a piece at a time. What it does follows from the piece alone, so the grid changes no bit.
 */
#pragma once

#include "backend/cuda_vector.cuh"
#include "optim/ops.h"

static constexpr int PIECE_THREADS = 256, PIECE_WARPS = PIECE_THREADS / WARP_SIZE;

static inline const Piece *device_pieces(const Adamw *opt)
{
    return static_cast<const Piece *>(opt->device_pieces.data);
}

static inline PieceResult *device_results(const Adamw *opt)
{
    return static_cast<PieceResult *>(opt->device_results.data);
}

static inline unsigned piece_grid(const Adamw *opt, int64_t pieces)
{
    enum { RESIDENT = 2048 }; /* threads of a multiprocessor, at most */
    return cuda_blocks(opt->be, pieces, RESIDENT / PIECE_THREADS);
}

/* Packs of 4 elements need addresses that are multiples of 16; pieces begin at multiples of 256 elements. */
static inline float *piece_base(const Tensor *flat)
{
    CHECK(cuda_packed(flat, 4));
    return static_cast<float *>(flat->data);
}

extern "C" {
void adamw_norms_cuda(Adamw *opt, TensorNorm *out, const Tensor *grads);
void adamw_clamped_norms_cuda(Adamw *opt, const Tensor *grads, float limit);
void adamw_collect_cuda(Adamw *opt);
}
