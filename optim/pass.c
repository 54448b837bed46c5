/*
 * pass.c - one walk over all pieces, in batches that the page buffers hold.
 *
 * On a device there are two buffers of each moment: while the pieces in one are updated, the states of the batch before
 * leave the other one and those of the next batch enter it. Copies run one after the other, each begins when the
 * operations queued before it are done, and an update waits for the copies of its own batch; the host waits for nothing.
 */
#include "optim/ops.h"

/* The batch that begins with piece `first`, in page buffer `slot`. */
static PieceBatch next_batch(const Adamw *opt, int64_t first, int slot)
{
    PieceBatch b = {.first = first, .last = first, .offset = opt->pieces[first].offset};
    while (b.last < opt->piece_count) {
        const size_t bytes = b.bytes + opt->pieces[b.last].bytes;
        if (opt->options.paged && bytes > adamw_buffer_bytes(opt)) break;
        b.bytes = bytes;
        b.last++;
    }
    const size_t at = (size_t)slot * adamw_buffer_bytes(opt);
    b.state1 = tensor_slice_flat(&opt->state1, (int64_t)at, (int64_t)b.bytes);
    b.state2 = tensor_slice_flat(&opt->state2, (int64_t)at, (int64_t)b.bytes);
    return b;
}

/* --- pages in a file --- */

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

static bool pass_of_file(Adamw *opt, const UpdatePass *pass, Err *err)
{
    PieceBatch b;
    for (int64_t first = 0; first < opt->piece_count; first = b.last) {
        b = next_batch(opt, first, 0);
        if (!load_pages(opt, &b, err)) return false;
        opt->ops->run(opt, &b, pass);
        if (!pass->measure && !store_pages(opt, &b, err)) return false;
    }
    return true;
}

/* --- pages in pinned memory --- */

static BackendTicket fetch_pages(Adamw *opt, const PieceBatch *b)
{
    (void)backend_fetch(opt->be, &b->state1, opt->pinned + b->offset);
    return backend_fetch(opt->be, &b->state2, opt->pinned + opt->region_bytes + b->offset);
}

static BackendTicket put_pages(Adamw *opt, const PieceBatch *b)
{
    (void)backend_store(opt->be, opt->pinned + b->offset, &b->state1);
    return backend_store(opt->be, opt->pinned + opt->region_bytes + b->offset, &b->state2);
}

/* The buffers are anyone's again for operations queued afterwards. */
static void pass_of_memory(Adamw *opt, const UpdatePass *pass)
{
    PieceBatch batch = next_batch(opt, 0, 0);
    BackendTicket loaded = fetch_pages(opt, &batch), stored = 0;
    for (int slot = 0;; slot = (slot + 1) % PAGE_SLOTS) {
        const PieceBatch now = batch;
        const BackendTicket mine = loaded;
        const bool last = now.last == opt->piece_count;
        if (!last) {
            batch = next_batch(opt, now.last, (slot + 1) % PAGE_SLOTS);
            loaded = fetch_pages(opt, &batch);
        }
        backend_transfer_wait(opt->be, mine);
        opt->ops->run(opt, &now, pass);
        if (!pass->measure) stored = put_pages(opt, &now);
        if (last) break;
    }
    backend_transfer_wait(opt->be, stored);
}

bool adamw_pass(Adamw *opt, const UpdatePass *pass, Err *err)
{
    if (opt->piece_count == 0) return true;
    if (opt->options.paged && !adamw_pages_in_memory(opt)) return pass_of_file(opt, pass, err);
    if (opt->options.paged) {
        pass_of_memory(opt, pass);
    } else {
        const PieceBatch all = next_batch(opt, 0, 0);
        opt->ops->run(opt, &all, pass);
    }
    return true;
}
