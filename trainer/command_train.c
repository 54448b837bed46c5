#include "trainer/command.h"
#include "trainer/run.h"

static bool run(const CommandLine *line, Err *err)
{
    Config *config = NULL;
    if (!config_load(&config, line->files[0], line->sets, line->set_count, err)) return false;
    config_log_notices(config);
    const RunOptions options = {.interrupt_after = 0};
    RunReport report;
    const bool ok = run_train(config, &options, &report, err);
    config_free(config);
    return ok;
}

static const CommandOption options[] = {COMMAND_SET, COMMAND_DEVICE};

const Command command_train = {
    .name = "train",
    .files = "CONFIG [--device DEVICE] [--set KEY=VALUE ...]",
    .summary = "Train adapters as a configuration says; goes on by itself where an earlier run stopped",
    .details = "Everything that it writes is in output_dir: metrics.jsonl, checkpoint-NNNNNNNN/, and at the end the\n"
               "adapter, its configuration and the tokenizer. SIGTERM, SIGINT and SIGUSR1 save and stop with exit\n"
               "status 75; a second signal ends at once.",
    .min_files = 1,
    .max_files = 1,
    .options = options,
    .option_count = 2,
    .device_is_key = true,
    .run = run,
};
