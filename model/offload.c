/*
 * offload.c - checkpoints of layers that wait for their backward in pinned host memory.
 *
 * The device has OFFLOAD_SETS sets of x, att and lse that the offloaded layers use in turn. The last OFFLOAD_SETS of
 * them are still in their sets when backward begins, so only those before are stored. A set's next layer is fetched when
 * the backward of its last one is queued: two layers compute meanwhile.
 */
#include "model/decoder.h"

static int first_offloaded(const Model *m)
{
    return m->options.kept_layers < m->spec.layers ? m->options.kept_layers : m->spec.layers;
}

static int end_offloaded(const Model *m)
{
    const int first = first_offloaded(m), left = m->spec.layers - first;
    return first + (m->options.offloaded_layers < left ? m->options.offloaded_layers : left);
}

int offload_set(const Model *m, int index)
{
    const int first = first_offloaded(m);
    if (!m->options.training || index < first || index >= end_offloaded(m)) return -1;
    return (index - first) % OFFLOAD_SETS;
}

/* Whether a layer's set is used again before its backward. */
static bool travels(const Model *m, int index)
{
    return offload_set(m, index) >= 0 && index + OFFLOAD_SETS < end_offloaded(m);
}

static size_t set_bytes(const LayerActs *a)
{
    return tensor_bytes(&a->x) + tensor_bytes(&a->att) + tensor_bytes(&a->lse);
}

size_t model_offloaded_bytes(const Model *m)
{
    size_t bytes = 0;
    for (int i = 0; i < m->spec.layers; i++) {
        if (!travels(m, i)) continue;
        uint64_t sum = 0;
        CHECK(checked_add(bytes, set_bytes(&m->layers[i].acts), &sum));
        bytes = (size_t)sum;
    }
    return bytes;
}

bool offload_start(Model *m, Err *err)
{
    const size_t bytes = model_offloaded_bytes(m);
    if (bytes == 0) return true;
    m->pinned = backend_pinned_reserve(m->be, "offloading activations", bytes, err);
    m->pinned_bytes = bytes;
    return m->pinned != NULL;
}

/* Copies the first n rows of a layer's set, spare columns with them: a copy is dense. */
static void copy_set(Model *m, int index, int64_t n, bool store)
{
    Layer *l = &m->layers[index];
    const Tensor *const parts[] = {&l->acts.x, &l->acts.att, &l->acts.lse};
    char *host = m->pinned + (size_t)(index - first_offloaded(m)) * set_bytes(&l->acts);
    for (size_t i = 0; i < ARRAY_COUNT(parts); i++) {
        const Tensor rows = tensor_slice_rows(parts[i], 0, n);
        l->copied = store ? backend_store(m->be, host, &rows) : backend_fetch(m->be, &rows, host);
        host += tensor_bytes(parts[i]);
    }
}

void offload_before_forward(Model *m, int index, const Pass *p)
{
    const int old = index + 1 - OFFLOAD_SETS; /* its set becomes the next layer's, whose x this layer writes */
    if (p->kind == PASS_TRAIN && old >= 0 && travels(m, old)) backend_transfer_wait(m->be, m->layers[old].copied);
}

void offload_after_forward(Model *m, int index, const Pass *p)
{
    if (p->kind == PASS_TRAIN && travels(m, index)) copy_set(m, index, p->n, true);
}

void offload_before_backward(Model *m, int index)
{
    if (travels(m, index)) backend_transfer_wait(m->be, m->layers[index].copied);
}

void offload_after_backward(Model *m, int index, const Pass *p)
{
    const int next = index - OFFLOAD_SETS;
    if (next >= 0 && travels(m, next)) copy_set(m, next, p->n, false);
}
