#include "base/log.h"
#include "trainer/command.h"
#include "trainer/evaluate.h"
#include "trainer/session.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

/* Model of the right size for the longest micro-batch, with the adapter's values in it. */
static bool open_model(Session *s, BatchCursor *cursor, const char *adapter, Err *err)
{
    if (!session_use_adapter(s, adapter, err)) return false;
    s->settings.model.max_tokens = evaluate_longest(cursor, dataset_rows(s->validation), s->settings.micro_rows);
    return session_create_model(s, NULL, err) && session_place(s, err) &&
           (!adapter || session_load_adapter(s, adapter, err));
}

static void print_result(const EvalMetrics *m, bool json)
{
    if (json) {
        printf("{\"eval_loss\": %.17g, \"perplexity\": %.17g, \"tokens\": %" PRId64 "}\n", m->loss, exp(m->loss),
               m->tokens);
    } else {
        printf("eval_loss   %.6f\nperplexity  %.4f\ntokens      %" PRId64 "\n", m->loss, exp(m->loss), m->tokens);
    }
}

static bool evaluate_config(const Config *config, const char *adapter, bool json, Err *err)
{
    Session s = {0};
    BatchCursor *cursor = NULL;
    bool ok = false;
    const SessionOptions options = {.weights = true};
    TRY(session_open(&s, config, &options, err));
    if (!adapter) adapter = s.settings.adapter_path;
    TRY(session_open_tokenizer_if_any(&s, err));
    TRY(session_open_data(&s, false, err));
    if (!s.validation) {
        (void)FAIL(err, ERR_CONFIG, "there is nothing to evaluate on: set test_datasets or val_set_size");
        goto fail;
    }
    TRY(batch_cursor_create(&cursor, s.validation, s.settings.micro_rows, err));
    TRY(open_model(&s, cursor, adapter, err));
    log_info("%s%s on %" PRId64 " rows", adapter ? "base and adapter " : "base without adapter", adapter ? adapter : "",
             dataset_rows(s.validation));
    const Evaluation e = {.backend = s.backend,
                          .model = s.model,
                          .data = s.validation,
                          .cursor = cursor,
                          .micro_rows = s.settings.micro_rows};
    EvalMetrics m = {.step = 0};
    TRY(evaluate(&e, &m, NULL, err));
    print_result(&m, json);
    ok = true;
fail:
    batch_cursor_free(cursor);
    session_close(&s);
    return ok;
}

static bool run(const CommandLine *line, Err *err)
{
    Config *config = NULL;
    if (!config_load(&config, line->files[0], line->sets, line->set_count, err)) return false;
    config_log_notices(config);
    const bool ok = evaluate_config(config, command_text(line, "adapter"), command_flag(line, "json"), err);
    config_free(config);
    return ok;
}

static const CommandOption options[] = {
    COMMAND_SET,
    COMMAND_JSON,
    COMMAND_DEVICE,
    {"adapter", "FOLDER", "this adapter instead of adapter_path"},
};

const Command command_eval = {
    .name = "eval",
    .files = "CONFIG [--adapter FOLDER] [--json] [--set KEY=VALUE ...]",
    .summary = "Loss and perplexity on test_datasets or on the split, with adapter_path where it is set",
    .min_files = 1,
    .max_files = 1,
    .options = options,
    .option_count = 4,
    .device_is_key = true,
    .run = run,
};
