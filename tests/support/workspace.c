#include "tests/support/workspace.h"

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "tests/support/tiny.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void workspace_make(Workspace *w, int rows)
{
    Err err = {0};
    const TinyOptions model = {.tied = true, .seed = 7};
    log_set_quiet(true);
    w->previous = getcwd(NULL, 0);
    w->folder = tiny_temp_folder();
    CHECK(w->previous && w->folder && chdir(w->folder) == 0);
    CHECK(tiny_model_write("model", &model, &err));
    CHECK(tiny_chats_write("train.jsonl", rows, 1, &err));
    CHECK(tiny_chats_write("test.jsonl", 6, 2, &err));
}

void workspace_free(Workspace *w)
{
    Err err = {0};
    CHECK(chdir(w->previous) == 0);
    CHECK(file_remove_tree(w->folder, &err));
    mem_free(w->folder);
    free(w->previous);
}

/* A default goes when `more` has a line that starts with the same key. */
static bool has_key(const char *more, const char *line)
{
    const size_t key = strcspn(line, ":") + 1;
    for (const char *at = more; at && *at; at = strchr(at, '\n') ? strchr(at, '\n') + 1 : "") {
        if (strncmp(at, line, key) == 0) return true;
    }
    return false;
}

static void config_text(Text *out, const char *output, const char *more)
{
    static const char *const defaults[] = {
        "base_model: model",
        "datasets: [{path: train.jsonl}]",
        "dataset_prepared_path: none",
        "bnb_4bit_compute_dtype: fp32",
        "threads: 1", /* runs are too small to share */
        "lora_r: 4",
        "sequence_len: 96",
        "sample_packing: false",
        "micro_batch_size: 1",
        "gradient_accumulation_steps: 2",
        "max_steps: 6",
        "learning_rate: 5e-3",
        "save_steps: 2",
        "save_minutes: 0",
    };
    Err err = {0};
    if (!more) more = "";
    CHECK(text_format(out, &err, "output_dir: %s\n", output));
    for (size_t i = 0; i < ARRAY_COUNT(defaults); i++) {
        if (!has_key(more, defaults[i])) CHECK(text_format(out, &err, "%s\n", defaults[i]));
    }
    CHECK(text_add_z(out, more, &err));
}

Config *workspace_config(const char *output, const char *more)
{
    Config *config = NULL;
    Text text = {0};
    Err err = {0};
    config_text(&text, output, more);
    if (!config_parse(&config, "test.yaml", text.bytes, text.length, NULL, 0, &err)) {
        fprintf(stderr, "%s\n", err.text);
        CHECK(false);
    }
    text_free(&text);
    return config;
}

void workspace_write_config(const char *path, const char *output, const char *more)
{
    Text text = {0};
    Err err = {0};
    config_text(&text, output, more);
    CHECK(file_replace(path, text.bytes, text.length, &err));
    text_free(&text);
}

bool workspace_train(const char *output, const char *more, const RunOptions *options, RunReport *report, Err *err)
{
    const RunOptions plain = {.no_signals = true};
    RunReport ignored;
    Config *config = workspace_config(output, more);
    const bool ok = run_train(config, options ? options : &plain, report ? report : &ignored, err);
    config_free(config);
    return ok;
}

bool workspace_same(const char *a, const char *b)
{
    char *bytes[2] = {NULL, NULL};
    size_t length[2] = {0, 0};
    Err err = {0};
    const bool read = file_read_all(&bytes[0], &length[0], a, 1 << 28, ERR_DATA, &err) &&
                      file_read_all(&bytes[1], &length[1], b, 1 << 28, ERR_DATA, &err);
    if (!read) fprintf(stderr, "%s\n", err.text);
    const bool same = read && length[0] == length[1] && memcmp(bytes[0], bytes[1], length[0]) == 0;
    mem_free(bytes[0]);
    mem_free(bytes[1]);
    return same;
}

bool workspace_same_in(const char *output_a, const char *output_b, const char *name)
{
    Err err = {0};
    char *a = path_join(output_a, name, &err), *b = path_join(output_b, name, &err);
    const bool same = workspace_same(a, b);
    mem_free(a);
    mem_free(b);
    return same;
}

int workspace_curve(const char *output, const char *key, double *values, int max)
{
    Err err = {0};
    char *path = path_join(output, "metrics.jsonl", &err), *bytes = NULL;
    size_t length = 0;
    int n = 0;
    CHECK(file_read_all(&bytes, &length, path, 1 << 26, ERR_DATA, &err));
    for (char *line = bytes; *line;) {
        const size_t end = strcspn(line, "\n");
        json_t *o = NULL;
        CHECK(json_parse(&o, line, end, "metrics.jsonl", ERR_DATA, &err));
        const json_t *value = json_object_get(o, key);
        if (json_object_get(o, "loss")) {
            CHECK(n < max && value);
            values[n++] = json_is_null(value) ? (double)NAN : json_number_value(value);
        }
        json_decref(o);
        line += end + (line[end] == '\n');
    }
    mem_free(bytes);
    mem_free(path);
    return n;
}
