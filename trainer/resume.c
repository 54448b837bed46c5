#include "trainer/trainer.h"

#include "base/log.h"
#include "base/mem.h"
#include "trainer/checkpoint.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Checkpoints of a step above `step` go: the run starts behind them. */
static bool forget_later(const Trainer *t, int64_t step, Err *err)
{
    CheckpointList list = {0};
    if (!checkpoint_list(&list, t->session.settings.output_dir, err)) return false;
    bool ok = true;
    for (size_t i = 0; ok && i < list.count; i++) {
        if (list.steps[i] <= step) continue;
        char *path = checkpoint_folder(t->session.settings.output_dir, list.steps[i], err);
        if (path) log_info("%s belongs to what is being replaced and is removed", path);
        ok = path && checkpoint_remove(t->session.settings.output_dir, list.steps[i], err);
        mem_free(path);
    }
    checkpoint_list_free(&list);
    return ok;
}

static bool read_state(Trainer *t, const char *folder, Err *err)
{
    char *path = path_join(folder, "trainer_state.json", err);
    const bool ok = path && state_read(&t->state, path, err);
    mem_free(path);
    return ok;
}

/* One line for each key that differs; what cannot change is an error that lists all of it. */
static bool judge_changes(const ConfigChanges *changes, bool same_base, const char *folder, Err *err)
{
    Text impossible = {0};
    bool ok = true;
    for (size_t i = 0; ok && i < changes->count; i++) {
        const ConfigChange *c = &changes->items[i];
        const bool base = strcmp(c->key, "base_model") == 0 && same_base; /* the same files under another name */
        if (c->kind == CONFIG_CHANGE_IMPOSSIBLE && !base) {
            ok = text_format(&impossible, err, "%s%s was %s and is %s", impossible.length ? "; " : "", c->key,
                             c->before, c->after);
        } else if (c->kind == CONFIG_CHANGE_RESULT) {
            log_warn("%s was %s and is %s: from here on the run differs from an uninterrupted one", c->key, c->before,
                     c->after);
        }
    }
    if (ok && impossible.length) {
        ok = FAIL(err, ERR_CONFIG,
                  "%s cannot be resumed with this configuration: %s; change it back, or choose another output_dir",
                  folder, impossible.bytes);
    }
    text_free(&impossible);
    return ok;
}

static bool compare_config(const Trainer *t, const char *folder, Err *err)
{
    Config *before = NULL;
    ConfigChanges changes = {0};
    char base[HASH_TEXT];
    bool ok = false;
    char *path = path_join(folder, "run.yaml", err);
    TRY(path != NULL);
    TRY(config_load(&before, path, NULL, 0, err));
    TRY(config_diff(&changes, before, t->config, err));
    TRY(source_fingerprint(t->session.source, base, err));
    const bool same_base = strcmp(base, t->state.base_fingerprint) == 0;
    TRY(judge_changes(&changes, same_base, folder, err));
    if (!same_base) {
        (void)FAIL(err, ERR_CHECKPOINT,
                   "%s was trained on another base model than %s now holds; choose another output_dir", folder,
                   t->session.base_path);
        goto fail;
    }
    ok = true;
fail:
    config_changes_free(&changes);
    config_free(before);
    mem_free(path);
    return ok;
}

/* What was saved with save_only_model ends a run, but nothing can go on from it. */
static bool check_resumable(const Trainer *t, const char *folder, Err *err)
{
    if (t->state.resumable || t->state.step >= t->plan.total_steps || t->state.stopped_early) return true;
    return FAIL(
        err, ERR_CHECKPOINT,
        "%s was saved with save_only_model and cannot be resumed; start anew with resume_from_checkpoint: none, "
        "or continue its weights with adapter_path and another output_dir",
        folder);
}

static bool take(Trainer *t, const char *folder, Err *err)
{
    if (!read_state(t, folder, err) || !compare_config(t, folder, err) || !check_resumable(t, folder, err)) {
        return false;
    }
    const char *data = dataset_fingerprint(t->session.train);
    if (strcmp(data, t->state.data_fingerprint) != 0) {
        log_warn("the training data changed since %s was saved: the run goes on at row %" PRId64 " of the new data",
                 folder, t->state.rows);
    }
    if (t->state.rows != t->state.step * t->session.settings.update_rows && t->state.step < t->plan.total_steps) {
        t->state.rows = t->state.step * t->session.settings.update_rows; /* another batch size: steps count on */
    }
    return true;
}

/* Checkpoints that are all damaged cost a whole run: nobody should learn from the step numbers that it began again. */
static bool say_that_none_is_whole(const char *output, Err *err)
{
    CheckpointList list = {0};
    if (!checkpoint_list(&list, output, err)) return false;
    if (list.count > 0) log_warn("no checkpoint in %s is whole: the run starts anew", output);
    checkpoint_list_free(&list);
    return true;
}

bool resume_find(Trainer *t, char **folder, Err *err)
{
    const char *how = t->session.settings.resume, *output = t->session.settings.output_dir;
    int64_t step = 0;
    *folder = NULL;
    if (strcmp(how, "none") == 0) return forget_later(t, -1, err);
    if (strcmp(how, "auto") == 0) {
        if (!checkpoint_newest(folder, &step, output, INT64_MAX, err)) return false;
        if (!*folder) return say_that_none_is_whole(output, err);
    } else {
        *folder = mem_copy_text(how, err);
        TRY(*folder != NULL);
        if (!checkpoint_verify(how, -1, err)) {
            err_note(err, "resume_from_checkpoint");
            goto fail;
        }
    }
    TRY(take(t, *folder, err));
    if (strcmp(how, "auto") != 0) TRY(forget_later(t, t->state.step, err));
    return true;
fail:
    mem_free(*folder);
    *folder = NULL;
    return false;
}
