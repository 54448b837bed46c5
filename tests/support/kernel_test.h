/*
 * kernel_test.h - what the tests of backend/ and model/ kernels share: strided tensors with watched gaps, f64 copies of
 * their values, and the bound "at most twice the error of the plain formula".
 *
 * Host code of these tests reads tensors directly: they lie in ordinary memory, not in an arena. Compiled with
 * QLORA_TEST_CUDA=1 the same cases run on the CUDA backend, on emulated threads or on a real device: tensors are then
 * managed memory, and whoever reads or writes one waits for the device first (kernel_settle).
 */
#pragma once

#include "backend/backend.h"
#include "base/rng.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#ifndef QLORA_TEST_CUDA
#    define QLORA_TEST_CUDA 0
#endif
#if QLORA_TEST_CUDA
#    include <cuda_runtime_api.h>
#endif

enum { GUARD_BYTES = 256 };

/*
 * On emulated threads tensors end where their allocation ends, so that a kernel that reads past the last element meets
 * the guard page of the emulation; elsewhere GUARD_BYTES lie behind them.
 */
static inline bool kernel_emulated(void)
{
    static int emulated = -1;
    if (emulated < 0) emulated = QLORA_TEST_CUDA && getenv("QLORA_CUDA_EMULATED") != NULL;
    return emulated;
}

/* What lies around elements: signalling NaNs in every type, so that whoever reads them shows it, and whoever writes back
 * what it made of them too (it is then a quiet NaN). */
static inline unsigned char kernel_guard(const void *at)
{
    return (uintptr_t)at % 2 == 0 ? 0x81 : 0x7F;
}

static inline void kernel_guard_fill(void *from, size_t bytes)
{
    for (unsigned char *p = from; bytes > 0; p++, bytes--)
        *p = kernel_guard(p);
}

static inline void kernel_guard_check(const void *from, size_t bytes)
{
    for (const unsigned char *p = from; bytes > 0; p++, bytes--)
        assert_int_equal(*p, kernel_guard(p));
}

/*
 * The 16-bit type that a case means. Cases say bf16; a CUDA test program that runs with QLORA_TEST_F16=1 takes f16
 * wherever it says so (ctest: cuda.FOLDER.NAME.f16).
 */
static inline DType kernel_narrow(DType dtype)
{
    static int f16 = -1;
    if (f16 < 0) f16 = QLORA_TEST_CUDA && getenv("QLORA_TEST_F16") != NULL;
    return f16 && dtype == DTYPE_BF16 ? DTYPE_F16 : dtype;
}

/* The largest relative error of rounding to the type once. */
static inline double kernel_unit(DType dtype)
{
    const DType t = kernel_narrow(dtype);
    return t == DTYPE_F32 ? 0x1p-24 : t == DTYPE_F16 ? 0x1p-11 : 0x1p-8;
}

/* Half of the smallest step of the type: what rounding costs near zero. */
static inline double kernel_least(DType dtype)
{
    return kernel_narrow(dtype) == DTYPE_F16 ? 0x1p-25 : 0.0;
}

static Backend *kernel_current; /* of kernel_backend; on CUDA there is one at a time */

static inline Backend *kernel_backend_of(BackendKind kind, int threads, bool reference)
{
    const BackendOptions options = {.kind = kind, .threads = threads, .reference = reference};
    Err err = {0};
    Backend *be = NULL;
    if (!backend_open(&be, &options, &err)) fail_msg("%s", err.text);
    return be;
}

/* The backend under test. */
static inline Backend *kernel_backend(int threads, bool reference)
{
    kernel_current = kernel_backend_of(QLORA_TEST_CUDA ? BACKEND_CUDA : BACKEND_CPU, threads, reference);
    return kernel_current;
}

static inline void kernel_close(Backend *be)
{
    if (kernel_current == be) kernel_current = NULL;
    backend_close(be);
}

/* What was queued is done; a fault of it fails the test. */
static inline void kernel_settle(void)
{
#if QLORA_TEST_CUDA
    Err err = {0};
    if (kernel_current && !backend_sync(kernel_current, &err)) fail_msg("%s", err.text);
#endif
}

/* On emulated threads: what `body` does in a process of its own ends with the trap of a kernel. */
static inline void kernel_expect_trap(void (*body)(int which), int which)
{
    int ends[2], status = 0;
    char text[4096] = "";
    size_t have = 0;
    if (!kernel_emulated()) return;
    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        close(ends[1]);
        alarm(100);
        body(which);
        _exit(0);
    }
    close(ends[1]);
    for (ssize_t n; have < sizeof text - 1 && (n = read(ends[0], text + have, sizeof text - 1 - have)) > 0;)
        have += (size_t)n;
    close(ends[0]);
    assert_true(waitpid(child, &status, 0) == child);
    if (!WIFSIGNALED(status) || !strstr(text, "__trap")) fail_msg("no trap, but: %s", text);
}

/* Memory that host and device under test both reach. */
static inline void *kernel_memory(size_t bytes)
{
    void *memory = NULL;
    kernel_settle(); /* the caller fills it, and no host code may touch managed memory while the device is at work */
#if QLORA_TEST_CUDA
    if (cudaMallocManaged(&memory, bytes, cudaMemAttachGlobal) != cudaSuccess) memory = NULL;
#else
    memory = aligned_alloc(64, (bytes + 63) / 64 * 64);
#endif
    assert_non_null(memory);
    return memory;
}

static inline void kernel_memory_free(void *memory)
{
    kernel_settle();
#if QLORA_TEST_CUDA
    (void)cudaFree(memory);
#else
    free(memory);
#endif
}

/* Bytes from the first element to the end of what is watched; the last row may end with its last element. */
static inline size_t kernel_extent(DType dtype, int64_t rows, int64_t cols, int64_t stride)
{
    const int64_t last = rows == 0 ? 0 : kernel_emulated() ? cols : stride;
    return (size_t)((rows == 0 ? 0 : rows - 1) * stride + last) * dtype_bytes(dtype) +
           (kernel_emulated() ? 0 : GUARD_BYTES);
}

/* A matrix whose gaps and surroundings are watched; elements are zero. */
static inline Tensor kernel_matrix(DType named, int64_t rows, int64_t cols, int64_t stride)
{
    const DType dtype = kernel_narrow(named);
    const size_t bytes = GUARD_BYTES + kernel_extent(dtype, rows, cols, stride);
    char *raw = kernel_memory(bytes);
    kernel_guard_fill(raw, bytes);
    Tensor t = tensor_matrix(raw + GUARD_BYTES, dtype, rows, cols);
    t.stride = stride;
    for (int64_t r = 0; r < rows; r++)
        memset((char *)t.data + (size_t)(r * stride) * dtype_bytes(dtype), 0, (size_t)cols * dtype_bytes(dtype));
    return t;
}

static inline void kernel_free(const Tensor *t)
{
    kernel_memory_free((char *)t->data - GUARD_BYTES);
}

/* Nothing was written outside of the elements. */
static inline void kernel_check_guards(const Tensor *t)
{
    kernel_settle();
    const int64_t rows = tensor_rows(t), cols = tensor_cols(t);
    const size_t size = dtype_bytes(t->dtype), row = (size_t)cols * size, pitch = (size_t)t->stride * size;
    const char *data = t->data;
    kernel_guard_check(data - GUARD_BYTES, GUARD_BYTES);
    for (int64_t r = 0; r + 1 < rows; r++)
        kernel_guard_check(data + (size_t)r * pitch + row, pitch - row);
    const size_t used = rows == 0 ? 0 : (size_t)(rows - 1) * pitch + row;
    kernel_guard_check(data + used, kernel_extent(t->dtype, rows, cols, t->stride) - used);
}

static inline double kernel_round(double x, DType dtype)
{
    switch (kernel_narrow(dtype)) {
    case DTYPE_F64: return x;
    case DTYPE_F32: return (double)(float)x;
    case DTYPE_F16: return (double)f16_to_f32(f16_from_f32((float)x));
    default: return (double)bf16_to_f32(bf16_from_f32((float)x));
    }
}

/* Elements while the device is known to be idle; waiting costs more than reading one. */
static inline double kernel_get(const Tensor *t, int64_t r, int64_t c)
{
    const int64_t i = r * t->stride + c;
    if (t->dtype == DTYPE_F32) return (double)((const float *)t->data)[i];
    const uint16_t bits = ((const uint16_t *)t->data)[i];
    return (double)(t->dtype == DTYPE_F16 ? f16_to_f32(bits) : bf16_to_f32(bits));
}

static inline void kernel_put(const Tensor *t, int64_t r, int64_t c, double value)
{
    const int64_t i = r * t->stride + c;
    if (t->dtype == DTYPE_F32) {
        ((float *)t->data)[i] = (float)value;
    } else {
        ((uint16_t *)t->data)[i] = t->dtype == DTYPE_F16 ? f16_from_f32((float)value) : bf16_from_f32((float)value);
    }
}

static inline double kernel_at(const Tensor *t, int64_t r, int64_t c)
{
    kernel_settle();
    return kernel_get(t, r, c);
}

static inline void kernel_set(const Tensor *t, int64_t r, int64_t c, double value)
{
    kernel_settle();
    kernel_put(t, r, c, value);
}

/* Normal numbers times `scale`. */
static inline Tensor kernel_random(DType dtype, int64_t rows, int64_t cols, int64_t stride, uint64_t seed, float scale)
{
    Tensor t = kernel_matrix(dtype, rows, cols, stride);
    const RngKey key = {.seed = seed, .purpose = RNG_TEST};
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t c = 0; c < cols; c++)
            kernel_put(&t, r, c, (double)(scale * rng_normal(key, (uint64_t)(r * cols + c))));
    }
    return t;
}

/* `whole`; or when `moved` all but its first column, which is not aligned then. */
static inline Tensor kernel_moved(const Tensor *whole, bool moved)
{
    return moved ? tensor_slice_cols(whole, 1, tensor_cols(whole) - 1) : *whole;
}

/* The values as f64, row by row without gaps; the caller frees them. */
static inline double *kernel_values(const Tensor *t)
{
    const int64_t rows = tensor_rows(t), cols = tensor_cols(t);
    double *values = malloc((size_t)(rows * cols + 1) * sizeof *values);
    assert_non_null(values);
    kernel_settle();
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t c = 0; c < cols; c++)
            values[r * cols + c] = kernel_get(t, r, c);
    }
    return values;
}

static inline double *kernel_zeros(int64_t n)
{
    double *values = calloc((size_t)n + 1, sizeof *values);
    assert_non_null(values);
    return values;
}

static inline double kernel_max_diff(const double *a, const double *b, int64_t n)
{
    double most = 0.0;
    for (int64_t i = 0; i < n; i++) {
        const double diff = fabs(a[i] - b[i]);
        if (isnan(diff)) return diff;
        if (diff > most) most = diff;
    }
    return most;
}

/* error of `fast` <= 2 * error of `plain` + floor, both against `exact` */
static inline void kernel_check_bound(const char *what, const Tensor *fast, const double *plain, const double *exact,
                                      double floor)
{
    const int64_t n = tensor_rows(fast) * tensor_cols(fast);
    double *values = kernel_values(fast);
    const double error = kernel_max_diff(values, exact, n), allowed = 2.0 * kernel_max_diff(plain, exact, n) + floor;
    free(values);
    if (!(error <= allowed)) fail_msg("%s: error %.3g, allowed %.3g", what, error, allowed);
}

/* Bytes of the elements, gaps left out. */
static inline bool kernel_equal(const Tensor *a, const Tensor *b)
{
    kernel_settle();
    const size_t size = dtype_bytes(a->dtype);
    for (int64_t r = 0; r < tensor_rows(a); r++) {
        if (memcmp((const char *)a->data + (size_t)(r * a->stride) * size,
                   (const char *)b->data + (size_t)(r * b->stride) * size, (size_t)tensor_cols(a) * size) != 0)
            return false;
    }
    return true;
}
