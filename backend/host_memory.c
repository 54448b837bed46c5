#include "backend/host_memory.h"

#include "base/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_SIZE = 4096, LINE_SIZE = 4096 };

/* The number after `key` at the start of a line; false when there is no such line. */
static bool read_key(const char *path, const char *key, uint64_t *value)
{
    FILE *file = fopen(path, "re");
    if (!file) return false;
    char line[LINE_SIZE];
    bool found = false;
    while (!found && fgets(line, sizeof line, file)) {
        if (strncmp(line, key, strlen(key)) != 0) continue;
        char *end;
        const char *digits = line + strlen(key);
        *value = strtoull(digits, &end, 10);
        found = end != digits;
    }
    fclose(file);
    return found;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* What is left in one control group: limit - (usage - page cache that can be dropped). No limit file: no limit. */
static uint64_t group_left(const char *folder, const char *limit_file, const char *usage_file, const char *cache_key)
{
    char path[PATH_SIZE];
    uint64_t limit, usage, cache = 0;
    snprintf(path, sizeof path, "%s/%s", folder, limit_file);
    if (!read_key(path, "", &limit)) return UINT64_MAX; /* also the word "max" */
    snprintf(path, sizeof path, "%s/%s", folder, usage_file);
    if (!read_key(path, "", &usage)) return UINT64_MAX;
    snprintf(path, sizeof path, "%s/memory.stat", folder);
    if (!read_key(path, cache_key, &cache)) cache = 0;
    const uint64_t used = usage > cache ? usage - cache : 0;
    return limit > used ? limit - used : 0;
}

/* A limit may stand on any group from this one up to the root. */
static uint64_t hierarchy_left(const char *mount, const char *group, bool unified)
{
    char folder[PATH_SIZE];
    if ((size_t)snprintf(folder, sizeof folder, "%s%s", mount, group) >= sizeof folder) return UINT64_MAX;
    uint64_t left = UINT64_MAX;
    for (;;) {
        left = least(left, unified ? group_left(folder, "memory.max", "memory.current", "inactive_file ")
                                   : group_left(folder, "memory.limit_in_bytes", "memory.usage_in_bytes",
                                                "total_inactive_file "));
        char *slash = strrchr(folder, '/');
        if (!slash || (size_t)(slash - folder) < strlen(mount)) return left;
        *slash = 0;
    }
}

/* Lines of /proc/self/cgroup: "0::/path" (version 2) and "4:memory:/path" (version 1). */
static uint64_t groups_left(const char *root)
{
    char path[PATH_SIZE], mount[PATH_SIZE], line[LINE_SIZE];
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *file = fopen(path, "re");
    if (!file) return UINT64_MAX;
    uint64_t left = UINT64_MAX;
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        char *controllers = strchr(line, ':');
        char *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group) continue;
        *group++ = 0;
        controllers++;
        const bool unified = controllers[0] == 0;
        if (!unified && !strstr(controllers, "memory")) continue;
        snprintf(mount, sizeof mount, "%s/sys/fs/cgroup%s", root, unified ? "" : "/memory");
        left = least(left, hierarchy_left(mount, group, unified));
    }
    fclose(file);
    return left;
}

size_t host_memory_available(const char *root)
{
    char path[PATH_SIZE];
    uint64_t kilobytes, left = UINT64_MAX;
    snprintf(path, sizeof path, "%s/proc/meminfo", root);
    if (read_key(path, "MemAvailable:", &kilobytes)) left = kilobytes * 1024;
    return (size_t)least(left, groups_left(root));
}
