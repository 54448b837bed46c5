#include "backend/backend.h"

#include "backend/elementwise.h"
#include "base/mem.h"
#include "tests/support/kernel_test.h"

#include <unistd.h>

static void options_out_of_range_are_refused(void **state)
{
    (void)state;
    Backend *be = NULL;
    Err err = {0};
    const BackendOptions negative = {.threads = -1}, many = {.threads = 100000};
    assert_false(backend_open(&be, &negative, &err));
    assert_int_equal(err.code, ERR_ARG);
    err_clear(&err);
    assert_false(backend_open(&be, &many, &err));
    assert_int_equal(err.code, ERR_ARG);
    assert_null(be);
}

static void a_name_says_how_many_threads(void **state)
{
    (void)state;
    Backend *be = kernel_backend(3, false);
    assert_int_equal(backend_threads(be), 3);
    assert_non_null(strstr(backend_name(be), "cpu (3 threads"));
    assert_true(backend_preferred_dtype(be) == DTYPE_F32 || backend_preferred_dtype(be) == DTYPE_BF16);
    assert_true(strstr(backend_name(be), "BF16") ? backend_preferred_dtype(be) == DTYPE_BF16
                                                 : backend_preferred_dtype(be) == DTYPE_F32);
    backend_close(be);
    be = kernel_backend(0, true);
    assert_true(backend_threads(be) >= 1 && backend_reference(be));
    backend_close(be);
    backend_close(NULL);
}

static void an_open_that_lacks_memory_fails_cleanly(void **state)
{
    (void)state;
    const BackendOptions options = {.threads = 1};
    int failures = 0;
    for (;; failures++) {
        Backend *be = NULL;
        Err err = {0};
        mem_fail_at((uint64_t)failures + 1, false);
        const bool opened = backend_open(&be, &options, &err);
        mem_fail_at(0, false);
        if (opened) {
            backend_close(be);
            break;
        }
        assert_int_equal(err.code, ERR_MEMORY);
        assert_null(be);
    }
    assert_true(failures >= 1);
}

static size_t resident_bytes(void)
{
    long pages = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%ld %ld", &pages, &resident), 2);
    fclose(file);
    return (size_t)resident * (size_t)sysconf(_SC_PAGESIZE);
}

static void an_arena_is_zeroed_aligned_and_as_large_as_asked(void **state)
{
    (void)state;
    Backend *be = kernel_backend(2, false);
    static const size_t sizes[] = {0, 1, 4096, 4097, (2 << 20) - 1, (2 << 20) + 12345, 9 << 20};
    for (size_t i = 0; i < ARRAY_COUNT(sizes); i++) {
        Arena a = {.name = "test"};
        Err err = {0};
        const size_t before = resident_bytes();
        assert_true(backend_arena_reserve(be, &a, sizes[i], &err));
        const size_t grown = resident_bytes() - before;
        if (sizes[i] > 1 << 20) assert_true(grown >= sizes[i] - (1 << 20) && grown <= sizes[i] + (1 << 20));
        assert_int_equal((uintptr_t)a.base % 4096, 0);
        assert_int_equal(a.size, sizes[i]);
        for (size_t at = 0; at < sizes[i]; at += 509)
            assert_int_equal(a.base[at], 0);
        if (sizes[i]) assert_non_null(arena_take(&a, sizes[i]));
        backend_arena_release(be, &a);
        assert_null(a.base);
        backend_arena_release(be, &a);
    }
    backend_close(be);
}

static void too_large_an_arena_is_refused_before_it_is_touched(void **state)
{
    (void)state;
    Backend *be = kernel_backend(1, false);
    static const size_t sizes[] = {(size_t)1 << 45, SIZE_MAX, SIZE_MAX / 4};
    for (size_t i = 0; i < ARRAY_COUNT(sizes); i++) {
        Arena a = {.name = "activations"};
        Err err = {0};
        assert_false(backend_arena_reserve(be, &a, sizes[i], &err));
        assert_int_equal(err.code, ERR_MEMORY);
        assert_non_null(strstr(err.text, "activations"));
        assert_null(a.base);
    }
    backend_close(be);
}

static void uploads_and_downloads_respect_strides(void **state)
{
    (void)state;
    Backend *be = kernel_backend(1, false);
    const Tensor t = kernel_matrix(DTYPE_BF16, 5, 7, 11);
    uint16_t there[35], back[35];
    for (int i = 0; i < 35; i++)
        there[i] = (uint16_t)(0x3f80 + i);
    backend_upload(be, &t, there);
    assert_int_equal(((const uint16_t *)t.data)[2 * 11 + 3], 0x3f80 + 2 * 7 + 3);
    backend_download(be, back, &t);
    assert_memory_equal(there, back, sizeof there);
    kernel_check_guards(&t);
    kernel_free(&t);
    Err err = {0};
    assert_true(backend_sync(be, &err));
    backend_close(be);
}

typedef struct Counts {
    int enters, leaves, reserves, releases;
} Counts;

static void count_enter(void *state)
{
    ((Counts *)state)->enters++;
}

static void count_leave(void *state)
{
    ((Counts *)state)->leaves++;
}

static void *count_reserve(void *state, size_t bytes)
{
    ((Counts *)state)->reserves++;
    return bytes > 1 << 20 ? NULL : aligned_alloc(4096, bytes);
}

static void count_release(void *state, void *storage, size_t bytes)
{
    (void)bytes;
    ((Counts *)state)->releases++;
    free(storage);
}

static void hooks_run_once_around_nested_operations(void **state)
{
    (void)state;
    Counts counts = {0};
    const BackendOptions options = {
        .threads = 1, .hooks = {count_reserve, count_release, count_enter, count_leave, &counts}
    };
    Backend *be = NULL;
    Err err = {0};
    assert_true(backend_open(&be, &options, &err));
    Arena a = {.name = "test"};
    assert_true(backend_arena_reserve(be, &a, 4000, &err));
    const int reserved = counts.enters;
    backend_enter(be);
    const Tensor t = arena_vector(&a, DTYPE_F32, 100);
    tensor_zero(be, &t);
    assert_int_equal(counts.enters, reserved + 1);
    backend_leave(be);
    assert_int_equal(counts.leaves, counts.enters);
    Arena large = {.name = "large"};
    assert_false(backend_arena_reserve(be, &large, 2 << 20, &err));
    assert_int_equal(err.code, ERR_MEMORY);
    backend_arena_release(be, &a);
    assert_int_equal(counts.reserves, 2);
    assert_int_equal(counts.releases, 1);
    backend_close(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options_out_of_range_are_refused),
        cmocka_unit_test(a_name_says_how_many_threads),
        cmocka_unit_test(an_open_that_lacks_memory_fails_cleanly),
        cmocka_unit_test(an_arena_is_zeroed_aligned_and_as_large_as_asked),
        cmocka_unit_test(too_large_an_arena_is_refused_before_it_is_touched),
        cmocka_unit_test(uploads_and_downloads_respect_strides),
        cmocka_unit_test(hooks_run_once_around_nested_operations),
    };
    return cmocka_run_group_tests_name("backend", tests, NULL, NULL);
}
