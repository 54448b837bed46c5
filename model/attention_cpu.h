/*
 * attention_cpu.h - what the CPU's forward and backward passes share; only model/attention*.c look at it.
 *
 * Rows of a micro-batch are cut into tiles of QUERIES rows and blocks of KEYS rows, whatever the segments are; a mask
 * keeps row q to the keys low(q) .. q. Scores are held transposed, (keys, queries): sums and maxima over keys are then
 * plain vector operations, and p and ds come out as the operands of the next product.
 * Keys and values are packed once per pass, zero-filled; queries and their gradients once per tile.
 */
#pragma once

#include "backend/cpu.h"
#include "backend/tiles.h"
#include "model/attention.h"

enum { QUERIES = 64, KEYS = 128, COLUMNS = QUERIES / LANES, HEAD_DIM_MAX = 256, ATTENTION_CHUNKS_MAX = 18 };

#define ATTENTION_LOG2E 1.44269504088896340736
#define ATTENTION_LN2 0.69314718055994530942

/* Masked scores lie far below the lowest maximum, so their weight is exactly zero, also before a real key came. */
#define MASKED (-1e30f)
#define LOWEST (-1e20f)

typedef struct AttentionPlan {
    const Attention *at;
    TileKernel kernel;
    DType dtype;
    int64_t n;      /* rows */
    int64_t width;  /* head size rounded up to TILE */
    int64_t tiles;  /* of queries */
    int64_t blocks; /* of keys */
    char *packed[3];
    float *thread_base; /* per thread: attention_thread_floats */
    float *partial;     /* dk and dv of chunks, backward only */
    int64_t chunk_rows, chunks;
} AttentionPlan;

AttentionPlan attention_plan(const Backend *be, const Attention *at, const Tensor *qkv, const Tensor *scratch);
int64_t attention_thread_floats(int64_t width);

/* Block `b` of key/value head g in one of the packed forms. */
static inline char *attention_block(const AttentionPlan *p, int form, int g, int64_t b)
{
    const int64_t elements = KEYS * p->width;
    return p->packed[form] + (g * p->blocks + b) * elements * (int64_t)dtype_bytes(p->dtype);
}

/* Column of head `index` of qkv: query heads, then keys, then values. */
static inline const char *attention_head_in(const AttentionPlan *p, const Tensor *t, int64_t row, int index)
{
    return cpu_at_in(cpu_row_in(t, row), p->dtype, (int64_t)index * p->at->head_dim);
}

/* Rows first .. first + full of one head, as many as there are. */
TileSource attention_source(const AttentionPlan *p, const Tensor *t, int64_t first, int64_t full, int index);

/* One tile of queries and the keys that each of its rows may see. */
typedef struct QueryTile {
    int64_t first, count;
    int64_t low_least, low_most; /* first visible key, over the rows */
    float low[QUERIES];          /* numbers of rows, exact in f32 below 2^24 */
    float high[QUERIES];         /* last visible key; -1 in rows that do not exist */
} QueryTile;

QueryTile attention_query_tile(const AttentionPlan *p, int64_t tile);

/* The keys of block b that a tile needs: rows [start, end) of the block, multiples of TILE, and their mask. */
typedef struct KeyRange {
    int64_t start, end;
    bool masked;
} KeyRange;

KeyRange attention_key_range(const QueryTile *q, int64_t b);

/* Scores of row `key` below MASKED where the key is hidden. */
SIMD_INLINE Lanes attention_mask(Lanes score, Lanes key, const QueryTile *q, int column)
{
    const Lanes hidden = lanes_set(MASKED);
    score = lanes_where_less(lanes_load_f32(q->high + column * LANES), key, hidden, score);
    return lanes_where_less(key, lanes_load_f32(q->low + column * LANES), hidden, score);
}

/* Rows of a transposed (width, QUERIES) block, times factors per query, to the tile's rows of one head of `to`. */
void attention_write_rows(const AttentionPlan *p, const Tensor *to, int index, const QueryTile *q,
                          const float *transposed, const float *factors, float *work);

void attention_forward_cpu(Backend *be, const Attention *at, const Tensor *out, const Tensor *lse, const Tensor *qkv,
                           const Tensor *scratch);
void attention_backward_cpu(Backend *be, const Attention *at, const Tensor *dqkv, const Tensor *dout, const Tensor *out,
                            const Tensor *lse, const Tensor *qkv, const Tensor *scratch);
void attention_decode_cpu(Backend *be, const Attention *at, const Tensor *out, const Tensor *q, const Tensor *keys,
                          const Tensor *values, int64_t capacity, const int32_t *lengths, const Tensor *scratch);
int64_t attention_decode_floats(int64_t longest, int heads, int head_dim);
