/*
 * scene.h - a tiny model, its data, and a config in a temporary folder: the stage of the end-to-end tests.
 */
#pragma once

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "tests/support/child.h"
#include "tests/support/tiny.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

typedef struct Scene {
    char *folder;
    char config[512];
    char log[512];
} Scene;

#ifndef SCENE_UPDATES /* of a run; a test may want more */
#    define SCENE_UPDATES 6
#endif
#ifndef SCENE_LAYERS
#    define SCENE_LAYERS TINY_LAYERS
#endif
#ifndef SCENE_ROWS /* of the training data, and of the evaluation's */
#    define SCENE_ROWS 48
#    define SCENE_TEST_ROWS 8
#endif
#ifndef SCENE_TIED /* whether the head is the embedding table */
#    define SCENE_TIED true
#endif
enum { SCENE_STEPS = SCENE_UPDATES };

/* Compiled with QLORA_TEST_CUDA=1 the same tests run on the CUDA backend; on emulated threads they take fewer points. */
#ifndef QLORA_TEST_CUDA
#    define QLORA_TEST_CUDA 0
#endif
#define SCENE_DEVICE (QLORA_TEST_CUDA ? "cuda" : "cpu")

static inline void scene_path(char out[512], const Scene *s, const char *name)
{
    snprintf(out, 512, "%s/%s", s->folder, name);
}

static inline void scene_open(Scene *s)
{
    Err err = {0};
    s->folder = tiny_temp_folder();
    char model[512], train[512], test[512];
    scene_path(model, s, "model");
    scene_path(train, s, "train.jsonl");
    scene_path(test, s, "test.jsonl");
    scene_path(s->config, s, "config.yaml");
    scene_path(s->log, s, "log");
    const TinyOptions tiny = {.tied = SCENE_TIED, .layers = SCENE_LAYERS, .seed = 7};
    CHECK(tiny_model_write(model, &tiny, &err));
    CHECK(tiny_chats_write(train, SCENE_ROWS, 1, &err));
    CHECK(tiny_chats_write(test, SCENE_TEST_ROWS, 2, &err));
    FILE *f = fopen(s->config, "w");
    CHECK(f);
    fprintf(f,
            "base_model: %s\noutput_dir: %s/run\ndataset_prepared_path: %s/cache\n"
            "datasets:\n  - path: %s\ntest_datasets:\n  - path: %s\n"
            "bnb_4bit_compute_dtype: fp32\nlora_r: 8\nsequence_len: 128\nsample_packing: false\n"
            "micro_batch_size: 2\ngradient_accumulation_steps: 2\nmax_steps: %d\nlearning_rate: 1e-2\n"
            "save_steps: 2\neval_steps: 3\nlora_dropout: 0.1\nneftune_noise_alpha: 5\ndevice: %s\n",
            model, s->folder, s->folder, train, test, SCENE_STEPS, SCENE_DEVICE);
    CHECK(fclose(f) == 0);
}

static inline void scene_close(Scene *s)
{
    Err err = {0};
    CHECK(file_remove_tree(s->folder, &err));
    mem_free(s->folder);
}

static inline void scene_forget_run(const Scene *s)
{
    Err err = {0};
    char run[512];
    scene_path(run, s, "run");
    CHECK(file_remove_tree(run, &err));
}

static inline void scene_show_log(const Scene *s)
{
    Err err = {0};
    char *text = NULL;
    size_t length = 0;
    if (file_read_all(&text, &length, s->log, 1 << 24, ERR_DISK, &err)) {
        const size_t tail = length > 4000 ? length - 4000 : 0;
        fprintf(stderr, "---- log of the run\n%s\n----\n", text + tail);
    }
    mem_free(text);
}

/* What a run yields: bytes of the adapter, and per update what must not vary. */
typedef struct Outcome {
    char *adapter;
    size_t adapter_length;
    double loss[SCENE_STEPS + 1], grad_norm[SCENE_STEPS + 1];
    double eval_loss[SCENE_STEPS + 1];
    int seen[SCENE_STEPS + 1], evaluated[SCENE_STEPS + 1]; /* lines of that update in metrics.jsonl */
} Outcome;

static inline void outcome_free(Outcome *o)
{
    mem_free(o->adapter);
    *o = (Outcome){0};
}

/* The lines of metrics.jsonl; false, and said, when one of them is none. */
static inline bool outcome_read_log(Outcome *o, const char *path)
{
    char line[8192];
    FILE *f = fopen(path, "r");
    bool sound = f != NULL;
    while (sound && fgets(line, sizeof line, f)) {
        json_t *row = json_loads(line, 0, NULL);
        const json_t *loss = json_object_get(row, "loss");
        const json_int_t step = json_integer_value(json_object_get(row, "step"));
        sound = row && step >= 0 && step <= SCENE_STEPS && (step > 0 || !loss);
        if (sound && loss) {
            o->seen[step]++;
            o->loss[step] = json_number_value(loss);
            o->grad_norm[step] = json_number_value(json_object_get(row, "grad_norm"));
        }
        const json_t *eval_loss = json_object_get(row, "eval_loss");
        if (sound && eval_loss) {
            o->evaluated[step]++;
            o->eval_loss[step] = json_number_value(eval_loss);
        }
        json_decref(row);
    }
    if (f) fclose(f);
    if (!sound) print_error("%s is missing or has a bad line\n", path);
    return sound;
}

/* False, and said, when a file is missing or damaged. */
static inline bool outcome_load(Outcome *o, const Scene *s)
{
    Err err = {0};
    char path[512];
    scene_path(path, s, "run/adapter_model.safetensors");
    *o = (Outcome){0};
    if (!file_read_all(&o->adapter, &o->adapter_length, path, 1 << 24, ERR_DISK, &err)) {
        print_error("%s\n", err.text);
        return false;
    }
    scene_path(path, s, "run/metrics.jsonl");
    return outcome_read_log(o, path);
}

static inline void outcome_read(Outcome *o, const Scene *s)
{
    if (outcome_load(o, s)) return;
    scene_show_log(s);
    fail();
}

/* The first update that differs or does not stand in both logs once; -1: the logs say the same. */
static inline int outcome_first_difference(const Outcome *a, const Outcome *b)
{
    for (int step = 0; step <= SCENE_STEPS; step++) {
        const int lines = step > 0;
        if (a->seen[step] != lines || b->seen[step] != lines || a->evaluated[step] != b->evaluated[step] ||
            memcmp(&a->eval_loss[step], &b->eval_loss[step], sizeof(double)) != 0 ||
            memcmp(&a->loss[step], &b->loss[step], sizeof(double)) != 0 ||
            memcmp(&a->grad_norm[step], &b->grad_norm[step], sizeof(double)) != 0) {
            return step;
        }
    }
    return -1;
}

/* To the bit; false, and said, when they are not. */
static inline bool outcome_same(const Outcome *a, const Outcome *b)
{
    const int step = outcome_first_difference(a, b);
    if (step >= 0) {
        print_error("update %d stands in the logs %d and %d times, evaluated %d and %d times: loss %.17g and %.17g\n",
                    step, a->seen[step], b->seen[step], a->evaluated[step], b->evaluated[step], a->loss[step],
                    b->loss[step]);
        return false;
    }
    const bool same = a->adapter_length == b->adapter_length && memcmp(a->adapter, b->adapter, a->adapter_length) == 0;
    if (!same) print_error("the adapters differ\n");
    return same;
}

static inline void outcome_equal(const Outcome *a, const Outcome *b)
{
    assert_true(outcome_same(a, b));
}

/* A run that must end with `status`; its log is shown otherwise. */
static inline ChildResult scene_train(const Scene *s, const char *const *overrides, const ChildFault *fault, int status)
{
    remove(s->log);
    const ChildResult r = child_train(s->config, overrides, fault, s->log);
    if (r.status != status) {
        scene_show_log(s);
        fail_msg("the run ended with %d instead of %d", r.status, status);
    }
    return r;
}

/* A new run that must end well, and what it yields. */
static inline Outcome scene_run(const Scene *s, const char *const *overrides, const ChildFault *fault)
{
    Outcome o;
    scene_forget_run(s);
    scene_train(s, overrides, fault, 0);
    outcome_read(&o, s);
    return o;
}

/* The point a loop begins with: QLORA_TEST_SOAK=N goes on with a soak that was broken off at point N. */
static inline uint64_t scene_first(void)
{
    const char *from = getenv("QLORA_TEST_SOAK");
    const uint64_t first = from ? strtoull(from, NULL, 10) : 1;
    return first ? first : 1;
}

/* The soak runs every point; CI so many of them, evenly spread. */
static inline uint64_t scene_stride(uint64_t points, uint64_t in_ci)
{
    if (QLORA_TEST_CUDA) in_ci = in_ci / 8 + 1;
    if (getenv("QLORA_TEST_SOAK") || points <= in_ci) return 1;
    return points / in_ci;
}
