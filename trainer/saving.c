#include "trainer/trainer.h"

#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "trainer/checkpoint.h"
#include "trainer/process.h"
#include "trainer/tokenizer_files.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char OPTIMIZER_FILE[] = "optimizer.safetensors";
static const char FINAL_FOLDER[] = ".final.tmp";
static const char *const adapter_names[] = {"adapter_model.safetensors", "adapter_config.json"};

static bool save_adapter(const Trainer *t, const char *folder, Err *err)
{
    const Model *m = t->session.model;
    int modules = 0;
    return lora_save(model_lora(m), model_modules(m, &modules), t->session.backend, model_params(m), folder,
                     t->config->base_model, err);
}

static bool save_optimizer(const Trainer *t, const char *folder, Err *err)
{
    char *path = path_join(folder, OPTIMIZER_FILE, err);
    const bool ok = path && adamw_save(t->session.optimizer, path, err);
    mem_free(path);
    return ok;
}

static bool check_space(const Trainer *t, Err *err)
{
    const char *folder = t->session.settings.output_dir;
    uint64_t space = 0;
    if (!file_free_space(&space, folder, err)) return false;
    if (space >= t->plan.checkpoint_bytes) return true;
    return FAIL(err, ERR_DISK, "a checkpoint needs about %.1f MB and %s has %.1f MB free; free some space",
                (double)t->plan.checkpoint_bytes / 1e6, folder, (double)space / 1e6);
}

static bool save_files(const Trainer *t, const Checkpoint *c, Err *err)
{
    if (!save_adapter(t, c->temporary, err)) return false;
    if (t->state.resumable && !save_optimizer(t, c->temporary, err)) return false;
    if (!checkpoint_write(c, "run.yaml", t->run_yaml.bytes, t->run_yaml.length, err)) return false;
    char *state = state_to_json(&t->state, err);
    const bool ok = state && checkpoint_write(c, "trainer_state.json", state, strlen(state), err);
    free(state);
    return ok;
}

static void rotate(const Trainer *t)
{
    Err fault = {0};
    const int64_t best = t->state.has_best ? t->state.best_step : -1;
    if (!checkpoint_rotate(t->session.settings.output_dir, t->session.settings.save_limit, best, &fault)) {
        log_warn("an older checkpoint was not removed: %s", fault.text);
    }
}

bool saving_checkpoint(Trainer *t, Err *err)
{
    Checkpoint c = {0};
    t->state.resumable = !t->session.settings.save_only_model;
    TRY(check_space(t, err));
    TRY(checkpoint_begin(&c, t->session.settings.output_dir, t->state.step, err));
    TRY(save_files(t, &c, err));
    TRY(checkpoint_commit(&c, err));
    t->saved_step = t->state.step;
    t->saved_at = process_seconds();
    t->save_failed = false;
    t->report->saves++;
    log_info("saved %s/checkpoint-%08" PRId64, t->session.settings.output_dir, t->state.step);
    rotate(t);
    return true;
fail:
    checkpoint_discard(&c);
    t->saved_at = process_seconds(); /* the next attempt comes after the usual interval */
    t->save_failed = true;
    t->report->failed_saves++;
    return err_note(err, "checkpoint of step %" PRId64, t->state.step);
}

bool saving_restore(Trainer *t, const char *folder, Err *err)
{
    if (!session_load_adapter(&t->session, folder, err)) return false;
    char *path = path_join(folder, OPTIMIZER_FILE, err);
    const bool ok = path && adamw_load(t->session.optimizer, path, err);
    mem_free(path);
    return ok;
}

static char *whole_folder(const Trainer *t, int64_t step, Err *fault)
{
    char *folder = checkpoint_folder(t->session.settings.output_dir, step, fault);
    if (folder && checkpoint_verify(folder, step, fault)) return folder;
    mem_free(folder);
    return NULL;
}

/* The checkpoint whose adapter is the result: the best one where that is asked for, else the one of the last step,
 * which may stand elsewhere. Null when neither is there; the caller then takes the weights in memory. */
static char *result_folder(const Trainer *t)
{
    Err fault = {0};
    if (t->session.settings.load_best && t->state.has_best) {
        char *best = whole_folder(t, t->state.best_step, &fault);
        if (best) {
            log_info("the best evaluation was at step %" PRId64 ": eval_loss %.4f", t->state.best_step,
                     t->state.best_loss);
            return best;
        }
        log_warn("the checkpoint of the best evaluation cannot be used (%s); the last one is taken", fault.text);
        err_clear(&fault);
    }
    char *last = whole_folder(t, t->state.step, &fault);
    return last || !t->finished ? last : mem_copy_text(t->finished, &fault);
}

static bool copy_adapter(const char *to, const char *from, Err *err)
{
    bool ok = true;
    for (size_t i = 0; ok && i < ARRAY_COUNT(adapter_names); i++) {
        char *source = path_join(from, adapter_names[i], err), *target = path_join(to, adapter_names[i], err);
        ok = source && target && file_copy(target, source, err);
        mem_free(source);
        mem_free(target);
    }
    return ok;
}

/* Everything in `from` takes its place in `to`, one rename a file. */
static bool move_files(const char *to, const char *from, Err *err)
{
    FileList list = {0};
    bool ok = file_list(&list, from, ERR_DISK, err);
    for (size_t i = 0; ok && i < list.count; i++) {
        char *source = path_join(from, list.names[i], err), *target = path_join(to, list.names[i], err);
        ok = source && target && file_rename(source, target, err);
        mem_free(source);
        mem_free(target);
    }
    file_list_free(&list);
    return ok && file_remove_tree(from, err);
}

/* What `write` puts into a hidden folder takes its place in output_dir, or nothing does. */
static bool publish(Trainer *t, bool (*write)(const Trainer *t, const char *folder, Err *err), Err *err)
{
    const char *output = t->session.settings.output_dir;
    char *folder = path_join(output, FINAL_FOLDER, err);
    bool ok = false;
    TRY(folder != NULL);
    if (file_exists(folder)) TRY(file_remove_tree(folder, err));
    TRY(file_make_folders(folder, err));
    TRY(write(t, folder, err));
    TRY(move_files(output, folder, err));
    ok = true;
fail:
    if (!ok && folder) {
        Err ignored = {0};
        if (file_exists(folder) && !file_remove_tree(folder, &ignored)) log_warn("%s stays behind", folder);
    }
    mem_free(folder);
    return ok;
}

static bool write_adapter(const Trainer *t, const char *folder, Err *err)
{
    char *result = result_folder(t);
    if (!result && t->finished) return FAIL(err, ERR_CHECKPOINT, "%s can no longer be read", t->finished);
    const bool ok = result ? copy_adapter(folder, result, err) : save_adapter(t, folder, err);
    mem_free(result);
    return ok;
}

static bool write_tokenizer(const Trainer *t, const char *folder, Err *err)
{
    return tokenizer_files_write(folder, t->session.tokenizer_path, t->session.tokenizer, err);
}

/* A file whose write failed is never written again, but a new one is, once. */
static bool publish_twice(Trainer *t, bool (*write)(const Trainer *t, const char *folder, Err *err), Err *err)
{
    Err fault = {0};
    if (publish(t, write, &fault)) return true;
    log_warn("not written, trying once more: %s", fault.text);
    return publish(t, write, err);
}

bool saving_export(Trainer *t, Err *err)
{
    if (!publish_twice(t, write_adapter, err)) return false;
    session_release(&t->session); /* the files of a tokenizer take memory to make, and nobody needs the model now */
    if (!publish_twice(t, write_tokenizer, err)) return false;
    log_info("the adapter is in %s", t->session.settings.output_dir);
    return true;
}

static bool same_size(const char *path, const char *other, Err *err)
{
    File a = {0}, b = {0};
    const bool same =
        file_open_read(&a, path, ERR_DISK, err) && file_open_read(&b, other, ERR_DISK, err) && a.size == b.size;
    file_close(&a);
    file_close(&b);
    return same;
}

/* Sizes are compared first: what stands there may be anything, of any length. */
static bool same_file(const char *folder, const char *other, const char *name, Err *err)
{
    char hash[HASH_TEXT], other_hash[HASH_TEXT];
    char *path = path_join(folder, name, err), *other_path = path_join(other, name, err);
    const bool same = path && other_path && same_size(path, other_path, err) && hash_file(path, ERR_DISK, hash, err) &&
                      hash_file(other_path, ERR_DISK, other_hash, err) && strcmp(hash, other_hash) == 0;
    mem_free(path);
    mem_free(other_path);
    return same;
}

/* By content: what stands there may be of an earlier end of this run, which then went on to more steps. */
bool saving_exported(const Trainer *t)
{
    const char *output = t->session.settings.output_dir;
    Err ignored = {0};
    char *result = result_folder(t);
    bool there = result && tokenizer_files_there(output, t->session.tokenizer_path);
    for (size_t i = 0; there && i < ARRAY_COUNT(adapter_names); i++)
        there = same_file(output, result, adapter_names[i], &ignored);
    mem_free(result);
    return there;
}
