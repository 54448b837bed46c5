/*
 * command.h - the commands of the program and their command lines.
 *
 * `qlora COMMAND [options] [files]`; options may stand before, between or after the files, as `--name value` or
 * `--name=value`; `--` ends them. Results go to stdout, everything else to stderr. A command fills Err and main turns
 * it into lines and an exit status.
 */
#pragma once

#include "base/text.h"

#include <stdint.h>

enum { COMMAND_OPTIONS_MAX = 24, COMMAND_FILES_MAX = 2 };

typedef struct CommandOption {
    const char *name;     /* "json": --json */
    const char *argument; /* "DIR"; null: a flag */
    const char *help;
} CommandOption;

typedef struct CommandLine CommandLine;

typedef struct Command {
    const char *name;
    const char *files;   /* as --help prints it: "CONFIG" */
    const char *summary; /* one line */
    const char *details; /* further lines for --help, or null */
    int min_files, max_files;
    const CommandOption *options;
    int option_count;
    bool device_is_key; /* --device is the key of the configuration */
    bool (*run)(const CommandLine *line, Err *err);
} Command;

struct CommandLine {
    const Command *command;
    const char *files[COMMAND_FILES_MAX];
    int file_count;
    const char *values[COMMAND_OPTIONS_MAX]; /* of each option, last one wins; "" for a flag; null: not given */
    const char **sets;                       /* "key=value" of every --set, in order, then of --device */
    int set_count;
    Text device; /* "device=..." */
    bool help;
};

/* Texts are borrowed from argv. */
bool command_line_parse(CommandLine *out, const Command *command, int argc, char **argv, Err *err) MUST_USE;
void command_line_free(CommandLine *line);
void command_help(const Command *command); /* to stdout */

bool command_flag(const CommandLine *line, const char *option);
const char *command_text(const CommandLine *line, const char *option); /* null: not given */
/* Not given: *out stays. ERR_ARG when it is no number or out of range. */
bool command_int(const CommandLine *line, const char *option, int64_t low, int64_t high, int64_t *out,
                 Err *err) MUST_USE;
bool command_real(const CommandLine *line, const char *option, double low, double high, double *out, Err *err) MUST_USE;

/* Options that every command with a configuration has. */
#define COMMAND_SET                                                                                                    \
    {                                                                                                                  \
        "set", "KEY=VALUE", "override a key of the configuration; may be repeated"                                     \
    }
#define COMMAND_DEVICE                                                                                                 \
    {                                                                                                                  \
        "device", "DEVICE", "where to compute: auto, cpu, cuda or cuda:N; the same as --set device=DEVICE"             \
    }
#define COMMAND_JSON                                                                                                   \
    {                                                                                                                  \
        "json", NULL, "print one line of JSON for scripts"                                                             \
    }

extern const Command command_train, command_plan, command_eval, command_generate, command_quantize, command_tokenize,
    command_inspect, command_doctor, command_schema, command_explain;
