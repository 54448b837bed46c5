/* count_names.h - the name of a kernel as the compiler wrote it, template arguments included. */
#pragma once

#include <string>

namespace emu
{
/* Without return type, parameters and unnamed namespaces; empty when the program has no symbols. */
std::string kernel_name(const void *function);
} // namespace emu
