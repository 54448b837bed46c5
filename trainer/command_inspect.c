#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "trainer/command.h"
#include "trainer/inspect.h"
#include "trainer/session.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Everything known about one set. */
typedef struct View {
    const Session *session;
    const Dataset *data;
    Lengths lengths;
    Habits habits;
    Warnings warnings;
} View;

static bool view_make(View *v, const Session *s, const Dataset *d, Err *err)
{
    *v = (View){.session = s, .data = d, .habits = inspect_habits(d, s->tokenizer)};
    inspect_warnings(&v->warnings, d, &v->habits, s->config->sequence_len);
    return inspect_lengths(&v->lengths, d, err);
}

static int64_t trained_in(const Sample *s)
{
    int64_t n = 0;
    for (int64_t k = 0; k < s->tokens; k++)
        n += s->labels[k] != TARGET_NONE;
    return n;
}

/* ---- for people ---- */

static void print_stats(const View *v, const char *name)
{
    const DatasetStats *s = dataset_stats(v->data);
    printf("%s: %" PRId64 " records, %" PRId64 " samples kept in %" PRId64 " rows; fingerprint %s%s\n", name,
           s->rows_read, dataset_samples(v->data), dataset_rows(v->data), dataset_fingerprint(v->data),
           s->from_cache ? ", from the token cache" : "");
    printf("  tokens %" PRId64 ", trained %" PRId64 " (%.1f %%); an end marker is trained in %.1f %% of the samples\n",
           s->tokens, s->trained_tokens, s->tokens ? 100.0 * (double)s->trained_tokens / (double)s->tokens : 0.0,
           100 * v->habits.stops);
    printf("  too long and dropped %" PRId64 ", truncated %" PRId64 ", split %" PRId64
           ", without a trained token and dropped %" PRId64 ", duplicates %" PRId64 "\n",
           s->too_long, s->truncated, s->split, s->without_target, s->duplicates);
    printf("  tokens a sample: shortest %" PRId64 ", median %" PRId64 ", mean %.1f, 95 %% %" PRId64 ", longest %" PRId64
           "\n",
           v->lengths.shortest, v->lengths.median, v->lengths.mean, v->lengths.p95, v->lengths.longest);
    for (int i = 0; i < v->warnings.count; i++)
        printf("  warning: %s\n", v->warnings.text[i]);
}

/* One line a token, or running text in which what is trained is green. */
static bool print_sample(const View *v, int64_t index, bool colour, Err *err)
{
    const Sample s = dataset_sample(v->data, index);
    Text piece = {0};
    bool ok = true;
    printf("\nsample %" PRId64 ": %" PRId64 " tokens, %" PRId64 " trained\n", index, s.tokens, trained_in(&s));
    for (int64_t k = 0; ok && k < s.tokens; k++) {
        char shown[256];
        const bool trained = s.labels[k] != TARGET_NONE;
        text_clear(&piece);
        ok = tokenizer_token_bytes(v->session->tokenizer, &piece, s.ids[k], err);
        const char *bytes = piece.bytes ? piece.bytes : "";
        text_printable(shown, sizeof shown, bytes, piece.length);
        if (!colour) {
            printf("%6" PRId64 " %7d %c %s\n", k, (int)s.ids[k], trained ? '+' : '.', shown);
        } else {
            const bool breaks = piece.length == 1 && bytes[0] == '\n';
            printf("%s%s%s", trained ? "\033[32m" : "", breaks ? "\n" : shown, trained ? "\033[0m" : "");
        }
    }
    if (colour) putchar('\n');
    text_free(&piece);
    return ok;
}

/* ---- for scripts ---- */

static json_t *ids_json(const int32_t *ids, int64_t n)
{
    json_t *list = json_array();
    for (int64_t i = 0; list && i < n; i++)
        json_array_append_new(list, json_integer(ids[i]));
    return list;
}

static json_t *sample_json(const View *v, int64_t index, Err *err)
{
    const Sample s = dataset_sample(v->data, index);
    Text text = {0};
    if (!tokenizer_decode(v->session->tokenizer, &text, s.ids, (size_t)s.tokens, false, err)) return NULL;
    json_t *o = json_pack("{s:I, s:I, s:I, s:s%, s:o, s:o}", "index", (json_int_t)index, "tokens", (json_int_t)s.tokens,
                          "trained", (json_int_t)trained_in(&s), "text", text.bytes ? text.bytes : "", text.length,
                          "input_ids", ids_json(s.ids, s.tokens), "labels", ids_json(s.labels, s.tokens));
    text_free(&text);
    if (!o) (void)FAIL(err, ERR_MEMORY, "out of host memory");
    return o;
}

static json_t *view_json(const View *v, int64_t samples, Err *err)
{
    const DatasetStats *s = dataset_stats(v->data);
    json_t *o = json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:s}", "records", (json_int_t)s->rows_read,
        "samples", (json_int_t)dataset_samples(v->data), "rows", (json_int_t)dataset_rows(v->data), "tokens",
        (json_int_t)s->tokens, "trained_tokens", (json_int_t)s->trained_tokens, "too_long", (json_int_t)s->too_long,
        "truncated", (json_int_t)s->truncated, "split", (json_int_t)s->split, "without_target",
        (json_int_t)s->without_target, "duplicates", (json_int_t)s->duplicates, "straddling", (json_int_t)s->straddling,
        "end_marker_trained", v->habits.stops, "fingerprint", dataset_fingerprint(v->data));
    json_object_set_new(o, "lengths",
                        json_pack("{s:I, s:I, s:f, s:I, s:I}", "shortest", (json_int_t)v->lengths.shortest, "median",
                                  (json_int_t)v->lengths.median, "mean", v->lengths.mean, "p95",
                                  (json_int_t)v->lengths.p95, "longest", (json_int_t)v->lengths.longest));
    json_t *warnings = json_array(), *shown = json_array();
    for (int i = 0; i < v->warnings.count; i++)
        json_array_append_new(warnings, json_string(v->warnings.text[i]));
    bool ok = true;
    for (int64_t i = 0; ok && i < samples && i < dataset_samples(v->data); i++) {
        json_t *sample = sample_json(v, i, err);
        ok = sample && json_array_append_new(shown, sample) == 0;
    }
    json_object_set_new(o, "warnings", warnings);
    json_object_set_new(o, "shown", shown);
    if (ok) return o;
    json_decref(o);
    return NULL;
}

static bool print_json(const View *views, int count, const Session *s, int64_t samples, Err *err)
{
    static const char *const names[] = {"train", "evaluation"};
    json_begin();
    json_t *o = json_object();
    bool ok = true;
    json_object_set_new(o, "chat_template", json_string(chat_template_name(s->chat)));
    for (int i = 0; ok && i < count; i++) {
        json_t *view = view_json(&views[i], samples, err);
        ok = view && (json_object_set_new(o, names[i], view) == 0 || FAIL(err, ERR_MEMORY, "out of host memory"));
    }
    char *line = ok ? json_print(o, JSON_COMPACT, "the samples", err) : NULL;
    if (line) puts(line);
    mem_free(line);
    json_decref(o);
    return line != NULL;
}

static bool print_people(const View *views, int count, const Session *s, int64_t samples, Err *err)
{
    static const char *const names[] = {"training data", "evaluation data"};
    const bool colour = isatty(STDOUT_FILENO) && !getenv("NO_COLOR");
    printf("chat template: %s\n", chat_template_name(s->chat));
    for (int i = 0; i < count; i++)
        print_stats(&views[i], names[i]);
    for (int64_t i = 0; i < samples && i < dataset_samples(views[0].data); i++) {
        if (!print_sample(&views[0], i, colour, err)) return false;
    }
    return true;
}

static bool run(const CommandLine *line, Err *err)
{
    Config *config = NULL;
    Session s = {0};
    View views[2];
    int64_t samples = 3;
    bool ok = false;
    if (!command_int(line, "samples", 0, 1000000, &samples, err)) return false;
    if (!config_load(&config, line->files[0], line->sets, line->set_count, err)) return false;
    config_log_notices(config);
    const SessionOptions options = {.weights = false};
    TRY(session_open(&s, config, &options, err));
    TRY(session_open_tokenizer(&s, err));
    TRY(session_open_data(&s, true, err));
    TRY(view_make(&views[0], &s, s.train, err));
    if (s.validation) TRY(view_make(&views[1], &s, s.validation, err));
    const int count = s.validation ? 2 : 1;
    TRY(command_flag(line, "json") ? print_json(views, count, &s, samples, err)
                                   : print_people(views, count, &s, samples, err));
    ok = true;
fail:
    session_close(&s);
    config_free(config);
    return ok;
}

static const CommandOption options[] = {
    {"samples", "N", "how many samples to show (3)"},
    COMMAND_JSON,
    COMMAND_SET,
};

const Command command_inspect = {
    .name = "inspect",
    .files = "CONFIG [--samples N] [--json] [--set KEY=VALUE ...]",
    .summary = "Show samples as tokens with their mask, lengths, counts and warnings",
    .details = "A token is marked + where it counts in the loss; on a terminal such text is green.",
    .min_files = 1,
    .max_files = 1,
    .options = options,
    .option_count = 3,
    .run = run,
};
