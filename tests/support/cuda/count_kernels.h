/* count_kernels.h - where the hooks of the sanitizer leave what they see. */
#pragma once

#include <stddef.h>

namespace emu
{
void count_access(const void *at, size_t bytes, bool store, const void *place);
void count_atomic();
} // namespace emu
