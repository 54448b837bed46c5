/*
 * internal.h - what the files of optim/ share: how states are laid out and cut into pieces, and one update of a piece.
 *
 * Each parameter owns a span of both state regions (first moment, second moment): elements rounded up to blocks, one
 * byte each or four. A piece is up to PIECE_BLOCKS blocks of one parameter, the unit that threads share out; a batch is
 * as many consecutive pieces as fit in a page buffer, or all of them when the states are resident.
 */
#pragma once

#include "backend/elementwise.h"
#include "optim/adamw.h"
#include "optim/clip.h"
#include "optim/pages.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    STATE_BLOCK = 256,
    STATE_8BIT_MIN = 4096, /* smaller parameters keep 32-bit states */
    PIECE_BLOCKS = 16,
    PAGE_BYTES = 1 << 20, /* of one buffer; a multiple of a piece of either kind */
    PAGE_SLOTS = 2        /* buffers of each moment on a device: one is copied while the other is updated */
};

typedef struct StateSpan {
    bool eight_bit;
    int64_t count;  /* elements of the parameter */
    int64_t blocks; /* of 256, the last one maybe partial */
    size_t offset;  /* bytes, in either region */
    int64_t absmax; /* index of its first block scale; 8-bit only */
} StateSpan;

typedef struct Piece {
    int32_t param;
    int32_t count;   /* elements */
    int64_t element; /* the first one in the flat buffers, a multiple of STATE_BLOCK */
    int64_t scale;   /* index of the scale of its first block, -1: states of 32 bits */
    size_t offset;   /* bytes, in either region */
    size_t bytes;    /* with the padding of the last block */
} Piece;

/* Pieces [first, last) lie side by side in both regions, from `offset` on; `state1` and `state2` begin there. */
typedef struct PieceBatch {
    int64_t first, last;
    size_t offset, bytes;
    Tensor state1, state2;
} PieceBatch;

/* What one update does to each parameter: scalars rounded once on the host. */
typedef struct UpdateRule {
    float beta1, one_minus_beta1, beta2, one_minus_beta2;
    float epsilon;
    float correction1, root_correction2; /* 1 - beta1^t, sqrt(1 - beta2^t) */
    float clip_value;                    /* 0: off */
    float clip_factor;
    float variance_min, variance_max; /* 0: off */
} UpdateRule;

/* Of one parameter. */
typedef struct UpdateStep {
    float step;  /* -lr / correction1, after the RMS clamp */
    float decay; /* 1 - lr * weight_decay */
} UpdateStep;

typedef struct PieceResult {
    double sum_squares; /* of the update in units of lr */
    int64_t floored, capped;
} PieceResult;

/* One walk over all pieces: measures their updates without changing a byte, or makes them. */
typedef struct UpdatePass {
    UpdateRule rule;
    bool measure;
    const Tensor *params, *grads;
} UpdatePass;

typedef struct AdamwOps AdamwOps; /* optim/ops.h */

struct Adamw {
    Backend *be;
    const AdamwOps *ops;
    const ParamTable *table; /* borrowed */
    AdamwOptions options;
    StateSpan *spans; /* one a parameter */
    Piece *pieces;
    int64_t piece_count;
    PieceResult *results; /* one a piece */
    UpdateStep *steps;    /* one a parameter */
    TensorNorm *norms;    /* of the gradients, one a parameter */
    size_t region_bytes;  /* of one moment */
    int64_t absmax_count; /* of one moment */
    float map1[256], map2[256];

    Tensor state1, state2; /* (region_bytes) u8; of a paged optimizer the page buffers */
    Tensor absmax1, absmax2;
    Tensor device_pieces, device_results, device_maps; /* on a device, `pieces`, `results` and both maps */
    size_t page_bytes;                                 /* PAGE_BYTES; tests take fewer */
    char *pinned;                                      /* both regions of a paged optimizer on a device */
    Pages pages;                                       /* and on the processor */
    Err failure;                                       /* of the page file, kept until someone can be told */

    int64_t updates;
    ClipHistory history;
};

/* On a device the states of a paged optimizer lie in pinned memory and not in a file. */
bool adamw_pages_in_memory(const Adamw *opt);

/* Of one page buffer. */
size_t adamw_buffer_bytes(const Adamw *opt);

/* Every piece once. A failing page file leaves states that fit no parameters: nothing may run afterwards. */
bool adamw_pass(Adamw *opt, const UpdatePass *pass, Err *err) MUST_USE;

/* Region of moment 1 or 2, bytes [first, first + length), to and from host memory. */
bool adamw_read_state(Adamw *opt, int moment, size_t first, size_t length, void *to, Err *err) MUST_USE;
bool adamw_write_state(Adamw *opt, int moment, size_t first, size_t length, const void *from, Err *err) MUST_USE;

#ifdef __cplusplus
}
#endif
