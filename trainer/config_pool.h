/*
 * config_pool.h - memory that is given back at once: the texts and lists of a configuration, the nodes of a tree.
 */
#pragma once

#include "base/err.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A zeroed struct is empty. */
typedef struct ConfigPool {
    void **blocks;
    size_t count, capacity;
} ConfigPool;

void *config_pool_alloc(ConfigPool *pool, size_t count, size_t size, Err *err) MUST_USE; /* zeroed */
char *config_pool_text(ConfigPool *pool, const char *bytes, size_t length, Err *err) MUST_USE;
void config_pool_free(ConfigPool *pool);

#ifdef __cplusplus
}
#endif
