#include "base/mem.h"

#include "tests/support/scratch.h"

static void memory_is_zeroed_and_counted(void **state)
{
    (void)state;
    Err err = {0};
    const uint64_t before = mem_alloc_count();
    unsigned char *block = mem_alloc(1000, 3, &err);
    assert_non_null(block);
    for (int i = 0; i < 3000; i++)
        assert_int_equal(block[i], 0);
    assert_int_equal(mem_alloc_count(), before + 1);
    mem_free(block);
    mem_free(NULL);
    void *empty = mem_alloc(0, 8, &err); /* not null: null means failure */
    assert_non_null(empty);
    mem_free(empty);
}

static void sizes_that_wrap_are_refused(void **state)
{
    (void)state;
    Err err = {0};
    assert_null(mem_alloc(SIZE_MAX / 2, 4, &err));
    assert_error(&err, ERR_MEMORY, "out of host memory");
    char *block = mem_alloc(8, 1, &err);
    assert_null(mem_resize(block, SIZE_MAX / 2, 4, &err));
    assert_error(&err, ERR_MEMORY, "out of host memory");
    block[7] = 1; /* still ours */
    mem_free(block);
}

static void growing_keeps_what_was_there(void **state)
{
    (void)state;
    Err err = {0};
    int *items = NULL;
    size_t capacity = 0;
    for (size_t i = 0; i < 1000; i++) {
        assert_true(mem_grow(&items, &capacity, i + 1, sizeof *items, &err));
        assert_true(capacity > i);
        items[i] = (int)i;
    }
    for (int i = 0; i < 1000; i++)
        assert_int_equal(items[i], i);
    assert_true(capacity <= 2048);
    assert_false(mem_grow(&items, &capacity, SIZE_MAX, sizeof *items, &err));
    assert_error(&err, ERR_MEMORY, "out of host memory");
    mem_free(items);
}

static void the_nth_allocation_fails_once_or_for_good(void **state)
{
    (void)state;
    Err err = {0};
    for (int sticky = 0; sticky < 2; sticky++) {
        mem_fail_at(3, sticky);
        void *blocks[5];
        for (int i = 0; i < 5; i++)
            blocks[i] = mem_alloc(1, 1, &err);
        mem_fail_at(0, false);
        assert_error(&err, ERR_MEMORY, "out of host memory");
        assert_non_null(blocks[0]);
        assert_non_null(blocks[1]);
        assert_null(blocks[2]);
        assert_int_equal(blocks[3] == NULL, sticky);
        for (int i = 0; i < 5; i++)
            mem_free(blocks[i]);
    }
}

static void copies_end_with_a_nul(void **state)
{
    (void)state;
    Err err = {0};
    char *copy = mem_copy_bytes("a\0b", 3, &err);
    assert_memory_equal(copy, "a\0b", 4);
    mem_free(copy);
    copy = mem_copy_text("text", &err);
    assert_string_equal(copy, "text");
    mem_free(copy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_zeroed_and_counted), cmocka_unit_test(sizes_that_wrap_are_refused),
        cmocka_unit_test(growing_keeps_what_was_there), cmocka_unit_test(the_nth_allocation_fails_once_or_for_good),
        cmocka_unit_test(copies_end_with_a_nul),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
