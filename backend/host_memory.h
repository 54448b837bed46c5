/*
 * host_memory.h - how much memory this process may still take.
 */
#pragma once

#include <stddef.h>

/*
 * The smaller of what the machine has free (MemAvailable) and what the memory limits of the process's control groups
 * leave (versions 1 and 2, page cache not counted as used). SIZE_MAX when nothing can be found out. `root` is "" but
 * in tests, which point it at a folder that looks like /.
 */
size_t host_memory_available(const char *root);
