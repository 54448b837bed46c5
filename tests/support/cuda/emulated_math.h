/*
 * emulated_math.h - the device intrinsics that the host has no name for.
 *
 * Approximate instructions are computed exactly here: compare with a tolerance. The _rn forms are single roundings on
 * both sides; host code is compiled with -ffp-contract=off, so their bits are those of a device.
 */
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <math.h>
#include <stdint.h>

/* glibc has private functions of these names */
#define __expf(x) expf(x)
#define __logf(x) logf(x)
#define __exp10f(x) powf(10.0f, (x))
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __powf(x, y) powf((x), (y))

inline float rsqrtf(float x)
{
    return 1.0f / sqrtf(x);
}

inline float __fdividef(float a, float b)
{
    return a / b;
}

inline float __fadd_rn(float a, float b)
{
    return a + b;
}

inline float __fsub_rn(float a, float b)
{
    return a - b;
}

inline float __fmul_rn(float a, float b)
{
    return a * b;
}

inline float __fdiv_rn(float a, float b)
{
    return a / b;
}

inline float __fsqrt_rn(float a)
{
    return sqrtf(a);
}

inline float __frcp_rn(float a)
{
    return 1.0f / a;
}

inline float __fmaf_rn(float a, float b, float c)
{
    return fmaf(a, b, c);
}

inline double __dadd_rn(double a, double b)
{
    return a + b;
}

inline double __dmul_rn(double a, double b)
{
    return a * b;
}

inline double __ddiv_rn(double a, double b)
{
    return a / b;
}

inline double __dsqrt_rn(double a)
{
    return sqrt(a);
}

inline float __double2float_rn(double a)
{
    return static_cast<float>(a);
}

inline float __saturatef(float x)
{
    return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; /* NaN becomes 0, as on a device */
}

inline int __float2int_rn(float x)
{
    return static_cast<int>(rintf(x));
}

inline int __float2int_rd(float x)
{
    return static_cast<int>(floorf(x));
}

inline int __float2int_rz(float x)
{
    return static_cast<int>(x);
}

inline unsigned __float2uint_rn(float x)
{
    return static_cast<unsigned>(rintf(x));
}

inline float __int2float_rn(int x)
{
    return static_cast<float>(x);
}

inline float __uint2float_rn(unsigned x)
{
    return static_cast<float>(x);
}

inline float __ll2float_rn(long long x)
{
    return static_cast<float>(x);
}

inline unsigned __float_as_uint(float x)
{
    return __builtin_bit_cast(unsigned, x);
}

inline int __float_as_int(float x)
{
    return __builtin_bit_cast(int, x);
}

inline float __uint_as_float(unsigned x)
{
    return __builtin_bit_cast(float, x);
}

inline float __int_as_float(int x)
{
    return __builtin_bit_cast(float, x);
}

inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}

inline int __popcll(unsigned long long x)
{
    return __builtin_popcountll(x);
}

inline int __clz(int x)
{
    return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x));
}

inline int __clzll(long long x)
{
    return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x));
}

inline int __ffs(int x)
{
    return __builtin_ffs(x);
}

inline int __ffsll(long long x)
{
    return __builtin_ffsll(x);
}

inline unsigned __brev(unsigned x)
{
    unsigned reversed = 0;
    for (int bit = 0; bit < 32; bit++)
        reversed |= (x >> bit & 1u) << (31 - bit);
    return reversed;
}

/* Byte i of the result is the byte of {y, x} that the low three bits of nibble i of `selector` name. */
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector)
{
    const uint64_t bytes = static_cast<uint64_t>(y) << 32 | x;
    unsigned result = 0;
    for (int i = 0; i < 4; i++) {
        const unsigned nibble = selector >> (4 * i);
        unsigned byte = static_cast<unsigned>(bytes >> (8 * (nibble & 7u))) & 0xffu;
        if (nibble & 8u) byte = (byte & 0x80u) ? 0xffu : 0u; /* the sign, repeated */
        result |= byte << (8 * i);
    }
    return result;
}

inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift)
{
    return static_cast<unsigned>((static_cast<uint64_t>(high) << 32 | low) << (shift & 31u) >> 32);
}

inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift)
{
    return static_cast<unsigned>((static_cast<uint64_t>(high) << 32 | low) >> (shift & 31u));
}

inline int __mul24(int a, int b)
{
    const int64_t left = static_cast<int32_t>(static_cast<uint32_t>(a) << 8) >> 8;
    const int64_t right = static_cast<int32_t>(static_cast<uint32_t>(b) << 8) >> 8;
    return static_cast<int>(left * right);
}

inline unsigned __umul24(unsigned a, unsigned b)
{
    return (a & 0xffffffu) * (b & 0xffffffu);
}

inline int __mulhi(int a, int b)
{
    return static_cast<int>(static_cast<int64_t>(a) * b >> 32);
}

inline unsigned __umulhi(unsigned a, unsigned b)
{
    return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32);
}

inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    __extension__ typedef unsigned __int128 Wide;
    return static_cast<unsigned long long>(static_cast<Wide>(a) * b >> 64);
}

template <class T> inline T __ldg(const T *p)
{
    return *p;
}

template <class T> inline T __ldcs(const T *p)
{
    return *p;
}

template <class T> inline void __stcs(T *p, T value)
{
    *p = value;
}

/* CUDA has min and max of every pair of number types in the global namespace. */
#define EMULATED_MIN_MAX(T)                                                                                            \
    inline T min(T a, T b)                                                                                             \
    {                                                                                                                  \
        return b < a ? b : a;                                                                                          \
    }                                                                                                                  \
    inline T max(T a, T b)                                                                                             \
    {                                                                                                                  \
        return a < b ? b : a;                                                                                          \
    }
EMULATED_MIN_MAX(int)
EMULATED_MIN_MAX(unsigned)
EMULATED_MIN_MAX(long)
EMULATED_MIN_MAX(unsigned long)
EMULATED_MIN_MAX(long long)
EMULATED_MIN_MAX(unsigned long long)
#undef EMULATED_MIN_MAX

inline float min(float a, float b)
{
    return fminf(a, b);
}

inline float max(float a, float b)
{
    return fmaxf(a, b);
}
