#include "trainer/signals.h"

#include <signal.h>
#include <stddef.h>
#include <unistd.h>

static const int handled[] = {SIGTERM, SIGINT, SIGUSR1};
static volatile sig_atomic_t asked;

static void on_signal(int number)
{
    if (asked) _exit(128 + number); /* whoever asks twice does not want to wait; saves are whole or absent anyway */
    asked = number;
}

static void install(void (*handler)(int))
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < sizeof handled / sizeof handled[0]; i++)
        sigaction(handled[i], &action, NULL);
}

void signals_install(void)
{
    asked = 0;
    install(on_signal);
}

void signals_restore(void)
{
    install(SIG_DFL);
    asked = 0;
}

int signals_asked(void)
{
    return asked;
}

const char *signals_name(int number)
{
    switch (number) {
    case SIGTERM: return "SIGTERM";
    case SIGINT: return "SIGINT";
    case SIGUSR1: return "SIGUSR1";
    default: return "signal";
    }
}
