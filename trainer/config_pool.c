#include "trainer/config_pool.h"

#include "base/mem.h"

#include <string.h>

void *config_pool_alloc(ConfigPool *pool, size_t count, size_t size, Err *err)
{
    if (!mem_grow(&pool->blocks, &pool->capacity, pool->count + 1, sizeof pool->blocks[0], err)) return NULL;
    void *block = mem_alloc(count, size, err);
    if (block) pool->blocks[pool->count++] = block;
    return block;
}

char *config_pool_text(ConfigPool *pool, const char *bytes, size_t length, Err *err)
{
    char *copy = config_pool_alloc(pool, length + 1, 1, err);
    if (copy) memcpy(copy, bytes, length);
    return copy;
}

void config_pool_free(ConfigPool *pool)
{
    for (size_t i = 0; i < pool->count; i++)
        mem_free(pool->blocks[i]);
    mem_free(pool->blocks);
    *pool = (ConfigPool){0};
}
