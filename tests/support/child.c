#include "tests/support/child.h"

#include "base/check.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "tests/support/guard.h"
#include "trainer/config.h"
#include "trainer/run.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SECONDS_MAX = 600 }; /* a run that hangs ends by SIGALRM; sanitizers and emulated devices are slow */

static void arm(const ChildFault *f)
{
    if (f->file_operation) file_fail_at(f->file_operation, f->file_nth, f->file_error, f->sticky);
    if (f->disk_bytes) file_fail_after_bytes(f->disk_bytes);
    if (f->memory_nth) mem_fail_at(f->memory_nth, f->sticky);
}

static int train(const char *config_path, const char *const *overrides, const ChildFault *fault, ChildResult *result)
{
    int count = 0;
    while (overrides && overrides[count])
        count++;
    Err err = {0};
    Config *config = NULL;
    Guard *guard = fault->guarded ? guard_create() : NULL;
    RunOptions options = {.interrupt_after = fault->interrupt_after,
                          .first_loss_scale = fault->first_loss_scale,
                          .reference = fault->reference};
    if (guard) options.hooks = guard_hooks(guard);
    const uint64_t operations = file_operation_count(), allocations = mem_alloc_count(); /* of the parent */
    arm(fault);
    const bool ok =
        config_load(&config, config_path, overrides, count, &err) && run_train(config, &options, &result->report, &err);
    if (!ok) {
        log_err(&err);
        memcpy(result->error, err.text, sizeof err.text);
    }
    config_free(config);
    if (guard) {
        CHECK(!ok || guard_operations(guard) > 0);
        guard_free(guard);
    }
    result->file_operations = file_operation_count() - operations;
    result->allocations = mem_alloc_count() - allocations;
    return ok ? 0 : err_exit_status(err.code);
}

ChildResult child_train(const char *config_path, const char *const *overrides, const ChildFault *fault,
                        const char *log_path)
{
    static const ChildFault none = {0};
    if (!fault) fault = &none;
    int pipe_ends[2];
    CHECK(pipe(pipe_ends) == 0);
    const pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        const int log = open(log_path, O_WRONLY | O_CREAT | O_APPEND, 0666);
        CHECK(log >= 0 && dup2(log, STDERR_FILENO) >= 0 && dup2(log, STDOUT_FILENO) >= 0);
        ChildResult result = {0};
        alarm(SECONDS_MAX);
        result.status = train(config_path, overrides, fault, &result);
        CHECK(write(pipe_ends[1], &result, sizeof result) == sizeof result);
        _exit(result.status);
    }
    close(pipe_ends[1]);
    ChildResult result = {0};
    const bool reported = read(pipe_ends[0], &result, sizeof result) == sizeof result;
    close(pipe_ends[0]);
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    if (WIFSIGNALED(status)) {
        result.status = WTERMSIG(status) == SIGKILL ? -1 : -2;
    } else {
        result.status = reported ? WEXITSTATUS(status) : -2;
    }
    return result;
}
