#include "base/rng.h"

#include "tests/support/scratch.h"

#include <math.h>

/* Philox4x32-10 once more, written from the paper, to hold rng_block against. */
static void philox(uint32_t c[4], uint32_t k0, uint32_t k1)
{
    for (int round = 0; round < 10; round++) {
        const uint64_t a = 0xD2511F53ull * c[0];
        const uint64_t b = 0xCD9E8D57ull * c[2];
        const uint32_t c1 = c[1];
        const uint32_t c3 = c[3];
        c[0] = (uint32_t)(b >> 32) ^ c1 ^ k0;
        c[1] = (uint32_t)b;
        c[2] = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c[3] = (uint32_t)a;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

/* Known answers that come with the authors' Random123. */
static void our_second_philox_gives_the_known_answers(void **state)
{
    (void)state;
    static const struct {
        uint32_t counter[4], key[2], answer[4];
    } cases[] = {
        {{0, 0, 0, 0},                                     {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}                                                          },
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}                                                          },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint32_t c[4];
        memcpy(c, cases[i].counter, sizeof c);
        philox(c, cases[i].key[0], cases[i].key[1]);
        assert_memory_equal(c, cases[i].answer, sizeof c);
    }
}

static void blocks_are_two_passes_of_philox(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 1000; i++) {
        const RngKey key = {
            .seed = 0x123456789abcull * i, .purpose = i % 9, .stream = i * 77, .step = 1ull << (i % 60)};
        const uint64_t block = 0x100000001ull * i;
        uint32_t first[4] = {(uint32_t)key.step, (uint32_t)(key.step >> 32), key.purpose, key.stream};
        philox(first, (uint32_t)key.seed, (uint32_t)(key.seed >> 32));
        uint32_t second[4] = {(uint32_t)block, (uint32_t)(block >> 32), first[2], first[3]};
        philox(second, first[0], first[1]);
        const Rng4 got = rng_block(key, block);
        assert_memory_equal(got.word, second, sizeof second);
        assert_int_equal(rng_u32(key, 4 * block + 3), second[3]);
    }
}

static void many_blocks_are_the_single_ones(void **state)
{
    (void)state;
    static const uint64_t firsts[] = {0, 7, 0xfffffff5ull, 0x123456789ull}; /* one crosses 32 bits */
    for (size_t f = 0; f < sizeof firsts / sizeof firsts[0]; f++) {
        for (int count = 0; count < 50; count++) {
            uint32_t words[4 * 50 + 1];
            const RngKey k = {.seed = 9, .purpose = RNG_TEST, .stream = (uint32_t)count, .step = 3};
            words[4 * count] = 0xabcdef01u;
            rng_blocks(k, firsts[f], words, count);
            for (int i = 0; i < count; i++) {
                const Rng4 single = rng_block(k, firsts[f] + (uint64_t)i);
                assert_memory_equal(words + 4 * i, single.word, sizeof single.word);
            }
            assert_true(words[4 * count] == 0xabcdef01u); /* not one word more */
        }
    }
}

static const RngKey key = {.seed = 42, .purpose = RNG_TEST, .stream = 3, .step = 7};

static void each_part_of_the_key_changes_the_numbers(void **state)
{
    (void)state;
    RngKey others[4] = {key, key, key, key};
    others[0].seed++;
    others[1].purpose++;
    others[2].stream++;
    others[3].step++;
    for (int i = 0; i < 4; i++) {
        int equal = 0;
        for (uint64_t e = 0; e < 100; e++)
            equal += rng_u32(key, e) == rng_u32(others[i], e);
        assert_true(equal <= 1);
    }
}

static void uniform_numbers_have_the_moments_of_a_uniform(void **state)
{
    (void)state;
    enum { N = 100000 };
    double sum = 0;
    double squares = 0;
    for (uint64_t i = 0; i < N; i++) {
        const double u = (double)rng_uniform(key, i);
        assert_true(u >= 0 && u < 1);
        sum += u;
        squares += u * u;
    }
    /* seven standard errors */
    assert_true(fabs(sum / N - 0.5) < 7 * 0.2887 / sqrt(N));
    assert_true(fabs(squares / N - 1.0 / 3) < 7 * 0.2981 / sqrt(N));
}

static void normal_numbers_have_the_moments_of_a_normal(void **state)
{
    (void)state;
    enum { N = 100000 };
    double moments[5] = {0};
    for (uint64_t i = 0; i < N; i++) {
        const double x = (double)rng_normal(key, i);
        double power = 1;
        for (int k = 0; k < 5; k++, power *= x)
            moments[k] += power / N;
    }
    static const double expected[5] = {1, 0, 1, 0, 3};
    static const double deviation[5] = {0, 1, 1.4142, 3.873, 9.798};
    for (int k = 0; k < 5; k++)
        assert_true(fabs(moments[k] - expected[k]) <= 7 * deviation[k] / sqrt(N) + 1e-9);
}

static void a_permutation_hits_every_index_once(void **state)
{
    (void)state;
    static const uint64_t sizes[] = {1, 2, 3, 5, 16, 17, 100, 1000, 4097};
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        char *seen = calloc(sizes[s], 1);
        assert_non_null(seen);
        for (uint64_t i = 0; i < sizes[s]; i++) {
            const uint64_t to = rng_permute(key, sizes[s], i);
            assert_true(to < sizes[s]);
            assert_int_equal(seen[to], 0);
            seen[to] = 1;
        }
        free(seen);
    }
    assert_true(rng_permute(key, 1ull << 40, (1ull << 40) - 1) < 1ull << 40);
}

static void a_permutation_leaves_few_indices_in_place(void **state)
{
    (void)state;
    int fixed = 0;
    int neighbours = 0;
    for (uint64_t i = 0; i + 1 < 10000; i++) {
        fixed += rng_permute(key, 10000, i) == i;
        neighbours += rng_permute(key, 10000, i) + 1 == rng_permute(key, 10000, i + 1);
    }
    assert_true(fixed < 10 && neighbours < 10); /* about one of each is expected */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(our_second_philox_gives_the_known_answers),
        cmocka_unit_test(blocks_are_two_passes_of_philox),
        cmocka_unit_test(many_blocks_are_the_single_ones),
        cmocka_unit_test(each_part_of_the_key_changes_the_numbers),
        cmocka_unit_test(uniform_numbers_have_the_moments_of_a_uniform),
        cmocka_unit_test(normal_numbers_have_the_moments_of_a_normal),
        cmocka_unit_test(a_permutation_hits_every_index_once),
        cmocka_unit_test(a_permutation_leaves_few_indices_in_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
