#include "trainer/evaluate.h"

#include "base/log.h"
#include "trainer/process.h"

bool evaluate(const Evaluation *e, EvalMetrics *out, bool *stopped, Err *err)
{
    const int64_t rows = dataset_rows(e->data);
    const double start = process_seconds();
    double loss = 0;
    int64_t tokens = 0;
    for (int64_t row = 0; row < rows; row += e->micro_rows) {
        if (e->stop && e->stop(e->user)) {
            if (stopped) *stopped = true;
            return true;
        }
        Batch batch;
        batch_cursor_get(e->cursor, row, e->micro_rows < rows - row ? e->micro_rows : rows - row, &batch);
        loss += model_evaluate(e->model, &batch);
        tokens += batch.trained_tokens;
        log_progress("evaluation", (double)row, (double)rows, "rows", false);
    }
    log_progress("evaluation", (double)rows, (double)rows, "rows", true);
    if (!backend_sync(e->backend, err)) return false;
    *out = (EvalMetrics){
        .step = out->step,
        .loss = tokens ? loss / (double)tokens : 0,
        .tokens = tokens,
        .seconds = process_seconds() - start,
    };
    return true;
}

int64_t evaluate_longest(BatchCursor *cursor, int64_t rows, int64_t micro_rows)
{
    int64_t longest = 0;
    for (int64_t row = 0; row < rows; row += micro_rows) {
        Batch batch;
        batch_cursor_get(cursor, row, micro_rows < rows - row ? micro_rows : rows - row, &batch);
        if (batch.tokens > longest) longest = batch.tokens;
    }
    return longest;
}
