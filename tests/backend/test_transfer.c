/*
 * Copies beside operations: bytes arrive, in the order that tickets promise, whatever else is queued.
 */
#include "backend/elementwise.h"
#include "tests/support/kernel_test.h"

#if QLORA_TEST_CUDA
#    include "backend/cuda.h"
#endif

enum { COUNT = 3000 };

typedef struct Place {
    Backend *be;
    Arena arena;
    Tensor a, b;
    float *host;
} Place;

static void place_open(Place *p)
{
    Err err = {0};
    *p = (Place){.be = kernel_backend(2, false), .arena = {.name = "test"}};
    const size_t bytes = 2 * (COUNT * sizeof(float) + ARENA_ALIGN);
    assert_true(backend_arena_reserve(p->be, &p->arena, bytes, &err));
    p->a = arena_vector(&p->arena, DTYPE_F32, COUNT);
    p->b = arena_vector(&p->arena, DTYPE_F32, COUNT);
    p->host = backend_pinned_reserve(p->be, "the test", 2 * COUNT * sizeof(float), &err);
    if (!p->host) fail_msg("%s", err.text);
}

static void place_close(Place *p)
{
    backend_pinned_release(p->be, p->host, 2 * COUNT * sizeof(float));
    backend_arena_release(p->be, &p->arena);
    kernel_close(p->be);
}

static void place_sync(Place *p)
{
    Err err = {0};
    if (!backend_sync(p->be, &err)) fail_msg("%s", err.text);
}

static void fill(float *x, float first)
{
    for (int i = 0; i < COUNT; i++)
        x[i] = first + (float)i;
}

static void assert_filled(const float *x, float first)
{
    for (int i = 0; i < COUNT; i++) {
        if (x[i] != first + (float)i) fail_msg("element %d is %g", i, (double)x[i]);
    }
}

static void assert_holds(Place *p, const Tensor *t, float first)
{
    float *x = malloc(COUNT * sizeof *x);
    assert_non_null(x);
    backend_download(p->be, x, t);
    assert_filled(x, first);
    free(x);
}

static void pinned_memory_is_zero(void **state)
{
    Place p;
    (void)state;
    place_open(&p);
    for (int i = 0; i < 2 * COUNT; i++)
        assert_true(p.host[i] == 0.0f);
    backend_pinned_release(p.be, NULL, 8);
    place_close(&p);
}

static void fresh_arenas_are_zero(void **state)
{
    Place p;
    float x[COUNT];
    (void)state;
    place_open(&p);
    const Tensor *all[] = {&p.a, &p.b};
    for (int k = 0; k < 2; k++) {
        memset(x, 1, sizeof x);
        backend_download(p.be, x, all[k]);
        for (int i = 0; i < COUNT; i++)
            assert_true(x[i] == 0.0f);
    }
    place_close(&p);
}

/* Operation, store, operation on the same tensor, and back. */
static void a_store_takes_what_the_operations_before_it_left(void **state)
{
    Place p;
    (void)state;
    place_open(&p);
    fill(p.host, 5.0f);
    backend_upload(p.be, &p.a, p.host);
    tensor_copy(p.be, &p.b, &p.a);
    const BackendTicket stored = backend_store(p.be, p.host + COUNT, &p.b);
    backend_transfer_wait(p.be, stored);
    tensor_zero(p.be, &p.b);
    place_sync(&p);
    assert_filled(p.host + COUNT, 5.0f);
    place_close(&p);
}

static void an_operation_after_a_wait_sees_what_was_fetched(void **state)
{
    Place p;
    (void)state;
    place_open(&p);
    fill(p.host, -7.0f);
    backend_transfer_wait(p.be, backend_fetch(p.be, &p.a, p.host));
    tensor_copy(p.be, &p.b, &p.a);
    assert_holds(&p, &p.b, -7.0f);
    place_close(&p);
}

/* The tensor is still being read when the fetch is queued. */
static void a_fetch_waits_for_the_operations_before_it(void **state)
{
    Place p;
    (void)state;
    place_open(&p);
    fill(p.host, 1.0f);
    fill(p.host + COUNT, 100.0f);
    backend_upload(p.be, &p.a, p.host);
    tensor_copy(p.be, &p.b, &p.a);
    const BackendTicket fetched = backend_fetch(p.be, &p.a, p.host + COUNT);
    assert_holds(&p, &p.b, 1.0f);
    backend_transfer_wait(p.be, fetched);
    assert_holds(&p, &p.a, 100.0f);
    place_close(&p);
}

/* One copy after the other: what a store wrote a later fetch reads, with no wait in between. */
static void copies_run_in_order(void **state)
{
    Place p;
    (void)state;
    place_open(&p);
    fill(p.host, 9.0f);
    backend_upload(p.be, &p.a, p.host);
    for (int round = 0; round < 40; round++) { /* more copies than tickets have events */
        (void)backend_store(p.be, p.host + COUNT, &p.a);
        const BackendTicket fetched = backend_fetch(p.be, &p.b, p.host + COUNT);
        backend_transfer_wait(p.be, fetched);
        tensor_scale(p.be, &p.a, &p.b, 1.0f);
    }
    assert_holds(&p, &p.a, 9.0f);
    place_close(&p);
}

/* An old ticket whose event belongs to a later copy by now waits for that one; nothing and no copy are no wait. */
static void old_tickets_can_be_waited_for(void **state)
{
    Place p;
    (void)state;
    place_open(&p);
    fill(p.host, 3.0f);
    const BackendTicket first = backend_fetch(p.be, &p.a, p.host);
    for (int i = 0; i < 200; i++)
        (void)backend_fetch(p.be, &p.b, p.host);
    backend_transfer_wait(p.be, first);
    tensor_copy(p.be, &p.b, &p.a);
    assert_holds(&p, &p.b, 3.0f);
    const Tensor none = tensor_slice_flat(&p.a, 0, 0);
    assert_int_equal(backend_store(p.be, p.host, &none), 0);
    backend_transfer_wait(p.be, 0);
    place_close(&p);
}

static void the_host_sees_stored_bytes_after_a_sync(void **state)
{
    Place p;
    (void)state;
    place_open(&p);
    for (int round = 0; round < 5; round++) {
        fill(p.host, (float)round);
        backend_upload(p.be, &p.a, p.host);
        (void)backend_store(p.be, p.host + COUNT, &p.a);
        place_sync(&p);
        assert_filled(p.host + COUNT, (float)round);
    }
    place_close(&p);
}

static void more_than_there_is_is_refused(void **state)
{
    Place p;
    (void)state;
    place_open(&p);
    static const size_t much[] = {SIZE_MAX, SIZE_MAX / 8};
    for (int i = 0; i < 2; i++) {
        Err err = {0};
        assert_null(backend_pinned_reserve(p.be, "a whale", much[i], &err));
        assert_int_equal(err.code, ERR_MEMORY);
        assert_non_null(strstr(err.text, "a whale"));
    }
    place_close(&p);
}

#if QLORA_TEST_CUDA
/* --- small host arrays for kernels (cuda_stage) --- */

enum { STAGED_BYTES = 1 << 20, STAGED = 40, ENDS = 32 /* bytes of either end that are looked at */ };

/* Copies both ends of a staged array to row `row` of `to`. */
static void copy_ends(Backend *be, const Tensor *to, int64_t row, const void *staged, size_t bytes)
{
    char *start = (char *)(uintptr_t)staged;
    assert_int_equal((uintptr_t)staged % 256, 0);
    const Tensor first = tensor_vector(start, DTYPE_U8, ENDS),
                 last = tensor_vector(start + bytes - ENDS, DTYPE_U8, ENDS);
    const Tensor line = tensor_slice_rows(to, row, 1);
    const Tensor left = tensor_slice_cols(&line, 0, ENDS), right = tensor_slice_cols(&line, ENDS, ENDS);
    const Tensor left_row = tensor_vector(left.data, DTYPE_U8, ENDS),
                 right_row = tensor_vector(right.data, DTYPE_U8, ENDS);
    tensor_copy(be, &left_row, &first);
    tensor_copy(be, &right_row, &last);
}

static void assert_ends(const Tensor *to, int row, int first, int last)
{
    const unsigned char *line = (const unsigned char *)to->data + row * to->stride;
    for (int i = 0; i < ENDS; i++) {
        if (line[i] != first || line[ENDS + i] != last) fail_msg("array %d: %d and %d", row, line[i], line[ENDS + i]);
    }
}

/* More than the area holds: what kernels have not read yet is not overwritten. The array changes at once. */
static void staged_arrays_stay_until_kernels_have_read_them(void **state)
{
    (void)state;
    Backend *be = kernel_backend(1, false);
    const Tensor to = kernel_matrix(DTYPE_U8, STAGED, 2 * ENDS, 2 * ENDS);
    unsigned char *array = malloc(STAGED_BYTES);
    assert_non_null(array);
    for (int i = 0; i < STAGED; i++) {
        const size_t bytes = i == 16 ? 200 : STAGED_BYTES; /* the first 16 fill the area to its last byte */
        memset(array, 1, STAGED_BYTES);
        memset(array + bytes - ENDS, i + 2, ENDS);
        copy_ends(be, &to, i, cuda_stage(be, array, bytes), bytes);
    }
    memset(array, 0, STAGED_BYTES);
    kernel_settle();
    for (int i = 0; i < STAGED; i++)
        assert_ends(&to, i, 1, i + 2);
    kernel_check_guards(&to);
    kernel_free(&to);
    free(array);
    kernel_close(be);
}

/* Odd lengths side by side, some of them equal for a while. */
static void staged_arrays_are_told_apart_by_every_byte(void **state)
{
    (void)state;
    Backend *be = kernel_backend(1, false);
    const Tensor to = kernel_matrix(DTYPE_U8, STAGED, 2 * ENDS, 2 * ENDS);
    unsigned char array[400];
    const void *before = NULL;
    for (int i = 0; i < STAGED; i++) {
        const size_t bytes = (size_t)(257 + i % 3 * 37);
        memset(array, 7, sizeof array);
        memset(array + bytes - ENDS, i / 2, ENDS);
        array[bytes - 1] = (unsigned char)(i / 2);
        const void *staged = cuda_stage(be, array, bytes);
        assert_ptr_equal(cuda_stage(be, array, bytes), staged); /* no second copy */
        assert_true(staged != before || i == 0);
        copy_ends(be, &to, i, staged, bytes);
        before = staged;
    }
    kernel_settle();
    for (int i = 0; i < STAGED; i++)
        assert_ends(&to, i, 7, i / 2);
    kernel_free(&to);
    kernel_close(be);
}

/* All of the scratch memory is written; the array at the front of the staging area is remembered and still whole. */
static void scratch_memory_lies_apart(void **state)
{
    (void)state;
    Backend *be = kernel_backend(1, false);
    const Tensor to = kernel_matrix(DTYPE_U8, 1, 2 * ENDS, 2 * ENDS);
    const Tensor scratch = tensor_vector(cuda_scratch(be), DTYPE_F32, CUDA_SCRATCH_BYTES / sizeof(float));
    unsigned char array[256];
    memset(array, 9, sizeof array);
    const void *staged = cuda_stage(be, array, sizeof array);
    tensor_zero(be, &scratch);
    assert_ptr_equal(cuda_stage(be, array, sizeof array), staged);
    copy_ends(be, &to, 0, staged, sizeof array);
    kernel_settle();
    assert_ends(&to, 0, 9, 9);
    kernel_free(&to);
    kernel_close(be);
}

/* Nobody has waited for the copy of the array: it still reads pinned memory that closing gives back. */
static void closing_waits_for_what_is_queued(void **state)
{
    (void)state;
    const float array[8] = {1};
    Backend *be = kernel_backend(1, false);
    (void)cuda_stage(be, array, sizeof array);
    kernel_close(be);
}

static void downloads_after_a_fault_are_zeros(void **state)
{
    (void)state;
    Backend *be = kernel_backend_of(BACKEND_CUDA, 1, false);
    Arena arena = {.name = "test"};
    Err err = {0};
    float x[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    assert_true(backend_arena_reserve(be, &arena, 4096, &err));
    const Tensor t = arena_vector(&arena, DTYPE_F32, 8);
    backend_upload(be, &t, x);
    cuda_note(be, cudaErrorLaunchFailure, "the first");
    cuda_note(be, cudaErrorInvalidValue, "the second");
    backend_download(be, x, &t);
    for (int i = 0; i < 8; i++)
        assert_true(x[i] == 0.0f);
    assert_false(backend_sync(be, &err));
    assert_non_null(strstr(err.text, "the first"));
    backend_arena_release(be, &arena);
    backend_close(be);
}

/* --- uploads and downloads in several pieces --- */

/* Rows that fit a pinned buffer a few at a time, and one row that does not; with gaps on the device and without. */
static void wide_matrices_arrive_whole(void **state)
{
    (void)state;
    static const int64_t shapes[][3] = {
        {7,   300000,  300000 },
        {7,   300000,  300010 },
        {2,   1500001, 1500010},
        {1,   2500000, 2500000},
        {999, 3,       5      }
    };
    Backend *be = kernel_backend(1, false);
    for (size_t k = 0; k < ARRAY_COUNT(shapes); k++) {
        const int64_t rows = shapes[k][0], cols = shapes[k][1];
        const Tensor t = kernel_matrix(DTYPE_F32, rows, cols, shapes[k][2]);
        const size_t bytes = (size_t)(rows * cols) * sizeof(float);
        float *from = malloc(bytes), *back = malloc(bytes);
        assert_true(from && back);
        for (int64_t i = 0; i < rows * cols; i++)
            from[i] = (float)i;
        backend_upload(be, &t, from);
        memset(from, 0, bytes); /* it may change at once */
        backend_download(be, back, &t);
        for (int64_t i = 0; i < rows * cols; i++) {
            if (back[i] != (float)i) fail_msg("shape %zu: element %lld is %g", k, (long long)i, (double)back[i]);
        }
        kernel_check_guards(&t);
        kernel_free(&t);
        free(from);
        free(back);
    }
    kernel_close(be);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
#if QLORA_TEST_CUDA
        cmocka_unit_test(staged_arrays_stay_until_kernels_have_read_them),
        cmocka_unit_test(staged_arrays_are_told_apart_by_every_byte),
        cmocka_unit_test(scratch_memory_lies_apart),
        cmocka_unit_test(closing_waits_for_what_is_queued),
        cmocka_unit_test(downloads_after_a_fault_are_zeros),
        cmocka_unit_test(wide_matrices_arrive_whole),
#endif
        cmocka_unit_test(pinned_memory_is_zero),
        cmocka_unit_test(fresh_arenas_are_zero),
        cmocka_unit_test(a_store_takes_what_the_operations_before_it_left),
        cmocka_unit_test(an_operation_after_a_wait_sees_what_was_fetched),
        cmocka_unit_test(a_fetch_waits_for_the_operations_before_it),
        cmocka_unit_test(copies_run_in_order),
        cmocka_unit_test(old_tickets_can_be_waited_for),
        cmocka_unit_test(the_host_sees_stored_bytes_after_a_sync),
        cmocka_unit_test(more_than_there_is_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
