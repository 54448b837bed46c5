/* The program as people start it: signals, exit codes, the plan's memory against the real peak. Needs QLORA_BINARY. */
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "tests/support/tiny.h"
#include "tests/support/workspace.h"

#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#if defined(__SANITIZE_ADDRESS__)
#    define SHADOWED 1
#elif defined(__has_feature)
#    if __has_feature(address_sanitizer)
#        define SHADOWED 1
#    endif
#endif
#ifndef SHADOWED
#    define SHADOWED 0
#endif

static Workspace workspace;
static const char *binary;

static int setup(void **state)
{
    (void)state;
    binary = getenv("QLORA_BINARY");
    if (!binary) return -1;
    workspace_make(&workspace, 24);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    workspace_free(&workspace);
    return 0;
}

static pid_t start(const char *const *words)
{
    unlink("log"); /* nobody takes the lines of an earlier process for its own */
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid > 0) return pid;
    const int out = open("out", O_WRONLY | O_CREAT | O_TRUNC, 0666),
              log = open("log", O_WRONLY | O_CREAT | O_TRUNC, 0666);
    dup2(out, STDOUT_FILENO);
    dup2(log, STDERR_FILENO);
    char *argv[16];
    int n = 0;
    argv[n++] = (char *)(uintptr_t)binary;
    for (; words[n - 1]; n++)
        argv[n] = (char *)(uintptr_t)words[n - 1];
    argv[n] = NULL;
    execv(binary, argv);
    _exit(99);
}

static int finish(pid_t pid, struct rusage *usage)
{
    int status;
    struct rusage ignored;
    assert_int_equal(wait4(pid, &status, 0, usage ? usage : &ignored), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static int run(const char *const *words)
{
    return finish(start(words), NULL);
}

#define RUN(...) run((const char *[]){__VA_ARGS__, NULL})

static char *read_text(const char *path)
{
    char *bytes = NULL;
    size_t length = 0;
    Err err = {0};
    assert_true(file_read_all(&bytes, &length, path, 1 << 24, ERR_DATA, &err));
    return bytes;
}

static void pause_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

static void every_command_has_help_and_usage_errors_exit_with_2(void **state)
{
    (void)state;
    static const char *const commands[] = {"train",   "plan",     "eval",   "generate", "quantize",
                                           "inspect", "tokenize", "doctor", "schema",   "explain"};
    for (int i = 0; i < 10; i++) {
        assert_int_equal(RUN(commands[i], "--help"), 0);
        char *text = read_text("out");
        assert_non_null(strstr(text, commands[i]));
        mem_free(text);
        assert_int_equal(RUN(commands[i], "--nonsense"), 2);
    }
    assert_int_equal(RUN("--version"), 0);
    assert_int_equal(RUN("tarin"), 2);
    assert_int_equal(RUN("train", "not-there.yaml"), 2);
}

/* Waits until the log holds `text`, or the process is over. */
static void wait_for(const char *text)
{
    for (int i = 0; i < 12000; i++) {
        char *log = file_exists("log") ? read_text("log") : NULL;
        const bool there = log && strstr(log, text);
        mem_free(log);
        if (there) return;
        pause_ms(5);
    }
    fail_msg("\"%s\" never came", text);
}

static void a_signal_saves_and_exits_with_75_and_the_run_goes_on_to_the_bit(void **state)
{
    (void)state;
    static const int signals[] = {SIGTERM, SIGINT, SIGUSR1};
    const int steps = SHADOWED ? 200 : 1500; /* a second or more, so that the signal comes in the middle */
    char more[160], last[64];
    snprintf(more, sizeof more,
             "max_steps: %d\nlogging_steps: 20\nsave_steps: 0\nsaves_per_epoch: 0\nlora_dropout: 0.1\n", steps);
    snprintf(last, sizeof last, "checkpoint-%08d/optimizer.safetensors", steps);
    workspace_write_config("whole.yaml", "whole", more);
    assert_int_equal(RUN("train", "whole.yaml"), 0);
    for (int i = 0; i < 3; i++) {
        char output[32];
        snprintf(output, sizeof output, "parts%d", i);
        workspace_write_config("parts.yaml", output, more);
        const pid_t pid = start((const char *[]){"train", "parts.yaml", NULL});
        wait_for("step 20/");
        kill(pid, signals[i]);
        const int status = finish(pid, NULL);
        if (status != 75) fail_msg("signal %d: ended with %d\n%s", signals[i], status, read_text("log"));
        assert_int_equal(RUN("train", "parts.yaml"), 0);
        assert_true(workspace_same_in("whole", output, "adapter_model.safetensors"));
        assert_true(workspace_same_in("whole", output, last));
    }
}

/* Signal sets as /proc prints them: bit n - 1 is signal n. */
static uint64_t signal_set(const char *status_path, const char *name)
{
    char *text = read_text(status_path);
    const char *at = strstr(text, name);
    assert_non_null(at);
    const uint64_t set = strtoull(at + strlen(name), NULL, 16);
    mem_free(text);
    return set;
}

/* The matrix library's stack pointer is in a heap block now and then: a handler's frame would land beside that block. */
static void no_signal_handler_runs_on_a_thread_that_trains(void **state)
{
    (void)state;
    const uint64_t asking = 1u << (SIGTERM - 1) | 1u << (SIGINT - 1) | 1u << (SIGUSR1 - 1);
    workspace_write_config("a.yaml", "a", "max_steps: 100000\nthreads: 3\n");
    const pid_t pid = start((const char *[]){"train", "a.yaml", NULL});
    wait_for("step 2/");
    char path[320];
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *tasks = opendir(path);
    assert_non_null(tasks);
    int threads = 0, waiting = 0;
    for (const struct dirent *entry; (entry = readdir(tasks));) {
        if (entry->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "/proc/%d/task/%s/status", (int)pid, entry->d_name);
        waiting += (signal_set(path, "SigBlk:") & asking) == 0; /* what a thread waits for counts as not blocked */
        assert_true((signal_set(path, "SigCgt:") & asking) == 0);
        threads++;
    }
    closedir(tasks);
    assert_int_equal(waiting, 1);
    assert_true(threads >= 2);
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid); /* of the first thread */
    assert_true((signal_set(path, "SigBlk:") & asking) == asking);
    kill(pid, SIGTERM);
    assert_int_equal(finish(pid, NULL), 75);
}

static void a_second_run_on_one_folder_is_refused_while_the_first_goes_on(void **state)
{
    (void)state;
    workspace_write_config("a.yaml", "a", "max_steps: 100000\n");
    const pid_t pid = start((const char *[]){"train", "a.yaml", NULL});
    wait_for("step 2/");
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/comm", (int)pid);
    char *name = read_text(path);
    assert_string_equal(name, "qlora\n"); /* what ps, top and pgrep go by */
    mem_free(name);
    const int kept = rename("log", "log.first");
    assert_int_equal(kept, 0);
    assert_int_equal(RUN("train", "a.yaml"), 5);
    kill(pid, SIGTERM);
    assert_int_equal(finish(pid, NULL), 75);
}

static void results_go_to_stdout_and_a_closed_stdout_is_an_error(void **state)
{
    (void)state;
    workspace_write_config("a.yaml", "a", "test_datasets: [{path: test.jsonl}]\n");
    assert_int_equal(RUN("eval", "a.yaml", "--json"), 0);
    char *text = read_text("out");
    json_error_t fault;
    json_t *o = json_loads(text, 0, &fault);
    assert_non_null(o);
    assert_true(json_number_value(json_object_get(o, "eval_loss")) > 0);
    assert_true(fabs(json_number_value(json_object_get(o, "perplexity")) /
                         exp(json_number_value(json_object_get(o, "eval_loss"))) -
                     1) < 1e-9);
    assert_true(json_integer_value(json_object_get(o, "tokens")) > 0);
    json_decref(o);
    mem_free(text);
    char command[4096];
    snprintf(command, sizeof command, "%s schema >/dev/full 2>log", binary);
    const int status = system(command);
    assert_int_equal(WEXITSTATUS(status), 5);
}

static void training_goes_on_when_its_log_cannot_be_written(void **state)
{
    (void)state;
    char command[4096];
    workspace_write_config("a.yaml", "a", NULL);
    workspace_write_config("b.yaml", "b", NULL);
    assert_int_equal(RUN("train", "a.yaml"), 0);
    snprintf(command, sizeof command, "%s train b.yaml >&- 2>/dev/full", binary);
    const int status = system(command);
    assert_int_equal(WEXITSTATUS(status), 0);
    assert_true(workspace_same_in("a", "b", "adapter_model.safetensors"));
}

static void evaluating_with_the_adapter_gives_the_loss_that_training_saw(void **state)
{
    (void)state;
    workspace_write_config("a.yaml", "a",
                           "test_datasets: [{path: test.jsonl}]\neval_steps: 6\nload_best_model_at_end: false\n");
    assert_int_equal(RUN("train", "a.yaml"), 0);
    assert_int_equal(RUN("eval", "a.yaml", "--adapter", "a", "--json"), 0);
    char *out = read_text("out"), *metrics = read_text("a/metrics.jsonl");
    const char *last = strstr(metrics, "{\"step\": 6, \"eval_loss\": ");
    assert_non_null(last);
    const double trained = strtod(last + 24, NULL), now = strtod(out + strlen("{\"eval_loss\": "), NULL);
    assert_true(trained == now);
    mem_free(out);
    mem_free(metrics);
}

static double number_of(const char *path, const char *key)
{
    char *text = read_text(path);
    json_error_t fault;
    json_t *o = json_loads(text, 0, &fault);
    assert_non_null(o);
    const double value = json_number_value(json_object_get(o, key));
    json_decref(o);
    mem_free(text);
    return value;
}

static void the_plan_foretells_the_peak_memory(void **state)
{
    (void)state;
    if (SHADOWED) skip(); /* the sanitizer's own memory is in nobody's plan */
    static const char *const more[] = {
        "micro_batch_size: 24\ngradient_accumulation_steps: 1\ngradient_checkpointing: false\n",
        "sample_packing: true\nsequence_len: 2048\ngradient_checkpointing: true\n", "lora_r: 256\noptimizer: adamw\n",
        "base_model: wide\ndatasets: [{path: short.jsonl}]\n", /* loading its matrices takes more than a step */
    };
    Err err = {0};
    const TinyOptions wide = {.tied = true, .bf16 = true, .ffn = 65536, .seed = 8};
    assert_true(tiny_model_write("wide", &wide, &err));
    assert_true(file_replace("short.jsonl", "{\"input_ids\": [1, 2, 3]}\n", 25, &err));
    for (int i = 0; i < 4; i++) {
        char output[32];
        struct rusage usage;
        snprintf(output, sizeof output, "run%d", i);
        workspace_write_config("a.yaml", output, more[i]);
        assert_int_equal(RUN("plan", "a.yaml", "--json"), 0);
        const double planned = number_of("out", "peak_memory_bytes");
        const pid_t pid = start((const char *[]){"train", "a.yaml", NULL});
        assert_int_equal(finish(pid, &usage), 0);
        const double real = (double)usage.ru_maxrss * 1024;
        if (!(fabs(planned / real - 1) <= 0.05))
            fail_msg("%s: planned %.1f MB, used %.1f MB", more[i], planned / 1e6, real / 1e6);
    }
}

static void a_plan_needs_neither_weights_nor_data(void **state)
{
    (void)state;
    Err err = {0};
    workspace_write_config("a.yaml", "a", NULL);
    assert_int_equal(RUN("plan", "a.yaml", "--json"), 0);
    assert_int_equal((int)number_of("out", "total_steps"), 6);
    const double parameters = number_of("out", "trainable_parameters");
    assert_true(number_of("out", "trained_tokens") > 0);
    assert_true(file_remove("model/model.safetensors", &err));
    assert_int_equal(RUN("plan", "a.yaml", "--json"), 0);
    assert_true(number_of("out", "trainable_parameters") == parameters);
    assert_true(file_remove("train.jsonl", &err));
    assert_int_equal(RUN("plan", "a.yaml", "--json"), 0);
    assert_true(file_remove("model/tokenizer.json", &err));
    assert_int_equal(RUN("plan", "a.yaml", "--json"), 0);
    assert_int_equal(RUN("plan", "a.yaml", "--set", "memory_budget=5MiB"), 5);
    assert_int_equal(RUN("train", "a.yaml"), 4);
}

static void write_text(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

static void expect_log(const char *text)
{
    char *log = read_text("log");
    assert_string_equal(log, text);
    mem_free(log);
}

static void data_that_are_ids_need_no_tokenizer(void **state)
{
    (void)state;
    Err err = {0};
    write_text("ids.jsonl", "{\"input_ids\": [1, 2, 3]}\n{\"input_ids\": [4, 5, 6, 7]}\n");
    const char *more = "datasets: [{path: ids.jsonl}]\ntest_datasets: [{path: ids.jsonl}]\n";
    workspace_write_config("with.yaml", "with", more);
    assert_int_equal(RUN("train", "with.yaml"), 0);
    assert_true(file_remove("model/tokenizer.json", &err));
    workspace_write_config("without.yaml", "without", more);
    assert_int_equal(RUN("plan", "without.yaml", "--json"), 0);
    assert_true(number_of("out", "trained_tokens") > 0);
    assert_int_equal(RUN("train", "without.yaml"), 0);
    assert_true(workspace_same_in("with", "without", "adapter_model.safetensors"));
    assert_false(file_exists("without/tokenizer.json"));
    assert_int_equal(RUN("eval", "without.yaml", "--json"), 0);
    assert_int_equal(
        RUN("train", "without.yaml", "--set", "generate_samples={prompts: [a]}", "--set", "output_dir=more"), 4);
    expect_log("qlora: generate_samples needs a tokenizer, and model has no tokenizer.json; set tokenizer\n");
}

static void data_that_are_text_need_one(void **state)
{
    (void)state;
    Err err = {0};
    workspace_write_config("a.yaml", "a", NULL);
    assert_true(file_remove("model/tokenizer.json", &err));
    assert_int_equal(RUN("train", "a.yaml"), 4);
    expect_log(
        "train.jsonl:1:1: the record is text and there is no tokenizer; put the model's tokenizer.json beside its "
        "weights, or set tokenizer to a folder that has one\n");
    assert_int_equal(RUN("plan", "a.yaml"), 0);
}

static void tokenize_finds_cached_models_and_names_the_line_of_a_fault(void **state)
{
    (void)state;
    write_text("in", "[{\"role\": \"user\", \"content\": \"a\"}]\n[{]\n");
    assert_non_null(freopen("in", "r", stdin)); /* the program inherits it */
    assert_int_equal(RUN("tokenize", "model", "--chat", "--template", "chatml"), 3);
    expect_log("qlora: line 2 of standard input: column 3: not a JSON list of messages: string or '}' expected near "
               "']'\n");
    assert_int_equal(mkdir("hub", 0777) | mkdir("hub/models--org--m", 0777) | mkdir("hub/models--org--m/refs", 0777),
                     0);
    assert_int_equal(mkdir("hub/models--org--m/snapshots", 0777), 0);
    assert_int_equal(rename("model", "hub/models--org--m/snapshots/abc"), 0);
    write_text("hub/models--org--m/refs/main", "abc");
    setenv("HF_HUB_CACHE", "hub", 1);
    write_text("in", "a\n");
    assert_non_null(freopen("in", "r", stdin));
    assert_int_equal(RUN("tokenize", "org/m"), 0);
    assert_int_equal(RUN("tokenize", "org/other"), 4);
    unsetenv("HF_HUB_CACHE");
}

static void an_empty_name_of_a_model_is_said_to_be_empty(void **state)
{
    (void)state;
    assert_int_equal(RUN("generate", "", "--prompt", "x"), 2);
    expect_log("qlora: the name of the model is empty; give a folder or a GGUF file\n");
    assert_int_equal(RUN("quantize", "", "q"), 4);
    expect_log("qlora: the name of the model is empty; give a folder or a GGUF file\n");
}

static int64_t length_said(const char *key)
{
    char *text = read_text("out");
    json_error_t fault;
    json_t *o = json_loads(text, 0, &fault);
    assert_non_null(o);
    const json_t *lengths = json_object_get(json_object_get(o, "train"), "lengths");
    const int64_t value = json_integer_value(json_object_get(lengths, key));
    json_decref(o);
    mem_free(text);
    return value;
}

static void lengths_are_values_that_the_named_share_of_samples_does_not_exceed(void **state)
{
    (void)state;
    write_text("two.jsonl", "{\"input_ids\": [1, 2]}\n{\"input_ids\": [1, 2, 3, 4, 5]}\n");
    workspace_write_config("a.yaml", "a", "datasets: [{path: two.jsonl}]\n");
    assert_int_equal(RUN("inspect", "a.yaml", "--json"), 0);
    assert_int_equal(length_said("shortest"), 2);
    assert_int_equal(length_said("median"), 2);
    assert_int_equal(length_said("p95"), 5);
    assert_int_equal(length_said("longest"), 5);
}

static void a_run_whose_checkpoints_are_all_damaged_says_that_it_starts_anew(void **state)
{
    (void)state;
    workspace_write_config("a.yaml", "a", "max_steps: 2\nsave_steps: 1\n");
    assert_int_equal(RUN("train", "a.yaml"), 0);
    write_text("a/checkpoint-00000001/manifest.json", "{");
    write_text("a/checkpoint-00000002/manifest.json", "{");
    assert_int_equal(RUN("train", "a.yaml"), 0);
    char *log = read_text("log");
    assert_non_null(strstr(log, "qlora: warning: no checkpoint in a is whole: the run starts anew\n"));
    mem_free(log);
    assert_int_equal(RUN("train", "a.yaml"), 0);
    log = read_text("log");
    assert_null(strstr(log, "starts anew"));
    mem_free(log);
}

static void a_progress_line_says_that_an_update_was_withheld(void **state)
{
    (void)state;
    workspace_write_config("a.yaml", "a",
                           "max_steps: 4\nlogging_steps: 1\nlearning_rate: 1\nlora_alpha: 1e6\nwarmup_steps: 0\n"
                           "lr_scheduler: constant\ninit_lora_weights: gaussian\nmax_grad_norm: 0\n"
                           "adam_epsilon: 1e-30\nweight_decay: 0\nloss_watchdog: {patience: 10, action: skip}\n");
    assert_int_equal(RUN("train", "a.yaml"), 0);
    char *log = read_text("log"), *line = strstr(log, "step 4/4");
    assert_non_null(line);
    line[strcspn(line, "\n")] = '\0';
    assert_non_null(strstr(line, "  loss n/a (withheld)  lr 1.00e+00  norm "));
    assert_null(strstr(line, "nan"));
    mem_free(log);
}

/* With CUDA_VISIBLE_DEVICES empty no machine has a usable card, with a driver or without one. */
static void without_a_usable_card_cuda_ends_with_one_line_and_auto_takes_the_processor(void **state)
{
    (void)state;
    static const char *const devices[] = {"cuda", "cuda:1"};
    workspace_write_config("a.yaml", "a", "max_steps: 1\n");
    assert_int_equal(setenv("CUDA_VISIBLE_DEVICES", "", 1), 0);
    assert_int_equal(RUN("doctor"), 0);
    char *report = read_text("out");
    for (int i = 0; i < 2; i++) {
        assert_int_equal(RUN("train", "a.yaml", "--device", devices[i]), 6);
        char *log = read_text("log");
        assert_memory_equal(log, "qlora: ", 7);
        assert_ptr_equal(strchr(log, '\n'), log + strlen(log) - 1);
        assert_non_null(strstr(log, "--device cpu"));
        log[strcspn(log, ";")] = '\0'; /* what is missing, before what to do */
        assert_non_null(strstr(report, log + 7));
        mem_free(log);
    }
    mem_free(report);
    assert_int_equal(RUN("train", "a.yaml", "--device", "auto"), 0);
    assert_int_equal(RUN("train", "a.yaml", "--device", "tpu"), 2);
    assert_int_equal(unsetenv("CUDA_VISIBLE_DEVICES"), 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(every_command_has_help_and_usage_errors_exit_with_2),
        TEST(a_signal_saves_and_exits_with_75_and_the_run_goes_on_to_the_bit),
        TEST(no_signal_handler_runs_on_a_thread_that_trains),
        TEST(a_second_run_on_one_folder_is_refused_while_the_first_goes_on),
        TEST(results_go_to_stdout_and_a_closed_stdout_is_an_error),
        TEST(training_goes_on_when_its_log_cannot_be_written),
        TEST(evaluating_with_the_adapter_gives_the_loss_that_training_saw),
        TEST(the_plan_foretells_the_peak_memory),
        TEST(a_plan_needs_neither_weights_nor_data),
        TEST(data_that_are_ids_need_no_tokenizer),
        TEST(data_that_are_text_need_one),
        TEST(tokenize_finds_cached_models_and_names_the_line_of_a_fault),
        TEST(an_empty_name_of_a_model_is_said_to_be_empty),
        TEST(lengths_are_values_that_the_named_share_of_samples_does_not_exceed),
        TEST(a_progress_line_says_that_an_update_was_withheld),
        TEST(a_run_whose_checkpoints_are_all_damaged_says_that_it_starts_anew),
        TEST(without_a_usable_card_cuda_ends_with_one_line_and_auto_takes_the_processor),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
