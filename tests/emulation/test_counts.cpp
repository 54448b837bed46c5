/*
 * test_counts.cpp - the counters of memory traffic against kernels whose traffic is known.
 */
#include "count_cases.h"
#include "emulation.h"
#include "emulation_count.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

extern "C" {
#include <cmocka.h>
}

#include <initializer_list>

namespace
{
KernelCount only()
{
    assert_int_equal(emulation_kernels(), 1);
    const KernelCount count = emulation_kernel(0);
    emulation_count_reset();
    return count;
}

void words_in_a_row_fill_their_sectors(void **)
{
    run_copy_words(1, 0);
    const KernelCount c = only();
    assert_string_equal(c.name, "copy_words");
    assert_int_equal(c.launches, 1);
    assert_int_equal(c.threads, 256);
    assert_int_equal(c.block_threads, 128);
    assert_int_equal(c.shared_bytes, 0);
    assert_int_equal(c.global_loads.instructions, 8);
    assert_int_equal(c.global_loads.lanes, 256);
    assert_int_equal(c.global_loads.bytes, 1024);
    assert_int_equal(c.global_loads.sectors, 32);
    assert_int_equal(c.global_stores.sectors, 32);
    assert_int_equal(c.global_stores.first, 32);
}

void strides_and_shifts_waste_sectors(void **)
{
    run_copy_words(2, 0);
    assert_int_equal(only().global_loads.sectors, 64);
    run_copy_words(8, 0);
    assert_int_equal(only().global_loads.sectors, 256);
    run_copy_words(1, 1); /* every warp reaches into one sector more */
    const KernelCount c = only();
    assert_int_equal(c.global_loads.sectors, 40);
    assert_int_equal(c.global_loads.bytes, 1024);
    assert_int_equal(c.global_loads.first, 33);
}

void vectors_are_one_instruction(void **)
{
    run_copy_vectors();
    const KernelCount c = only();
    assert_int_equal(c.global_loads.instructions, 8);
    assert_int_equal(c.global_loads.bytes, 4096);
    assert_int_equal(c.global_loads.sectors, 128);
    assert_int_equal(c.global_stores.instructions, 8);
    assert_int_equal(c.global_stores.sectors, 128);
    run_copy_halves();
    const KernelCount halves = only();
    assert_int_equal(halves.global_loads.bytes, 512);
    assert_int_equal(halves.global_loads.sectors, 16);
}

void second_passes_are_seen(void **)
{
    run_read_twice(nullptr);
    const KernelCount c = only();
    assert_int_equal(c.global_loads.sectors, 80);
    assert_int_equal(c.global_loads.first, 40);
}

/* The second half of what is read is not named. */
void data_is_counted_beside_the_rest(void **)
{
    const float *in = run_read_twice(nullptr);
    assert_int_equal(only().global_loads.data, 0);
    emulation_count_data(in, 640);
    run_read_twice(in);
    const KernelCount c = only();
    assert_int_equal(c.global_loads.data, 2 * 640);
    assert_int_equal(c.global_loads.bytes, 2 * 1280);
    assert_int_equal(c.global_stores.data, 0);
    run_read_twice(in);
    assert_int_equal(only().global_loads.data, 0); /* forgotten */
}

void bank_conflicts_are_counted(void **)
{
    static const struct {
        int stride;
        unsigned passes;
    } cases[] = {
        {1,  1 },
        {2,  2 },
        {4,  4 },
        {32, 32},
        {33, 1 },
        {0,  1 },
    };
    for (const auto &c : cases) {
        run_shared_words(c.stride);
        const KernelCount count = only();
        assert_int_equal(count.shared_stores.passes, c.passes);
        assert_int_equal(count.shared_loads.passes, c.passes);
        assert_int_equal(count.shared_loads.least, 1);
    }
    for (const char *order : {"in-order", "random:1", "priority:2"}) { /* lanes count by number, not by time */
        assert_true(emulation_order(order));
        run_shared_vectors();
        const KernelCount vectors = only();
        assert_int_equal(vectors.shared_stores.instructions, 1);
        assert_int_equal(vectors.shared_stores.passes, 4);
        assert_int_equal(vectors.shared_loads.passes, 4);
        assert_int_equal(vectors.shared_loads.least, 4);
    }
    assert_true(emulation_order("in-order"));
}

void matrices_and_products_are_counted(void **)
{
    run_tiles(16);
    const KernelCount dense = only();
    assert_int_equal(dense.load_matrix, 1);
    assert_int_equal(dense.mma, 2);
    assert_int_equal(dense.shared_loads.passes, 4);
    assert_int_equal(dense.shared_loads.least, 4);
    run_tiles(128);
    assert_int_equal(only().shared_loads.passes, 32);
    run_tiles(144);
    assert_int_equal(only().shared_loads.passes, 4);
}

void asynchronous_copies_are_counted(void **)
{
    run_async();
    const KernelCount c = only();
    assert_int_equal(c.shared_bytes, 512);
    assert_int_equal(c.global_loads.sectors, 16);
    assert_int_equal(c.global_loads.instructions, 1);
    assert_int_equal(c.shared_stores.passes, 4);
    assert_int_equal(c.shared_loads.passes, 4); /* words 16 bytes apart */
}
} // namespace

int main()
{
    const CMUnitTest tests[] = {
        cmocka_unit_test(words_in_a_row_fill_their_sectors), cmocka_unit_test(strides_and_shifts_waste_sectors),
        cmocka_unit_test(vectors_are_one_instruction),       cmocka_unit_test(second_passes_are_seen),
        cmocka_unit_test(data_is_counted_beside_the_rest),   cmocka_unit_test(bank_conflicts_are_counted),
        cmocka_unit_test(matrices_and_products_are_counted), cmocka_unit_test(asynchronous_copies_are_counted),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
