/*
 * report.cpp - how the emulation says what is wrong: one sentence, then who, where and in which order, then abort().
 */
#include "block.h"
#include "device_memory.h"

#include <dlfcn.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

namespace emu
{
namespace
{
void print_place()
{
    if (block.current != nullptr && block.launch != nullptr) {
        const uint3 &t = block.current->index;
        fprintf(stderr, "    kernel %s, block (%u,%u,%u), thread (%u,%u,%u), launched at %s:%d\n", block.launch->name,
                block_index.x, block_index.y, block_index.z, t.x, t.y, t.z, block.launch->file, block.launch->line);
    } else if (block.launch != nullptr) {
        fprintf(stderr, "    kernel %s, block (%u,%u,%u), launched at %s:%d\n", block.launch->name, block_index.x,
                block_index.y, block_index.z, block.launch->file, block.launch->line);
    }
    fprintf(stderr, "    QLORA_CUDA_ORDER=%s\n", schedule_text());
}

/* File and line of an instruction, as addr2line knows them. The program is lost, so a child may be started. */
void print_source(void *instruction)
{
    Dl_info info;
    if (dladdr(instruction, &info) == 0 || info.dli_fname == nullptr) return;
    char offset[32];
    snprintf(offset, sizeof offset, "0x%tx", static_cast<char *>(instruction) - static_cast<char *>(info.dli_fbase));
    fflush(stderr);
    const pid_t child = fork();
    if (child == 0) {
        dup2(STDERR_FILENO, STDOUT_FILENO);
        execlp("addr2line", "addr2line", "-f", "-C", "-p", "-i", "-e", info.dli_fname, offset,
               static_cast<char *>(nullptr));
        _exit(1);
    }
    if (child > 0) waitpid(child, nullptr, 0);
}

void on_fault(int, siginfo_t *info, void *context)
{
    const char *what = shared_describe(info->si_addr);
    if (what == nullptr) what = device_describe(info->si_addr);
    if (what == nullptr && fiber_stack_overflow(info->si_addr))
        what = "the guard page below a thread's stack of 256 KiB";
    if (what == nullptr) what = "memory that does not exist";
    const char *who = block.current != nullptr ? "a kernel" : "host code";
    fprintf(stderr, "cuda emulation: %s touches %s (address %p)\n", who, what, info->si_addr);
#if defined(__x86_64__)
    print_source(reinterpret_cast<void *>(static_cast<ucontext_t *>(context)->uc_mcontext.gregs[REG_RIP]));
#else
    (void)context;
#endif
    print_place();
    signal(SIGABRT, SIG_DFL);
    abort();
}
} // namespace

void report(const char *file, int line, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "cuda emulation: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n    at %s:%d\n", file, line);
    va_end(arguments);
    print_place();
    abort();
}

/* Called by ThreadSanitizer after each race that it prints. */
extern "C" void __tsan_on_report(void *)
{
    fprintf(stderr, "cuda emulation: this race is in\n");
    print_place();
}

/* Again and again: test frameworks set handlers of their own. The handler has its own stack, for stack overflows. */
void report_faults()
{
    static char stack[64 << 10];
    static struct sigaction action = [] {
        stack_t alternative = {};
        alternative.ss_sp = stack;
        alternative.ss_size = sizeof stack;
        sigaltstack(&alternative, nullptr);
        struct sigaction chosen = {};
        chosen.sa_sigaction = on_fault;
        chosen.sa_flags = SA_SIGINFO | SA_ONSTACK;
        sigaction(SIGBUS, &chosen, nullptr);
        return chosen;
    }();
    sigaction(SIGSEGV, &action, nullptr);
}
} // namespace emu
