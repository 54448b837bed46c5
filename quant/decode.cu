/*
 * decode.cu - a 4-bit matrix to f32, bf16 or f16 in one pass: 0.516 bytes read and 2 or 4 written a weight.
 */
#include "quant/decode.cuh"
#include "quant/ops.h"

enum { THREADS = 256 };

/* A warp decodes a span at a time. */
template <class T, int N> static __global__ void decode_kernel(Rows<T> w, QuantView q, int64_t cols, int64_t spans)
{
    SHARED_ARRAY(float, tables, QUANT_TABLES);
    quant_load_tables(tables, q.tables);
    for (int64_t span = warp_first(); span < spans; span += warp_step()) {
        const SpanRows place(span * q.span, cols);
        quant_span<N>(q, tables, span,
                      [&](int weight, const float(&x)[N]) { pack_store<N>(place.at(w, 0, weight), x); });
    }
}

template <class T, int N> static void launch(Backend *be, const Tensor *w, const QuantMatrix *m)
{
    const QuantView q = quant_view(be, m);
    const int64_t spans = quant_spans(q);
    CUDA_LAUNCH(be, (decode_kernel<T, N>), cuda_thread_blocks(be, spans * WARP_SIZE, THREADS), THREADS, 0,
                cuda_rows<T>(w), q, m->cols, spans);
}

static void decode_cuda(Backend *be, const Tensor *w, const QuantMatrix *m)
{
    CHECK(m->cols <= INT32_MAX);
    cuda_typed(w->dtype, [&](auto element) {
        typedef decltype(element) T;
        constexpr int N = cuda_pack<T>;
        if (cuda_packed(w, N) && quant_packed(m, N))
            launch<T, N>(be, w, m);
        else
            launch<T, 1>(be, w, m);
    });
}

void quant_encode_cuda(Backend *be, const QuantEncode *e, const QuantOptions *options); /* encode.cu */

extern "C" const QuantOps quant_ops_cuda = {decode_cuda, quant_encode_cuda};
