/*
 * The same bits everywhere: updates of the backend under test, resident and paged, beside those of one processor thread.
 */
#include "tests/optim/rig.h"

#include <float.h>
#include <math.h>

/* A parameter of one element, of one block and one more, of one piece and one more; the others as above. */
static const int64_t uneven[6][2] = {
    {1,  1   },
    {1,  257 },
    {17, 241 },
    {64, 96  },
    {50, 100 },
    {3,  2731}
};

/* Sums of squares are added in another order (optim/ops.h). */
static void assert_same_report(const AdamwReport *a, const AdamwReport *b)
{
    assert_true(fabs(a->grad_norm - b->grad_norm) <= 1e-14 * b->grad_norm);
    assert_true(fabs(a->clip_factor - b->clip_factor) <= 1e-14 * b->clip_factor);
    assert_int_equal(a->applied, b->applied);
    assert_int_equal(a->first_bad_param, b->first_bad_param);
    assert_int_equal(a->norm_clipped, b->norm_clipped);
    assert_int_equal(a->percentile_clipped, b->percentile_clipped);
    assert_int_equal(a->value_clipped, b->value_clipped);
    assert_int_equal(a->variance_floored, b->variance_floored);
    assert_int_equal(a->variance_capped, b->variance_capped);
    assert_int_equal(a->rms_clipped, b->rms_clipped);
}

static void assert_same_tensor(Rig *a, const Tensor *x, Rig *b, const Tensor *y)
{
    const size_t bytes = (size_t)tensor_count(x) * dtype_bytes(x->dtype);
    char *left = malloc(bytes + 1), *right = malloc(bytes + 1);
    assert_true(left && right && tensor_count(x) == tensor_count(y));
    backend_download(a->be, left, x);
    backend_download(b->be, right, y);
    assert_memory_equal(left, right, bytes);
    free(left);
    free(right);
}

static void assert_same_states(Rig *a, Rig *b)
{
    const size_t bytes = a->opt->region_bytes;
    char *left = malloc(bytes), *right = malloc(bytes);
    Err err = {0};
    assert_true(left && right);
    for (int moment = 1; moment <= 2; moment++) {
        assert_true(adamw_read_state(a->opt, moment, 0, bytes, left, &err));
        assert_true(adamw_read_state(b->opt, moment, 0, bytes, right, &err));
        assert_memory_equal(left, right, bytes);
    }
    assert_same_tensor(a, &a->opt->absmax1, b, &b->opt->absmax1);
    assert_same_tensor(a, &a->opt->absmax2, b, &b->opt->absmax2);
    free(left);
    free(right);
}

static void run_beside_one_thread(const AdamwOptions *options)
{
    Rig cpu, other;
    AdamwOptions resident = *options;
    resident.paged = false;
    rig_create_on(&cpu, BACKEND_CPU, uneven, ARRAY_COUNT(uneven), &resident, 1);
    rig_create(&other, uneven, ARRAY_COUNT(uneven), options, 2);
    rig_start(&cpu);
    rig_start(&other);
    rig_fill(&cpu, &cpu.weights, 0, rig_noise);
    rig_fill(&other, &other.weights, 0, rig_noise);
    for (uint32_t t = 1; t <= 20; t++) {
        const AdamwReport expected = rig_step(&cpu, t, 1e-3), report = rig_step(&other, t, 1e-3);
        assert_same_report(&report, &expected);
        rig_assert_same_weights(&other, &cpu);
        assert_same_states(&other, &cpu);
    }
    rig_free(&cpu);
    rig_free(&other);
}

static void clamp_alone(AdamwOptions *o, int which)
{
    const AdamwOptions all = rig_all_clamps(o->eight_bit);
    if (which == 0) o->max_grad_norm = all.max_grad_norm;
    if (which == 1) o->grad_clip_value = all.grad_clip_value;
    if (which == 2) o->grad_clip_percentile = all.grad_clip_percentile;
    if (which == 3) o->variance_min = all.variance_min;
    if (which == 4) o->variance_max = all.variance_max;
    if (which == 5) o->update_clip_rms = all.update_clip_rms;
}

/* mode: bit 0 eight bits, bit 1 paged; each clamp alone and none where the states are resident, and all of them */
static void updates_equal_those_of_one_thread_to_the_bit(void **state)
{
    (void)state;
    for (int mode = 0; mode < 4; mode++) {
        for (int clamp = 0; clamp < (mode & 2 ? 0 : 7); clamp++) {
            AdamwOptions options = rig_options(mode & 1);
            options.weight_decay = 0.01;
            options.paged = mode & 2;
            options.page_path = rig_file("test_adamw_bits.pages");
            clamp_alone(&options, clamp);
            run_beside_one_thread(&options);
        }
        AdamwOptions options = rig_all_clamps(mode & 1);
        options.paged = mode & 2;
        options.page_path = rig_file("test_adamw_bits.pages");
        run_beside_one_thread(&options);
    }
}

/* Each of the 65,536 steps that a value is rounded to, beside a 1 in its block: m is the gradient itself. */
static float every_step(uint32_t p, uint32_t t, uint32_t i)
{
    (void)p;
    (void)t;
    const uint32_t step = i / STATE_BLOCK * (STATE_BLOCK - 1) + i % STATE_BLOCK;
    return i % STATE_BLOCK == STATE_BLOCK - 1 ? 1.0f : (float)step * (2.0f / 65535.0f) - 1.0f;
}

/* One update of an odd gradient on both backends. */
static void update_both(const AdamwOptions *options, const int64_t shape[2],
                        float (*gradient)(uint32_t, uint32_t, uint32_t))
{
    const int64_t one[1][2] = {
        {shape[0], shape[1]}
    };
    Rig cpu, other;
    rig_create_on(&cpu, BACKEND_CPU, one, 1, options, 1);
    rig_create(&other, one, 1, options, 2);
    rig_start(&cpu);
    rig_start(&other);
    for (uint32_t t = 1; t <= 2; t++) {
        rig_fill(&cpu, &cpu.grads, t, gradient);
        rig_fill(&other, &other.grads, t, gradient);
        assert_true(adamw_step(cpu.opt, &cpu.weights, &cpu.grads, 1e-3).applied);
        assert_true(adamw_step(other.opt, &other.weights, &other.grads, 1e-3).applied);
        assert_same_states(&other, &cpu);
        rig_assert_same_weights(&other, &cpu);
    }
    rig_free(&cpu);
    rig_free(&other);
}

static void every_step_has_the_code_of_one_thread(void **state)
{
    AdamwOptions options = rig_options(true);
    (void)state;
    options.beta1 = 0.0;
    options.beta2 = 0.0;
    update_both(&options, (const int64_t[2]){257, STATE_BLOCK}, every_step);
}

/* From block to block 128 times smaller, down to numbers that are subnormal and to zero. */
static float fading(uint32_t p, uint32_t t, uint32_t i)
{
    return ldexpf(rig_noise(p, t, i), -7 * (int)(i / STATE_BLOCK));
}

static void subnormal_moments_are_those_of_one_thread(void **state)
{
    (void)state;
    for (int eight_bit = 0; eight_bit < 2; eight_bit++) {
        const AdamwOptions options = rig_options(eight_bit == 1);
        update_both(&options, (const int64_t[2]){24, STATE_BLOCK}, fading);
    }
}

/* The largest of a block is the least normal number, or the largest subnormal one. */
static float around_the_least(uint32_t p, uint32_t t, uint32_t i)
{
    (void)p;
    (void)t;
    return i % 5 > 0 ? -0x1p-127f : i / STATE_BLOCK % 2 ? FLT_MIN : FLT_MIN - 0x1p-149f;
}

static void the_least_scale_is_that_of_one_thread(void **state)
{
    AdamwOptions options = rig_options(true);
    (void)state;
    options.beta1 = 0;
    update_both(&options, (const int64_t[2]){17, STATE_BLOCK}, around_the_least);
}

/* The moment of the only element of the last block falls to nothing, the codes of its padding do not. */
static float returning(uint32_t p, uint32_t t, uint32_t i)
{
    (void)p;
    (void)i;
    return t == 1 ? 1.0f : -0.9f;
}

static void padding_has_no_part_in_the_scale_of_a_block(void **state)
{
    const AdamwOptions options = rig_options(true);
    (void)state;
    update_both(&options, (const int64_t[2]){17, 241}, returning);
}

/* More pieces than a grid has blocks: some take a second one, of norms as of updates. */
static void many_pieces_are_those_of_one_thread(void **state)
{
    AdamwOptions options = rig_all_clamps(true);
    (void)state;
    options.update_clip_rms = 0;
    update_both(&options, (const int64_t[2]){35, PIECE_BLOCKS * STATE_BLOCK}, rig_gradient);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(updates_equal_those_of_one_thread_to_the_bit),
        cmocka_unit_test(every_step_has_the_code_of_one_thread),
        cmocka_unit_test(subnormal_moments_are_those_of_one_thread),
        cmocka_unit_test(the_least_scale_is_that_of_one_thread),
        cmocka_unit_test(padding_has_no_part_in_the_scale_of_a_block),
        cmocka_unit_test(many_pieces_are_those_of_one_thread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
