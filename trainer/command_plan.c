#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "trainer/command.h"
#include "trainer/device.h"
#include "trainer/host_speed.h"
#include "trainer/plan_device.h"
#include "trainer/run.h"

#include <stdio.h>
#include <string.h>

/* A source that is no glob and is not there: planned without. */
static const char *missing_data(const Config *c)
{
    for (int i = 0; i < c->datasets.count; i++) {
        const char *path = c->datasets.items[i].path;
        if (!strpbrk(path, "*?[") && !file_exists(path)) return path;
    }
    for (int i = 0; i < c->test_datasets.count; i++) {
        const char *path = c->test_datasets.items[i].path;
        if (!strpbrk(path, "*?[") && !file_exists(path)) return path;
    }
    return NULL;
}

/* A plan works without weights, and without the tokenizer or the data where they are not there yet. */
static bool open_what_is_there(Session *s, Err *err)
{
    Err fault = {0};
    if (!session_open_tokenizer_if_any(s, &fault)) {
        if (source_is_gguf(s->source) || file_in_folder(s->base_path, "tokenizer.json")) {
            *err = fault;
            return false;
        }
        log_warn("planned without the data, because there is no tokenizer: %s", fault.text);
        settings_skip_data(s->config);
        return true;
    }
    if (CONFIG_GET(s->config, datasets).count == 0) {
        log_warn("planned without the data: there are no datasets");
        settings_skip_data(s->config);
        return true;
    }
    const char *missing = missing_data(s->config);
    if (missing) {
        log_warn("planned without the data: %s is not there", missing);
        settings_skip_data(s->config);
        return true;
    }
    if (session_open_data(s, true, &fault)) return true;
    if (s->tokenizer || fault.code != ERR_MODEL) {
        *err = fault;
        return false;
    }
    log_warn("planned without the data: %s", fault.text);
    dataset_close(s->train); /* test_datasets were the ones that need a tokenizer */
    s->train = NULL;
    settings_skip_data(s->config);
    return true;
}

static bool print_text(Text *text, bool json, bool ok)
{
    if (ok && json) puts(text->bytes);
    if (ok && !json) fputs(text->bytes, stdout);
    text_free(text);
    return ok;
}

/* Speed of the processor, from a measurement of a fraction of a second; a card of this machine has its figures. */
static bool estimate(Plan *plan, const Session *s, Err *err)
{
    DeviceCard card;
    if (backend_kind(s->backend) != BACKEND_CPU) return true;
    return host_speed_measure(&card, s->backend, source_spec(s->source), &s->settings.model, plan->max_tokens,
                              CONFIG_GET(s->config, sequence_len), err) &&
           plan_time(&plan->time, plan, s, &card, err);
}

static bool plan_here(Session *s, const CommandLine *line, const Prompts *prompts, Err *err)
{
    Plan plan;
    Text text = {0};
    const bool json = command_flag(line, "json");
    if (!plan_make(&plan, s, prompts, NULL, err) || !config_check_consumed(s->config, err)) return false;
    if (command_flag(line, "estimate") && !estimate(&plan, s, err)) return false;
    return print_text(&text, json, json ? plan_json(&plan, s, &text, err) : plan_text(&plan, s, &text, err));
}

static bool plan_card(Session *s, const DeviceCard *card, const Prompts *prompts, bool json, Err *err)
{
    DevicePlan plan;
    Text text = {0};
    if (!plan_device_make(&plan, s, card, prompts, err) || !config_check_consumed(s->config, err)) return false;
    return print_text(&text, json,
                      json ? plan_device_json(&plan, s, &text, err) : plan_device_text(&plan, s, &text, err));
}

/* Every card of the table, one line each, or one list. */
static bool plan_all(Session *s, const Prompts *prompts, bool json, Err *err)
{
    DevicePlan plan;
    Text text = {0};
    bool ok = json ? text_add_z(&text, "{\"cards\":[", err) : plan_device_heading(&text, err);
    for (int i = 0; ok && i < device_card_count(); i++) {
        const DeviceCard card = device_card_at(i);
        ok = (plan_device_make(&plan, s, &card, prompts, err) || err_note(err, "%s", card.name)) &&
             (i == 0 || !json || text_add_z(&text, ",", err)) &&
             (json ? plan_device_json(&plan, s, &text, err) : plan_device_line(&plan, &text, err));
    }
    ok = ok && (!json || text_add_z(&text, "]}", err)) && config_check_consumed(s->config, err);
    return print_text(&text, json, ok);
}

/* A device that is here ("cpu", "cuda:1") is the key of the configuration; anything else names a card. */
static bool load_config(Config **out, const CommandLine *line, const char *device, Err *err)
{
    Text key = {0};
    const char **sets = mem_alloc((size_t)line->set_count + 1, sizeof *sets, err);
    bool ok = sets && (!device || text_format(&key, err, "device=%s", device));
    for (int i = 0; ok && i < line->set_count; i++)
        sets[i] = line->sets[i];
    if (ok && device) sets[line->set_count] = key.bytes;
    ok = ok && config_load_without_data(out, line->files[0], sets, line->set_count + (device != NULL), err);
    mem_free(sets);
    text_free(&key);
    return ok;
}

static bool run(const CommandLine *line, Err *err)
{
    Config *config = NULL;
    Session s = {0};
    Prompts prompts = {0};
    DeviceCard card;
    bool ok = false;
    const char *device = command_text(line, "device");
    DeviceChoice here;
    const bool all = device && strcmp(device, "all") == 0, is_card = device && !device_parse(&here, device);
    const bool json = command_flag(line, "json");
    const SessionOptions options = {.weights = false};
    if (is_card && !device_card_parse(&card, all ? device_card_at(0).name : device, err)) return false;
    if (!load_config(&config, line, is_card ? NULL : device, err)) return false;
    config_log_notices(config);
    TRY(is_card ? plan_device_open(&s, config, &card, err) : session_open(&s, config, &options, err));
    TRY(open_what_is_there(&s, err));
    if (s.tokenizer) TRY(run_sample_prompts(&prompts, &s, err));
    (void)settings_schedule(config, 1);
    if (all)
        TRY(plan_all(&s, &prompts, json, err));
    else
        TRY(is_card ? plan_card(&s, &card, &prompts, json, err) : plan_here(&s, line, &prompts, err));
    ok = true;
fail:
    prompts_free(&prompts);
    session_close(&s);
    config_free(config);
    return ok;
}

static const CommandOption options[] = {
    {"device",   "CARD", "device of this machine, or a card that need not be here: memory, largest sizes, speed" },
    {"estimate", NULL,   "measure this processor for a fraction of a second and estimate the time of a run on it"},
    COMMAND_SET,
    COMMAND_JSON,
};

const Command command_plan = {
    .name = "plan",
    .files = "CONFIG [--device CARD] [--estimate] [--json] [--set KEY=VALUE ...]",
    .summary = "Check a configuration and print what it will train, in how many updates and how much memory",
    .details =
        "Needs no weights: config.json or the header of a GGUF file is enough. Data or a tokenizer that are not there\n"
        "yet are left out, with a warning: the steps then follow max_steps alone.\n"
        "\n"
        "CARD: cpu, cuda, cuda:N: a device of this machine. Or a card that need not be here:\n"
        "all (a line for each of them), h100, h100-pcie, h200, b200, a100, a100-40gb, 4090, 3090, l4, t4; or one with "
        "other\n"
        "figures: h100,memory=40GiB; or figures alone: custom,memory=24GiB,matmul=150,bandwidth=900. Figures are rates "
        "that\n"
        "last, not those on the box:\n"
        "  memory=24GiB           device memory\n"
        "  matmul=150             16-bit matrix products, TFLOP/s\n"
        "  bandwidth=900          copy in device memory, read and written bytes, GB/s\n"
        "  link=25                pinned host memory to device, one way, GB/s\n"
        "  attention=110          attention forward on long rows, TFLOP/s; attention-backward=92\n"
        "  launch=2.5             host time of a kernel launch, microseconds\n"
        "  capability=8.9         compute capability; processors=128: streaming multiprocessors; l2=72MiB: cache\n"
        "  context=400MiB         CUDA context and code; workspace=8MiB: of cuBLAS\n"
        "A run that does not fit is planned all the same and says so; with max_gpu_memory it is refused (exit 5).\n"
        "No figure was measured by this program on a card: they are published ones, and guesses where there are none.",
    .min_files = 1,
    .max_files = 1,
    .options = options,
    .option_count = 4,
    .run = run,
};
