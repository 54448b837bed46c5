/*
 * rows.h - moving whole rows of a matrix by index, and adding one vector to every row.
 */
#pragma once

#include "backend/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* out (n, C) = in[index]; index (n) i32 on the device, each below the rows of `in`. */
void rows_gather(Backend *be, const Tensor *out, const Tensor *in, const Tensor *index);

/* out[index] = in (n, C); indices differ from one another; other rows stay as they are. */
void rows_scatter(Backend *be, const Tensor *out, const Tensor *in, const Tensor *index);

/* y (N, C) += vector (C), both in the compute type. */
void rows_add_vector(Backend *be, const Tensor *y, const Tensor *vector);

#ifdef __cplusplus
}
#endif
