/*
 * 1,000 updates on a fixed stream of gradients against torch.optim.AdamW and bitsandbytes' AdamW8bit on the CPU
 * (tests/golden/adamw.py). Errors are in units of rate * sqrt(updates), the distance that updates of one rate walk.
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

typedef struct Distance {
    double largest, mean;
} Distance;

/* Of parameter p after `updates` updates from the peer's, in units of rate * sqrt(updates). */
static Distance distance(Rig *r, const char *peer, int p, int updates)
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
        count++;
        const double difference = fabs((double)ours[r->params[p].offset + i] - (double)expected[i]);
        if (difference > d.largest) d.largest = difference;
        d.mean += difference;
    }
    d.largest /= rate * sqrt(updates);
    d.mean /= rate * sqrt(updates) * (double)count;
    print_message("%-5s parameter %d after %4d updates: largest %.3g, mean %.3g of rate * sqrt(updates)\n", peer, p,
                  updates, d.largest, d.mean);
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
        assert_true(distance(r, "torch", p, snapshots[s]).largest <= bounds[s]);
}

static void states_of_32_bits_equal_torch_to_rounding(void **state)
{
    (void)state;
    run(false, compare_torch);
}

/* The codes of bitsandbytes on the CPU, so parameters stay within their own rounding of its, as with torch above. */
static void compare_8bit(Rig *r, int s)
{
    static const double bounds[SNAPSHOTS] = {1e-6, 3e-5, 3e-5, 3e-5};
    assert_true(distance(r, "bnb", 0, snapshots[s]).largest <= bounds[s]);
    assert_true(distance(r, "torch", 1, snapshots[s]).largest <= bounds[s]); /* too small for codes */
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
