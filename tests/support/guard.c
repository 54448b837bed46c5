#include "tests/support/guard.h"

#include "base/check.h"

#include <stdlib.h>
#include <sys/mman.h>

enum { ARENAS_MAX = 16 };

struct Guard {
    struct {
        void *storage; /* null: slot is free */
        size_t bytes;
    } arenas[ARENAS_MAX];
    bool inside;
    long operations;
};

Guard *guard_create(void)
{
    Guard *g = calloc(1, sizeof *g);
    CHECK(g);
    return g;
}

void guard_free(Guard *g)
{
    for (int i = 0; i < ARENAS_MAX; i++)
        CHECK(!g->arenas[i].storage);
    free(g);
}

static void *reserve(void *state, size_t bytes)
{
    Guard *g = state;
    void *storage =
        mmap(NULL, bytes, g->inside ? PROT_READ | PROT_WRITE : PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (storage == MAP_FAILED) return NULL;
    for (int i = 0; i < ARENAS_MAX; i++) {
        if (g->arenas[i].storage) continue;
        g->arenas[i].storage = storage;
        g->arenas[i].bytes = bytes;
        return storage;
    }
    CHECK(false);
}

static void release(void *state, void *storage, size_t bytes)
{
    Guard *g = state;
    for (int i = 0; i < ARENAS_MAX; i++) {
        if (g->arenas[i].storage == storage) g->arenas[i].storage = NULL;
    }
    CHECK(munmap(storage, bytes) == 0);
}

static void protect(Guard *g, int rights)
{
    for (int i = 0; i < ARENAS_MAX; i++) {
        if (g->arenas[i].storage) CHECK(mprotect(g->arenas[i].storage, g->arenas[i].bytes, rights) == 0);
    }
}

static void enter(void *state)
{
    Guard *g = state;
    CHECK(!g->inside);
    g->inside = true;
    g->operations++;
    protect(g, PROT_READ | PROT_WRITE);
}

static void leave(void *state)
{
    Guard *g = state;
    CHECK(g->inside);
    g->inside = false;
    protect(g, PROT_NONE);
}

BackendHooks guard_hooks(Guard *g)
{
    return (BackendHooks){.reserve = reserve, .release = release, .enter = enter, .leave = leave, .state = g};
}

long guard_operations(const Guard *g)
{
    return g->operations;
}
