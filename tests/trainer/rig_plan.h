/*
 * rig_plan.h - a folder with config.json files of well-known shapes, for plans without weights.
 */
#pragma once

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "tests/support/tiny.h"
#include "trainer/plan_device.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char *folder, *previous;

static inline void write_text(const char *path, const char *text)
{
    Err err = {0};
    if (!file_replace(path, text, strlen(text), &err)) fail_msg("%s", err.text);
}

static inline void write_model(const char *name, int hidden, int ffn, int layers, int heads, int kv_heads, int vocab,
                               int positions, bool tied)
{
    Text text = {0};
    Err err = {0};
    char path[64];
    assert_true(file_make_folders(name, &err));
    assert_true(text_format(&text, &err,
                            "{\"model_type\":\"llama\",\"hidden_size\":%d,\"intermediate_size\":%d,"
                            "\"num_hidden_layers\":%d,\"num_attention_heads\":%d,\"num_key_value_heads\":%d,"
                            "\"vocab_size\":%d,\"max_position_embeddings\":%d,\"rms_norm_eps\":1e-5,"
                            "\"rope_theta\":500000.0,\"tie_word_embeddings\":%s}",
                            hidden, ffn, layers, heads, kv_heads, vocab, positions, tied ? "true" : "false"));
    snprintf(path, sizeof path, "%s/config.json", name);
    write_text(path, text.bytes);
    text_free(&text);
}

static inline int setup(void **state)
{
    (void)state;
    Err err = {0};
    log_set_quiet(true);
    previous = getcwd(NULL, 0);
    folder = tiny_temp_folder();
    if (!previous || !folder || chdir(folder) != 0) return -1;
    write_model("llama-8b", 4096, 14336, 32, 32, 8, 128256, 131072, false);
    write_model("llama-70b", 8192, 28672, 80, 64, 8, 128256, 131072, false);
    write_model("smol", 576, 1536, 30, 9, 3, 49152, 8192, true);
    return tiny_model_write("tiny", &(TinyOptions){.tied = true, .seed = 7}, &err) &&
                   tiny_chats_write("chats.jsonl", 40, 1, &err)
               ? 0
               : -1;
}

static inline int teardown(void **state)
{
    (void)state;
    Err err = {0};
    if (chdir(previous) != 0 || !file_remove_tree(folder, &err)) return -1;
    mem_free(folder);
    free(previous);
    return 0;
}

static inline void write_config(const char *model, const char *more)
{
    Text text = {0};
    Err err = {0};
    assert_true(text_format(&text, &err,
                            "base_model: %s\ndatasets: [{path: none.jsonl}]\noutput_dir: run\nlora_r: 16\n"
                            "gradient_accumulation_steps: 1\nmax_steps: 10\n%s",
                            model, more));
    write_text("config.yaml", text.bytes);
    text_free(&text);
}

static inline void assert_near(double value, double expected, double relative)
{
    if (!(fabs(value - expected) <= relative * fabs(expected)))
        fail_msg("%g is not %g within %g", value, expected, relative);
}

/* The plan of `model` with further lines of YAML, and prompts where it generates; false: *err says why. */
static inline bool try_plan_of(DevicePlan *out, const char *model, const char *card_text, const char *more,
                               const Prompts *prompts, Err *err)
{
    Config *config = NULL;
    Session s = {0};
    DeviceCard card;
    bool ok = false;
    write_config(model, more);
    TRY(device_card_parse(&card, card_text, err));
    TRY(config_load(&config, "config.yaml", NULL, 0, err));
    TRY(plan_device_open(&s, config, &card, err));
    settings_skip_data(config);
    TRY(plan_device_make(out, &s, &card, prompts, err));
    ok = true;
fail:
    session_close(&s);
    config_free(config);
    return ok;
}

static inline bool try_plan(DevicePlan *out, const char *model, const char *card, const char *more, Err *err)
{
    return try_plan_of(out, model, card, more, NULL, err);
}

static inline DevicePlan plan(const char *model, const char *card, const char *more)
{
    DevicePlan p;
    Err err = {0};
    if (!try_plan(&p, model, card, more, &err)) fail_msg("%s on %s: %s", model, card, err.text);
    return p;
}
