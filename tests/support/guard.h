/*
 * guard.h - a CPU backend whose arenas cannot be read or written outside of operations.
 *
 * Every arena is mapped without access rights and opened only between backend_enter and backend_leave, so code outside
 * of operations that touches a tensor's bytes dies on the spot. Proves invariant I3.
 */
#pragma once

#include "backend/backend.h"

typedef struct Guard Guard;

Guard *guard_create(void);
void guard_free(Guard *g); /* all arenas must have been released */

/* Hooks for BackendOptions.hooks; they borrow the guard. */
BackendHooks guard_hooks(Guard *g);

/* Operations that opened the arenas so far. */
long guard_operations(const Guard *g);
