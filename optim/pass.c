/*
 * pass.c - one walk over all pieces, in batches that the page buffers hold.
 */
#include "optim/ops.h"

static PieceBatch next_batch(const Adamw *opt, int64_t first)
{
    PieceBatch b = {.first = first, .last = first, .offset = opt->pieces[first].offset};
    while (b.last < opt->piece_count) {
        const size_t bytes = b.bytes + opt->pieces[b.last].bytes;
        if (opt->options.paged && bytes > adamw_buffer_bytes(opt)) break;
        b.bytes = bytes;
        b.last++;
    }
    b.state1 = opt->state1;
    b.state2 = opt->state2;
    return b;
}

static bool load_pages(Adamw *opt, const PieceBatch *b, Err *err)
{
    return pages_read(&opt->pages, 1, b->offset, b->bytes, b->state1.data, err) &&
           pages_read(&opt->pages, 2, b->offset, b->bytes, b->state2.data, err);
}

static bool store_pages(Adamw *opt, const PieceBatch *b, Err *err)
{
    return pages_write(&opt->pages, 1, b->offset, b->bytes, b->state1.data, err) &&
           pages_write(&opt->pages, 2, b->offset, b->bytes, b->state2.data, err);
}

bool adamw_pass(Adamw *opt, const UpdatePass *pass, Err *err)
{
    const bool paged = opt->options.paged;
    PieceBatch b;
    for (int64_t first = 0; first < opt->piece_count; first = b.last) {
        b = next_batch(opt, first);
        if (paged && !load_pages(opt, &b, err)) return false;
        opt->ops->run(opt, &b, pass);
        if (paged && !pass->measure && !store_pages(opt, &b, err)) return false;
    }
    return true;
}
