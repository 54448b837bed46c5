#include "trainer/device.h"

#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool device_parse(DeviceChoice *out, const char *text)
{
    static const struct {
        const char *name;
        DeviceKind kind;
    } names[] = {
        {"auto", DEVICE_AUTO},
        {"cpu",  DEVICE_CPU },
        {"cuda", DEVICE_CUDA},
        {"gpu",  DEVICE_CUDA},
    };
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        if (strcmp(text, names[i].name) != 0) continue;
        *out = (DeviceChoice){.kind = names[i].kind};
        return true;
    }
    const char *digits = text + strlen("cuda:");
    if (strncmp(text, "cuda:", strlen("cuda:")) != 0) return false;
    const size_t length = strspn(digits, "0123456789");
    if (length == 0 || length > 4 || digits[length]) return false;
    *out = (DeviceChoice){.kind = DEVICE_CUDA, .ordinal = atoi(digits)};
    return true;
}

static bool open_kind(Backend **out, BackendKind kind, int ordinal, const BackendOptions *options, Err *err)
{
    BackendOptions chosen = *options;
    chosen.kind = kind;
    chosen.device = ordinal;
    return backend_open(out, &chosen, err);
}

bool device_open(Backend **out, const DeviceChoice *choice, const BackendOptions *options, Err *err)
{
    if (choice->kind == DEVICE_CUDA) return open_kind(out, BACKEND_CUDA, choice->ordinal, options, err);
    /* Plain products and hooks are of the CPU. */
    const bool cpu_only = choice->kind == DEVICE_CPU || options->reference || options->hooks.reserve;
    Err why = {0};
    if (!cpu_only && backend_cuda_driver()) {
        if (open_kind(out, BACKEND_CUDA, 0, options, &why)) return true;
        log_warn("computing on the CPU: %s", why.text);
    }
    return open_kind(out, BACKEND_CPU, 0, options, err);
}

void device_describe_cuda(char *text, size_t size)
{
    const BackendOptions options = {.kind = BACKEND_CUDA};
    Backend *be = NULL;
    Err why = {0};
    if (!backend_open(&be, &options, &why)) {
        snprintf(text, size, "not usable: %s", why.text);
        return;
    }
    const BackendMemory memory = backend_memory(be);
    snprintf(text, size, "%s; %.1f GB free; computes in %s by default", backend_name(be), (double)memory.free * 1e-9,
             dtype_name(backend_preferred_dtype(be)));
    backend_close(be);
}
