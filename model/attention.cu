/*
 * The CUDA operations of attention: their table, sizes, and scratch memory. Kernels are in attention_forward.cu,
 * attention_backward.cu, attention_decode.cu (all three for 16-bit elements on tensor cores) and attention_plain.cu.
 */
#include "model/attention_cuda.cuh"
#include "model/ops.h"

AttentionShape attention_shape(Backend *be, const Attention *at, int64_t n)
{
    AttentionShape a = {};
    a.n = static_cast<int>(n);
    a.heads = at->heads;
    a.kv_heads = at->kv_heads;
    a.group = at->heads / at->kv_heads;
    a.head_dim = at->head_dim;
    a.segments = at->segments;
    a.window = at->window > 0 && at->window < n ? at->window : a.n;
    a.scale = at->scale;
    a.factor = static_cast<float>(static_cast<double>(at->scale) * ATTENTION_LOG2E);
    a.starts = static_cast<const int32_t *>(
        cuda_stage(be, at->starts, (static_cast<size_t>(at->segments) + 1) * sizeof *at->starts));
    return a;
}

static int64_t scratch_cuda(const Backend *be, int64_t n, int heads, int kv_heads, int head_dim)
{
    (void)be, (void)kv_heads;
    const int64_t training = attention_backward_floats_cuda(n, heads);
    const int64_t decoding = attention_decode_floats_cuda(n, heads, head_dim);
    return training > decoding ? training : decoding;
}

extern "C" const AttentionOps attention_ops_cuda = {
    .forward = attention_forward_cuda,
    .backward = attention_backward_cuda,
    .decode = attention_decode_cuda,
    .scratch = scratch_cuda,
};
