#include "trainer/run.h"

#include "base/log.h"
#include "base/mem.h"
#include "trainer/checkpoint.h"
#include "trainer/process.h"
#include "trainer/signals.h"
#include "trainer/trainer.h"

#include <inttypes.h>
#include <string.h>

/* The folder of a run: ours, locked, without leftovers. */
static bool open_folder(Trainer *t, const char *output, Err *err)
{
    if (file_in_folder(output, "adapter_model.safetensors") && !file_in_folder(output, "run.yaml")) {
        return FAIL(err, ERR_CONFIG,
                    "output_dir %s holds an adapter that is not of a run of this program; choose another folder",
                    output);
    }
    if (!file_make_folders(output, err) || !file_lock_folder(&t->lock, output, err)) return false;
    if (!checkpoint_clean(output, err)) return false;
    t->metrics_path = path_join(output, "metrics.jsonl", err);
    t->samples_path = path_join(output, "samples.jsonl", err);
    t->board_path = path_join(output, "runs", err);
    t->page_path = path_join(output, ".optimizer.pages", err);
    return t->metrics_path && t->samples_path && t->board_path && t->page_path;
}

static bool open_inputs(Trainer *t, Err *err)
{
    const SessionOptions options = {.hooks = t->options->hooks, .reference = t->options->reference, .weights = true};
    Session *s = &t->session;
    if (!session_open(s, t->config, &options, err) || !session_open_tokenizer_if_any(s, err)) return false;
    if (!session_open_data(s, true, err) || !run_sample_prompts(&t->prompts, s, err)) return false;
    const Dataset *evaluation = s->validation;
    return batch_cursor_create(&t->cursor, s->train, s->settings.micro_rows, err) &&
           (!evaluation || batch_cursor_create(&t->eval_cursor, evaluation, s->settings.micro_rows, err));
}

void run_watch_memory(Trainer *t)
{
    const Backend *be = t->session.backend;
    const BackendMemory m = backend_memory(be);
    const uint64_t now = backend_kind(be) == BACKEND_CPU ? process_peak_bytes() : m.total - m.free;
    if (now > t->device_peak) t->device_peak = now;
}

static bool make_plan(Trainer *t, Err *err)
{
    const Settings *s = &t->session.settings;
    if (!plan_make(&t->plan, &t->session, &t->prompts, t->page_path, err)) return false;
    t->schedule = settings_schedule(t->config, t->plan.total_steps);
    t->eval_interval = config_share(s->eval_steps, t->plan.total_steps);
    t->save_interval = config_share(s->save_steps, t->plan.total_steps);
    t->report->total_steps = t->plan.total_steps;
    t->report->planned_peak_bytes = t->plan.peak_memory_bytes;
    return config_check_consumed(t->config, err);
}

/* What every checkpoint says about where it came from. */
static bool sign_state(Trainer *t, Err *err)
{
    RunState *s = &t->state;
    s->total_steps = t->plan.total_steps;
    memcpy(s->data_fingerprint, dataset_fingerprint(t->session.train), HASH_TEXT);
    return config_hash(t->config, s->config_hash, err) &&
           source_fingerprint(t->session.source, s->base_fingerprint, err) &&
           config_to_text(t->config, &t->run_yaml, err);
}

/* Arenas, frozen weights, and the adapter as it is at this step. */
static bool load(Trainer *t, const char *checkpoint, Err *err)
{
    Session *s = &t->session;
    if (!session_place(s, err)) return false;
    if (t->plan.cache_tokens &&
        !generator_create(&t->generator, s->model, s->tokenizer, t->plan.cache_tokens, 1, err)) {
        return false;
    }
    if (checkpoint) return saving_restore(t, checkpoint, err);
    if (!lora_initialize(model_lora(s->model), s->backend, model_params(s->model), s->settings.seed, err)) return false;
    model_params_changed(s->model);
    return !s->settings.adapter_path || session_load_adapter(s, s->settings.adapter_path, err);
}

/* It also says that the folder is a run of ours. */
static bool write_run_yaml(Trainer *t, Err *err)
{
    if (!t->run_yaml.length && !config_to_text(t->config, &t->run_yaml, err)) return false;
    char *path = path_join(CONFIG_GET(t->config, output_dir), "run.yaml", err);
    const bool ok = path && file_replace(path, t->run_yaml.bytes, t->run_yaml.length, err);
    mem_free(path);
    return ok;
}

/* Logs go on behind the step that is resumed; what a lost part of the run wrote goes. */
static bool open_logs(Trainer *t, Err *err)
{
    const int64_t step = t->state.step > 0 ? t->state.step : -1; /* a new run starts with empty logs */
    const bool look_again = t->state.eval_pending;               /* the evaluation and the samples of this step */
    if (!metrics_open(&t->metrics, t->metrics_path, step, look_again ? "eval_loss" : NULL, err) ||
        !metrics_cut(t->samples_path, step, look_again ? "step" : NULL, err))
        return false;
    if (t->session.settings.tensorboard && !tensorboard_open(&t->board, t->board_path, t->state.step, err)) {
        return false;
    }
    return write_run_yaml(t, err);
}

/* The last checkpoint gets a second chance: a file whose write failed is never written again, a new one is. */
static bool save_the_end(Trainer *t, Err *err)
{
    if (t->saved_step == t->state.step) return true;
    Err fault = {0};
    if (saving_checkpoint(t, &fault)) return true;
    log_warn("not saved, trying once more: %s", fault.text);
    return saving_checkpoint(t, err);
}

static bool give_up(Trainer *t, Err *err)
{
    const WatchdogState *w = &t->state.watchdog;
    if (w->withheld > 0 && w->withheld == w->total) { /* no bad update touched the weights: they are worth keeping */
        Err fault = {0};
        if (!saving_checkpoint(t, &fault)) log_warn("not saved: %s", fault.text);
    }
    char saved[64] = "nothing was saved";
    if (t->saved_step >= 0) snprintf(saved, sizeof saved, "the newest checkpoint is of step %" PRId64, t->saved_step);
    return FAIL(err, ERR_DIVERGED,
                "stopped at update %" PRId64 ": %" PRId64 " bad updates in a row, %" PRId64 " in all, %" PRId64
                " rollbacks; %s%s%s; lower learning_rate, or look at these samples with \"qlora inspect\"",
                t->state.step, w->in_a_row, w->total, w->rollbacks, t->trouble, t->trouble[0] ? "; " : "", saved);
}

static bool finish(Trainer *t, Err *err)
{
    Err unsaved = {0}, waiting = {0};
    if (!metrics_flush(&t->metrics, &waiting)) log_warn("metrics.jsonl is incomplete: %s", waiting.text);
    const bool saved = save_the_end(t, &unsaved);
    if (!saving_export(t, err)) return false;
    if (!saved) {
        *err = unsaved;
        return false;
    }
    if (t->state.stopped_early) {
        log_info("stopped early: %" PRId64 " evaluations without a better loss", t->state.evals_without_gain);
    }
    console_summary(t);
    return true;
}

static bool interrupted(const Trainer *t, Err *err)
{
    const int number = signals_asked();
    if (t->state.step == 0) {
        return FAIL(err, ERR_INTERRUPTED, "stopped by %s before the first update; the same command starts again",
                    signals_name(number));
    }
    return FAIL(err, ERR_INTERRUPTED,
                "stopped by %s after step %" PRId64 " of %" PRId64 "; the same command goes on from there",
                signals_name(number), t->state.step, t->plan.total_steps);
}

static bool finished_before(const Trainer *t, const char *checkpoint)
{
    const RunState *s = &t->state;
    const bool early = s->stopped_early && t->session.settings.early_stopping > 0;
    return checkpoint && (s->step >= t->plan.total_steps || early) && !s->eval_pending;
}

static bool train(Trainer *t, const char *checkpoint, Err *err)
{
    bool stopped = false;
    t->state.stopped_early = false;
    t->state.scale = loss_scale_begin(&t->state.scale, t->session.settings.model.compute, t->options->first_loss_scale);
    if (!sign_state(t, err) || !load(t, checkpoint, err) || !open_logs(t, err)) return false;
    if (checkpoint) log_info("going on from %s", checkpoint);
    t->saved_step = checkpoint ? t->state.step : -1;
    t->started_step = t->state.step;
    t->started_at = t->saved_at = process_seconds();
    if (!t->options->no_signals) signals_listen();
    bool ok = loop_run(t, &stopped, err);
    if (ok && stopped)
        ok = interrupted(t, err);
    else if (ok && t->gave_up)
        ok = give_up(t, err);
    else if (ok)
        ok = finish(t, err);
    if (!t->options->no_signals) signals_restore();
    return ok;
}

static void trainer_close(Trainer *t)
{
    generator_free(t->generator);
    prompts_free(&t->prompts);
    batch_cursor_free(t->cursor);
    batch_cursor_free(t->eval_cursor);
    metrics_close(&t->metrics);
    tensorboard_close(&t->board);
    session_close(&t->session);
    mem_free(t->metrics_path);
    mem_free(t->samples_path);
    mem_free(t->board_path);
    mem_free(t->page_path);
    text_free(&t->run_yaml);
    file_close(&t->lock);
}

bool run_train(const Config *config, const RunOptions *options, RunReport *report, Err *err)
{
    Trainer *t = mem_alloc(1, sizeof *t, err);
    char *checkpoint = NULL;
    bool ok = false;
    *report = (RunReport){0};
    if (!t) return false;
    t->config = config;
    t->options = options;
    t->report = report;
    if (!options->no_signals) TRY(signals_open(err)); /* no thread of the process is older */
    TRY(open_folder(t, CONFIG_GET(config, output_dir), err));
    TRY(open_inputs(t, err));
    TRY(make_plan(t, err));
    TRY(resume_find(t, &checkpoint, err));
    report->first_step = t->state.step;
    if (finished_before(t, checkpoint)) {
        report->finished_before = true;
        t->finished = checkpoint;
        log_info("this run was finished at step %" PRId64
                 "; there is nothing left to do (more: num_epochs or max_steps)",
                 t->state.step);
        TRY(saving_exported(t) || (write_run_yaml(t, err) && saving_export(t, err)));
    } else {
        TRY(console_plan(t, err));
        TRY(train(t, checkpoint, err));
    }
    ok = true;
fail:
    report->last_step = t->state.step;
    report->stopped_early = t->state.stopped_early;
    if (t->session.backend) run_watch_memory(t);
    report->peak_memory_bytes = t->device_peak;
    mem_free(checkpoint);
    trainer_close(t);
    mem_free(t);
    return ok;
}
