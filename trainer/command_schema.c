#include "trainer/command.h"
#include "trainer/config_schema.h"

#include <stdio.h>

static bool print(Text *text, bool good)
{
    if (good && text->length) fwrite(text->bytes, 1, text->length, stdout);
    text_free(text);
    return good;
}

static bool run_schema(const CommandLine *line, Err *err)
{
    Text text = {0};
    const bool json = command_flag(line, "json");
    const bool markdown = command_flag(line, "markdown");
    if (json && markdown) return FAIL(err, ERR_ARG, "--json and --markdown are two forms of one thing; choose one");
    const bool good = json       ? config_schema_json(&text, err)
                      : markdown ? config_schema_markdown(&text, err)
                                 : config_schema_text(&text, err);
    return print(&text, good);
}

static const CommandOption schema_options[] = {
    COMMAND_JSON,
    {"markdown", NULL, "print configs/REFERENCE.md"},
};

const Command command_schema = {
    .name = "schema",
    .files = "[--json | --markdown]",
    .summary = "List every key of a configuration: default, range and meaning",
    .options = schema_options,
    .option_count = sizeof schema_options / sizeof schema_options[0],
    .run = run_schema,
};

static bool run_explain(const CommandLine *line, Err *err)
{
    Text text = {0};
    return print(&text, config_explain(&text, line->files[0], err));
}

const Command command_explain = {
    .name = "explain",
    .files = "KEY",
    .summary = "Say what one key of a configuration means; keys of other programs work too",
    .min_files = 1,
    .max_files = 1,
    .run = run_explain,
};
