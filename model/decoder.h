/*
 * decoder.h - what the parts of the decoder share: its matrices, its buffers, and one pass through it.
 *
 * Private to model/. Letters: N tokens, C width, F feed-forward width, Q = H * D, P = (H + 2G) * D, V vocabulary,
 * R ranks of a group. Activations that feed a group have R spare columns for x * A^T (linear.h).
 */
#pragma once

#include "model/attention.h"
#include "model/linear.h"
#include "model/model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What one layer leaves for its backward. Layers that are recomputed share one set, but for x, att and lse. */
typedef struct LayerActs {
    Tensor x;   /* (N, C): input */
    Tensor qkv; /* (N, P): after rope */
    Tensor att; /* (N, Q + R): attention output, then its side columns */
    Tensor lse; /* (N, H) f32 */
    Tensor x2;  /* (N, C): after the attention branch */
    Tensor gu;  /* (N, 2F + R): gate and up; backward puts their gradient there */
} LayerActs;

typedef struct Layer {
    Tensor norm1, norm2; /* (C) */
    Linear qkv, o, gate_up, down;
    LayerActs acts;
    bool keep;            /* RECOMPUTE_KEEP */
    BackendTicket copied; /* RECOMPUTE_OFFLOAD: last copy of x, att and lse */
    Tensor keys, values;  /* KV cache: (sequences * capacity, G * D) */
} Layer;

/* Buffers of one layer's work, shared by all layers and by forward and backward. */
typedef struct Work {
    Tensor xn;     /* (N, C + R): normed input of qkv or gate+up */
    Tensor h;      /* (N, F + R): SwiGLU product */
    Tensor dh;     /* (N, F) */
    Tensor dqkv;   /* (N, P + R) */
    Tensor dy;     /* (N, max(C, Q)): gradient of a normed input or of the attention output */
    Tensor dx;     /* (N, C + R): gradient of the residual stream */
    Tensor attend; /* f32 scratch of attention */
} Work;

typedef struct Head {
    Tensor table;    /* (V, C): lm_head, or the embedding when they are tied */
    Tensor norm;     /* (C) */
    int64_t rows;    /* rows of logits that exist at once */
    Tensor logits;   /* (rows, V) f32 */
    Tensor gradient; /* (rows, V) compute type; the storage of logits in f32 */
    Tensor x, xn;    /* (rows, C): gathered hidden states, normed */
    Tensor dxn, dx;  /* (rows, C) */
    Tensor losses;   /* (N) f32 */
    Tensor index;    /* (N) i32: rows with a target */
    Tensor targets;  /* (N) i32: their targets */
} Head;

struct Model {
    Backend *be;
    ModelSpec spec;
    ModelOptions options;
    int64_t n_max; /* rows of every activation buffer */

    LoraModule *modules; /* PROJ_COUNT a layer */
    char **paths;        /* their names, owned */
    int module_count;
    Lora lora;
    bool has_lora;

    Tensor embed;     /* (V, C) */
    void *host_table; /* pinned, of `embed`; null: on the device */
    Tensor rope;      /* (positions, D) f32 */
    Layer *layers;
    Tensor last;      /* (N, C): output of the last layer */
    int shared_owner; /* layer whose activations lie in the shared set; -1: none */
    Head head;
    LinearWork linear;
    const Linear *held[LINEAR_SLOTS]; /* of `linear` */
    Work work;
    Tensor ids, positions; /* (N) i32 */
    Tensor params, grads;  /* flat f32 */
    float loss_scale;      /* gradients are multiplied with it */

    char *pinned; /* checkpoints of offloaded layers, one layer after the other */
    size_t pinned_bytes;
    int32_t *host_rows; /* (n_max): rows with a target, staged for upload */
    int32_t *host_ids;  /* (n_max): their targets */
    float *host_losses; /* (n_max) */
    int32_t *cached;    /* (sequences): tokens in the KV cache */
};

typedef enum PassKind {
    PASS_EVALUATE,
    PASS_TRAIN,  /* dropout and noise */
    PASS_DECODE, /* one token for each of the first n sequences from `sequence` on, against the KV cache */
} PassKind;

typedef struct Pass {
    PassKind kind;
    int64_t n;
    Attention attention;
    LinearPass linear;
    int sequence;           /* prefill: keys and values of the batch go to this sequence; -1: nowhere */
    const int32_t *lengths; /* PASS_DECODE, for each sequence: tokens cached, this one included */
} Pass;

/* layer.c */
void layer_place_acts(Model *m, Arena *activations);
void layer_place_work(Model *m, Arena *scratch);
Tensor layer_output(const Model *m, int index, int64_t n); /* (n, C): x of the next layer, or `last` */
void layer_forward(Model *m, int index, const Pass *p);
void layer_backward(Model *m, int index, const Pass *p); /* work.dx: in d(out), out d(x) */

/* offload.c; around the passes of layer `index`. offload_set: its set on the device, -1: not offloaded. */
int offload_set(const Model *m, int index);
bool offload_start(Model *m, Err *err) MUST_USE;
void offload_before_forward(Model *m, int index, const Pass *p);
void offload_after_forward(Model *m, int index, const Pass *p);
void offload_before_backward(Model *m, int index);
void offload_after_backward(Model *m, int index, const Pass *p);

/* head.c */
void head_place(Model *m, Arena *scratch);
double head_loss(Model *m, const Batch *batch, const Tensor *hidden, int64_t update_tokens, bool train);
/* Of every row of hidden (n, C): logits (n, V), or the token that `how` (n) picks from them; host memory. */
void head_logits(Model *m, const Tensor *hidden, float *out);
void head_sample(Model *m, const Tensor *hidden, const Sampling *how, int32_t *ids);

/* weights.c */
void weights_place(Model *m, Arena *weights);
bool weights_load(Model *m, const ModelSource *source, Err *err) MUST_USE;

/* Reads rows [first, first + count) of one matrix as f32. */
typedef struct WeightsRows {
    bool (*read)(const struct WeightsRows *rows, int64_t first, int64_t count, float *to, Err *err);
    const ModelSource *source;
    const SourceTensor *tensor;
} WeightsRows;

/* Rows that are encoded on the device at a time; 0: the host encodes this matrix. */
int64_t weights_encode_rows(const Model *m, const QuantMatrix *q);

/* Streams a matrix in and encodes it on the device. `values` (host) holds weights_encode_rows() rows, `host` the arrays
 * of quant_encode. ERR_MODEL when a weight is not finite. */
bool weights_encode(Model *m, QuantMatrix *q, const WeightsRows *rows, float *values, QuantHost *host,
                    Err *err) MUST_USE;

/* generate.c */
void cache_place(Model *m, Arena *activations);
void cache_prefill(Model *m, const Layer *layer, const Pass *p, const Tensor *qkv);
void cache_decode(Model *m, const Layer *layer, const Pass *p, const Tensor *out, const Tensor *qkv);

/* pass.c */
void pass_make(const Model *m, Pass *p, PassKind kind, int64_t n);                              /* without segments */
void pass_begin(Model *m, Pass *p, PassKind kind, const Batch *batch, int64_t step, int micro); /* embeds */
Tensor pass_layers(Model *m, const Pass *p, int layers); /* hidden states (N, C) after that many layers */
void pass_embed(Model *m, const Pass *p, const int32_t *ids, const int32_t *positions, int64_t step, int micro);

#ifdef __cplusplus
}
#endif
