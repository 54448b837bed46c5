#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "trainer/command.h"
#include "trainer/plan.h"
#include "trainer/run.h"

#include <stdio.h>
#include <string.h>

/* A source that is no glob and is not there: planned without. */
static const char *missing_data(const Config *c)
{
    for (int i = 0; i < c->datasets.count; i++) {
        const char *path = c->datasets.items[i].path;
        if (!strpbrk(path, "*?[") && !file_exists(path)) return path;
    }
    for (int i = 0; i < c->test_datasets.count; i++) {
        const char *path = c->test_datasets.items[i].path;
        if (!strpbrk(path, "*?[") && !file_exists(path)) return path;
    }
    return NULL;
}

static bool file_holds(const char *folder, const char *name)
{
    Err ignored = {0};
    char *path = path_join(folder, name, &ignored);
    const bool there = path && file_exists(path);
    mem_free(path);
    return there;
}

/* A plan works without weights, and without the tokenizer or the data where they are not there yet. */
static bool open_what_is_there(Session *s, Err *err)
{
    Err fault = {0};
    if (!session_open_tokenizer(s, &fault)) {
        if (source_is_gguf(s->source) || file_holds(s->base_path, "tokenizer.json")) {
            *err = fault;
            return false;
        }
        log_warn("planned without the data, because there is no tokenizer: %s", fault.text);
        settings_skip_data(s->config);
        return true;
    }
    const char *missing = missing_data(s->config);
    if (missing) {
        log_warn("planned without the data: %s is not there", missing);
        settings_skip_data(s->config);
        return true;
    }
    return session_open_data(s, true, err);
}

static bool print_plan(const Plan *p, const Session *s, bool json, Err *err)
{
    Text text = {0};
    const bool ok = json ? plan_json(p, s, &text, err) : plan_text(p, s, &text, err);
    if (ok && json) puts(text.bytes);
    if (ok && !json) fputs(text.bytes, stdout);
    text_free(&text);
    return ok;
}

static bool run(const CommandLine *line, Err *err)
{
    Config *config = NULL;
    Session s = {0};
    Prompts prompts = {0};
    Plan plan;
    bool ok = false;
    if (!config_load(&config, line->files[0], line->sets, line->set_count, err)) return false;
    config_log_notices(config);
    const SessionOptions options = {.weights = false};
    TRY(session_open(&s, config, &options, err));
    TRY(open_what_is_there(&s, err));
    if (s.tokenizer) TRY(run_sample_prompts(&prompts, &s, err));
    (void)settings_schedule(config, 1);
    TRY(plan_make(&plan, &s, &prompts, NULL, err));
    TRY(config_check_consumed(config, err));
    TRY(print_plan(&plan, &s, command_flag(line, "json"), err));
    ok = true;
fail:
    prompts_free(&prompts);
    session_close(&s);
    config_free(config);
    return ok;
}

static const CommandOption options[] = {COMMAND_SET, COMMAND_JSON};

const Command command_plan = {
    .name = "plan",
    .files = "CONFIG [--json] [--set KEY=VALUE ...]",
    .summary = "Check a configuration and print what it will train, in how many updates and how much memory",
    .details = "Needs no weights: config.json or the header of a GGUF file is enough.",
    .min_files = 1,
    .max_files = 1,
    .options = options,
    .option_count = 2,
    .run = run,
};
