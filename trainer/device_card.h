/*
 * device_card.h - figures of a graphics card: what it holds and how fast it is, for plans made without one.
 *
 * A card is named ("h100"), changed ("h100,memory=40GiB") or given by hand ("custom,memory=24GiB,matmul=150,
 * bandwidth=900"). Figures are rates that long runs sustain, not the ones printed on the box. NONE of them was measured
 * by this program on the card itself:
 *   memory       what the driver reports (nvidia-smi); recalled
 *   context      CUDA context, code of the kernels, library handles; 0.45 GB on H100 is taken from budgets published
 *                for other trainers, the others are scaled by the number of processors; guesses within 0.15 GB
 *   workspace    of cuBLAS: 32 MiB on sm_90 and later, 8 MiB else, as NVIDIA's documentation advises
 *   matmul       dense 16-bit products with f32 sums, in training shapes. H100: 88 % of 798 TFLOP/s that others measured
 *                at 8192^3 on random data (989 on paper); the same share of the paper figure elsewhere, less where the
 *                power limit binds (T4, L4)
 *   bandwidth    of a copy, read and written bytes together. H100 3.0 TB/s, H200 4.3 TB/s as measured by others; 85 to
 *                90 % of the paper figure elsewhere
 *   attention    FLOP/s that our kernels (mma.sync) are to reach on very long causal rows with heads of 128. H100: 90 %
 *                of FlashAttention-2's published 335 forward and 322 backward, rounded so that 8,192 tokens give 300 and
 *                250; the same share of `matmul` elsewhere
 *   link         pinned host memory to the card, one way: 50 GB/s for PCIe 5 x16, 25 for PCIe 4, 12 for PCIe 3
 *   launch       host time of one kernel launch from C
 */
#pragma once

#include "base/err.h"

#include <stdint.h>

typedef struct DeviceCard {
    char name[32];
    int capability; /* 90: compute capability 9.0 */
    int processors; /* streaming multiprocessors */
    uint64_t memory_bytes, context_bytes, workspace_bytes, l2_bytes;
    double matmul;                                /* FLOP/s */
    double bandwidth;                             /* bytes/s */
    double attention_forward, attention_backward; /* FLOP/s */
    double link;                                  /* bytes/s */
    double launch;                                /* seconds */
    double decode;                                /* weights/s; 0: bound by `bandwidth` */
    bool changed;                                 /* not the figures of the table */
    bool measured; /* on this machine in these shapes and types (trainer/host_speed.h): nothing is taken off */
} DeviceCard;

/* NAME or NAME,key=value,... ; ERR_ARG names the nearest card or key. */
bool device_card_parse(DeviceCard *out, const char *text, Err *err) MUST_USE;

/* The figures of a card as the driver names it ("NVIDIA H100 80GB HBM3"); false: not in the table, *out as it was. */
bool device_card_of_driver(DeviceCard *out, const char *driver_name) MUST_USE;

int device_card_count(void);
DeviceCard device_card_at(int i);
