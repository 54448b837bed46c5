/*
 * state.h - the inside of a Backend; only backend/ looks at it.
 */
#pragma once

#include "backend/backend.h"

typedef struct MatmulState MatmulState; /* primitives of the library and their scratch memory */

struct Backend {
    BackendKind kind;
    int threads;
    bool reference;
    BackendHooks hooks;
    int depth; /* of nested enters */
    char name[80];
    DType preferred;
    Err fault; /* first one since the last sync */
    MatmulState *matmul;
};

bool matmul_state_create(MatmulState **out, Err *err) MUST_USE;
void matmul_state_free(MatmulState *state);
