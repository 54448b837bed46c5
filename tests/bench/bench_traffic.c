/*
 * bench_traffic.c - memory traffic, bank conflicts and tensor core products of every CUDA kernel, counted without a device.
 *
 *   bench_traffic [OPERATION]   operations whose name begins so
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

int main(int argc, char **argv)
{
    Err err = {0};
    printf("%-23s %-4s %-24s %-20s %-13s %-18s %s\n", "", "", "", "  useful %", " passes", " shared memory", " mma");
    printf("%-23s %-4s %-24s %6s %6s %6s %6s %6s %8s /%8s %8s %6s\n", "operation", "", "shape", "loads", "stores",
           "both", "loads", "stores", "conflict", "passes", "count", "/least");
    if (traffic_run(argc > 1 ? argv[1] : NULL, print_row, NULL, &err)) return 0;
    fprintf(stderr, "bench_traffic: %s\n", err.text);
    return 1;
}
