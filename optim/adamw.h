/*
 * adamw.h - AdamW over the flat parameter buffer: 32-bit or blockwise 8-bit states, resident or paged, with clamps.
 *
 * Order of one update: finite check and global norm of all gradients -> value clamp -> global-norm clip (or percentile
 * clip) -> moments -> variance clamp -> update-RMS clamp -> parameters -> decoupled decay (p *= 1 - lr*wd, before the
 * step, as torch.optim.AdamW). A non-finite gradient withholds the whole update: parameters and states keep every bit.
 * 8-bit states: block 256, m in the signed and v in the unsigned dynamic map, one f32 absmax a block; tensors under
 * 4,096 elements keep 32-bit states. Elements of one block belong to one tensor (base/param.h). The codes are those of
 * bitsandbytes on the CPU (quant/blockwise.h), which differ from its CUDA kernel's for elements that are quiet beside
 * loud neighbours: v is stored no lower than 1.5e-5 of the block's largest, where the kernel rounds it to zero below
 * 1.6e-7 and only epsilon bounds the next step of that element; and there is no sign guard, which makes a negative m
 * -5.5e-7 of the largest at every update, so that it never decays and moves its parameter for ever.
 * A gradient so large that its square overflows f32 withholds the update like one that is not finite.
 * Paging: states of a paged optimizer live in a file, on a device in pinned host memory, and pass through small buffers;
 * the bits are the same.
 * Source: bitsandbytes 0.50 kernels; Loshchilov & Hutter 2019, arXiv:1711.05101; Hayou et al. 2024 (LoRA+).
 */
#pragma once

#include "backend/backend.h"
#include "base/param.h"
#include "base/safetensors.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct AdamwOptions {
    bool eight_bit;
    bool paged;
    const char *page_path; /* file of a paged optimizer on the CPU, created and unlinked; borrowed */
    double beta1, beta2, epsilon, weight_decay;
    double max_grad_norm;     /* 0: off */
    double grad_clip_value;   /* 0: off */
    int grad_clip_percentile; /* 0 or 100: off; of the last 100 global norms */
    double variance_min;      /* floor of the second moment; 0: off */
    double variance_max;      /* ceiling; 0: off */
    double update_clip_rms;   /* cap of the RMS of a tensor's update, in units of lr; 0: off */
} AdamwOptions;

typedef struct AdamwReport {
    double grad_norm;    /* before clipping; NaN or infinite when the update was withheld */
    double clip_factor;  /* what the gradients were multiplied with */
    bool applied;        /* false: withheld */
    int first_bad_param; /* index into the ParamTable, -1 when all are finite or the device failed */
    bool norm_clipped, percentile_clipped;
    int64_t value_clipped;                     /* elements */
    int64_t variance_floored, variance_capped; /* elements */
    int64_t rms_clipped;                       /* tensors */
} AdamwReport;

typedef struct Adamw Adamw;

bool adamw_create(Adamw **out, Backend *be, const ParamTable *table, const AdamwOptions *options, Err *err) MUST_USE;
void adamw_free(Adamw *opt);

/* Takes the states from `state` and buffers from `scratch` (or measures). Call again after reserving. */
void adamw_place(Adamw *opt, Arena *state, Arena *scratch);
/* Opens the page file or takes the pinned memory of a paged optimizer, fills tables; after placing with storage. */
bool adamw_start(Adamw *opt, Err *err) MUST_USE;
size_t adamw_paged_bytes(const Adamw *opt); /* on disk (CPU) or in pinned host memory; 0 when resident */

/* One update; params and grads are the flat f32 buffers. Gradients are left as they are. */
AdamwReport adamw_step(Adamw *opt, const Tensor *params, const Tensor *grads, double learning_rate);

int64_t adamw_updates(const Adamw *opt);

/* False with ERR_DISK once the page file failed: parameters and states no longer belong together, and every later
 * update is withheld. Ask after each update of a paged optimizer. */
bool adamw_check(const Adamw *opt, Err *err) MUST_USE;

/* States as tensors "state1.NAME" (u8 or f32), "absmax1.NAME", ..., plus counters in the metadata. Reading checks
 * every name and shape: ERR_CHECKPOINT. */
bool adamw_save(Adamw *opt, const char *path, Err *err) MUST_USE;
bool adamw_load(Adamw *opt, const char *path, Err *err) MUST_USE;

#ifdef __cplusplus
}
#endif
