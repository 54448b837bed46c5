/*
 * test_device.cpp - the functions of backend/cuda.cuh on emulated threads against their definitions, in every order.
 */
#include "device_cases.h"
#include "emulation.h"

#include "base/tensor.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

extern "C" {
#include <cmocka.h>
}

#include <math.h>

namespace
{
const char *const orders[] = {"in-order", "reverse", "random:1", "random:2", "priority:1", "priority:2"};

template <class T> T *managed(size_t n)
{
    void *p = nullptr;
    assert_int_equal(cudaMallocManaged(&p, n * sizeof(T), cudaMemAttachGlobal), cudaSuccess);
    return static_cast<T *>(p);
}

void tiles_multiply_as_defined(void **)
{
    uint16_t *a = managed<uint16_t>(256), *b = managed<uint16_t>(128);
    float *c = managed<float>(128), *d = managed<float>(128);
    for (const bool f16 : {false, true})
        for (const char *order : orders) {
            assert_true(emulation_order(order));
            float left[256], right[128];
            for (int i = 0; i < 256; i++) {
                left[i] = static_cast<float>(i * 37 % 41 - 20) / 8.0f;
                a[i] = f16 ? f16_from_f32(left[i]) : bf16_from_f32(left[i]);
            }
            for (int i = 0; i < 128; i++) {
                right[i] = static_cast<float>(i * 29 % 31 - 15) / 4.0f;
                b[i] = f16 ? f16_from_f32(right[i]) : bf16_from_f32(right[i]);
                c[i] = static_cast<float>(i);
            }
            run_multiply(d, a, b, c, f16);
            for (int row = 0; row < 16; row++)
                for (int column = 0; column < 8; column++) {
                    float sum = c[row * 8 + column]; /* exact: small multiples of 1/32 */
                    for (int k = 0; k < 16; k++)
                        sum += left[row * 16 + k] * right[k * 8 + column];
                    assert_true(d[row * 8 + column] == sum);
                }
        }
}

void matrices_load_as_defined(void **)
{
    uint16_t *in = managed<uint16_t>(256);
    uint32_t *out = managed<uint32_t>(32 * 12);
    for (int i = 0; i < 256; i++)
        in[i] = static_cast<uint16_t>(i * 251);
    for (const char *order : orders) {
        assert_true(emulation_order(order));
        run_matrices(out, in);
        for (int lane = 0; lane < 32; lane++) {
            const int group = lane / 4, pair = lane % 4 * 2;
            for (int word = 0; word < 12; word++) {
                const int tile = word < 8 ? word % 4 : word % 2;
                const bool transposed = (word >= 4 && word < 8) || word >= 10;
                const uint16_t *t = in + tile * 64;
                const uint32_t low = transposed ? t[pair * 8 + group] : t[group * 8 + pair];
                const uint32_t high = transposed ? t[(pair + 1) * 8 + group] : t[group * 8 + pair + 1];
                assert_int_equal(out[lane * 12 + word], high << 16 | low);
            }
        }
    }
}

void shuffles_move_as_defined(void **)
{
    int *out = managed<int>(128);
    for (const char *order : orders)
        for (int width = 1; width <= 32; width *= 2)
            for (int argument = 0; argument < 32; argument++) {
                assert_true(emulation_order(order));
                run_shuffles(out, argument, width);
                for (int lane = 0; lane < 32; lane++) {
                    const int first = lane / width * width, end = first + width, mixed = lane ^ argument;
                    assert_int_equal(out[lane * 4 + 0], 100 + first + argument % width);
                    assert_int_equal(out[lane * 4 + 1], 100 + (lane - argument < first ? lane : lane - argument));
                    assert_int_equal(out[lane * 4 + 2], 100 + (lane + argument >= end ? lane : lane + argument));
                    assert_int_equal(out[lane * 4 + 3], 100 + (mixed >= end ? lane : mixed));
                }
            }
}

void sums_and_maxima_reach_every_thread(void **)
{
    float *in = managed<float>(1024), *out = managed<float>(3072);
    for (const int threads : {32, 96, 1024})
        for (const char *order : orders) {
            assert_true(emulation_order(order));
            float sum = 0.0f, largest = -INFINITY;
            for (int i = 0; i < threads; i++) {
                in[i] = static_cast<float>(i * 7 % 100) - 200.0f;
                sum += in[i];
                largest = fmaxf(largest, in[i]);
            }
            run_sums(out, in, threads);
            for (int i = 0; i < threads; i++) {
                assert_true(out[i * 3 + 0] == sum);
                assert_true(out[i * 3 + 1] == largest);
                assert_true(out[i * 3 + 2] == sum);
            }
        }
}

void every_thread_of_every_block_runs_once(void **)
{
    static const struct {
        dim3 grid, block;
    } cases[] = {
        {dim3(1), dim3(1) },
        {dim3(3), dim3(33)},
        {dim3(2,  3,        4), dim3(4, 3, 2)},
        {dim3(5), dim3(1024)       },
    };
    for (const auto &c : cases)
        for (const char *order : orders) {
            assert_true(emulation_order(order));
            const unsigned blocks = c.grid.x * c.grid.y * c.grid.z, threads = c.block.x * c.block.y * c.block.z;
            unsigned *out = managed<unsigned>(blocks * threads);
            for (unsigned i = 0; i < blocks * threads; i++)
                out[i] = 0;
            run_indices(out, c.grid, c.block);
            for (unsigned i = 0; i < blocks * threads; i++)
                assert_int_equal(out[i], 1 + i / threads * 1000 + i % threads);
            assert_int_equal(cudaFree(out), cudaSuccess);
        }
}

void copies_past_the_data_give_zeros(void **)
{
    int4 *in = managed<int4>(20), *out = managed<int4>(32);
    for (int i = 0; i < 20; i++)
        in[i] = int4{i, i, i, i};
    for (const char *order : orders) {
        assert_true(emulation_order(order));
        run_zero_filled(out, in, 20);
        for (int i = 0; i < 32; i++)
            assert_int_equal(out[i].w, i < 20 ? i : 0);
    }
}

void atomics_count_everybody(void **)
{
    int *values = managed<int>(6);
    for (const char *order : orders) {
        assert_true(emulation_order(order));
        const int start[6] = {0, 1000, 0, -1, 0, 0};
        for (int i = 0; i < 6; i++)
            values[i] = start[i];
        run_atomics(values);
        assert_int_equal(values[0], 149);
        assert_int_equal(values[1], 0);
        assert_int_equal(values[2], 0x7fffffff);
        assert_in_range(values[3], 0, 149);
        assert_int_equal(values[4], 1);
        assert_int_equal(values[5], 77);
    }
}
} // namespace

int main()
{
    const CMUnitTest tests[] = {
        cmocka_unit_test(tiles_multiply_as_defined),
        cmocka_unit_test(matrices_load_as_defined),
        cmocka_unit_test(shuffles_move_as_defined),
        cmocka_unit_test(sums_and_maxima_reach_every_thread),
        cmocka_unit_test(every_thread_of_every_block_runs_once),
        cmocka_unit_test(copies_past_the_data_give_zeros),
        cmocka_unit_test(atomics_count_everybody),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
