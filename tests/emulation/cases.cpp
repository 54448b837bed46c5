#include "cases.h"
#include "emulation.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backend/cuda.h"

/* There when the program is linked with ThreadSanitizer. */
extern "C" __attribute__((weak)) void __tsan_init(void);

const char *const orders[18] = {"in-order",   "reverse",    "random:1",   "random:2",   "random:3",   "random:4",
                                "random:5",   "random:6",   "random:7",   "random:8",   "priority:1", "priority:2",
                                "priority:3", "priority:4", "priority:5", "priority:6", "priority:7", "priority:8"};

Outcome in_child(const Case &which, const char *order, const char *streams)
{
    int ends[2];
    if (pipe(ends) != 0) abort();
    fflush(nullptr);
    const pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        if (!emulation_order(order) || !emulation_streams(streams)) _exit(99);
        const bool right = which.run();
        fflush(nullptr);
        if (__tsan_init) exit(right ? 0 : 1); /* ThreadSanitizer speaks its verdict there */
        _exit(right ? 0 : 1);
    }
    close(ends[1]);
    Outcome outcome = {};
    char buffer[4096];
    for (ssize_t n; (n = read(ends[0], buffer, sizeof buffer)) > 0;)
        outcome.text.append(buffer, static_cast<size_t>(n));
    close(ends[0]);
    int status = 0;
    waitpid(child, &status, 0);
    outcome.exited = WIFEXITED(status);
    outcome.status = outcome.exited ? WEXITSTATUS(status) : WTERMSIG(status);
    return outcome;
}

bool finished()
{
    return cudaGetLastError() == cudaSuccess && cudaDeviceSynchronize() == cudaSuccess;
}

/* Kernel files name these; the cases here launch on plain streams. */
cudaStream_t cuda_stream(const Backend *)
{
    return nullptr;
}

void cuda_note(Backend *, cudaError_t e, const char *what)
{
    if (e == cudaSuccess) return;
    fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(e));
    exit(3);
}
