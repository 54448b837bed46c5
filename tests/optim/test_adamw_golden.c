/*
 * 1,000 updates on a fixed stream of gradients against torch.optim.AdamW, bitsandbytes' AdamW8bit on the CPU, and the
 * rules of its CUDA kernel (tests/golden/adamw.py). Errors are in units of rate * sqrt(updates), the distance that
 * updates of one rate walk: the three 8-bit optimizers round states differently and drift apart at random.
 */
#include "tests/optim/rig.h"

#include "base/safetensors.h"

#include <math.h>
#include <stdio.h>

static const int64_t shapes[2][2] = {
    {50, 100},
    {8,  64 }
};
static const int snapshots[] = {1, 10, 100, 1000};
enum { SNAPSHOTS = 4 };

static const double rate = 1e-3;

static Safetensors golden;

static int open_golden(void **state)
{
    Err err = {0};
    (void)state;
    if (safetensors_open(&golden, "golden/data/optim/adamw.safetensors", &err)) return 0;
    print_error("%s\n", err.text);
    return -1;
}

static int close_golden(void **state)
{
    (void)state;
    safetensors_close(&golden);
    return 0;
}

/* Whose gradient is not silent and at least 1/128 of its block's largest: there a second moment has its own codes. */
static bool is_loud(int64_t i)
{
    return i % 97 != 0 && i % 12 < 8;
}

typedef struct Distance {
    double largest, mean;
} Distance;

/* Of parameter p after `updates` updates from the peer's, in units of rate * sqrt(updates). */
static Distance distance(Rig *r, const char *peer, int p, int updates, bool loud)
{
    char name[32];
    Err err = {0};
    Distance d = {0};
    int64_t count = 0;
    snprintf(name, sizeof name, "%s.%d.%d", peer, p, updates);
    const SafetensorsEntry *e = safetensors_find(&golden, name);
    if (!e) fail_msg("no golden tensor %s", name);
    float *expected = malloc(e->bytes), *ours = rig_weights(r);
    assert_true(safetensors_read(&golden, e, 0, e->bytes, expected, &err));
    for (int64_t i = 0; i < e->count; i++) {
        if (loud && !is_loud(i)) continue;
        count++;
        const double difference = fabs((double)ours[r->params[p].offset + i] - (double)expected[i]);
        if (difference > d.largest) d.largest = difference;
        d.mean += difference;
    }
    d.largest /= rate * sqrt(updates);
    d.mean /= rate * sqrt(updates) * (double)count;
    print_message(
        "%-5s parameter %d, %s elements, after %4d updates: largest %.3g, mean %.3g of rate * sqrt(updates)\n", peer, p,
        loud ? "loud" : "all", updates, d.largest, d.mean);
    free(expected);
    free(ours);
    return d;
}

typedef void (*Compare)(Rig *r, int snapshot);

static void run(bool eight_bit, Compare compare)
{
    AdamwOptions options = rig_options(eight_bit);
    options.weight_decay = 0.01;
    Rig r;
    rig_create(&r, shapes, 2, &options, 2);
    rig_start(&r);
    rig_fill(&r, &r.weights, 0, rig_noise);
    int s = 0;
    for (int t = 1; t <= snapshots[SNAPSHOTS - 1]; t++) {
        assert_true(rig_step(&r, (uint32_t)t, rate).applied);
        if (t == snapshots[s]) compare(&r, s++);
    }
    rig_free(&r);
}

/* Parameters of size 1 have steps of 6e-8, which is 6e-5 of a rate: less than one step, on any day. */
static void compare_torch(Rig *r, int s)
{
    static const double bounds[SNAPSHOTS] = {1e-6, 3e-5, 3e-5, 3e-5};
    for (int p = 0; p < 2; p++)
        assert_true(distance(r, "torch", p, snapshots[s], false).largest <= bounds[s]);
}

static void states_of_32_bits_equal_torch_to_rounding(void **state)
{
    (void)state;
    run(false, compare_torch);
}

/*
 * A fifth above what was measured; nothing here is random. bitsandbytes on the CPU turns a first moment of zero into
 * +2e-5 of the block's largest, which adds up; its CUDA rules let the quiet elements of this stream run away (2,700 after
 * 1,000 updates), so only the loud ones are compared.
 */
static const struct Bound {
    const char *peer;
    bool loud;
    double largest[SNAPSHOTS], mean[SNAPSHOTS];
} bounds_8bit[] = {
    {"bnb",   false, {1e-6, 1, 6, 17},    {1e-7, 0.03, 0.27, 1.1}    },
    {"cuda",  true,  {8e-5, 1.2, 2.4, 8}, {1.3e-5, 0.016, 0.02, 0.06}},
    {"torch", false, {1e-6, 3, 7, 16},    {1e-7, 0.34, 1.1, 3.5}     },
    {"torch", true,  {1e-6, 1, 2.2, 13},  {1e-7, 0.05, 0.2, 1}       },
};

static void compare_8bit(Rig *r, int s)
{
    for (size_t i = 0; i < ARRAY_COUNT(bounds_8bit); i++) {
        const struct Bound *b = &bounds_8bit[i];
        const Distance d = distance(r, b->peer, 0, snapshots[s], b->loud);
        assert_true(d.largest <= b->largest[s] && d.mean <= b->mean[s]);
    }
    assert_true(distance(r, "torch", 1, snapshots[s], false).largest < 1e-4); /* too small for codes */
}

static void states_of_8_bits_stay_with_bitsandbytes(void **state)
{
    (void)state;
    run(true, compare_8bit);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(states_of_32_bits_equal_torch_to_rounding),
        cmocka_unit_test(states_of_8_bits_stay_with_bitsandbytes),
    };
    return cmocka_run_group_tests(tests, open_golden, close_golden);
}
