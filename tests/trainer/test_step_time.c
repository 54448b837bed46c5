/* The written speed model against figures worked out by hand for Llama-3.1-8B and 70B on one H100. */
#include "trainer/step_time.h"

#include "base/check.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static const ModelSpec llama_8b = {
    .vocab = 128256, .hidden = 4096, .ffn = 14336, .layers = 32, .heads = 32, .kv_heads = 8, .head_dim = 128};
static const ModelSpec llama_70b = {
    .vocab = 128256, .hidden = 8192, .ffn = 28672, .layers = 80, .heads = 64, .kv_heads = 8, .head_dim = 128};
static const ModelSpec smol = {
    .vocab = 49152, .hidden = 576, .ffn = 1536, .layers = 30, .heads = 9, .kv_heads = 3, .head_dim = 64, .tied = true};

static int ranks_16[80 * PROJ_COUNT], no_ranks[80 * PROJ_COUNT];

static int setup(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(ranks_16); i++)
        ranks_16[i] = 16;
    return 0;
}

static DeviceCard h100(void)
{
    DeviceCard card;
    Err err = {0};
    assert_true(device_card_parse(&card, "h100", &err));
    return card;
}

/* An update of one micro-batch of `rows` rows of `length` tokens, everything kept. */
static StepShape shape_of(const ModelSpec *spec, double rows, double length)
{
    return (StepShape){
        .spec = spec,
        .ranks = ranks_16,
        .element_bytes = 2,
        .read_bytes_a_weight = 0.516,
        .kept_layers = spec->layers,
        .tokens = rows * length,
        .segment_tokens = length,
        .trained_share = 1,
        .head_rows = 256,
        .micro_batches = 1,
        .trainable = 41943040,
        .state_bytes = 2.03,
    };
}

static double micro_seconds_a_token(const StepTime *t, StepTerm term)
{
    return t->seconds[term] / t->tokens * 1e6;
}

static void assert_near(double value, double expected, double relative)
{
    if (!(fabs(value - expected) <= relative * fabs(expected)))
        fail_msg("%g is not %g within %g", value, expected, relative);
}

static void operations_are_those_of_the_shapes(void **state)
{
    (void)state;
    assert_near(2.0 * (double)step_linear_weights(&llama_8b), 13.96e9, 1e-3); /* forward of a token */
    assert_near(2.0 * (double)step_linear_weights(&llama_70b), 136.9e9, 1e-3);
    assert_near((double)step_linear_weights(&smol), 106.2e6, 1e-3);
    assert_near(step_attention_flops(&llama_8b, 2048), 0.54e9, 1e-2);
    assert_near(step_attention_flops(&llama_8b, 131072), 34.4e9, 1e-2);
    assert_near(step_attention_flops(&llama_70b, 8192), 10.7e9, 1e-2);
    const DeviceCard card = h100();
    const StepShape s = shape_of(&llama_8b, 8, 2048);
    /* 27.92 linear, 2.10 head, 0.54 + 1.34 attention */
    assert_near(step_time(&card, &s).flops / s.tokens, 31.9e9, 2e-3);
}

static void the_terms_add_up_to_the_total_exactly(void **state)
{
    (void)state;
    for (int i = 0; i < device_card_count(); i++) {
        const DeviceCard card = device_card_at(i);
        StepShape s = shape_of(&llama_8b, 4, 2048);
        s.micro_batches = 3;
        s.paged_bytes = 84 << 20;
        const StepTime t = step_time(&card, &s);
        double sum = 0;
        for (int term = 0; term < STEP_TERMS; term++) {
            assert_true(t.seconds[term] >= 0 && isfinite(t.seconds[term]));
            sum += t.seconds[term];
        }
        assert_true(sum == t.total && t.total > 0);
        assert_true(t.tokens == 3 * 4 * 2048);
        assert_true(step_tokens_per_second(&t) == t.tokens / t.total);
    }
}

/* 27.92 GFLOP at 700 TFLOP/s are 39.9 us; 3.60 GB of codes and 13.96 GB of weights at 3.0 TB/s are 5.85 ms a pass. */
static void terms_of_the_8b_shape_are_as_worked_out_by_hand(void **state)
{
    (void)state;
    const DeviceCard card = h100();
    const StepShape s = shape_of(&llama_8b, 8, 2048);
    const StepTime t = step_time(&card, &s);
    const double lost = 1 / 0.85; /* own kernels against a copy */
    const double elementwise = 32 * 2 * (19 * 4096 + 2 * 2 * 5120 + 2 * 4096 + 9 * 14336); /* bytes of a token */
    assert_near(micro_seconds_a_token(&t, STEP_PRODUCTS), 39.9, 0.03);
    assert_near(micro_seconds_a_token(&t, STEP_DECODE), 2 * 5850.0 / 16384 * lost, 0.01);
    assert_near(micro_seconds_a_token(&t, STEP_ELEMENTWISE), elementwise / 3e6 * lost, 0.01);
    assert_near(micro_seconds_a_token(&t, STEP_ATTENTION), 0.5369e9 / 262.4e6 + 1.342e9 / 226.3e6, 0.01);
    assert_near(micro_seconds_a_token(&t, STEP_HEAD), 2.10e9 / 700e6 + 128256 * 16 / 3e6 * lost, 0.1);
    assert_true(t.seconds[STEP_RECOMPUTE] == 0);
    assert_near(step_tokens_per_second(&t), 17960, 0.15); /* the roofline, less the losses that it leaves out */
    assert_true(step_tokens_per_second(&t) < 17960);
}

static void recomputing_costs_what_the_roofline_says(void **state)
{
    (void)state;
    const DeviceCard card = h100();
    StepShape s = shape_of(&llama_8b, 8, 2048);
    s.kept_layers = 0;
    const StepTime t = step_time(&card, &s);
    assert_near(micro_seconds_a_token(&t, STEP_RECOMPUTE), 10.20e9 / 700e6 * 31 / 32, 0.03); /* not the last layer */
    assert_near(step_tokens_per_second(&t), 13810, 0.12);
    assert_true(step_tokens_per_second(&t) < 13810);
    s.kept_layers = 16;
    const StepTime half = step_time(&card, &s);
    assert_near(half.seconds[STEP_RECOMPUTE], t.seconds[STEP_RECOMPUTE] * 15 / 31, 1e-9);
    assert_true(half.total < t.total);
}

static void weights_of_a_layer_are_decoded_once_a_direction_where_there_is_room(void **state)
{
    (void)state;
    const DeviceCard card = h100();
    StepShape s = shape_of(&llama_8b, 1, 2048);
    const double kept = step_time(&card, &s).seconds[STEP_DECODE];
    s.kept_layers = 0;
    const double shared = step_time(&card, &s).seconds[STEP_DECODE];
    /* down is 27 % of the weights and never needed again; the last layer is not recomputed, and its down still there */
    const double passes = 2 - 0.2692 / 32;
    assert_near(shared, kept * (passes + 0.7308 * 31 / 32) / passes, 1e-4);
    s.layer_weights = true;
    assert_near(step_time(&card, &s).seconds[STEP_DECODE], kept * 63 / 32 / passes, 1e-4);
}

static void other_rows_of_the_table_are_met_within_a_quarter(void **state)
{
    (void)state;
    const DeviceCard card = h100();
    static const struct {
        const ModelSpec *spec;
        double rows, length;
        bool kept;
        double tokens_per_second, bound;
    } cases[] = {
        {&llama_8b,  1, 2048, true,  16450, 0.20},
        {&llama_8b,  1, 2048, false, 12900, 0.20},
        {&llama_8b,  4, 2048, true,  17730, 0.20},
        {&llama_8b,  1, 8192, true,  15400, 0.27}, /* attention without wgmma */
        {&llama_70b, 1, 2048, true,  1950,  0.15},
        {&llama_70b, 1, 2048, false, 1500,  0.15},
        {&llama_70b, 4, 2048, false, 1610,  0.12},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        StepShape s = shape_of(cases[i].spec, cases[i].rows, cases[i].length);
        if (!cases[i].kept) s.kept_layers = 0;
        const StepTime t = step_time(&card, &s);
        assert_near(step_tokens_per_second(&t), cases[i].tokens_per_second, cases[i].bound);
        assert_true(step_tokens_per_second(&t) < cases[i].tokens_per_second);
    }
}

static void longer_rows_cost_more_a_token_in_attention_only(void **state)
{
    (void)state;
    const DeviceCard card = h100();
    double before = 0;
    for (double length = 1024; length <= 131072; length *= 2) {
        const StepShape s = shape_of(&llama_8b, 131072 / length, length);
        const StepTime t = step_time(&card, &s);
        assert_true(t.seconds[STEP_ATTENTION] > before);
        before = t.seconds[STEP_ATTENTION];
        const StepShape one = shape_of(&llama_8b, 128, 1024);
        assert_true(t.seconds[STEP_PRODUCTS] == step_time(&card, &one).seconds[STEP_PRODUCTS]);
    }
}

static void updates_of_more_micro_batches_pay_the_optimizer_once(void **state)
{
    (void)state;
    const DeviceCard card = h100();
    StepShape s = shape_of(&llama_8b, 1, 2048);
    const StepTime one = step_time(&card, &s);
    s.micro_batches = 8;
    const StepTime eight = step_time(&card, &s);
    assert_true(eight.seconds[STEP_OPTIMIZER] == one.seconds[STEP_OPTIMIZER]);
    assert_near(eight.seconds[STEP_PRODUCTS], 8 * one.seconds[STEP_PRODUCTS], 1e-12);
    assert_near(one.seconds[STEP_OPTIMIZER], 41943040 * (20 + 4.06) / 3e12 / 0.85, 0.01);
    assert_true(step_tokens_per_second(&eight) > step_tokens_per_second(&one));
}

static void only_trained_tokens_reach_the_head(void **state)
{
    (void)state;
    const DeviceCard card = h100();
    StepShape s = shape_of(&llama_8b, 8, 2048);
    const StepTime all = step_time(&card, &s);
    s.trained_share = 0.25;
    const StepTime some = step_time(&card, &s);
    assert_near(some.seconds[STEP_HEAD], all.seconds[STEP_HEAD] / 4, 1e-6);
    assert_true(some.seconds[STEP_PRODUCTS] == all.seconds[STEP_PRODUCTS]);
    s.trained_share = 0;
    assert_true(step_time(&card, &s).seconds[STEP_HEAD] == 0);
}

static void pages_cost_only_what_the_update_does_not_hide(void **state)
{
    (void)state;
    const DeviceCard card = h100();
    StepShape s = shape_of(&llama_8b, 1, 2048);
    const double resident = step_time(&card, &s).seconds[STEP_COPIES];
    s.paged_bytes = 84000000;
    const StepTime t = step_time(&card, &s);
    assert_near(t.seconds[STEP_COPIES] - resident, 84e6 / 50e9 - t.seconds[STEP_OPTIMIZER], 1e-6);
    s.paged_bytes = 1000;
    assert_true(step_time(&card, &s).seconds[STEP_COPIES] == resident);
}

static void adapters_cost_something_and_dropout_more(void **state)
{
    (void)state;
    const DeviceCard card = h100();
    StepShape s = shape_of(&llama_8b, 8, 2048);
    const double with = step_time(&card, &s).seconds[STEP_LORA];
    assert_near(with / s.tokens * 1e6, 4, 0.3); /* 2 to 6.5 us a token by the number of passes */
    s.dropout = true;
    assert_true(step_time(&card, &s).seconds[STEP_LORA] > 1.5 * with);
    s.ranks = no_ranks;
    assert_true(step_time(&card, &s).seconds[STEP_LORA] == 0);
}

static void a_small_model_waits_for_launches_and_a_large_one_does_not(void **state)
{
    (void)state;
    const DeviceCard card = h100();
    StepShape s = shape_of(&smol, 1, 512);
    s.trainable = 4884480;
    s.layer_weights = true;
    const StepTime small = step_time(&card, &s);
    assert_near(small.total, 30 * 46 * 2.5e-6, 0.1); /* the host's time is all there is */
    s = shape_of(&llama_8b, 1, 2048);
    const StepTime large = step_time(&card, &s);
    assert_true(large.seconds[STEP_LAUNCHES] < 0.03 * large.total);
}

static void small_groups_are_decoded_into_the_cache(void **state)
{
    (void)state;
    DeviceCard card = h100();
    const StepShape s = shape_of(&smol, 1, 2048);
    const double cached = step_time(&card, &s).seconds[STEP_DECODE];
    card.l2_bytes = 1 << 20;
    assert_true(step_time(&card, &s).seconds[STEP_DECODE] > 2 * cached);
}

/* 2,048 tokens times 576 columns of o are 64 tiles of 128 by 128 for 132 processors. */
static void small_products_leave_processors_idle(void **state)
{
    (void)state;
    DeviceCard card = h100();
    const StepShape s = shape_of(&smol, 1, 2048);
    const double all = step_time(&card, &s).seconds[STEP_PRODUCTS];
    assert_true(all > 1.2 * 4 * 2048 * (double)step_linear_weights(&smol) / card.matmul);
    card.processors = 16; /* the same rate in fewer, larger pieces */
    assert_true(step_time(&card, &s).seconds[STEP_PRODUCTS] < 0.95 * all);
}

/* The embedding is frozen: 2 n O K of that group are not needed. */
static void the_first_layer_needs_no_gradient_of_its_input(void **state)
{
    (void)state;
    DeviceCard card = h100();
    card.measured = true; /* plain operations over rate */
    const StepShape s = shape_of(&llama_8b, 1, 2048);
    const double saved = 2.0 * 6144 * 4096, all = 4.0 * (double)step_linear_weights(&llama_8b);
    assert_near(step_time(&card, &s).seconds[STEP_PRODUCTS], 2048 * (all - saved) / card.matmul, 1e-9);
}

static void measured_rates_are_taken_as_they_are(void **state)
{
    (void)state;
    DeviceCard card = h100();
    StepShape s = shape_of(&smol, 1, 512);
    s.element_bytes = 4;
    card.measured = true;
    card.decode = 1e9;
    const StepTime t = step_time(&card, &s);
    const double attention = step_attention_flops(&smol, 512) * 512;
    assert_near(t.seconds[STEP_ATTENTION],
                attention / card.attention_forward + 2.5 * attention / card.attention_backward, 1e-9);
    const double last_down = 576 * 1536; /* decoded once */
    assert_near(t.seconds[STEP_DECODE], (2 * (double)step_linear_weights(&smol) - last_down) / 1e9, 1e-9);
    card.measured = false;
    assert_true(step_time(&card, &s).seconds[STEP_ATTENTION] > 10 * t.seconds[STEP_ATTENTION]); /* f32 on a card */
}

static void better_figures_never_make_it_slower(void **state)
{
    (void)state;
    const DeviceCard card = h100();
    const StepShape s = shape_of(&smol, 4, 2048);
    const double base = step_time(&card, &s).total;
    DeviceCard c = card;
    c.matmul *= 2;
    assert_true(step_time(&c, &s).total < base);
    c = card;
    c.bandwidth *= 2;
    assert_true(step_time(&c, &s).total < base);
    c = card;
    c.attention_backward *= 2;
    assert_true(step_time(&c, &s).total < base);
    c = card;
    c.link *= 2;
    assert_true(step_time(&c, &s).total < base);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(operations_are_those_of_the_shapes),
        cmocka_unit_test(the_terms_add_up_to_the_total_exactly),
        cmocka_unit_test(terms_of_the_8b_shape_are_as_worked_out_by_hand),
        cmocka_unit_test(recomputing_costs_what_the_roofline_says),
        cmocka_unit_test(weights_of_a_layer_are_decoded_once_a_direction_where_there_is_room),
        cmocka_unit_test(other_rows_of_the_table_are_met_within_a_quarter),
        cmocka_unit_test(longer_rows_cost_more_a_token_in_attention_only),
        cmocka_unit_test(updates_of_more_micro_batches_pay_the_optimizer_once),
        cmocka_unit_test(only_trained_tokens_reach_the_head),
        cmocka_unit_test(pages_cost_only_what_the_update_does_not_hide),
        cmocka_unit_test(adapters_cost_something_and_dropout_more),
        cmocka_unit_test(a_small_model_waits_for_launches_and_a_large_one_does_not),
        cmocka_unit_test(small_groups_are_decoded_into_the_cache),
        cmocka_unit_test(small_products_leave_processors_idle),
        cmocka_unit_test(the_first_layer_needs_no_gradient_of_its_input),
        cmocka_unit_test(measured_rates_are_taken_as_they_are),
        cmocka_unit_test(better_figures_never_make_it_slower),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
