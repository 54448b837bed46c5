/*
 * step_time.h - how long one update takes on a card, term by term, from shapes and the card's figures alone.
 *
 * A roofline with the losses that are known: nothing overlaps, every kernel takes the longer of its arithmetic and its
 * memory traffic. Letters as in model/decoder.h; P weights of all linear modules, R padded ranks of a group, E bytes of
 * an element, n tokens of a micro-batch, t trained ones. For each micro-batch:
 *   products     2 P n forward and 2 P n for the input gradient (frozen: no weight gradient; the first layer's qkv
 *                group needs no input gradient); the tile shape that wastes least of the last wave is taken
 *   recompute    2 n (P - P_down) once more in layers that are not kept, but for the last one
 *   decode       each group once a direction: codes in, 16 bits out; what is written stays in the level-2 cache when the
 *                group is smaller than half of it. The last layer's are still there for its backward when all groups
 *                of a layer have buffers; where they share one, recomputed groups are decoded once more
 *   attention    2 s d n L forward for segments of s tokens (d = H D), backward 2.5 times that; the rate falls for
 *                short rows as s / (s + 410), backward s / (s + 350): fitted to FlashAttention-2's published curve on
 *                H100 within 6 %; heads of 64 and less reach 80 % of it
 *   elementwise  bytes of fused kernels at 85 % of the copy bandwidth, for each token and layer and times E: forward
 *                9 C for norms and residuals, 2 (H + G) D for rope, 3 F for SwiGLU; backward 10 C, 2 (H + G) D, 2 H D, 6 F
 *   lora         spare rows and columns of the products, and x A^T, dy B, dA, dB, which read x and dy twice each; with
 *                dropout the masked copies of every module
 *   head         4 V C t, the table read once a chunk of rows and direction, logits in f32 written once and read twice,
 *                their gradient written and read once
 *   launches     1 us between two kernels, and what the host needs beyond the time of the device
 * and for each update:
 *   optimizer    gradients read twice and zeroed, parameters and states read and written
 *   copies       token ids and positions of each micro-batch, losses back; pages of a paged optimizer beyond what the
 *                update hides; checkpoints of offloaded layers out and back, beyond what these layers compute meanwhile
 *                (a third of it forward); rows of an embedding table in host memory
 * The constants are in step_time.c with their sources. No term was measured on a card by this program. Beside the
 * roofline of an H100 in reference figures (17,960 tokens/s for Llama-3.1-8B, 8 x 2,048, kept; 13,810 recomputed) the
 * sum is 12 % and 9 % lower, at 8,192 tokens a row 24 %, because it takes attention without wgmma.
 * Figures that were measured on this machine (trainer/host_speed.h) are taken as they are, without these shares.
 */
#pragma once

#include "model/spec.h"
#include "trainer/device_card.h"

typedef enum StepTerm {
    STEP_PRODUCTS,
    STEP_RECOMPUTE,
    STEP_DECODE,
    STEP_ATTENTION,
    STEP_ELEMENTWISE,
    STEP_LORA,
    STEP_HEAD,
    STEP_OPTIMIZER,
    STEP_COPIES,
    STEP_LAUNCHES,
    STEP_TERMS
} StepTerm;

const char *step_term_name(StepTerm t); /* "products" */

typedef struct StepShape {
    const ModelSpec *spec;
    const int *ranks; /* of each module, layer by layer in the order of Projection; 0: no adapter; borrowed */
    int element_bytes;
    double read_bytes_a_weight; /* of the frozen base: 0.516 in NF4 with nested scales, 2 in 16 bits */
    int kept_layers, offloaded_layers;
    double offloaded_bytes; /* of a micro-batch: what offloaded layers send to host memory */
    double tokens;          /* of a micro-batch */
    double segment_tokens; /* sum of squares of the segments' lengths over the sum: their length as attention sees it */
    double trained_share;  /* of the tokens */
    int64_t head_rows;     /* rows of logits at once */
    bool layer_weights;    /* all groups of a layer stay decoded: recompute and backward share them */
    bool host_embeddings;  /* the embedding table is read over the link */
    bool dropout;
    double micro_batches; /* of an update */
    int64_t trainable;
    double state_bytes;   /* of the optimizer for one parameter: 2.03 in 8 bits, 8 in 32 */
    uint64_t paged_bytes; /* of states in host memory; 0: resident */
} StepShape;

typedef struct StepTime {
    double seconds[STEP_TERMS]; /* of one update */
    double total;               /* their sum, in that order */
    double tokens;              /* of one update */
    double flops;               /* of the model in one update: forward and input gradients, nothing twice */
} StepTime;

StepTime step_time(const DeviceCard *card, const StepShape *shape);

/* Kernels and products of one micro-batch, forward and backward, where ranks times widths are whole blocks of 256
 * (base/param.h; else dA is a product a module) and without NEFTune. */
double step_launches(const StepShape *shape);

static inline double step_tokens_per_second(const StepTime *t)
{
    return t->total > 0 ? t->tokens / t->total : 0;
}

/* Weights of all linear modules, and operations of one token (forward of the linear modules; attention forward). */
int64_t step_linear_weights(const ModelSpec *spec);
double step_attention_flops(const ModelSpec *spec, double segment_tokens);
