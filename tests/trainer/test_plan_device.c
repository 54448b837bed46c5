/* Plans for cards that are not there, from nothing but a config.json: sums, limits, verdicts. */
#include "tests/trainer/rig_plan.h"

/* ---- sums ---- */

static void the_terms_of_both_memories_add_up_exactly_on_every_card(void **state)
{
    (void)state;
    static const char *const models[] = {"llama-8b", "llama-70b", "smol"};
    for (size_t m = 0; m < ARRAY_COUNT(models); m++) {
        for (int i = 0; i < device_card_count(); i++) {
            const DevicePlan p = plan(models[m], device_card_at(i).name, "sequence_len: 2048\nmicro_batch_size: 2\n");
            uint64_t device = 0, host = 0;
            for (int t = 0; t < DEVICE_MEMORY_COUNT; t++)
                device += p.memory.bytes[t];
            for (int t = 0; t < HOST_MEMORY_COUNT; t++)
                host += p.host[t];
            assert_true(device == p.memory.peak && host == p.host_peak);
            assert_true(p.fits == (p.memory.peak <= p.budget));
            assert_true(p.fits == (p.max_micro_batch_size >= 2));
            assert_true(p.time.total > 0 && step_tokens_per_second(&p.time) > 10);
            assert_true(p.memory.bytes[DEVICE_CONTEXT] == device_card_at(i).context_bytes);
        }
    }
}

static void each_purpose_of_the_8b_shape_is_as_worked_out_by_hand(void **state)
{
    (void)state;
    const DevicePlan p =
        plan("llama-8b", "h100", "sequence_len: 2048\nmicro_batch_size: 1\ngradient_checkpointing: true\n");
    const uint64_t *bytes = p.memory.bytes;
    assert_near((double)bytes[DEVICE_WEIGHTS], 3.602e9, 0.002); /* 6.979e9 weights at 0.516 bytes; rope table */
    assert_int_equal(bytes[DEVICE_EMBEDDINGS], 0);
    assert_int_equal(p.host[HOST_EMBEDDINGS], 128256LL * 4096 * 2);
    assert_int_equal(bytes[DEVICE_HEAD], 128256LL * 4096 * 2);
    assert_int_equal(bytes[DEVICE_ADAPTERS], 41943040LL * 4);
    assert_int_equal(bytes[DEVICE_GRADIENTS], 41943040LL * 4);
    assert_near((double)p.host[HOST_PAGES], 2 * 41943040.0, 0.01); /* two states of a byte, in pinned memory */
    assert_true(bytes[DEVICE_OPTIMIZER] < 2e6);                    /* scales of their blocks */
    assert_int_equal(bytes[DEVICE_CHECKPOINTS], 2048LL * (33 * 8192 + 32 * (8192 + 128)));
    assert_int_equal(bytes[DEVICE_DECODE], 218103808LL * 2); /* the weights of a layer */
    assert_int_equal(bytes[DEVICE_LOGITS], 256LL * 128256 * 6);
    assert_int_equal(p.kept_layers, 0);
    assert_int_equal(p.counts.model.trainable, 41943040);
    const DevicePlan kept =
        plan("llama-8b", "h100", "sequence_len: 2048\nmicro_batch_size: 1\ngradient_checkpointing: false\n");
    assert_true(kept.time.seconds[STEP_DECODE] == p.time.seconds[STEP_DECODE]); /* recompute decodes nothing again */
    assert_true(p.memory.peak < 7.7e9);                                         /* budget of the written model: 8.0 */
}

static void peaks_are_near_the_budgets_of_the_written_model(void **state)
{
    (void)state;
    static const struct {
        const char *model, *card, *more;
        double gigabytes;
    } cases[] = {
        {"llama-8b",  "h100", "sequence_len: 2048\nmicro_batch_size: 1\ngradient_checkpointing: false\n", 13.7      },
        {"llama-8b",  "h100", "sequence_len: 2048\nmicro_batch_size: 8\ngradient_checkpointing: false\n", 59.6      },
        {"llama-70b", "h100", "sequence_len: 2048\nmicro_batch_size: 1\ngradient_checkpointing: true\n",  47.2 + 2.7},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        char more[160]; /* all embeddings on the device, as these budgets have them */
        snprintf(more, sizeof more, "%shost_embeddings: false\n", cases[i].more);
        const DevicePlan p = plan(cases[i].model, cases[i].card, more);
        assert_near((double)p.memory.peak / 1e9, cases[i].gigabytes, 0.03);
        assert_true(p.fits);
    }
}

static void longer_rows_take_more_memory_and_time(void **state)
{
    (void)state;
    DevicePlan before = {0};
    for (int length = 512; length <= 32768; length *= 2) {
        char more[64];
        snprintf(more, sizeof more, "sequence_len: %d\nmicro_batch_size: 1\n", length);
        const DevicePlan p = plan("smol", "4090", more);
        assert_true(p.memory.peak > before.memory.peak && p.time.total > before.time.total);
        assert_true(p.max_sequence_len == 8192 && p.sequence_len_by_memory > 8192);
        assert_true(length == 512 || p.max_micro_batch_size <= before.max_micro_batch_size);
        before = p;
    }
}

/* ---- what fits ---- */

static bool fits(const char *model, const char *card, int64_t length, int64_t rows, const char *policy)
{
    char more[128];
    snprintf(more, sizeof more, "sequence_len: %lld\nmicro_batch_size: %lld\ngradient_checkpointing: %s\n",
             (long long)length, (long long)rows, policy);
    return plan(model, card, more).fits;
}

static void the_largest_sizes_fit_and_one_more_does_not(void **state)
{
    (void)state;
    static const char *const policies[] = {"auto", "true", "false", "offload"};
    int64_t longest[4];
    for (int i = 0; i < 4; i++) {
        char more[96];
        snprintf(more, sizeof more, "sequence_len: 1024\nmicro_batch_size: 1\ngradient_checkpointing: %s\n",
                 policies[i]);
        const DevicePlan p = plan("llama-8b", "4090", more);
        longest[i] = p.max_sequence_len;
        assert_true((p.limits_offloaded > 0) == (i == 0 || i == 3));
        assert_true(p.max_sequence_len == p.sequence_len_by_memory && p.max_sequence_len > 1024);
        assert_true(fits("llama-8b", "4090", p.max_sequence_len, 1, policies[i]));
        assert_false(fits("llama-8b", "4090", p.max_sequence_len + 1, 1, policies[i]));
        assert_true(fits("llama-8b", "4090", 1024, p.max_micro_batch_size, policies[i]));
        assert_false(fits("llama-8b", "4090", 1024, p.max_micro_batch_size + 1, policies[i]));
    }
    assert_true(longest[0] == longest[3]); /* auto may offload everything */
    assert_true(longest[1] < longest[0] / 2 && longest[2] < longest[1] / 2);
}

/* 20,000 tokens of 32 layers of 8 heads of 128, keys and values: 2.6 GB that stand beside every micro-batch. */
static DevicePlan plan_generating(int64_t length, int64_t rows)
{
    Prompt prompt = {.count = 4000};
    const Prompts prompts = {.items = &prompt, .count = 1};
    DevicePlan p;
    Err err = {0};
    char more[192];
    snprintf(more, sizeof more,
             "sequence_len: %lld\nmicro_batch_size: %lld\n"
             "generate_samples: {prompts: [hello], every: 2, max_new_tokens: 16000}\n",
             (long long)length, (long long)rows);
    if (!try_plan_of(&p, "llama-8b", "4090", more, &prompts, &err)) fail_msg("%s", err.text);
    return p;
}

static void the_largest_sizes_leave_room_for_generated_samples(void **state)
{
    (void)state;
    const DevicePlan p = plan_generating(1024, 1), silent = plan("llama-8b", "4090", "sequence_len: 1024\n");
    assert_true(p.max_sequence_len < silent.max_sequence_len && p.max_sequence_len > 1024);
    assert_true(plan_generating(p.max_sequence_len, 1).fits);
    assert_false(plan_generating(p.max_sequence_len + 1, 1).fits);
    assert_true(plan_generating(1024, p.max_micro_batch_size).fits);
    assert_false(plan_generating(1024, p.max_micro_batch_size + 1).fits);
}

static void the_largest_sizes_are_ones_that_a_configuration_may_say(void **state)
{
    (void)state;
    const DevicePlan p = plan("smol", "custom,memory=4000GiB,matmul=1,bandwidth=1", "sequence_len: 2\n");
    assert_int_equal(p.max_micro_batch_size, 65536);
    assert_int_equal(p.sequence_len_by_memory, 16777216);
}

static void auto_keeps_the_most_layers_that_fit(void **state)
{
    (void)state;
    const DevicePlan p = plan("llama-8b", "h100", "sequence_len: 32768\nmicro_batch_size: 1\n");
    assert_true(p.fits && p.kept_layers > 0 && p.kept_layers < 32);
    const uint64_t acts = p.memory.bytes[DEVICE_ACTIVATIONS];
    /* one layer's share of what is kept, the shared set of the others included */
    assert_true(p.memory.peak + acts / (uint64_t)(p.kept_layers + 1) > p.budget);
    const DevicePlan all = plan("llama-8b", "b200", "sequence_len: 32768\nmicro_batch_size: 1\n");
    assert_int_equal(all.kept_layers, 32);
    assert_true(all.memory.peak > p.memory.peak);
    assert_true(p.time.seconds[STEP_RECOMPUTE] > 0 && all.time.seconds[STEP_RECOMPUTE] == 0);
}

/* 2,048 tokens of 29 layers: x and attention in 16 bits with 32 spare columns, statistics of 32 heads. */
static void offloaded_layers_move_their_bytes_to_the_host(void **state)
{
    (void)state;
    const char *more = "sequence_len: 2048\nmicro_batch_size: 1\ngradient_checkpointing: %s\n";
    char text[128];
    snprintf(text, sizeof text, more, "true");
    const DevicePlan recompute = plan("llama-8b", "h100", text);
    snprintf(text, sizeof text, more, "offload");
    const DevicePlan offload = plan("llama-8b", "h100", text);
    assert_true(offload.kept_layers == 0 && offload.offloaded_layers == 32 && recompute.offloaded_layers == 0);
    assert_int_equal(recompute.host[HOST_OFFLOADED], 0);
    assert_int_equal(offload.host[HOST_OFFLOADED], 2048LL * 29 * (8192 + 2 * (4096 + 32) + 128));
    assert_int_equal(recompute.memory.peak - offload.memory.peak, offload.host[HOST_OFFLOADED]);
    assert_int_equal(recompute.memory.bytes[DEVICE_CHECKPOINTS] - offload.memory.bytes[DEVICE_CHECKPOINTS],
                     2048LL * 29 * (8192 + 8192 + 128));
    assert_true(offload.host_peak >= recompute.host_peak + offload.host[HOST_OFFLOADED] / 10 * 9);
    assert_true(offload.time.total == recompute.time.total); /* the link is fast enough */
    const DevicePlan slow = plan("llama-8b", "h100,link=1", text);
    const double out = (double)offload.host[HOST_OFFLOADED] / 1e9;
    assert_near(slow.time.seconds[STEP_COPIES] - slow.time.seconds[STEP_OPTIMIZER],
                2 * out - (slow.time.total - slow.time.seconds[STEP_COPIES]), 0.2);
}

static void auto_offloads_only_what_recomputing_does_not_save(void **state)
{
    (void)state;
    const char *more = "sequence_len: 16384\nmicro_batch_size: 1\nmax_gpu_memory: %.0f\n";
    char text[128];
    const DevicePlan recompute =
        plan("llama-8b", "h100", "sequence_len: 16384\nmicro_batch_size: 1\ngradient_checkpointing: true\n");
    snprintf(text, sizeof text, more, (double)recompute.memory.peak);
    const DevicePlan enough = plan("llama-8b", "h100", text);
    assert_true(enough.fits && enough.kept_layers == 0 && enough.offloaded_layers == 0);
    snprintf(text, sizeof text, more, (double)recompute.memory.peak - 1);
    const DevicePlan one = plan("llama-8b", "h100", text);
    assert_true(one.fits && one.offloaded_layers == OFFLOAD_SETS + 1);
    snprintf(text, sizeof text, more, (double)recompute.memory.peak - 2e9);
    const DevicePlan some = plan("llama-8b", "h100", text);
    const uint64_t each = one.host[HOST_OFFLOADED];
    assert_true(some.fits && some.memory.peak <= some.budget && some.memory.peak + each > some.budget);
    assert_int_equal(some.host[HOST_OFFLOADED], (uint64_t)(some.offloaded_layers - OFFLOAD_SETS) * each);
}

static void memory_budget_bounds_what_is_offloaded(void **state)
{
    (void)state;
    const char *more = "sequence_len: 2048\nmicro_batch_size: 1\ngradient_checkpointing: %s\nmemory_budget: %s\n";
    char text[160];
    snprintf(text, sizeof text, more, "offload", "64GiB");
    const DevicePlan large = plan("llama-8b", "4090", text);
    assert_true(large.fits && large.host_peak <= large.host_budget);
    snprintf(text, sizeof text, more, "offload", "1GiB");
    assert_false(plan("llama-8b", "4090", text).fits); /* 0.99 GB are offloaded */
    snprintf(text, sizeof text, more, "true", "1GiB");
    assert_true(plan("llama-8b", "4090", text).fits);
    snprintf(text, sizeof text, more, "auto", "8GiB");
    const DevicePlan some = plan("llama-8b", "4090", text);
    assert_true(some.limits_offloaded < 8ULL << 30 && large.limits_offloaded > 8ULL << 30);
    assert_true(some.max_sequence_len < large.max_sequence_len && some.max_micro_batch_size > 1);
    snprintf(text, sizeof text, "sequence_len: 2048\nmicro_batch_size: %lld\nmemory_budget: 8GiB\n",
             (long long)some.max_micro_batch_size);
    assert_true(plan("llama-8b", "4090", text).fits);
    snprintf(text, sizeof text, "sequence_len: 2048\nmicro_batch_size: %lld\nmemory_budget: 8GiB\n",
             (long long)some.max_micro_batch_size + 1);
    assert_false(plan("llama-8b", "4090", text).fits);
}

static void embeddings_go_to_the_host_where_that_costs_little(void **state)
{
    (void)state;
    const char *shape = "sequence_len: 2048\nmicro_batch_size: 1\n";
    const uint64_t table = 128256LL * 4096 * 2;
    char text[128];
    snprintf(text, sizeof text, "%shost_embeddings: false\n", shape);
    const DevicePlan device = plan("llama-8b", "h100", text), host = plan("llama-8b", "h100", shape);
    assert_int_equal(device.memory.bytes[DEVICE_EMBEDDINGS], table);
    assert_true(device.host[HOST_EMBEDDINGS] == 0 && host.memory.bytes[DEVICE_EMBEDDINGS] == 0);
    assert_true(host.host[HOST_EMBEDDINGS] == table && device.memory.peak - host.memory.peak == table);
    const double rows = host.time.tokens * 8192 / 50e9;
    assert_near(host.time.seconds[STEP_COPIES] - device.time.seconds[STEP_COPIES], rows, 1e-6);
    assert_true(host.time.total < 1.01 * device.time.total);
    /* a link too slow for it, or a host too small, unless it is asked for */
    assert_int_equal(plan("llama-8b", "h100,matmul=700,link=20", shape).host[HOST_EMBEDDINGS], 0);
    assert_int_equal(plan("llama-8b", "h100,matmul=700,link=21", shape).host[HOST_EMBEDDINGS], table);
    snprintf(text, sizeof text, "%smemory_budget: 1GiB\n", shape);
    const DevicePlan small = plan("llama-8b", "h100", text);
    assert_true(small.host[HOST_EMBEDDINGS] == 0 && small.fits);
    snprintf(text, sizeof text, "%smemory_budget: 1GiB\nhost_embeddings: true\n", shape);
    const DevicePlan asked = plan("llama-8b", "h100", text);
    assert_true(asked.host[HOST_EMBEDDINGS] == table && !asked.fits);
    /* the head of this model is its table */
    snprintf(text, sizeof text, "%shost_embeddings: true\n", shape);
    assert_int_equal(plan("smol", "h100", text).host[HOST_EMBEDDINGS], 0);
}

static void a_run_that_does_not_fit_is_planned_and_says_so(void **state)
{
    (void)state;
    const DevicePlan p = plan("llama-70b", "4090", "sequence_len: 2048\nmicro_batch_size: 1\n");
    assert_false(p.fits);
    assert_true(p.memory.peak > 40e9 && p.kept_layers == 0);
    assert_int_equal(p.max_sequence_len, 0);
    assert_int_equal(p.max_micro_batch_size, 0);
    assert_true(step_tokens_per_second(&p.time) > 0);
}

static void max_gpu_memory_is_a_hard_budget(void **state)
{
    (void)state;
    DevicePlan p;
    Err err = {0};
    assert_false(
        try_plan(&p, "llama-8b", "h100", "sequence_len: 2048\nmicro_batch_size: 1\nmax_gpu_memory: 6GB\n", &err));
    assert_int_equal(err.code, ERR_MEMORY);
    assert_non_null(strstr(err.text, "max_gpu_memory allows 6.00 GB"));
    p = plan("llama-8b", "h100", "sequence_len: 2048\nmicro_batch_size: 1\nmax_gpu_memory: 11GB\n");
    assert_true(p.fits && p.memory.peak <= 11000000000 && p.budget == 11000000000);
    assert_true(p.kept_layers > 0 && p.kept_layers < 32);
    p = plan("llama-8b", "t4", "sequence_len: 2048\nmicro_batch_size: 1\nmax_gpu_memory: 100GB\n");
    assert_true(p.budget < p.card.memory_bytes); /* more than the card has is not there */
}

static void memory_of_the_card_decides_and_its_rates_do_not(void **state)
{
    (void)state;
    const char *more = "sequence_len: 4096\nmicro_batch_size: 2\n";
    const DevicePlan one = plan("llama-8b", "h100", more),
                     other = plan("llama-8b", "h100,matmul=70,bandwidth=300", more);
    assert_true(one.memory.peak == other.memory.peak && one.max_sequence_len == other.max_sequence_len);
    assert_true(other.time.total > 5 * one.time.total);
    const DevicePlan small = plan("llama-8b", "h100,memory=20GiB", more);
    assert_true(small.max_sequence_len < one.max_sequence_len / 2 && small.kept_layers < one.kept_layers);
}

static void a_16_bit_base_and_f32_compute_take_their_bytes(void **state)
{
    (void)state;
    const char *more = "sequence_len: 2048\nmicro_batch_size: 1\nadapter: lora\n";
    const DevicePlan four = plan("llama-8b", "h100", "sequence_len: 2048\nmicro_batch_size: 1\n");
    const DevicePlan sixteen = plan("llama-8b", "h100", more);
    assert_near((double)sixteen.memory.bytes[DEVICE_WEIGHTS], 2 * 6.979e9, 0.01);
    assert_true(sixteen.time.seconds[STEP_DECODE] > four.time.seconds[STEP_DECODE]);
    const DevicePlan f32 =
        plan("llama-8b", "h100", "sequence_len: 2048\nmicro_batch_size: 1\nbnb_4bit_compute_dtype: fp32\n");
    assert_int_equal(f32.memory.bytes[DEVICE_HEAD], 2 * four.memory.bytes[DEVICE_HEAD]);
    assert_true(f32.time.total > 4 * four.time.total);
}

/* The plan of a run on a device, whose free memory is none here. */
static void a_run_on_a_card_is_held_to_its_free_memory(void **state)
{
    (void)state;
    if (!QLORA_CUDA) skip();
    Config *config = NULL;
    Session s = {0};
    Plan p;
    Err err = {0};
    DeviceCard card;
    write_config("smol", "sequence_len: 512\nmicro_batch_size: 1\n");
    assert_true(device_card_parse(&card, "h100", &err) && config_load(&config, "config.yaml", NULL, 0, &err));
    assert_true(plan_device_open(&s, config, &card, &err));
    settings_skip_data(config);
    assert_false(plan_make(&p, &s, NULL, NULL, &err));
    assert_int_equal(err.code, ERR_MEMORY);
    assert_non_null(strstr(err.text, "of device memory and the card has free"));
    session_close(&s);
    config_free(config);
}

static void adapters_on_some_layers_only_are_counted_there(void **state)
{
    (void)state;
    const DevicePlan p = plan("llama-8b", "h100",
                              "sequence_len: 2048\nmicro_batch_size: 1\nlora_layers: [30, 31]\n"
                              "lora_target_modules: [q_proj, v_proj]\n");
    assert_int_equal(p.counts.model.trainable, 2 * 16 * (4096 + 4096 + 4096 + 1024));
    const DevicePlan all = plan("llama-8b", "h100", "sequence_len: 2048\nmicro_batch_size: 1\n");
    assert_true(p.time.seconds[STEP_LORA] < all.time.seconds[STEP_LORA] / 10 && p.time.seconds[STEP_LORA] > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_terms_of_both_memories_add_up_exactly_on_every_card),
        cmocka_unit_test(each_purpose_of_the_8b_shape_is_as_worked_out_by_hand),
        cmocka_unit_test(peaks_are_near_the_budgets_of_the_written_model),
        cmocka_unit_test(longer_rows_take_more_memory_and_time),
        cmocka_unit_test(the_largest_sizes_fit_and_one_more_does_not),
        cmocka_unit_test(the_largest_sizes_leave_room_for_generated_samples),
        cmocka_unit_test(the_largest_sizes_are_ones_that_a_configuration_may_say),
        cmocka_unit_test(auto_keeps_the_most_layers_that_fit),
        cmocka_unit_test(offloaded_layers_move_their_bytes_to_the_host),
        cmocka_unit_test(auto_offloads_only_what_recomputing_does_not_save),
        cmocka_unit_test(memory_budget_bounds_what_is_offloaded),
        cmocka_unit_test(embeddings_go_to_the_host_where_that_costs_little),
        cmocka_unit_test(a_run_that_does_not_fit_is_planned_and_says_so),
        cmocka_unit_test(max_gpu_memory_is_a_hard_budget),
        cmocka_unit_test(memory_of_the_card_decides_and_its_rates_do_not),
        cmocka_unit_test(a_16_bit_base_and_f32_compute_take_their_bytes),
        cmocka_unit_test(a_run_on_a_card_is_held_to_its_free_memory),
        cmocka_unit_test(adapters_on_some_layers_only_are_counted_there),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
