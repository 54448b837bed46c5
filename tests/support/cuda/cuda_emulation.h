/*
 * cuda_emulation.h - CUDA C for g++: what backend/cuda.cuh includes instead of the device side.
 *
 * Gives kernel files the qualifiers, built-in variables, barriers, warp operations, intrinsics and tensor core functions
 * under their own names. Threads are fibers of one OS thread (emulated_threads.h), a launch is a call, and device memory
 * is host memory that the host may not touch (device_memory.h). Tests steer it through emulation.h.
 */
#pragma once

#undef __global__
#undef __device__
#undef __host__
#undef __constant__
#undef __shared__ /* left undefined on purpose: a bare __shared__ does not compile */
#undef __forceinline__
#undef __noinline__
#undef __launch_bounds__
#undef __grid_constant__
#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

#include "emulated_math.h"
#include "emulated_tensor.h"
#include "emulated_threads.h"
