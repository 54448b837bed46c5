/* Who takes the signals of a run: before it listens, while it listens, and the second one. */
#include "trainer/signals.h"

#include "base/check.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

static int ends[2]; /* the child writes a byte when it is ready, and the number of the signal that asked */

static void tell(int number)
{
    const unsigned char byte = (unsigned char)number;
    CHECK(write(ends[1], &byte, 1) == 1);
}

static int hear(void)
{
    unsigned char byte;
    return read(ends[0], &byte, 1) == 1 ? byte : -1;
}

/* Says what asked, then stays until the parent ends it. */
static void live(bool listens)
{
    Err err = {0};
    alarm(60); /* a test that fails leaves nobody behind */
    CHECK(signals_open(&err));
    if (listens) signals_listen();
    tell(0);
    for (;;) {
        static int told;
        if (signals_asked() != told) tell(told = signals_asked());
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
}

static pid_t child(bool listens, bool ignores)
{
    assert_int_equal(pipe(ends), 0);
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid > 0) {
        close(ends[1]);
        assert_int_equal(hear(), 0);
        return pid;
    }
    close(ends[0]);
    if (ignores) signal(SIGINT, SIG_IGN);
    live(listens);
    _exit(99);
}

static int status_of(pid_t pid)
{
    int status;
    close(ends[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

static void before_a_run_listens_a_signal_ends_the_process(void **state)
{
    (void)state;
    static const int signals[] = {SIGTERM, SIGINT, SIGUSR1};
    for (int i = 0; i < 3; i++) {
        const pid_t pid = child(false, false);
        kill(pid, signals[i]);
        assert_int_equal(status_of(pid), -signals[i]);
    }
}

static void a_signal_that_was_ignored_stays_ignored_before_a_run_listens(void **state)
{
    (void)state;
    const pid_t pid = child(false, true);
    kill(pid, SIGINT);
    kill(pid, SIGTERM);
    assert_int_equal(status_of(pid), -SIGTERM);
}

static void the_first_signal_asks_and_the_second_ends_the_process(void **state)
{
    (void)state;
    static const int signals[] = {SIGTERM, SIGINT, SIGUSR1};
    for (int i = 0; i < 3; i++) {
        const pid_t pid = child(true, false);
        kill(pid, signals[i]);
        assert_int_equal(hear(), signals[i]);
        kill(pid, signals[(i + 1) % 3]);
        assert_int_equal(status_of(pid), 128 + signals[(i + 1) % 3]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(before_a_run_listens_a_signal_ends_the_process),
        cmocka_unit_test(a_signal_that_was_ignored_stays_ignored_before_a_run_listens),
        cmocka_unit_test(the_first_signal_asks_and_the_second_ends_the_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
