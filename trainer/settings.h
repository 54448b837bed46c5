/*
 * settings.h - a Config turned into the options of every part. This is where the keys of a run are read (CONFIG_GET),
 * so that a key without effect is found by config_check_consumed right after planning.
 */
#pragma once

#include "model/model.h"
#include "optim/adamw.h"
#include "trainer/config.h"
#include "trainer/watchdog.h"

typedef struct Settings {
    ModelOptions model; /* max_tokens, kept_layers and the cache come from the plan */
    CheckpointingKind checkpointing;
    HostPlace host_embeddings; /* the plan decides about auto */
    int64_t memory_budget;     /* bytes; 0: what the machine has */
    AdamwOptions optimizer;    /* page_path comes from the run */
    WatchdogOptions watchdog;
    int threads; /* 0: all cores */

    int64_t micro_rows;  /* rows of one micro-batch */
    int64_t update_rows; /* rows of one update */
    double epochs;
    int64_t max_steps; /* 0: by epochs */
    uint64_t seed;

    const char *output_dir;
    const char *adapter_path; /* null: a new adapter */
    int64_t logging_steps;

    double eval_steps; /* a SHARE of all updates */
    int64_t evals_per_epoch;
    bool eval_on_start;
    int64_t early_stopping; /* evaluations; 0: off */
    bool load_best;

    ConfigTexts sample_prompts;
    int64_t sample_every; /* updates; 0: at every evaluation */
    int64_t sample_tokens;

    double save_steps; /* a SHARE of all updates */
    int64_t saves_per_epoch;
    double save_minutes;
    int64_t save_limit;
    bool save_only_model;
    const char *resume; /* "auto", "none" or a path */
    bool tensorboard;
} Settings;

/* `be`: what it computes best decides about compute type auto. Says in the log where it differs from what was asked. */
void settings_make(Settings *out, const Config *c, const Backend *be);
int settings_threads(const Config *c);

/* What an adapter of the configuration looks like. */
LoraOptions settings_lora(const Config *c);
Schedule settings_schedule(const Config *c, int64_t total_steps);

/* `sources` (of `count`) must stay until dataset_open returns. */
DataOptions settings_data(const Config *c, const DataSource *sources, int count, int64_t vocabulary, bool evaluation);

/* For a plan without data: marks the keys about data as read, since nothing is wrong with them. */
void settings_skip_data(const Config *c);

/* Whether something that happens every `steps` updates, or `per_epoch` times an epoch, happens after update `step`
 * (from 1). Both 0: never. */
bool settings_due(int64_t steps, int64_t per_epoch, int64_t step, int64_t update_rows, int64_t epoch_rows);
