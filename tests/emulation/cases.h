/*
 * cases.h - kernels and host code for the tests of the emulation: right ones, and wrong ones that must be noticed.
 *
 * A case runs in a child process (in_child) and says whether its results are right; a mistake ends the child, or gives
 * wrong results, or is a race that ThreadSanitizer reports. Each wrong kernel stands beside the right one: the same
 * template with one thing left out.
 */
#pragma once

#include <cuda_runtime.h>

#include <string>

struct Case {
    const char *name;
    bool (*run)();
    const char *says; /* what the report must contain; null where only results or races tell */
};

/* Terminated by a null name. */
extern const Case right_cases[];         /* silent, with right results, in every order */
extern const Case reported_cases[];      /* reported in every order */
extern const Case alignment_cases[];     /* misaligned loads and stores: reported in every order */
extern const Case memory_cases[];        /* touches outside arrays: reported in every order */
extern const Case order_cases[];         /* wrong results in some order; a race in every order */
extern const Case race_cases[];          /* no order shows them by value; a race in every order */
extern const Case async_cases[];         /* cp.async: wrong results in some order */
extern const Case host_reported_cases[]; /* mistakes of host code that are reported */
extern const Case host_value_cases[];    /* mistakes of host code that show by value with deferred streams */
extern const Case host_right_cases[];

struct Outcome {
    bool exited; /* false: a signal ended it */
    int status;
    std::string text; /* what it wrote to stderr */
};
Outcome in_child(const Case &which, const char *order, const char *streams);

/* The orders a test of a kernel runs under: in-order, reverse, 8 random and 8 priority ones. */
extern const char *const orders[18];

/* Managed memory of `n` elements, 0xFF bytes. */
template <class T> T *managed(size_t n)
{
    void *p = nullptr;
    if (cudaMallocManaged(&p, n * sizeof(T), cudaMemAttachGlobal) != cudaSuccess) __builtin_abort();
    return static_cast<T *>(p);
}

/* A kernel file of these tests launches on the default stream; a launch that fails is a wrong result. */
bool finished();
