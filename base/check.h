/*
 * check.h - assertions that stay on in every build, and arithmetic that cannot wrap.
 *
 * CHECK is for bugs of ours: two of our own tensors disagree. It prints the place and aborts. DCHECK is the same in
 * debug builds only, for hot loops. Numbers that come from a file never meet a raw `+` or `*`: they go through
 * checked_add, checked_mul and checked_align, which return false instead of wrapping.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (__builtin_expect(!(condition), 0)) check_failed(#condition, __FILE__, __LINE__);                           \
    } while (0)
#ifdef NDEBUG
#    define DCHECK(condition) ((void)0)
#else
#    define DCHECK(condition) CHECK(condition)
#endif

__attribute__((noreturn, cold)) void check_failed(const char *condition, const char *file, int line);

static inline bool checked_add(uint64_t a, uint64_t b, uint64_t *sum)
{
    return !__builtin_add_overflow(a, b, sum);
}

static inline bool checked_mul(uint64_t a, uint64_t b, uint64_t *product)
{
    return !__builtin_mul_overflow(a, b, product);
}

/* value rounded up to a multiple of align, a power of two */
static inline bool checked_align(uint64_t value, uint64_t align, uint64_t *out)
{
    uint64_t sum;
    if (!checked_add(value, align - 1, &sum)) return false;
    *out = sum & ~(align - 1);
    return true;
}

static inline int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static inline int64_t round_up(int64_t a, int64_t multiple)
{
    return ceil_div(a, multiple) * multiple;
}

#define ARRAY_COUNT(array) (sizeof(array) / sizeof((array)[0]))

#ifdef __cplusplus
}
#endif
