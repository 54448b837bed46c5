/* `qlora plan --device CARD` as people and scripts start it. Needs QLORA_BINARY. */
#include "base/check.h"
#include "tests/trainer/rig_plan.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

static const char *binary;

enum { TINY_POSITIONS = 512 }; /* tests/support/tiny.c */

static int setup_program(void **state)
{
    binary = getenv("QLORA_BINARY");
    return binary ? setup(state) : -1;
}

/* *seconds: of the processor, which a busy machine does not stretch much. */
static int run(const char *const *words, double *seconds)
{
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        const int out = open("out", O_WRONLY | O_CREAT | O_TRUNC, 0666);
        const int log = open("log", O_WRONLY | O_CREAT | O_TRUNC, 0666);
        dup2(out, STDOUT_FILENO);
        dup2(log, STDERR_FILENO);
        char *argv[16] = {(char *)(uintptr_t)binary};
        for (int i = 0; words[i]; i++)
            argv[i + 1] = (char *)(uintptr_t)words[i];
        execv(binary, argv);
        _exit(99);
    }
    int status;
    struct rusage usage;
    assert_int_equal(wait4(pid, &status, 0, &usage), pid);
    if (seconds) {
        *seconds = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                   1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

#define RUN(...) run((const char *[]){__VA_ARGS__, NULL}, NULL)

static char *read_text(const char *path)
{
    char *bytes = NULL;
    size_t length = 0;
    Err err = {0};
    assert_true(file_read_all(&bytes, &length, path, 1 << 24, ERR_DATA, &err));
    return bytes;
}

static json_t *read_json(void)
{
    json_t *o = NULL;
    Err err = {0};
    char *text = read_text("out");
    assert_int_equal(strcspn(text, "\n") + 1, strlen(text)); /* one line */
    if (!json_parse(&o, text, strlen(text), "out", ERR_DATA, &err)) fail_msg("%s", err.text);
    mem_free(text);
    return o;
}

static double real(const json_t *o, const char *key)
{
    const json_t *value = json_object_get(o, key);
    if (!json_is_number(value)) fail_msg("%s is no number", key);
    return json_number_value(value);
}

static double sum_of(const json_t *o, const char *key)
{
    double sum = 0;
    const char *name;
    json_t *value, *parts = json_object_get(o, key);
    assert_true(json_is_object(parts));
    json_object_foreach(parts, name, value) sum += json_number_value(value);
    return sum;
}

static void one_line_of_json_holds_everything_by_name(void **state)
{
    (void)state;
    write_config("llama-8b", "sequence_len: 2048\nmicro_batch_size: 8\n");
    assert_int_equal(RUN("plan", "config.yaml", "--device", "h100", "--json"), 0);
    json_t *o = read_json();
    assert_string_equal(json_string_value(json_object_get(o, "device")), "h100");
    assert_true(json_is_true(json_object_get(o, "fits")));
    assert_true(real(o, "trainable_parameters") == 41943040);
    assert_true(sum_of(o, "memory") == real(o, "peak_memory_bytes"));
    assert_true(sum_of(o, "host_memory") == real(o, "host_memory_bytes"));
    assert_true(sum_of(o, "time") == real(o, "seconds_per_update"));
    assert_true(real(o, "tokens_per_update") == 16384);
    assert_true(real(o, "tokens_per_second") == real(o, "tokens_per_update") / real(o, "seconds_per_update"));
    assert_true(real(o, "max_sequence_len") >= 16384 && real(o, "max_micro_batch_size") >= 8);
    assert_true(real(o, "kept_layers") == 32);
    static const char *const terms[] = {"products", "recompute", "decode",    "attention", "elementwise",
                                        "lora",     "head",      "optimizer", "copies",    "launches"};
    for (size_t i = 0; i < ARRAY_COUNT(terms); i++)
        (void)real(json_object_get(o, "time"), terms[i]);
    static const char *const purposes[] = {"weights",     "head",        "adapters", "gradients", "optimizer",
                                           "activations", "checkpoints", "scratch",  "workspace", "context"};
    for (size_t i = 0; i < ARRAY_COUNT(purposes); i++)
        assert_true(real(json_object_get(o, "memory"), purposes[i]) > 0);
    json_decref(o);
}

/* The file of a model and a card is all that the question "does it fit" needs. */
static void a_plan_needs_no_datasets_but_training_does(void **state)
{
    (void)state;
    static const char text[] = "base_model: llama-8b\nsequence_len: 2048\nmicro_batch_size: 8\nlora_r: 16\n";
    write_text("config.yaml", text);
    assert_int_equal(RUN("plan", "config.yaml", "--device", "h100", "--json"), 0);
    json_t *o = read_json();
    assert_true(real(o, "trainable_parameters") == 41943040);
    assert_true(real(o, "peak_memory_bytes") > 5e9 && real(o, "tokens_per_second") > 1000);
    json_decref(o);
    assert_int_equal(RUN("plan", "config.yaml", "--device", "all"), 0);
    assert_int_equal(RUN("plan", "config.yaml"), 0);
    assert_int_equal(RUN("train", "config.yaml"), 2);
    char *log = read_text("log");
    assert_non_null(strstr(log, "datasets is missing or empty"));
    mem_free(log);
}

static void rows_beyond_all_measure_are_refused_and_long_ones_warned_of(void **state)
{
    (void)state;
    write_config("llama-8b", "sequence_len: 16777216\nmicro_batch_size: 65536\n");
    for (int device = 0; device < 2; device++) {
        assert_int_equal(device ? RUN("plan", "config.yaml", "--device", "h100") : RUN("plan", "config.yaml"), 2);
        char *log = read_text("log");
        assert_non_null(strstr(log, "micro_batch_size: 65536 rows of sequence_len 16777216 are more than"));
        mem_free(log);
    }
    Text row = {0};
    Err err = {0};
    assert_true(text_add_z(&row, "{\"input_ids\": [1", &err));
    for (int i = 1; i < TINY_POSITIONS; i++)
        assert_true(text_add_z(&row, ", 2", &err));
    for (int more = 0; more < 2; more++) { /* as many tokens as positions, and one more */
        Text all = {0};
        assert_true(text_format(&all, &err, "%s%s]}\n", row.bytes, more ? ", 2" : ""));
        write_text("long.jsonl", all.bytes);
        text_free(&all);
        write_text("config.yaml", "base_model: tiny\nsequence_len: 4096\ndatasets:\n  - path: long.jsonl\n");
        assert_int_equal(RUN("plan", "config.yaml"), 0);
        char *log = read_text("log");
        assert_true((strstr(log, "positions (max_position_embeddings)") != NULL) == (more == 1));
        mem_free(log);
    }
    text_free(&row);
}

static void assert_log_has(const char *words)
{
    char *log = read_text("log");
    if (!strstr(log, words)) fail_msg("%s\nhas not: %s", log, words);
    mem_free(log);
}

static void settings_that_would_do_nothing_are_refused(void **state)
{
    (void)state;
    write_text("config.yaml",
               "base_model: tiny\noutput_dir: run\nsequence_len: 128\ndatasets:\n  - path: chats.jsonl\n");
    assert_int_equal(RUN("plan", "config.yaml", "--set", "warmup_steps=500"), 2);
    assert_log_has("updates leave none at the full rate");
    assert_int_equal(RUN("plan", "config.yaml", "--set", "quant_skip_modules=[q_prj]"), 2);
    assert_log_has("quant_skip_modules: \"q_prj\" matches no linear layer");
    assert_int_equal(RUN("plan", "config.yaml", "--set", "quant_skip_modules=.*q_proj"), 0);
    char *text = read_text("out");
    assert_null(strstr(text, "q_proj")); /* of those that are quantized */
    mem_free(text);
    assert_int_equal(RUN("plan", "config.yaml", "--set", "quant_skip_modules=[lm_head, q_proj]"), 0);
    assert_int_equal(RUN("plan", "config.yaml", "--set", "quant_skip_modules=.*lm_head"), 0);
    assert_int_equal(RUN("plan", "config.yaml", "--set", "lora_rank_pattern={foo: 3}"), 2);
    assert_log_has("lora_rank_pattern: \"foo\" matches no linear layer");
    assert_int_equal(RUN("quantize", "tiny", "tiny-4bit"), 0);
    assert_int_equal(RUN("train", "config.yaml", "--set", "base_model=tiny-4bit", "--set", "adapter=lora"), 2);
    assert_log_has("stored in 4 bits");
    assert_int_equal(
        RUN("train", "config.yaml", "--set", "base_model=tiny-4bit", "--set", "quant_skip_modules=[q_proj]"), 2);
    assert_log_has("stored in 4 bits already");
}

/* The usual warmup is a share of the run, and its first update has rate 0. */
static void the_only_update_of_a_run_has_a_rate(void **state)
{
    (void)state;
    write_text("config.yaml", "base_model: tiny\noutput_dir: one\nsequence_len: 128\nmax_steps: 1\n"
                              "datasets:\n  - path: chats.jsonl\n");
    assert_int_equal(RUN("train", "config.yaml"), 0);
    char *metrics = read_text("one/metrics.jsonl");
    const char *rate = strstr(metrics, "\"learning_rate\": ");
    assert_non_null(rate);
    assert_true(strtod(rate + strlen("\"learning_rate\": "), NULL) > 0);
    mem_free(metrics);
}

static void a_limit_of_file_sizes_ends_with_one_line(void **state)
{
    (void)state;
    struct rlimit before;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    write_text("config.yaml", "base_model: tiny\noutput_dir: limited\nsequence_len: 128\nmax_steps: 1\n"
                              "datasets:\n  - path: chats.jsonl\n");
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &(struct rlimit){20000, before.rlim_max}), 0);
    const int status = RUN("train", "config.yaml");
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(status, 5);
    assert_log_has("File too large");
}

/* What is stored counts, not what the configuration would have made of a 16-bit model. */
static void a_plan_of_a_4_bit_folder_sees_what_is_stored(void **state)
{
    (void)state;
    write_text("config.yaml", "base_model: tiny-odd\nsequence_len: 128\ndatasets:\n  - path: chats.jsonl\n");
    assert_int_equal(RUN("quantize", "tiny", "tiny-odd", "--block", "32", "--skip", "q_proj"), 0);
    assert_int_equal(RUN("plan", "config.yaml", "--device", "h100", "--json"), 0);
    json_t *odd = read_json();
    assert_int_equal(RUN("plan", "config.yaml", "--device", "h100", "--json", "--set", "base_model=tiny"), 0);
    json_t *plain = read_json();
    assert_true(real(json_object_get(odd, "memory"), "weights") > real(json_object_get(plain, "memory"), "weights"));
    json_decref(odd);
    json_decref(plain);
    assert_int_equal(RUN("plan", "config.yaml"), 0);
    char *text = read_text("out");
    assert_null(strstr(text, "q_proj"));
    mem_free(text);
    assert_int_equal(RUN("plan", "config.yaml", "--set", "adapter=lora"), 2);
}

static void rows_beyond_dynamic_rope_scaling_are_refused(void **state)
{
    (void)state;
    Err err = {0};
    char *config = read_text("tiny/config.json");
    size_t length = strlen(config);
    while (config[length - 1] != '}')
        length--;
    Text text = {0};
    assert_true(text_format(
        &text, &err,
        "%.*s, \"rope_parameters\": {\"rope_theta\": 10000.0, \"rope_type\": \"dynamic\", \"factor\": 2.0}}",
        (int)length - 1, config));
    assert_true(file_make_folders("dynamic", &err));
    write_text("dynamic/config.json", text.bytes);
    text_free(&text);
    mem_free(config);
    char *tokenizer = read_text("tiny/tokenizer.json");
    write_text("dynamic/tokenizer.json", tokenizer);
    mem_free(tokenizer);
    write_text("config.yaml",
               "base_model: dynamic\noutput_dir: run\nsequence_len: 4096\ndatasets:\n  - path: long.jsonl\n");
    assert_int_equal(RUN("inspect", "config.yaml"), 4);
    assert_log_has("dynamic rope scaling");
}

static void a_plan_of_70b_takes_little_time_and_no_weights(void **state)
{
    (void)state;
    double seconds;
    write_config("llama-70b", "sequence_len: 2048\nmicro_batch_size: 1\ndevice: cuda:3\n");
    assert_int_equal(run((const char *[]){"plan", "config.yaml", "--device", "h100", "--json", NULL}, &seconds), 0);
    assert_true(seconds < 2); /* 0.05 */
    struct rusage usage;
    assert_int_equal(getrusage(RUSAGE_CHILDREN, &usage), 0);
    assert_true(usage.ru_maxrss < 500 * 1024); /* KiB */
    json_t *o = read_json();
    assert_true(real(o, "trainable_parameters") == 207093760);
    json_decref(o);
}

static void the_text_names_what_does_not_fit_and_what_the_model_limits(void **state)
{
    (void)state;
    write_config("llama-70b", "sequence_len: 2048\nmicro_batch_size: 1\n");
    assert_int_equal(RUN("plan", "config.yaml", "--device", "3090"), 0);
    char *text = read_text("out");
    assert_non_null(strstr(text, "DOES NOT FIT"));
    assert_non_null(strstr(text, "tokens a second"));
    mem_free(text);
    assert_int_equal(RUN("plan", "config.yaml", "--device", "3090", "--set", "max_gpu_memory=24GB"), 5);
    text = read_text("log");
    assert_non_null(strstr(text, "max_gpu_memory allows 24.00 GB"));
    assert_non_null(strstr(text, "no shorter row helps")); /* the weights alone are 35 GB */
    mem_free(text);
    write_config("llama-8b", "sequence_len: 131072\nmicro_batch_size: 8\n");
    assert_int_equal(RUN("plan", "config.yaml", "--device", "3090", "--set", "max_gpu_memory=12GB"), 5);
    text = read_text("log");
    assert_non_null(strstr(text, "max_gpu_memory allows 12.00 GB; lower sequence_len"));
    mem_free(text);
    write_config("smol", "sequence_len: 512\nmicro_batch_size: 1\n");
    assert_int_equal(RUN("plan", "config.yaml", "--device", "t4"), 0);
    text = read_text("out");
    assert_non_null(strstr(text, "fits: "));
    assert_non_null(strstr(text, "the model has 8192 positions"));
    mem_free(text);
}

static void wrong_cards_end_with_one_error_and_exit_2(void **state)
{
    (void)state;
    write_config("smol", "");
    static const char *const wrong[] = {"h10", "h100,mem=3GiB", "custom", "h100,memory=many", "", "cuda:x"};
    for (size_t i = 0; i < ARRAY_COUNT(wrong); i++) {
        assert_int_equal(RUN("plan", "config.yaml", "--device", wrong[i]), 2);
        char *log = read_text("log"), *out = read_text("out");
        assert_int_equal(strcspn(log, "\n") + 1, strlen(log));
        assert_non_null(strstr(log, "--device"));
        assert_int_equal(strlen(out), 0);
        mem_free(log);
        mem_free(out);
    }
}

static void a_device_of_this_machine_is_planned_as_before(void **state)
{
    (void)state;
    write_config("smol", "sequence_len: 64\nmicro_batch_size: 1\ndevice: cuda\n");
    assert_int_equal(RUN("plan", "config.yaml", "--device", "cpu", "--json"), 0);
    json_t *o = read_json();
    assert_null(json_object_get(o, "device"));
    assert_true(real(o, "peak_memory_bytes") > 0);
    json_decref(o);
}

static void an_estimate_for_this_processor_is_measured_when_asked_for(void **state)
{
    (void)state;
    double seconds;
    write_config("smol", "sequence_len: 256\nmicro_batch_size: 1\ndevice: cpu\n");
    assert_int_equal(RUN("plan", "config.yaml", "--json"), 0);
    json_t *o = read_json();
    assert_null(json_object_get(o, "tokens_per_second"));
    json_decref(o);
    assert_int_equal(run((const char *[]){"plan", "config.yaml", "--estimate", "--json", NULL}, &seconds), 0);
    assert_true(seconds < 20); /* 0.1 on a quiet machine */
    o = read_json();
    assert_true(sum_of(o, "time") == real(o, "seconds_per_update"));
    assert_true(real(o, "tokens_per_second") > 1 && real(o, "tokens_per_second") < 1e6);
    assert_true(real(json_object_get(o, "time"), "products") > 0 && real(json_object_get(o, "time"), "decode") > 0);
    json_decref(o);
    assert_int_equal(RUN("plan", "config.yaml", "--estimate"), 0);
    char *text = read_text("out");
    assert_non_null(strstr(text, "estimated"));
    mem_free(text);
}

static void all_cards_stand_side_by_side(void **state)
{
    (void)state;
    write_config("llama-8b", "sequence_len: 2048\nmicro_batch_size: 4\n");
    assert_int_equal(RUN("plan", "config.yaml", "--device", "all"), 0);
    char *text = read_text("out");
    int lines = 0;
    for (const char *at = text; *at; at++)
        lines += *at == '\n';
    assert_int_equal(lines, 2 + device_card_count());
    assert_non_null(strstr(text, "\nt4 "));
    mem_free(text);
    assert_int_equal(RUN("plan", "config.yaml", "--device", "all", "--json"), 0);
    json_t *o = read_json();
    const json_t *cards = json_object_get(o, "cards");
    assert_int_equal(json_array_size(cards), device_card_count());
    for (int i = 0; i < device_card_count(); i++) {
        const json_t *card = json_array_get(cards, (size_t)i);
        const DevicePlan alone = plan("llama-8b", device_card_at(i).name, "sequence_len: 2048\nmicro_batch_size: 4\n");
        assert_string_equal(json_string_value(json_object_get(card, "device")), alone.card.name);
        assert_true(real(card, "peak_memory_bytes") == (double)alone.memory.peak);
        assert_true(real(card, "seconds_per_update") == alone.time.total);
        assert_true(real(card, "max_sequence_len") == (double)alone.max_sequence_len);
    }
    json_decref(o);
}

static void data_give_their_own_lengths_and_shares(void **state)
{
    (void)state;
    write_text("data.yaml", "base_model: tiny\ndatasets: [{path: chats.jsonl}]\ndataset_prepared_path: none\n"
                            "output_dir: run\nsequence_len: 96\nmicro_batch_size: 4\nsample_packing: false\n"
                            "gradient_accumulation_steps: 2\nnum_epochs: 2\n");
    assert_int_equal(RUN("plan", "data.yaml", "--device", "l4", "--json"), 0);
    json_t *o = read_json();
    assert_true(real(o, "samples") == 40 && real(o, "rows") == 40 && real(o, "total_steps") == 10);
    assert_true(real(o, "tokens_per_update") > 80 && real(o, "tokens_per_update") < 8 * 96);
    assert_true(real(o, "tokens_per_update") < 2 * real(o, "max_tokens")); /* the average, not the longest */
    assert_near(real(o, "run_seconds"), 10 * real(o, "seconds_per_update"), 1e-12);
    const double head = real(json_object_get(o, "time"), "head");
    json_decref(o);
    assert_int_equal(RUN("plan", "data.yaml", "--device", "l4", "--json", "--set", "train_on_inputs=true"), 0);
    o = read_json();
    assert_true(real(json_object_get(o, "time"), "head") > head); /* more tokens are trained */
    json_decref(o);
}

static void the_help_lists_every_card(void **state)
{
    (void)state;
    assert_int_equal(RUN("plan", "--help"), 0);
    char *text = read_text("out");
    for (int i = 0; i < device_card_count(); i++) {
        const DeviceCard card = device_card_at(i);
        if (!strstr(text, card.name)) fail_msg("no %s", card.name);
    }
    static const char *const keys[] = {
        "memory=", "matmul=",     "bandwidth=", "link=", "attention=", "attention-backward=",
        "launch=", "capability=", "processors", "l2",    "context=",   "workspace="};
    for (size_t i = 0; i < ARRAY_COUNT(keys); i++)
        assert_non_null(strstr(text, keys[i]));
    mem_free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_line_of_json_holds_everything_by_name),
        cmocka_unit_test(a_plan_needs_no_datasets_but_training_does),
        cmocka_unit_test(rows_beyond_all_measure_are_refused_and_long_ones_warned_of),
        cmocka_unit_test(settings_that_would_do_nothing_are_refused),
        cmocka_unit_test(the_only_update_of_a_run_has_a_rate),
        cmocka_unit_test(a_limit_of_file_sizes_ends_with_one_line),
        cmocka_unit_test(a_plan_of_a_4_bit_folder_sees_what_is_stored),
        cmocka_unit_test(rows_beyond_dynamic_rope_scaling_are_refused),
        cmocka_unit_test(a_plan_of_70b_takes_little_time_and_no_weights),
        cmocka_unit_test(the_text_names_what_does_not_fit_and_what_the_model_limits),
        cmocka_unit_test(wrong_cards_end_with_one_error_and_exit_2),
        cmocka_unit_test(a_device_of_this_machine_is_planned_as_before),
        cmocka_unit_test(an_estimate_for_this_processor_is_measured_when_asked_for),
        cmocka_unit_test(all_cards_stand_side_by_side),
        cmocka_unit_test(data_give_their_own_lengths_and_shares),
        cmocka_unit_test(the_help_lists_every_card),
    };
    return cmocka_run_group_tests(tests, setup_program, teardown);
}
