/*
 * weights_encode.c - 4-bit codes of a matrix made on the device while it streams in.
 *
 * Rows go over in chunks and are encoded where they arrive; only absmax, a 64th of the values, comes back, is quantized
 * on the host in the order that bitsandbytes has, and returns as codes. Nothing trains while weights load, so the
 * logits' buffer is the room for chunk, absmax and mark. The bytes are those of the host's quant_encode.
 */
#include "model/decoder.h"

#include "backend/elementwise.h"
#include "base/mem.h"

#include <math.h>

enum { CHUNK_ELEMENTS = 4 << 20, ALIGN_FLOATS = 16 };

static int64_t common_divisor(int64_t a, int64_t b)
{
    while (b) {
        const int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* What lies before the chunk in the room: absmax of the whole matrix and the mark. */
static int64_t room_before(const QuantMatrix *q)
{
    return round_up(quant_blocks(q), ALIGN_FLOATS) + ALIGN_FLOATS;
}

int64_t weights_encode_rows(const Model *m, const QuantMatrix *q)
{
    if (backend_kind(m->be) == BACKEND_CPU) return 0; /* its memory is the host's */
    const int64_t block = q->options.block, unit = block / common_divisor(q->cols, block);
    int64_t room = tensor_count(&m->head.logits) - room_before(q);
    if (room < 0) return 0; /* not even the absmax has room: few tokens, a wide matrix */
    if (room > CHUNK_ELEMENTS) room = CHUNK_ELEMENTS;
    return room / (unit * q->cols) * unit;
}

typedef struct Room {
    Tensor absmax, bad, values;
} Room;

static Room make_room(const Model *m, const QuantMatrix *q)
{
    float *base = m->head.logits.data;
    const int64_t before = room_before(q);
    return (Room){
        .absmax = tensor_vector(base, DTYPE_F32, quant_blocks(q)),
        .bad = tensor_vector(base + before - ALIGN_FLOATS, DTYPE_I64, 1),
        .values = tensor_vector(base + before, DTYPE_F32, tensor_count(&m->head.logits) - before),
    };
}

static void encode_rows(const Model *m, const QuantMatrix *q, const Room *room, int64_t first_row, int64_t rows,
                        const float *host)
{
    const int64_t first = first_row * q->cols, n = rows * q->cols, block = q->options.block;
    const QuantEncode e = {
        .values = tensor_slice_flat(&room->values, 0, n),
        .codes = tensor_slice_flat(&q->codes, first / 2, ceil_div(n, 2)),
        .absmax = tensor_slice_flat(&room->absmax, first / block, ceil_div(n, block)),
        .bad = room->bad,
        .first = first,
    };
    backend_upload(m->be, &e.values, host);
    quant_encode_on(m->be, &e, &q->options);
}

/* absmax as it is, or quantized itself. */
static void put_absmax(const Model *m, QuantMatrix *q, const Room *room, QuantHost *host)
{
    q->offset = 0;
    if (!q->options.double_quant) {
        tensor_copy(m->be, &q->absmax, &room->absmax);
        return;
    }
    backend_download(m->be, host->scratch_absmax, &room->absmax);
    quant_nest(host, host->scratch_absmax, quant_blocks(q));
    q->offset = host->offset;
    backend_upload(m->be, &q->absmax, host->absmax);
    backend_upload(m->be, &q->nested_absmax, host->nested_absmax);
}

bool weights_encode(Model *m, QuantMatrix *q, const WeightsRows *rows, float *values, QuantHost *host, Err *err)
{
    const int64_t most = weights_encode_rows(m, q);
    const Room room = make_room(m, q);
    int64_t bad = INT64_MAX;
    backend_upload(m->be, &room.bad, &bad);
    for (int64_t first = 0; first < q->rows; first += most) {
        const int64_t n = q->rows - first < most ? q->rows - first : most;
        if (!rows->read(rows, first, n, values, err)) return false;
        encode_rows(m, q, &room, first, n, values);
    }
    backend_download(m->be, &bad, &room.bad);
    if (!backend_sync(m->be, err)) return false;
    if (bad != INT64_MAX) {
        if (!rows->read(rows, bad / q->cols, 1, values, err)) return false;
        return quant_refuse(bad, values[bad % q->cols], err);
    }
    put_absmax(m, q, &room, host);
    return true;
}
