/*
 * What kernels ask of memory, counted on emulated threads: whole sectors, one pass over their data, no bank conflicts in
 * attention and no more products than visible pairs need; launched as kernel_launches.txt says. Counts, not times: the same
 * on every machine.
 */
#include "tests/bench/traffic.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* Bounds on shapes of whole packs and tiles. */
static const double useful_least = 95.0, passes_most = 1.05, mma_most = 1.10;

/* Operations that are held to them, by how their names begin. */
static const char *const bound_by_memory[] = {
    "decode", "encode", "fill", "rmsnorm", "swiglu",  "rope", "embedding", "gather", "scatter",
    "bias",   "cross",  "norm", "adamw",   "dropout", "zero", "copy",      "add",    "scale",
};

/* Each row of these moves so little that its one index is no small part of what it loads:
 * their loads and stores are counted together. */
static const char *const counted_together[] = {"embedding", "gather", "scatter"};

enum { LINES_MAX = 512, LINE_BYTES = 256 };

/* Lines of kernel_launches.txt, from which kernel_budget.sh computes occupancy. */
typedef struct Launches {
    char lines[LINES_MAX][LINE_BYTES];
    int count;
} Launches;

typedef struct Seen {
    int bounds, failed;
    const Launches *launches;
} Seen;

static const Launches *launches_read(void)
{
    static Launches l;
    FILE *file = fopen("kernel_launches.txt", "r");
    assert_non_null(file);
    l.count = 0;
    while (l.count < LINES_MAX && fgets(l.lines[l.count], LINE_BYTES, file))
        l.count++;
    assert_true(feof(file));
    fclose(file);
    return &l;
}

static void hold_launch(const KernelCount *k, void *state)
{
    Seen *seen = state;
    char line[LINE_BYTES];
    size_t length = 0;
    for (const char *c = k->name; *c; c++) {
        if (*c != ' ') line[length++] = *c;
    }
    snprintf(line + length, sizeof line - length, " %zu %zu\n", k->block_threads, k->shared_bytes);
    for (int i = 0; i < seen->launches->count; i++) {
        if (strcmp(line, seen->launches->lines[i]) == 0) return;
    }
    print_error("kernel_launches.txt lacks: %s", line);
    seen->failed++;
}

static bool begins(const char *name, const char *const *starts, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (strncmp(name, starts[i], strlen(starts[i])) == 0) return true;
    }
    return false;
}

static void hold(Seen *seen, const TrafficRow *r, const char *what, double value, bool good)
{
    seen->bounds++;
    if (good) return;
    print_error("%s, %s, %s: %s %.3f\n", r->operation, dtype_name(r->dtype), r->shape, what, value);
    seen->failed++;
}

/* A single result of a block, as of a norm, is no data. */
static void hold_memory(Seen *seen, const TrafficRow *r)
{
    const AccessCount *loads = &r->count.global_loads, *stores = &r->count.global_stores;
    const double read = traffic_passes(loads, r->reads), written = traffic_passes(stores, r->writes);
    if (begins(r->operation, counted_together, ARRAY_COUNT(counted_together))) {
        const double both = traffic_useful(loads, stores);
        hold(seen, r, "useful % of all sectors", both, both >= useful_least);
    } else {
        const double loaded = traffic_useful(loads, NULL), stored = traffic_useful(stores, NULL);
        hold(seen, r, "useful % of loaded sectors", loaded, loaded >= useful_least);
        hold(seen, r, "useful % of stored sectors", stored, r->writes == 0 || stored >= useful_least);
    }
    hold(seen, r, "passes that load", read, read <= passes_most && (r->reads == 0 || read >= 1.0));
    hold(seen, r, "passes that store", written, written <= passes_most && (r->writes == 0 || written >= 1.0));
}

static void hold_row(const TrafficRow *r, void *state)
{
    Seen *seen = state;
    if (!r->aligned) return;
    if (begins(r->operation, bound_by_memory, ARRAY_COUNT(bound_by_memory))) hold_memory(seen, r);
    if (r->least_mma <= 0.0) return;
    const double mma = (double)r->count.mma / r->least_mma;
    hold(seen, r, "products of those needed", mma, mma >= 1.0 && mma <= mma_most);
    hold(seen, r, "bank conflicts", (double)traffic_conflicts(&r->count), traffic_conflicts(&r->count) == 0);
}

static void run(const char *only, Seen *seen)
{
    const TrafficSink sink = {.row = hold_row, .kernel = hold_launch, .state = seen};
    Err err = {0};
    if (!traffic_run(only, &sink, &err)) fail_msg("%s", err.text);
}

static void kernels_bound_by_memory_use_whole_sectors_once(void **state)
{
    (void)state;
    Seen seen = {.launches = launches_read()};
    for (size_t i = 0; i < ARRAY_COUNT(bound_by_memory); i++) {
        const int before = seen.bounds;
        run(bound_by_memory[i], &seen);
        assert_true(seen.bounds > before);
    }
    assert_int_equal(seen.failed, 0);
}

static void attention_has_no_bank_conflicts_and_few_products(void **state)
{
    (void)state;
    Seen seen = {.launches = launches_read()};
    run("attention", &seen);
    assert_int_equal(seen.bounds, 2 * 3 * 5); /* three kernels, five sizes of heads */
    assert_int_equal(seen.failed, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kernels_bound_by_memory_use_whole_sectors_once),
        cmocka_unit_test(attention_has_no_bank_conflicts_and_few_products),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
