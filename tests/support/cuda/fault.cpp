#include "fault.h"
#include "block.h"
#include "settings.h"

#include <stdio.h>
#include <string.h>

#include <map>
#include <string>

namespace emu
{
namespace
{
struct Fault {
    std::string function;
    long call = 0; /* 0: none */
    cudaError_t code = cudaSuccess;
    bool once = false;
};

Fault fault;
cudaError_t broken = cudaSuccess; /* the device is gone: every call returns this */
cudaError_t last = cudaSuccess;
long calls_of_all;

/* By the address of the name: __func__ is one text a function. */
std::map<const char *, long> &calls()
{
    static std::map<const char *, long> of_function;
    return of_function;
}
} // namespace

bool fault_set(const char *text)
{
    Fault wanted;
    if (text != nullptr) {
        char name[64], tail[8] = "";
        int code = 0;
        const int fields = sscanf(text, "%63[^:]:%ld:%d:%7s", name, &wanted.call, &code, tail);
        if (fields < 3 || wanted.call < 1 || code == 0 || (fields == 4 && strcmp(tail, "once") != 0)) return false;
        wanted.function = name;
        wanted.code = static_cast<cudaError_t>(code);
        wanted.once = fields == 4;
    }
    fault = wanted;
    broken = last = cudaSuccess;
    calls_of_all = 0;
    calls().clear();
    return true;
}

long fault_calls(const char *function)
{
    if (function == nullptr) return calls_of_all;
    long count = 0;
    for (const auto &entry : calls())
        if (strcmp(entry.first, function) == 0) count += entry.second;
    return count;
}

cudaError_t fault_check(const char *function)
{
    settings(); /* may set the fault */
    report_faults();
    calls_of_all++;
    const long of_function = ++calls()[function];
    if (broken != cudaSuccess) return broken;
    if (fault.call == 0) return cudaSuccess;
    long call = 0;
    if (fault.function == "any") call = calls_of_all;
    if (fault.function == function) call = of_function;
    if (call < fault.call || (fault.once && call > fault.call)) return cudaSuccess;
    if (!fault.once && fault.code != cudaErrorMemoryAllocation) broken = fault.code;
    return fault.code;
}

cudaError_t keep(cudaError_t e)
{
    if (e != cudaSuccess) last = e;
    return e;
}

cudaError_t last_error(bool forget)
{
    const cudaError_t e = broken != cudaSuccess ? broken : last;
    if (forget) last = cudaSuccess;
    return e;
}

std::recursive_mutex &runtime_mutex()
{
    static std::recursive_mutex mutex;
    return mutex;
}
} // namespace emu
