/*
 * emulated_tensor.h - host twins of the PTX functions of backend/cuda.cuh: mma, ldmatrix, cp.async, ex2, cache hints.
 *
 * mma sums in f32 in the order of k; a tensor core aligns and truncates its products otherwise, so compare with a
 * tolerance. Asynchronous copies happen at any time between issue and wait: the schedule decides (async_copy.cpp).
 */
#pragma once

#include <math.h>
#include <stdint.h>

#include "emulated_threads.h"

namespace emu
{
enum class Half { BF16, F16 };
void mma_16x8x16(Half type, float *d, const uint32_t *a, const uint32_t *b, const float *c, const char *file, int line);
void load_matrix(uint32_t *r, const void *row, int tiles, bool transposed, const char *file, int line);
void copy_async(void *dst, const void *src, bool valid, const char *file, int line);
void copy_commit();
void copy_wait(int groups_in_flight);
} // namespace emu

inline void mma_bf16_16x8x16(float *d, const uint32_t *a, const uint32_t *b, const float *c, EMULATION_CALLER)
{
    emu::mma_16x8x16(emu::Half::BF16, d, a, b, c, file, line);
}

inline void mma_f16_16x8x16(float *d, const uint32_t *a, const uint32_t *b, const float *c, EMULATION_CALLER)
{
    emu::mma_16x8x16(emu::Half::F16, d, a, b, c, file, line);
}

inline void ldmatrix_x4(uint32_t *r, const void *row, EMULATION_CALLER)
{
    emu::load_matrix(r, row, 4, false, file, line);
}

inline void ldmatrix_x4_trans(uint32_t *r, const void *row, EMULATION_CALLER)
{
    emu::load_matrix(r, row, 4, true, file, line);
}

inline void ldmatrix_x2(uint32_t *r, const void *row, EMULATION_CALLER)
{
    emu::load_matrix(r, row, 2, false, file, line);
}

inline void ldmatrix_x2_trans(uint32_t *r, const void *row, EMULATION_CALLER)
{
    emu::load_matrix(r, row, 2, true, file, line);
}

inline void cp_async16(void *dst, const void *src, EMULATION_CALLER)
{
    emu::copy_async(dst, src, true, file, line);
}

inline void cp_async16_zfill(void *dst, const void *src, int valid_bytes, EMULATION_CALLER)
{
    emu::copy_async(dst, src, valid_bytes != 0, file, line);
}

inline void cp_async_commit()
{
    emu::copy_commit();
}

template <int N> inline void cp_async_wait()
{
    emu::copy_wait(N);
}

inline float ex2(float x)
{
    const float y = exp2f(x);
    return y < 1.17549435e-38f ? 0.0f : y;
}

template <class T> inline T load_once(const T *p)
{
    return *p;
}

template <class T> inline void store_once(T *p, T value)
{
    *p = value;
}
