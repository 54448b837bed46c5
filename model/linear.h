/*
 * linear.h - a group of frozen matrices that read the same input, with their adapters, as one matrix product.
 *
 * The matrices W_1, W_2, ... (O_i, K) stand below one another in one buffer of (O + R) x (K + R):
 *
 *        K       R
 *   [   W    | s B ]  O     B block-diagonal: matrix i in its own rows and columns
 *   [   A    |  -  ]  R     the A_i below one another
 *
 * R is the sum of the ranks, rounded up so that the product keeps whole tiles; spare rows and columns are zero.
 * Inputs x have R spare columns for x A^T, gradients dy have R spare columns for dy (s B):
 *   forward   y  = [x | x A^T] [W | s B]^T
 *   backward  dx = [dy | dy s B] [W ; A],  dA = (dy s B)^T x,  dB = s dy^T (x A^T)
 * With dropout every adapter sees its own mask on x, so x A^T is formed matrix by matrix from masked copies and the
 * adapters' part of dx goes through the masks instead of through the product.
 * Quantized matrices are decoded into the buffer, others are copied, unless it holds this group already: a buffer is
 * shared by the groups of all layers, by those of one kind only (slots), or belongs to one group (resident).
 */
#pragma once

#include "base/rng.h"
#include "lora/lora.h"
#include "quant/nf4.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { LINEAR_PARTS_MAX = 3, LINEAR_SLOTS = 4 };

typedef struct LinearPart {
    int module; /* index into the model's modules */
    int64_t rows;
    int64_t first_row;          /* in the group */
    const LoraAdapter *adapter; /* null: none */
    int64_t first_side;         /* its first side column */
    bool quantized;
    QuantMatrix quant;
    Tensor plain; /* (rows, K) compute type when it is not quantized */
} LinearPart;

typedef struct Linear {
    LinearPart parts[LINEAR_PARTS_MAX];
    int count;
    int64_t rows, cols; /* O, K */
    int64_t side;       /* R; 0 without adapters */
    bool has_bias;
    Tensor bias;     /* (O) */
    int slot;        /* the shared buffer it is filled into */
    bool resident;   /* `kept` holds the decoded weights */
    Tensor kept;     /* (O + R, K + R) */
    bool kept_fresh; /* W is decoded there */
} Linear;

/* Shared by all groups. */
typedef struct LinearWork {
    Backend *be;
    const Lora *lora; /* null without adapters */
    Tensor params, grads;
    Tensor weights[LINEAR_SLOTS]; /* flat: the largest group of the slot */
    const Linear **held;          /* [LINEAR_SLOTS]: whose buffer is filled and up to date; null: nobody's */
    Tensor masked;                /* (N, largest K): a masked copy of x, or of a gradient; only with dropout */
    Tensor partial;               /* f32 scratch of matmul_gradient */
    Tensor thin;                  /* f32 scratch of thin_forward */
} LinearWork;

/* What tells apart the masks of one micro-batch. */
typedef struct LinearPass {
    float dropout; /* 0: off */
    RngKey key;    /* stream: first one of this micro-batch, one a module */
    bool thin;     /* a few rows of generation: weights are not decoded, side columns of x stay as they are */
} LinearPass;

/* Fills first_row, first_side, rows and side from the parts. */
void linear_init(Linear *l, int64_t cols, DType dtype);
void linear_place(Linear *l, Arena *weights, DType dtype);
int64_t linear_buffer(const Linear *l); /* elements of the buffer */

/* Fills the buffers of groups in different slots that are not up to date, in one operation. Passes fill what they need by
 * themselves; this is for several at a time. */
void linear_fill(const LinearWork *w, Linear *const *groups, int count);

/* Elements of thin_forward's scratch. */
int64_t linear_thin_scratch(const Linear *l);

/* Elements of matmul_gradient's scratch that backward needs for n tokens. */
int64_t linear_gradient_scratch(const Linear *l, int64_t n);

/* y (N, O) = x's product and bias; x (N, K + R), whose side columns are written. */
void linear_forward(const LinearWork *w, Linear *l, const LinearPass *p, const Tensor *y, const Tensor *x);

/* dx (N, K) is overwritten, or null when nobody needs it. dy (N, O + R), side columns written. */
void linear_backward(const LinearWork *w, Linear *l, const LinearPass *p, const Tensor *dx, const Tensor *dy);

/* Adds the gradients of the adapters. dy as linear_backward left it, x as in forward; `side_filled`: its side columns are
 * still there, else they are formed again. */
void linear_gradients(const LinearWork *w, Linear *l, const LinearPass *p, const Tensor *dy, const Tensor *x,
                      bool side_filled);

/* Adapters changed: this group's buffer is out of date. */
void linear_refresh(const LinearWork *w, Linear *l);

#ifdef __cplusplus
}
#endif
