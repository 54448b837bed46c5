#include "trainer/trainer.h"

#include "base/log.h"
#include "trainer/process.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

bool console_plan(const Trainer *t, Err *err)
{
    Text text = {0};
    const bool ok = plan_text(&t->plan, &t->session, &text, err);
    for (const char *line = ok ? text.bytes : ""; *line;) {
        const size_t n = strcspn(line, "\n");
        log_plain("%.*s", (int)n, line);
        line += n + (line[n] == '\n');
    }
    text_free(&text);
    return ok;
}

/* "1h02m", "2m31s", "15s" */
static void duration(char *out, size_t size, double seconds)
{
    const long s = (long)(seconds + 0.5);
    if (s >= 3600) {
        snprintf(out, size, "%ldh%02ldm", s / 3600, s % 3600 / 60);
    } else if (s >= 60) {
        snprintf(out, size, "%ldm%02lds", s / 60, s % 60);
    } else {
        snprintf(out, size, "%lds", s);
    }
}

/* A number of an update that may have gone wrong. */
static const char *number_text(char out[32], double value, int digits)
{
    if (!isfinite(value)) return "n/a";
    if (fabs(value) < 1e6) {
        snprintf(out, 32, "%.*f", digits, value);
    } else {
        snprintf(out, 32, "%.3e", value);
    }
    return out;
}

void console_update(const Trainer *t, const UpdateMetrics *m)
{
    const bool terminal = isatty(STDERR_FILENO), last = m->step == t->plan.total_steps;
    if (!terminal && !last && m->step % t->session.settings.logging_steps != 0) return;
    const int64_t done = m->step - t->started_step;
    const double each = (process_seconds() - t->started_at) / (double)(done > 0 ? done : 1);
    char left[32];
    duration(left, sizeof left, each * (double)(t->plan.total_steps - m->step));
    char line[256], loss[32], norm[32];
    snprintf(line, sizeof line,
             "step %" PRId64 "/%" PRId64 "  epoch %.2f  loss %s%s  lr %.2e  norm %s  %.0f tok/s  %.2f GB  %s left",
             m->step, t->plan.total_steps, m->epoch, number_text(loss, m->loss, 4),
             m->report.applied ? "" : " (withheld)", m->learning_rate, number_text(norm, m->report.grad_norm, 3),
             m->seconds > 0 ? (double)m->tokens / m->seconds : 0, (double)m->peak_memory_bytes / 1e9, left);
    if (last) {
        log_plain("%s", line); /* stays on the terminal */
    } else {
        log_status("%s", line);
    }
}

void console_evaluation(const Trainer *t, const EvalMetrics *m)
{
    char loss[32], perplexity[32];
    log_info("step %" PRId64 ": eval_loss %s, perplexity %s over %" PRId64 " tokens in %.1f s%s", m->step,
             number_text(loss, m->loss, 4), number_text(perplexity, exp(m->loss), 3), m->tokens, m->seconds,
             t->state.has_best && t->state.best_step == m->step && m->step > 0 ? ", the best so far" : "");
}

/* Measured beside what the plan foretold. */
void console_summary(const Trainer *t)
{
    char time[32], rate[32] = "", host[80] = "";
    const Plan *p = &t->plan;
    duration(time, sizeof time, process_seconds() - t->started_at);
    if (p->time.total > 0) snprintf(rate, sizeof rate, " (planned %.0f)", step_tokens_per_second(&p->time));
    if (p->host_memory_bytes > 0) {
        snprintf(host, sizeof host, ", of the host %.2f GB (planned %.2f GB)", (double)process_peak_bytes() / 1e9,
                 (double)p->host_memory_bytes / 1e9);
    }
    log_info("%" PRId64 " updates in %s, %.0f tok/s%s, peak memory %.2f GB (planned %.2f GB)%s",
             t->state.step - t->started_step, time,
             t->trained_seconds > 0 ? (double)t->trained_tokens_now / t->trained_seconds : 0, rate,
             (double)t->device_peak / 1e9, (double)p->peak_memory_bytes / 1e9, host);
}
