/*
 * count_names.cpp - looks a function up in the symbol table of the program itself: kernels are static, so dladdr does
 * not know them.
 */
#include "count_names.h"

#include <cxxabi.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <map>

namespace emu
{
namespace
{
using Symbols = std::map<uintptr_t, std::string>;

void read_symbols(const char *file, Symbols *symbols)
{
    const Elf64_Ehdr *header = reinterpret_cast<const Elf64_Ehdr *>(file);
    const Elf64_Shdr *sections = reinterpret_cast<const Elf64_Shdr *>(file + header->e_shoff);
    for (int i = 0; i < header->e_shnum; i++) {
        if (sections[i].sh_type != SHT_SYMTAB) continue;
        const char *names = file + sections[sections[i].sh_link].sh_offset;
        const Elf64_Sym *table = reinterpret_cast<const Elf64_Sym *>(file + sections[i].sh_offset);
        for (size_t k = 0; k < sections[i].sh_size / sizeof(Elf64_Sym); k++)
            if (ELF64_ST_TYPE(table[k].st_info) == STT_FUNC && table[k].st_value != 0)
                (*symbols)[table[k].st_value] = names + table[k].st_name;
    }
}

Symbols own_symbols()
{
    Symbols symbols;
    const int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    struct stat status;
    if (fd < 0) return symbols;
    if (fstat(fd, &status) == 0) {
        const size_t bytes = static_cast<size_t>(status.st_size);
        void *file = mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
        if (file != MAP_FAILED) {
            read_symbols(static_cast<const char *>(file), &symbols);
            munmap(file, bytes);
        }
    }
    close(fd);
    return symbols;
}

/* Where the program was loaded. */
int first_object(dl_phdr_info *info, size_t, void *base)
{
    *static_cast<uintptr_t *>(base) = info->dlpi_addr;
    return 1;
}

void drop(std::string *text, const char *part)
{
    for (size_t at; (at = text->find(part)) != std::string::npos;)
        text->erase(at, std::string(part).size());
}

/* "void (anonymous namespace)::k<float, 4>(float*)" becomes "k<float, 4>". */
std::string shortened(std::string name)
{
    drop(&name, "(anonymous namespace)::");
    int depth = 0;
    for (size_t i = 0; i < name.size(); i++) {
        depth += (name[i] == '<') - (name[i] == '>');
        if (name[i] == '(' && depth == 0) {
            name.erase(i);
            break;
        }
    }
    if (name.compare(0, 5, "void ") == 0) name.erase(0, 5);
    return name;
}
} // namespace

std::string kernel_name(const void *function)
{
    static const Symbols symbols = own_symbols();
    uintptr_t base = 0;
    dl_iterate_phdr(first_object, &base);
    const auto found = symbols.find(reinterpret_cast<uintptr_t>(function) - base);
    if (found == symbols.end()) return "";
    int status = 0;
    char *text = abi::__cxa_demangle(found->second.c_str(), nullptr, nullptr, &status);
    const std::string name = shortened(status == 0 ? text : found->second);
    free(text);
    return name;
}
} // namespace emu
