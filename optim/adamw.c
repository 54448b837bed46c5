#include "optim/ops.h"

#include "base/mem.h"
#include "quant/blockwise.h"

#include <string.h>

/* --- layout --- */

static size_t element_bytes(const StateSpan *s)
{
    return s->eight_bit ? 1 : sizeof(float);
}

static size_t span_bytes(const StateSpan *s)
{
    return (size_t)(s->blocks * STATE_BLOCK) * element_bytes(s);
}

static void lay_out_spans(Adamw *opt)
{
    for (int i = 0; i < opt->table->count; i++) {
        const Param *p = &opt->table->items[i];
        StateSpan *s = &opt->spans[i];
        CHECK(p->offset % STATE_BLOCK == 0);
        s->count = p->rows * p->cols;
        s->blocks = ceil_div(s->count, STATE_BLOCK);
        s->eight_bit = opt->options.eight_bit && s->count >= STATE_8BIT_MIN;
        s->offset = opt->region_bytes;
        s->absmax = opt->absmax_count;
        opt->region_bytes += span_bytes(s);
        if (s->eight_bit) opt->absmax_count += s->blocks;
        opt->piece_count += ceil_div(s->blocks, PIECE_BLOCKS);
    }
}

static void cut_pieces(Adamw *opt)
{
    Piece *piece = opt->pieces;
    for (int i = 0; i < opt->table->count; i++) {
        const StateSpan *s = &opt->spans[i];
        for (int64_t block = 0; block < s->blocks; block += PIECE_BLOCKS, piece++) {
            const int64_t blocks = s->blocks - block < PIECE_BLOCKS ? s->blocks - block : PIECE_BLOCKS;
            const int64_t first = block * STATE_BLOCK, left = s->count - first;
            *piece = (Piece){
                .param = i,
                .count = (int32_t)(left < blocks * STATE_BLOCK ? left : blocks * STATE_BLOCK),
                .element = opt->table->items[i].offset + first,
                .scale = s->eight_bit ? s->absmax + block : -1,
                .offset = s->offset + (size_t)first * element_bytes(s),
                .bytes = (size_t)(blocks * STATE_BLOCK) * element_bytes(s),
            };
        }
    }
}

static void place_cpu(Adamw *opt, Arena *state)
{
    (void)opt;
    (void)state;
}

/* Tables and results are where they are used. */
static void nothing_cpu(Adamw *opt)
{
    (void)opt;
}

static const AdamwOps adamw_ops_cpu = {
    .place = place_cpu,
    .start = nothing_cpu,
    .norms = adamw_norms_cpu,
    .clamped_norms = adamw_clamped_norms_cpu,
    .run = adamw_run_cpu,
    .collect = nothing_cpu,
};

static const AdamwOps *const operations[BACKEND_COUNT] = {
    [BACKEND_CPU] = &adamw_ops_cpu,
    [BACKEND_CUDA] = CUDA_OPS(adamw_ops_cuda),
};

bool adamw_create(Adamw **out, Backend *be, const ParamTable *table, const AdamwOptions *options, Err *err)
{
    Adamw *opt = mem_alloc(1, sizeof *opt, err);
    if (!opt) return false;
    opt->be = be;
    opt->ops = operations[backend_kind(be)];
    opt->table = table;
    opt->options = *options;
    opt->page_bytes = PAGE_BYTES;
    blockwise_map_signed(opt->map1);
    blockwise_map_unsigned(opt->map2);
    const size_t params = (size_t)table->count;
    TRY((opt->spans = mem_alloc(params, sizeof *opt->spans, err)) != NULL);
    TRY((opt->steps = mem_alloc(params, sizeof *opt->steps, err)) != NULL);
    TRY((opt->norms = mem_alloc(params, sizeof *opt->norms, err)) != NULL);
    lay_out_spans(opt);
    TRY((opt->pieces = mem_alloc((size_t)opt->piece_count, sizeof *opt->pieces, err)) != NULL);
    TRY((opt->results = mem_alloc((size_t)opt->piece_count, sizeof *opt->results, err)) != NULL);
    cut_pieces(opt);
    *out = opt;
    return true;
fail:
    adamw_free(opt);
    return false;
}

void adamw_free(Adamw *opt)
{
    if (!opt) return;
    pages_close(&opt->pages);
    backend_pinned_release(opt->be, opt->pinned, 2 * opt->region_bytes);
    mem_free(opt->spans);
    mem_free(opt->steps);
    mem_free(opt->norms);
    mem_free(opt->pieces);
    mem_free(opt->results);
    mem_free(opt);
}

/* --- memory --- */

bool adamw_pages_in_memory(const Adamw *opt)
{
    return opt->options.paged && backend_kind(opt->be) != BACKEND_CPU;
}

size_t adamw_buffer_bytes(const Adamw *opt)
{
    return opt->region_bytes < opt->page_bytes ? opt->region_bytes : opt->page_bytes;
}

/* Of one moment: the whole region, or the page buffers. */
static size_t placed_bytes(const Adamw *opt)
{
    if (!opt->options.paged) return opt->region_bytes;
    return adamw_buffer_bytes(opt) * (adamw_pages_in_memory(opt) ? PAGE_SLOTS : 1);
}

void adamw_place(Adamw *opt, Arena *state, Arena *scratch)
{
    Arena *arena = opt->options.paged ? scratch : state;
    const int64_t bytes = (int64_t)placed_bytes(opt);
    opt->state1 = arena_vector(arena, DTYPE_U8, bytes);
    opt->state2 = arena_vector(arena, DTYPE_U8, bytes);
    opt->absmax1 = arena_vector(state, DTYPE_F32, opt->absmax_count);
    opt->absmax2 = arena_vector(state, DTYPE_F32, opt->absmax_count);
    opt->ops->place(opt, state);
}

static bool start_in_memory(Adamw *opt, Err *err)
{
    const size_t bytes = 2 * opt->region_bytes;
    backend_pinned_release(opt->be, opt->pinned, bytes);
    opt->pinned = backend_pinned_reserve(opt->be, "the paged state of the optimizer", bytes, err);
    return opt->pinned != NULL;
}

bool adamw_start(Adamw *opt, Err *err)
{
    opt->ops->start(opt);
    if (!opt->options.paged) return true;
    if (adamw_pages_in_memory(opt)) return start_in_memory(opt, err);
    CHECK(opt->options.page_path != NULL);
    pages_close(&opt->pages);
    return pages_open(&opt->pages, opt->options.page_path, opt->region_bytes, err);
}

size_t adamw_paged_bytes(const Adamw *opt)
{
    return opt->options.paged ? 2 * opt->region_bytes : 0;
}

/* Pinned memory once no copy moves it any more; null after a fault. */
static char *pinned_state(Adamw *opt, int moment, size_t first, size_t length, Err *err)
{
    CHECK((moment == 1 || moment == 2) && first + length <= opt->region_bytes);
    if (!backend_sync(opt->be, err)) return NULL;
    return opt->pinned + (moment == 2 ? opt->region_bytes : 0) + first;
}

bool adamw_read_state(Adamw *opt, int moment, size_t first, size_t length, void *to, Err *err)
{
    if (adamw_pages_in_memory(opt)) {
        const char *from = pinned_state(opt, moment, first, length, err);
        if (from) memcpy(to, from, length);
        return from != NULL;
    }
    if (opt->options.paged) return pages_read(&opt->pages, moment, first, length, to, err);
    const Tensor *region = moment == 1 ? &opt->state1 : &opt->state2;
    const Tensor part = tensor_slice_flat(region, (int64_t)first, (int64_t)length);
    backend_download(opt->be, to, &part);
    return true;
}

bool adamw_write_state(Adamw *opt, int moment, size_t first, size_t length, const void *from, Err *err)
{
    if (adamw_pages_in_memory(opt)) {
        char *to = pinned_state(opt, moment, first, length, err);
        if (to) memcpy(to, from, length);
        return to != NULL;
    }
    if (opt->options.paged) return pages_write(&opt->pages, moment, first, length, from, err);
    const Tensor *region = moment == 1 ? &opt->state1 : &opt->state2;
    const Tensor part = tensor_slice_flat(region, (int64_t)first, (int64_t)length);
    backend_upload(opt->be, &part, from);
    return true;
}

int64_t adamw_updates(const Adamw *opt)
{
    return opt->updates;
}

bool adamw_check(const Adamw *opt, Err *err)
{
    if (opt->failure.code == ERR_NONE) return true;
    return FAIL(err, opt->failure.code, "%s", opt->failure.text);
}
