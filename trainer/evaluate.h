/*
 * evaluate.h - loss and perplexity of a model on a data set, in the arenas of the model.
 */
#pragma once

#include "data/dataset.h"
#include "model/model.h"
#include "trainer/metrics.h"

typedef struct Evaluation {
    Backend *backend;
    Model *model;
    const Dataset *data;
    BatchCursor *cursor; /* on `data`, of `micro_rows` rows */
    int64_t micro_rows;
    bool (*stop)(void *user); /* asked between micro-batches; may be null */
    void *user;
} Evaluation;

/* Loss is the mean over all targets of all rows, in file order. *stopped (may be null): `stop` said so, *out is void. */
bool evaluate(const Evaluation *e, EvalMetrics *out, bool *stopped, Err *err) MUST_USE;

/* Most tokens that one micro-batch of an epoch in this order has. */
int64_t evaluate_longest(BatchCursor *cursor, int64_t rows, int64_t micro_rows);
