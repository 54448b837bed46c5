#include "trainer/signals.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

static const int handled[] = {SIGTERM, SIGINT, SIGUSR1};
static bool open_already;
static atomic_bool listening;
static atomic_int asked;

/* As if it had never been blocked: ends the process, unless whoever started it had the signal ignored. */
static void let_through(int number)
{
    sigset_t one;
    sigemptyset(&one);
    sigaddset(&one, number);
    pthread_sigmask(SIG_UNBLOCK, &one, NULL);
    raise(number);
    pthread_sigmask(SIG_BLOCK, &one, NULL);
}

static void *wait_for_signals(void *set)
{
    for (;;) {
        int number, none = 0;
        if (sigwait(set, &number) != 0) continue;
        if (!atomic_load(&listening)) {
            let_through(number);
        } else if (!atomic_compare_exchange_strong(&asked, &none, number)) {
            _exit(128 + number); /* whoever asks twice does not want to wait; saves are whole or absent anyway */
        }
    }
    return NULL;
}

bool signals_open(Err *err)
{
    static sigset_t set; /* the thread's, for as long as the process lives */
    if (open_already) return true;
    sigemptyset(&set);
    for (size_t i = 0; i < sizeof handled / sizeof handled[0]; i++)
        sigaddset(&set, handled[i]);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    pthread_t thread;
    const int fault = pthread_create(&thread, NULL, wait_for_signals, &set);
    if (fault != 0) {
        pthread_sigmask(SIG_UNBLOCK, &set, NULL);
        return FAIL(err, ERR_MEMORY, "cannot start a thread for signals: %s", strerror(fault));
    }
    pthread_detach(thread);
    open_already = true;
    return true;
}

void signals_listen(void)
{
    atomic_store(&asked, 0);
    atomic_store(&listening, true);
}

void signals_restore(void)
{
    atomic_store(&listening, false);
    atomic_store(&asked, 0);
}

int signals_asked(void)
{
    return atomic_load(&asked);
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
