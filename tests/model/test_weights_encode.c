/* Matrices that stream in by chunks of rows and are encoded on the device: every byte is the host's quant_encode's. */
#include "model/decoder.h"

#include "tests/support/kernel_test.h"

enum { BLOCK = 64 };

static Model model; /* of which a backend and the room for logits are used */

/* Logits of so many floats; with null storage only sizes can be asked for. */
static void give_room(Backend *be, void *storage, int64_t floats)
{
    model = (Model){.be = be};
    model.head.logits = tensor_matrix(storage, DTYPE_F32, 1, floats);
}

static void the_host_encodes_what_the_room_cannot_hold(void **state)
{
    (void)state;
    Backend *be = kernel_backend(1, false);
    const QuantOptions options = {QUANT_NF4, BLOCK, true};
    QuantMatrix q = {.options = options, .rows = 8192, .cols = 1024};
    enum { BEFORE = 8192 * 16 + 16 };
    static const int64_t floats[] = {16, BEFORE / 2, BEFORE - 1, BEFORE, BEFORE + 1023};
    for (size_t i = 0; i < ARRAY_COUNT(floats); i++) {
        give_room(be, NULL, floats[i]);
        assert_int_equal(weights_encode_rows(&model, &q), 0);
    }
    give_room(be, NULL, BEFORE + 1024);
    assert_int_equal(weights_encode_rows(&model, &q), QLORA_TEST_CUDA ? 1 : 0);
    give_room(be, NULL, (int64_t)1 << 32); /* chunks of 16 MB are enough */
    assert_int_equal(weights_encode_rows(&model, &q), QLORA_TEST_CUDA ? 4096 : 0);
    q.cols = 96; /* whole blocks: pairs of rows */
    assert_int_equal(weights_encode_rows(&model, &q), QLORA_TEST_CUDA ? (4 << 20) / 192 * 2 : 0);
    kernel_close(be);
}

#if QLORA_TEST_CUDA
typedef struct Case {
    int64_t rows, cols, unit, chunk; /* rows that whole blocks make up; that a chunk has */
    QuantOptions options;
} Case;

/* Blocks that end with a row, within it, after several; tails of a chunk, of a block and of half a byte. */
static const Case cases[] = {
    {5,   128, 1,  2,   {QUANT_NF4, BLOCK, true} },
    {6,   128, 1,  3,   {QUANT_NF4, BLOCK, false}},
    {7,   96,  2,  2,   {QUANT_NF4, BLOCK, true} },
    {7,   96,  2,  4,   {QUANT_FP4, BLOCK, false}},
    {131, 33,  64, 64,  {QUANT_NF4, BLOCK, true} },
    {131, 33,  64, 128, {QUANT_NF4, BLOCK, false}},
    {9,   64,  1,  9,   {QUANT_NF4, BLOCK, true} },
    {40,  520, 8,  8,   {QUANT_NF4, BLOCK, true} }, /* two blocks of absmax */
};

/* Chunks come in order, none longer than the host has room for; behind them the first bad row once more. */
typedef struct Feed {
    WeightsRows rows;
    const Case *c;
    const float *values;
    int64_t next;
} Feed;

static bool read_rows(const WeightsRows *rows, int64_t first, int64_t count, float *to, Err *err)
{
    Feed *f = (Feed *)(uintptr_t)rows;
    (void)err;
    if (f->next < f->c->rows) assert_int_equal(first, f->next);
    assert_true(count == f->c->chunk || first + count == f->c->rows || f->next == f->c->rows);
    memcpy(to, f->values + first * f->c->cols, (size_t)(count * f->c->cols) * sizeof *to);
    if (f->next < f->c->rows) f->next = first + count;
    return true;
}

typedef struct Rig {
    QuantMatrix q;
    Tensor logits; /* room for a chunk and almost another unit of rows */
    float *values, *chunk;
    QuantHost host, want;
} Rig;

static Tensor watched(const Tensor *t)
{
    const int64_t n = tensor_count(t);
    const Tensor row = kernel_matrix(t->dtype, 1, n, n);
    return tensor_vector(row.data, t->dtype, n);
}

static void check_and_free(const Tensor *t)
{
    const Tensor row = tensor_matrix(t->data, t->dtype, 1, tensor_count(t));
    kernel_check_guards(&row);
    kernel_free(&row);
}

static QuantHost host_make(int64_t count, int64_t blocks)
{
    QuantHost h = {
        .codes = malloc((size_t)(count + 1) / 2),
        .absmax = malloc((size_t)blocks * 4),
        .nested_absmax = malloc((size_t)(blocks / 256 + 1) * 4),
        .scratch_absmax = malloc((size_t)blocks * 4),
    };
    assert_true(h.codes && h.absmax && h.nested_absmax && h.scratch_absmax);
    return h;
}

static void host_free(QuantHost *h)
{
    free(h->codes);
    free(h->absmax);
    free(h->nested_absmax);
    free(h->scratch_absmax);
}

static Rig rig_make(Backend *be, const Case *c)
{
    Rig r;
    Arena measure = {.name = "weights"};
    const int64_t count = c->rows * c->cols;
    quant_place(&r.q, &measure, &c->options, c->rows, c->cols);
    const int64_t blocks = quant_blocks(&r.q), before = round_up(blocks, 16) + 16;
    const Tensor room = tensor_vector(NULL, DTYPE_F32, before + (c->chunk + c->unit) * c->cols - 1);
    r.logits = watched(&room);
    memset(r.logits.data, 0xff, (size_t)tensor_count(&room) * sizeof(float));
    r.q.codes = watched(&r.q.codes);
    r.q.absmax = watched(&r.q.absmax);
    r.q.nested_absmax = watched(&r.q.nested_absmax);
    r.q.offset = NAN;
    give_room(be, r.logits.data, tensor_count(&room));
    assert_int_equal(weights_encode_rows(&model, &r.q), c->chunk);
    r.host = host_make(count, blocks);
    r.want = host_make(count, blocks);
    r.values = malloc((size_t)count * sizeof *r.values);
    r.chunk = malloc((size_t)(c->chunk * c->cols) * sizeof *r.chunk);
    assert_true(r.values && r.chunk);
    for (int64_t i = 0; i < count; i++)
        r.values[i] = 0.02f * rng_normal((RngKey){.seed = 4, .purpose = RNG_TEST}, (uint64_t)i);
    return r;
}

static void rig_free(Rig *r)
{
    const Tensor *all[] = {&r->logits, &r->q.codes, &r->q.absmax, &r->q.nested_absmax};
    for (size_t i = 0; i < ARRAY_COUNT(all); i++)
        check_and_free(all[i]);
    host_free(&r->host);
    host_free(&r->want);
    free(r->values);
    free(r->chunk);
}

static bool encode(Rig *r, const Case *c, Err *err)
{
    const Feed feed = {.rows = {.read = read_rows}, .c = c, .values = r->values};
    const bool ok = weights_encode(&model, &r->q, &feed.rows, r->chunk, &r->host, err);
    assert_int_equal(feed.next, c->rows);
    kernel_settle();
    return ok;
}

static void every_byte_is_that_of_the_host(void **state)
{
    (void)state;
    Backend *be = kernel_backend(2, false);
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        const Case *c = &cases[i];
        Err err = {0};
        Rig r = rig_make(be, c);
        const size_t blocks = (size_t)quant_blocks(&r.q);
        assert_true(encode(&r, c, &err));
        assert_true(quant_encode(&r.want, r.values, c->rows * c->cols, &c->options, &err));
        assert_memory_equal(r.q.codes.data, r.want.codes, (size_t)tensor_count(&r.q.codes));
        assert_memory_equal(r.q.absmax.data, r.want.absmax, blocks * (c->options.double_quant ? 1 : 4));
        assert_memory_equal(r.q.nested_absmax.data, r.want.nested_absmax, (size_t)tensor_count(&r.q.nested_absmax) * 4);
        assert_true(r.q.offset == (c->options.double_quant ? r.want.offset : 0.0f));
        rig_free(&r);
    }
    kernel_close(be);
}

/* In the first chunk, at the borders of chunks, in the last place; the first of several is named. */
static void a_weight_that_is_not_finite_is_named(void **state)
{
    (void)state;
    const Case *c = &cases[2];
    static const int64_t places[] = {0, 96, 191, 192, 500, 671};
    Backend *be = kernel_backend(2, false);
    for (size_t i = 0; i < ARRAY_COUNT(places); i++) {
        Err err = {0}, want = {0};
        Rig r = rig_make(be, c);
        r.values[671] = INFINITY;
        r.values[places[i]] = NAN;
        assert_false(encode(&r, c, &err));
        assert_false(quant_encode(&r.want, r.values, 671 + 1, &c->options, &want));
        assert_string_equal(err.text, want.text);
        rig_free(&r);
    }
    kernel_close(be);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_host_encodes_what_the_room_cannot_hold),
#if QLORA_TEST_CUDA
        cmocka_unit_test(every_byte_is_that_of_the_host),
        cmocka_unit_test(a_weight_that_is_not_finite_is_named),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
