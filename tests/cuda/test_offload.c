/* Whole runs that have checkpoints of layers or embeddings in host memory: same bits as runs that keep all on the device,
 * by order, by budget, resumed. */
#define SCENE_LAYERS 7
#define SCENE_TIED false
#define SCENE_UPDATES 4
#define SAMPLES "generate_samples={prompts: [why], every: 1, max_new_tokens: 4}"
#define STRAIGHT_OVERRIDES                                                                                             \
    {                                                                                                                  \
        "gradient_checkpointing=false", SAMPLES, NULL                                                                  \
    }
#include "tests/e2e/straight.h"
#include "tests/support/cuda/emulation.h"
#include "trainer/plan.h"

#include <sys/wait.h>
#include <unistd.h>

EmulationCounts emulation_counts(void) __attribute__((weak)); /* null on a real device */

static void every_policy_gives_the_same_bits(void **state)
{
    (void)state;
    static const char *const policies[][2] = {
        {"gradient_checkpointing=true",    "host_embeddings=false"},
        {"gradient_checkpointing=offload", "host_embeddings=true" },
        {"gradient_checkpointing=false",   "host_embeddings=true" }
    };
    for (size_t i = 0; i < ARRAY_COUNT(policies); i++) {
        scene_forget_run(&scene);
        scene_train(&scene, (const char *const[]){policies[i][0], policies[i][1], SAMPLES, NULL}, NULL, 0);
        assert_as_straight();
    }
}

/* ---- plans ---- */

typedef struct Planned {
    uint64_t peak, offloaded, embeddings; /* bytes of the plan */
    int kept_layers, offloaded_layers;
    uint64_t device, pinned; /* bytes that the emulation counted once the run was placed; 0 on a real device */
} Planned;

static bool place(Planned *out, const char *const *overrides, Err *err)
{
    Config *config = NULL;
    Session s = {0};
    Plan p;
    int count = 0;
    while (overrides[count])
        count++;
    bool ok = config_load(&config, scene.config, overrides, count, err) &&
              session_open(&s, config, &(SessionOptions){.weights = true}, err) && session_open_tokenizer(&s, err) &&
              session_open_data(&s, true, err) && plan_make(&p, &s, NULL, NULL, err) && session_place(&s, err);
    if (ok) {
        *out = (Planned){p.peak_memory_bytes, p.offloaded, p.host_embeddings, p.kept_layers, p.offloaded_layers, 0, 0};
        if (emulation_counts) out->device = emulation_counts().device_bytes;
        if (emulation_counts) out->pinned = emulation_counts().pinned_bytes;
    }
    session_close(&s);
    config_free(config);
    return ok;
}

/* In a process of its own: this one must not have used threads when it forks the next run. */
static Planned planned(const char *const *overrides)
{
    int ends[2], status = -1;
    Planned out = {0};
    assert_int_equal(pipe(ends), 0);
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        Err err = {0};
        const bool ok = place(&out, overrides, &err);
        if (!ok) fprintf(stderr, "%s\n", err.text);
        _exit(ok && write(ends[1], &out, sizeof out) == sizeof out ? 0 : 1);
    }
    close(ends[1]);
    assert_int_equal(read(ends[0], &out, sizeof out), sizeof out);
    close(ends[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    return out;
}

#define PLANNED(...) planned((const char *const[]){__VA_ARGS__, NULL})

static void assert_within(uint64_t a, uint64_t b, uint64_t most)
{
    if (a > b + most || b > a + most) fail_msg("%llu and %llu bytes", (unsigned long long)a, (unsigned long long)b);
}

static void what_is_planned_is_taken_on_device_and_host(void **state)
{
    (void)state;
    enum { PAGES = 4 * 4096 }; /* four arenas */
    const Planned recompute = PLANNED("gradient_checkpointing=true");
    const Planned offload = PLANNED("gradient_checkpointing=offload");
    const Planned table = PLANNED("gradient_checkpointing=true", "host_embeddings=true");
    assert_true(recompute.offloaded == 0 && recompute.offloaded_layers == 0 && recompute.embeddings == 0);
    assert_int_equal(table.embeddings, TINY_VOCAB * 64 * 4);
    assert_int_equal(recompute.peak - table.peak, table.embeddings);
    assert_int_equal(offload.offloaded_layers, SCENE_LAYERS);
    assert_true(offload.offloaded > 100000);
    assert_within(recompute.peak - offload.peak, offload.offloaded, 4 * 3 * 64);
    if (!emulation_counts) skip();
    assert_within(recompute.device - offload.device, recompute.peak - offload.peak, PAGES);
    assert_within(offload.pinned - recompute.pinned, offload.offloaded, 4096);
    assert_within(recompute.device - table.device, table.embeddings, 4096);
    assert_within(table.pinned - recompute.pinned, table.embeddings, 4096);
}

/* A budget between recomputing everything and offloading everything is met by offloading some. */
static void auto_offloads_when_the_budget_demands_it(void **state)
{
    (void)state;
    const Planned recompute = PLANNED("gradient_checkpointing=true");
    const Planned offload = PLANNED("gradient_checkpointing=offload");
    char budget[64];
    snprintf(budget, sizeof budget, "max_gpu_memory=%llu", (unsigned long long)recompute.peak);
    const Planned enough = PLANNED(budget);
    assert_true(enough.kept_layers == 0 && enough.offloaded_layers == 0);
    snprintf(budget, sizeof budget, "max_gpu_memory=%llu", (unsigned long long)(recompute.peak + offload.peak) / 2);
    const Planned some = PLANNED(budget);
    assert_true(some.kept_layers == 0 && some.offloaded_layers > OFFLOAD_SETS);
    assert_true(some.offloaded_layers < SCENE_LAYERS && some.peak <= (recompute.peak + offload.peak) / 2);
    scene_forget_run(&scene);
    scene_train(&scene, (const char *const[]){budget, NULL}, NULL, 0);
    assert_as_straight();
    snprintf(budget, sizeof budget, "max_gpu_memory=%llu", (unsigned long long)offload.peak - 1);
    scene_forget_run(&scene);
    scene_train(&scene, (const char *const[]){budget, NULL}, NULL, 5);
}

static void a_host_without_the_memory_refuses(void **state)
{
    (void)state;
    scene_forget_run(&scene);
    scene_train(&scene, (const char *const[]){"gradient_checkpointing=offload", "memory_budget=2MiB", NULL}, NULL, 5);
    char *text = NULL;
    size_t length = 0;
    Err err = {0};
    assert_true(file_read_all(&text, &length, scene.log, 1 << 24, ERR_DISK, &err));
    assert_non_null(strstr(text, "raise memory_budget"));
    mem_free(text);
}

/* ---- resumed ---- */

static void another_policy_may_go_on_with_the_run(void **state)
{
    (void)state;
    scene_forget_run(&scene);
    scene_train(&scene, (const char *const[]){"gradient_checkpointing=offload", SAMPLES, NULL},
                &(ChildFault){.interrupt_after = 3}, 75);
    scene_train(&scene, (const char *const[]){"gradient_checkpointing=true", SAMPLES, NULL},
                &(ChildFault){.interrupt_after = 3}, 75);
    scene_train(&scene, (const char *const[]){"gradient_checkpointing=offload", SAMPLES, NULL}, NULL, 0);
    assert_as_straight();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_policy_gives_the_same_bits),
        cmocka_unit_test(what_is_planned_is_taken_on_device_and_host),
        cmocka_unit_test(auto_offloads_when_the_budget_demands_it),
        cmocka_unit_test(a_host_without_the_memory_refuses),
        cmocka_unit_test(another_policy_may_go_on_with_the_run),
    };
    return cmocka_run_group_tests(tests, open_straight, close_straight);
}
