/*
 * mem.h - host memory, so that every allocation can fail in a test and can be counted.
 *
 * All of our own heap memory comes from here. mem_alloc returns zeroed memory or null with ERR_MEMORY set. Sizes are
 * count x size, multiplied with a check. mem_free accepts null. Buffers of the training step do not come from here but
 * from arenas (base/arena.h).
 */
#pragma once

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

void *mem_alloc(size_t count, size_t size, Err *err) MUST_USE;

/* Like realloc: `block` may be null; on failure it stays as it was. New bytes are not zeroed. */
void *mem_resize(void *block, size_t count, size_t size, Err *err) MUST_USE;

void mem_free(void *block);

/* A copy that the caller frees with mem_free. */
char *mem_copy_text(const char *text, Err *err) MUST_USE;
char *mem_copy_bytes(const char *bytes, size_t length, Err *err) MUST_USE; /* with a terminating NUL added */

/* Grows *items (of `size` bytes each) so that it holds at least `need`; capacity doubles. */
bool mem_grow(void *items, size_t *capacity, size_t need, size_t size, Err *err) MUST_USE;

/* Allocations so far, frees not subtracted: the test that nothing is allocated after the first step reads it. */
uint64_t mem_alloc_count(void);

/* Test hook: the n-th allocation from now on fails (1 = the next one), and all after it when `sticky`. 0 turns it off. */
void mem_fail_at(uint64_t nth, bool sticky);

#ifdef __cplusplus
}
#endif
