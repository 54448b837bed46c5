/*
 * ops.h - the tables of this folder's operations; each backend fills one. Arguments are checked and inside the
 * backend's bracket; operations and their tensors are described in the header of the same name.
 *
 * CPU tables stand in the .c files, CUDA ones in the .cu files. On CUDA, tensors and `index`, `targets`, `ids`,
 * `positions` lie on the device; starts, lengths and frequencies on the host (cuda_stage brings them over).
 */
#pragma once

#include "model/attention.h"
#include "model/embedding.h"
#include "model/fill.h"
#include "model/sample_weight.h"
#include "model/thin.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct RmsnormOps {
    void (*forward)(Backend *be, const Tensor *y, const Tensor *x, const Tensor *add, const Tensor *w, float eps);
    void (*backward)(Backend *be, const Tensor *dx, const Tensor *y, const Tensor *dy, const Tensor *x, const Tensor *w,
                     float eps, bool accumulate);
} RmsnormOps;

typedef struct RopeOps {
    void (*table)(Backend *be, const Tensor *table, const float *frequencies, float factor);
    void (*apply)(Backend *be, const Tensor *qk, const Tensor *table, const int32_t *positions, int heads, int head_dim,
                  bool backward);
} RopeOps;

/* Rows of the table from position `first` on, into host memory. */
void rope_table_rows(const Tensor *rows, int64_t first, const float *frequencies, float factor);

typedef struct SwigluOps {
    void (*forward)(Backend *be, const Tensor *y, const Tensor *gu);
    void (*backward)(Backend *be, const Tensor *dgu, const Tensor *y, const Tensor *dy, const Tensor *gu);
} SwigluOps;

typedef struct AttentionOps {
    void (*forward)(Backend *be, const Attention *at, const Tensor *out, const Tensor *lse, const Tensor *qkv,
                    const Tensor *scratch);
    void (*backward)(Backend *be, const Attention *at, const Tensor *dqkv, const Tensor *dout, const Tensor *out,
                     const Tensor *lse, const Tensor *qkv, const Tensor *scratch);
    void (*decode)(Backend *be, const Attention *at, const Tensor *out, const Tensor *q, const Tensor *keys,
                   const Tensor *values, int64_t capacity, const int32_t *lengths, const Tensor *scratch);
    int64_t (*scratch)(const Backend *be, int64_t n, int heads, int kv_heads, int head_dim);
} AttentionOps;

typedef struct EmbeddingOps {
    void (*forward)(Backend *be, const Tensor *out, const Tensor *table, const int32_t *ids);
    void (*noise)(Backend *be, const Tensor *out, const Neftune *noise);
} EmbeddingOps;

typedef struct RowsOps {
    void (*gather)(Backend *be, const Tensor *out, const Tensor *in, const Tensor *index);
    void (*scatter)(Backend *be, const Tensor *out, const Tensor *in, const Tensor *index);
    void (*add_vector)(Backend *be, const Tensor *y, const Tensor *vector);
} RowsOps;

typedef struct CrossEntropyOps {
    void (*run)(Backend *be, const Tensor *losses, const Tensor *gradient, const Tensor *logits, const int32_t *targets,
                float smoothing, float scale);
} CrossEntropyOps;

typedef struct FillOps {
    void (*fill)(Backend *be, const Fill *groups, int count, bool weights);
} FillOps;

typedef struct ThinOps {
    void (*forward)(Backend *be, const Thin *t, const Tensor *y, const Tensor *x, float *scratch);
} ThinOps;

typedef struct SampleOps {
    void (*rows)(Backend *be, const Tensor *ids, const Tensor *logits, const SampleRow *how); /* how: on the host */
} SampleOps;

#if QLORA_CUDA
extern const RmsnormOps rmsnorm_ops_cuda;
extern const RopeOps rope_ops_cuda;
extern const SwigluOps swiglu_ops_cuda;
extern const AttentionOps attention_ops_cuda;
extern const EmbeddingOps embedding_ops_cuda;
extern const RowsOps rows_ops_cuda;
extern const CrossEntropyOps cross_entropy_ops_cuda;
extern const FillOps fill_ops_cuda;
extern const ThinOps thin_ops_cuda;
extern const SampleOps sample_ops_cuda;
#endif

#ifdef __cplusplus
}
#endif
