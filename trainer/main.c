#include "base/log.h"
#include "base/text.h"
#include "trainer/command.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

static const Command *const commands[] = {
    &command_train,    &command_plan,     &command_eval,   &command_generate, &command_inspect,
    &command_quantize, &command_tokenize, &command_doctor, &command_schema,   &command_explain,
};
enum { COMMANDS = sizeof commands / sizeof commands[0] };

static void print_help(void)
{
    puts("qlora " QLORA_VERSION " - fine-tune a language model on this machine: frozen 4-bit base, LoRA adapters.\n\n"
         "qlora COMMAND [options]\n");
    for (int i = 0; i < COMMANDS; i++)
        printf("  %-10s %s\n", commands[i]->name, commands[i]->summary);
    puts("\nqlora COMMAND --help says more. Exit status: 0 done, 2 usage or configuration, 3 data, 4 model or "
         "checkpoint,\n"
         "5 memory or disk, 6 device, 7 diverged, 75 interrupted and resumable.");
}

static const Command *find_command(const char *name, Err *err)
{
    const Command *nearest = NULL;
    int best = 3;
    for (int i = 0; i < COMMANDS; i++) {
        if (strcmp(name, commands[i]->name) == 0) return commands[i];
        const int d = text_distance(name, commands[i]->name, 2);
        if (d < best) {
            best = d;
            nearest = commands[i];
        }
    }
    char shown[128];
    text_printable(shown, sizeof shown, name, strlen(name));
    (void)FAIL(err, ERR_ARG, "unknown command \"%s\"; %s%s%s\"qlora --help\" lists what there is", shown,
               nearest ? "did you mean \"" : "", nearest ? nearest->name : "", nearest ? "\"? " : "");
    return NULL;
}

static bool run(int argc, char **argv, Err *err)
{
    if (argc < 2) return FAIL(err, ERR_ARG, "no command given; \"qlora --help\" lists them");
    const char *name = argv[1];
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
        print_help();
        return true;
    }
    if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) {
        puts("qlora " QLORA_VERSION);
        return true;
    }
    const Command *command = find_command(name, err);
    if (!command) return false;
    CommandLine line = {0};
    if (!command_line_parse(&line, command, argc - 2, argv + 2, err)) return false;
    bool ok = true;
    if (line.help) {
        command_help(command);
    } else {
        ok = command->run(&line, err);
    }
    command_line_free(&line);
    return ok;
}

/*
 * Threads that wait for work spin only shortly before they sleep: beside one other busy process, libgomp's usual spinning
 * made a step ten times slower on two cores, and no spinning at all makes it a third slower on a quiet machine. libgomp
 * reads this when it is loaded, before main, so the program starts itself once more.
 */
static void let_idle_threads_sleep(char **argv)
{
    if (getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT")) return;
    if (setenv("GOMP_SPINCOUNT", "2000", 1) == 0) execv("/proc/self/exe", argv); /* without it: slower, not wrong */
}

int main(int argc, char **argv)
{
    let_idle_threads_sleep(argv);
    prctl(PR_SET_NAME, "qlora"); /* started by that path, ps and top would show "exe" */
    signal(SIGPIPE, SIG_IGN);    /* a reader that went away is an error of a write, not the end of a run */
    signal(SIGXFSZ, SIG_IGN);    /* and so is a file that may not grow (ulimit -f) */
    Err err = {0};
    bool ok = run(argc, argv, &err);
    if ((fflush(stdout) != 0 || ferror(stdout)) && ok) {
        ok = FAIL(&err, ERR_DISK, "could not write the result to standard output");
    }
    if (ok) return 0;
    log_err(&err);
    return err_exit_status(err.code);
}
