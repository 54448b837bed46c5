/*
 * bench_traffic.c - memory traffic, bank conflicts and tensor core products of every CUDA kernel, counted without a device.
 *
 *   bench_traffic [OPERATION]   operations whose name begins so
 *   bench_traffic launches      each kernel, the threads of its blocks and their dynamic shared memory
 *
 * useful   bytes that lanes use of the 32-byte sectors that their warps ask for
 * passes   bytes of the operation's tensors moved, over their size; small tables that stay in the caches are not in it
 * conflict passes over the banks of shared memory beyond the least possible, and those in all
 * mma      16 x 8 x 16 products, over those that visible pairs need
 * Nothing passes or fails here; test_traffic.c does.
 */
#include "tests/bench/traffic.h"

#include <stdio.h>
#include <string.h>

static void print_passes(double passes)
{
    if (passes > 0.0)
        printf(" %6.3f", passes);
    else
        printf(" %6s", "-");
}

static void print_row(const TrafficRow *r, void *state)
{
    (void)state;
    const KernelCount *c = &r->count;
    const unsigned long long banks = c->shared_loads.passes + c->shared_stores.passes;
    printf("%-23s %-4s %-24s %6.1f %6.1f %6.1f", r->operation, dtype_name(r->dtype), r->shape,
           traffic_useful(&c->global_loads, NULL), traffic_useful(&c->global_stores, NULL),
           traffic_useful(&c->global_loads, &c->global_stores));
    print_passes(traffic_passes(&c->global_loads, r->reads));
    print_passes(traffic_passes(&c->global_stores, r->writes));
    printf(" %8llu /%8llu", traffic_conflicts(c), banks);
    if (r->least_mma > 0.0) printf(" %8llu %6.3f", c->mma, (double)c->mma / r->least_mma);
    printf("\n");
    fflush(stdout);
}

/* --- launches --- */

enum { KERNELS_MAX = 512, NAME_MAX = 160 };

typedef struct Launches {
    char names[KERNELS_MAX][NAME_MAX];
    int count;
} Launches;

/* Names without spaces, as kernel_budget.sh has them. */
static void print_launch(const KernelCount *k, void *state)
{
    Launches *seen = state;
    char name[NAME_MAX];
    size_t length = 0;
    for (const char *c = k->name; *c && length + 1 < sizeof name; c++) {
        if (*c != ' ') name[length++] = *c;
    }
    name[length] = '\0';
    for (int i = 0; i < seen->count; i++) {
        if (strcmp(seen->names[i], name) == 0) return;
    }
    CHECK(seen->count < KERNELS_MAX);
    memcpy(seen->names[seen->count++], name, sizeof name);
    printf("%s %zu %zu\n", name, k->block_threads, k->shared_bytes);
}

int main(int argc, char **argv)
{
    static Launches launches;
    const bool only_launches = argc > 1 && strcmp(argv[1], "launches") == 0;
    const TrafficSink rows = {.row = print_row}, kernels = {.kernel = print_launch, .state = &launches};
    Err err = {0};
    if (!only_launches) {
        printf("%-23s %-4s %-24s %-20s %-13s %-18s %s\n", "", "", "", "  useful %", " passes", " shared memory",
               " mma");
        printf("%-23s %-4s %-24s %6s %6s %6s %6s %6s %8s /%8s %8s %6s\n", "operation", "", "shape", "loads", "stores",
               "both", "loads", "stores", "conflict", "passes", "count", "/least");
    }
    if (traffic_run(only_launches || argc < 2 ? NULL : argv[1], only_launches ? &kernels : &rows, &err)) return 0;
    fprintf(stderr, "bench_traffic: %s\n", err.text);
    return 1;
}
