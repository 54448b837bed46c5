/*
 * alignment.cpp - loads and stores at addresses that are no multiple of what their type asks for: a trap on a device,
 * nothing on this processor. Kernel files are compiled with -fsanitize=alignment and their checks report here, not to the
 * sanitizer's library, which knows neither kernel nor thread. Builds with that library leave it the word.
 */
#include "block.h"

#if !defined(__SANITIZE_ADDRESS__)

namespace
{
/* What the compiler passes: laid out as in GCC and Clang. */
struct SourcePlace {
    const char *file;
    uint32_t line, column;
};

struct TypeName {
    uint16_t kind, info;
    char text[1]; /* with its quotes */
};

struct Mismatch {
    SourcePlace place;
    const TypeName *type;
    unsigned char log2_alignment, access; /* 0: load, 1: store, others: through a reference, a member */
};
} // namespace

extern "C" void __ubsan_handle_type_mismatch_v1(const Mismatch *m, uintptr_t address)
{
    emu::report(m->place.file, static_cast<int>(m->place.line), "a %s of %s at %p, which is not aligned to %u bytes",
                m->access == 0   ? "load"
                : m->access == 1 ? "store"
                                 : "use",
                m->type->text, reinterpret_cast<void *>(address), 1u << m->log2_alignment);
}

#endif
