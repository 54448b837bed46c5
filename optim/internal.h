/*
 * internal.h - what the files of optim/ share: how states are laid out and cut into pieces, and one update of a piece.
 *
 * Each parameter owns a span of both state regions (first moment, second moment): elements rounded up to blocks, one
 * byte each or four. A piece is up to PIECE_BLOCKS blocks of one parameter, the unit that threads share out; a batch is
 * as many consecutive pieces as fit in a page buffer, or all of them when the states are resident.
 */
#pragma once

#include "optim/adamw.h"
#include "optim/clip.h"
#include "optim/pages.h"

enum {
    STATE_BLOCK = 256,
    STATE_8BIT_MIN = 4096, /* smaller parameters keep 32-bit states */
    PIECE_BLOCKS = 16,
    PAGE_BYTES = 1 << 20 /* of one buffer; a multiple of a piece of either kind */
};

typedef struct StateSpan {
    bool eight_bit;
    int64_t count;  /* elements of the parameter */
    int64_t blocks; /* of 256, the last one maybe partial */
    size_t offset;  /* bytes, in either region */
    int64_t absmax; /* index of its first block scale; 8-bit only */
} StateSpan;

typedef struct Piece {
    int param;
    int64_t first; /* element of the parameter, a multiple of STATE_BLOCK */
    int64_t count;
    size_t offset; /* bytes, in either region */
    size_t bytes;  /* with the padding of the last block */
} Piece;

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

/* Measures the update without changing a byte. */
PieceResult piece_measure(const PieceData *d, const UpdateRule *rule);
/* Updates states and parameters. */
PieceResult piece_update(const PieceData *d, const UpdateRule *rule, const UpdateStep *step);

struct Adamw {
    Backend *be;
    const ParamTable *table; /* borrowed */
    AdamwOptions options;
    StateSpan *spans; /* one a parameter */
    Piece *pieces;
    int64_t piece_count;
    PieceResult *results; /* one a piece */
    UpdateStep *steps;    /* one a parameter */
    size_t region_bytes;  /* of one moment */
    int64_t absmax_count; /* of one moment */
    float map1[256], map2[256];

    Tensor state1, state2; /* (region_bytes) u8; of a paged optimizer the page buffers */
    Tensor absmax1, absmax2;
    Pages pages;
    Err failure; /* of the page file, kept until someone can be told */

    int64_t updates;
    ClipHistory history;
};

/* Of one page buffer. */
size_t adamw_buffer_bytes(const Adamw *opt);

/* Region of moment 1 or 2, bytes [first, first + length), to and from host memory. */
bool adamw_read_state(Adamw *opt, int moment, size_t first, size_t length, void *to, Err *err) MUST_USE;
bool adamw_write_state(Adamw *opt, int moment, size_t first, size_t length, const void *from, Err *err) MUST_USE;
