#include "backend/cuda.h"

#include <dlfcn.h>
#include <stdlib.h>

/* QLORA_CUBLAS names a library elsewhere. It stays open until the program ends: handles may live as long. */
static void *open_library(void)
{
    static const char *const names[] = {"libcublas.so.13", "libcublas.so.12"};
    static void *library;
    const char *chosen = getenv("QLORA_CUBLAS");
    if (library) return library;
    if (chosen) return library = dlopen(chosen, RTLD_NOW | RTLD_LOCAL);
    for (size_t i = 0; i < ARRAY_COUNT(names) && !library; i++)
        library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    return library;
}

void *cuda_library_symbol(const char *name)
{
    void *library = open_library();
    return library ? dlsym(library, name) : NULL;
}

const char *cuda_library_fault(void)
{
    (void)open_library();
    const char *text = dlerror();
    return text ? text : "a function is missing";
}
