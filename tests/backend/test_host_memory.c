#include "backend/host_memory.h"

#include "tests/support/kernel_test.h"

#include <sys/stat.h>

/* A folder that looks like / to the reader. */
static char root[64];

static void write_file(const char *path, const char *text)
{
    char full[512];
    snprintf(full, sizeof full, "%s%s", root, path);
    for (char *slash = strchr(full + strlen(root) + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        mkdir(full, 0700);
        *slash = '/';
    }
    FILE *file = fopen(full, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static int setup(void **state)
{
    (void)state;
    snprintf(root, sizeof root, "/tmp/qlora_host_memory_XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -r '%s'", root);
    return system(command);
}

static void nothing_known_means_no_limit(void **state)
{
    (void)state;
    assert_true(host_memory_available(root) == SIZE_MAX);
}

static void the_machine_says_what_is_available(void **state)
{
    (void)state;
    write_file("/proc/meminfo", "MemTotal:       24000 kB\nMemFree:  10 kB\nMemAvailable:    20000 kB\n");
    assert_true(host_memory_available(root) == 20000 * 1024);
}

static void a_version_2_group_limits_less_its_page_cache(void **state)
{
    (void)state;
    write_file("/proc/meminfo", "MemAvailable:    20000 kB\n");
    write_file("/proc/self/cgroup", "0::/jobs/one\n");
    write_file("/sys/fs/cgroup/jobs/one/memory.max", "max\n");
    write_file("/sys/fs/cgroup/jobs/one/memory.current", "700\n");
    write_file("/sys/fs/cgroup/jobs/memory.max", "1000000\n");
    write_file("/sys/fs/cgroup/jobs/memory.current", "700000\n");
    write_file("/sys/fs/cgroup/jobs/memory.stat", "anon 5\ninactive_file 200000\n");
    assert_true(host_memory_available(root) == 500000);
}

static void a_version_1_group_limits_too(void **state)
{
    (void)state;
    write_file("/proc/meminfo", "MemAvailable:    20000 kB\n");
    write_file("/proc/self/cgroup", "5:cpu:/\n4:memory:/box\n0::/\n");
    write_file("/sys/fs/cgroup/memory/box/memory.limit_in_bytes", "900000\n");
    write_file("/sys/fs/cgroup/memory/box/memory.usage_in_bytes", "1000000\n");
    write_file("/sys/fs/cgroup/memory/box/memory.stat", "total_inactive_file 300000\n");
    assert_true(host_memory_available(root) == 200000);
    write_file("/sys/fs/cgroup/memory/box/memory.stat", "total_inactive_file 50000\n");
    assert_true(host_memory_available(root) == 0);
}

static void this_machine_has_some(void **state)
{
    (void)state;
    assert_true(host_memory_available("") > 1 << 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(nothing_known_means_no_limit, setup, teardown),
        cmocka_unit_test_setup_teardown(the_machine_says_what_is_available, setup, teardown),
        cmocka_unit_test_setup_teardown(a_version_2_group_limits_less_its_page_cache, setup, teardown),
        cmocka_unit_test_setup_teardown(a_version_1_group_limits_too, setup, teardown),
        cmocka_unit_test(this_machine_has_some),
    };
    return cmocka_run_group_tests_name("host_memory", tests, NULL, NULL);
}
