#include "trainer/command.h"

#include "base/check.h"
#include "base/mem.h"
#include "base/text.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool unknown_option(const Command *c, const char *argument, size_t length, Err *err)
{
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)(length < 60 ? length : 60), argument);
    char shown[128];
    text_printable(shown, sizeof shown, name, strlen(name));
    const char *nearest = NULL;
    int best = 4;
    const char *bare = name + strspn(name, "-");
    for (int i = 0; i < c->option_count; i++) {
        const int d = text_distance(bare, c->options[i].name, 3);
        if (d < best) {
            best = d;
            nearest = c->options[i].name;
        }
    }
    if (nearest) {
        return FAIL(err, ERR_ARG, "unknown option \"%s\" of \"qlora %s\"; did you mean \"--%s\"?", shown, c->name,
                    nearest);
    }
    return FAIL(err, ERR_ARG, "unknown option \"%s\"; \"qlora %s --help\" lists what there is", shown, c->name);
}

static int find_option(const Command *c, const char *name, size_t length)
{
    for (int i = 0; i < c->option_count; i++) {
        if (strlen(c->options[i].name) == length && memcmp(c->options[i].name, name, length) == 0) return i;
    }
    return -1;
}

/* One option at argv[*at]; *at moves to its last word. */
static bool take_option(CommandLine *line, int argc, char **argv, int *at, Err *err)
{
    const Command *c = line->command;
    const char *word = argv[*at];
    const size_t length = strcspn(word, "=");
    const int i = strncmp(word, "--", 2) == 0 && length > 2 ? find_option(c, word + 2, length - 2) : -1;
    if (i < 0) return unknown_option(c, word, length, err);
    const CommandOption *o = &c->options[i];
    const char *value = word[length] == '=' ? word + length + 1 : NULL;
    if (!o->argument) {
        if (value) return FAIL(err, ERR_ARG, "--%s takes no value", o->name);
        line->values[i] = "";
        return true;
    }
    if (!value) {
        if (*at + 1 >= argc) return FAIL(err, ERR_ARG, "--%s needs a value: --%s %s", o->name, o->name, o->argument);
        value = argv[++*at];
    }
    if (!*value && strcmp(o->argument, "TEXT") != 0) { /* a shell variable that was never set, mostly */
        return FAIL(err, ERR_ARG, "--%s is empty: --%s %s", o->name, o->name, o->argument);
    }
    line->values[i] = value;
    if (strcmp(o->name, "set") == 0) line->sets[line->set_count++] = value;
    return true;
}

static bool set_device(CommandLine *line, Err *err)
{
    const char *device = line->command->device_is_key ? command_text(line, "device") : NULL;
    if (!device) return true;
    if (!text_format(&line->device, err, "device=%s", device)) return false;
    line->sets[line->set_count++] = line->device.bytes;
    return true;
}

bool command_line_parse(CommandLine *out, const Command *command, int argc, char **argv, Err *err)
{
    CHECK(command->option_count <= COMMAND_OPTIONS_MAX && command->max_files <= COMMAND_FILES_MAX);
    CommandLine line = {.command = command};
    bool options_over = false;
    line.sets = mem_alloc((size_t)argc + 1, sizeof *line.sets, err);
    if (!line.sets) return false;
    for (int i = 0; i < argc; i++) {
        const char *word = argv[i];
        if (!options_over && strcmp(word, "--") == 0) {
            options_over = true;
        } else if (!options_over && (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0)) {
            line.help = true;
        } else if (!options_over && word[0] == '-' && word[1]) {
            TRY(take_option(&line, argc, argv, &i, err));
        } else if (line.file_count < command->max_files) {
            line.files[line.file_count++] = word;
        } else {
            char shown[128];
            (void)FAIL(err, ERR_ARG, "\"%s\" is one argument too many: qlora %s %s",
                       text_printable(shown, sizeof shown, word, strlen(word)), command->name, command->files);
            goto fail;
        }
    }
    if (!line.help && line.file_count < command->min_files) {
        (void)FAIL(err, ERR_ARG, "something is missing: qlora %s %s (\"qlora %s --help\" says more)", command->name,
                   command->files, command->name);
        goto fail;
    }
    TRY(set_device(&line, err));
    *out = line;
    return true;
fail:
    command_line_free(&line);
    return false;
}

void command_line_free(CommandLine *line)
{
    mem_free(line->sets);
    text_free(&line->device);
    *line = (CommandLine){0};
}

void command_help(const Command *command)
{
    printf("qlora %s %s\n\n%s.\n", command->name, command->files, command->summary);
    if (command->details) printf("%s\n", command->details);
    printf("\nOptions:\n");
    for (int i = 0; i < command->option_count; i++) {
        const CommandOption *o = &command->options[i];
        char name[64];
        snprintf(name, sizeof name, "--%s%s%s", o->name, o->argument ? " " : "", o->argument ? o->argument : "");
        printf("  %-24s %s\n", name, o->help);
    }
    printf("  %-24s %s\n", "-h, --help", "this text");
}

const char *command_text(const CommandLine *line, const char *option)
{
    const int i = find_option(line->command, option, strlen(option));
    CHECK(i >= 0);
    return line->values[i];
}

bool command_flag(const CommandLine *line, const char *option)
{
    return command_text(line, option) != NULL;
}

bool command_int(const CommandLine *line, const char *option, int64_t low, int64_t high, int64_t *out, Err *err)
{
    const char *text = command_text(line, option);
    if (!text) return true;
    char *end = NULL;
    errno = 0;
    const long long value = strtoll(text, &end, 10);
    if (end == text || *end || errno || value < low || value > high) {
        char shown[64];
        return FAIL(err, ERR_ARG, "--%s: \"%s\" is not a whole number from %lld to %lld", option,
                    text_printable(shown, sizeof shown, text, strlen(text)), (long long)low, (long long)high);
    }
    *out = value;
    return true;
}

bool command_real(const CommandLine *line, const char *option, double low, double high, double *out, Err *err)
{
    const char *text = command_text(line, option);
    if (!text) return true;
    char *end = NULL;
    const double value = strtod(text, &end);
    if (end == text || *end || !isfinite(value) || value < low || value > high) {
        char shown[64];
        return FAIL(err, ERR_ARG, "--%s: \"%s\" is not a number from %g to %g", option,
                    text_printable(shown, sizeof shown, text, strlen(text)), low, high);
    }
    *out = value;
    return true;
}
