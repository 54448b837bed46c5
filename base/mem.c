#include "base/mem.h"

#include "base/check.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static atomic_uint_fast64_t allocations;
static atomic_uint_fast64_t fail_nth; /* 0: never */
static atomic_bool fail_sticky;

static bool must_fail(void)
{
    atomic_fetch_add(&allocations, 1);
    uint_fast64_t left = atomic_load(&fail_nth);
    while (left > 1) {
        if (atomic_compare_exchange_weak(&fail_nth, &left, left - 1)) return false;
    }
    if (left == 0) return false;
    if (!atomic_load(&fail_sticky)) atomic_store(&fail_nth, 0);
    return true;
}

static void *out_of_memory(size_t count, size_t size, Err *err)
{
    (void)FAIL(err, ERR_MEMORY, "out of host memory: could not get %zu x %zu bytes", count, size);
    return NULL;
}

/* No object is larger than PTRDIFF_MAX; sanitizers would end the program instead of yielding null. */
static bool fits(size_t count, size_t size, uint64_t *bytes)
{
    return checked_mul(count, size, bytes) && *bytes <= PTRDIFF_MAX;
}

void *mem_alloc(size_t count, size_t size, Err *err)
{
    uint64_t bytes;
    if (count == 0) count = 1;
    void *block = must_fail() || !fits(count, size, &bytes) ? NULL : calloc(1, bytes);
    return block ? block : out_of_memory(count, size, err);
}

void *mem_resize(void *block, size_t count, size_t size, Err *err)
{
    uint64_t bytes;
    if (count == 0) count = 1;
    void *moved = must_fail() || !fits(count, size, &bytes) ? NULL : realloc(block, bytes);
    return moved ? moved : out_of_memory(count, size, err);
}

void mem_free(void *block)
{
    free(block);
}

char *mem_copy_bytes(const char *bytes, size_t length, Err *err)
{
    char *copy = mem_alloc(length + 1, 1, err);
    if (copy) memcpy(copy, bytes, length);
    return copy;
}

char *mem_copy_text(const char *text, Err *err)
{
    return mem_copy_bytes(text, strlen(text), err);
}

bool mem_grow(void *items, size_t *capacity, size_t need, size_t size, Err *err)
{
    if (need <= *capacity) return true;
    size_t next = *capacity ? *capacity : 8;
    while (next < need) {
        if (next > SIZE_MAX / 2) return out_of_memory(need, size, err) != NULL;
        next *= 2;
    }
    void *block;
    memcpy(&block, items, sizeof block); /* items points at a typed pointer */
    block = mem_resize(block, next, size, err);
    if (!block) return false;
    memcpy(items, &block, sizeof block);
    *capacity = next;
    return true;
}

uint64_t mem_alloc_count(void)
{
    return atomic_load(&allocations);
}

void mem_fail_at(uint64_t nth, bool sticky)
{
    atomic_store(&fail_sticky, sticky);
    atomic_store(&fail_nth, nth);
}
