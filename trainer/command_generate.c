#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "trainer/command.h"
#include "trainer/generate_text.h"
#include "trainer/session.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { SIDE_BY_SIDE = 8, PREFILL_MAX = 2048 };

static bool ends_with(const char *text, const char *end)
{
    const size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* A model alone is a configuration that names it, and no data. */
static bool config_for_model(Config **out, const char *model, const CommandLine *line, Err *err)
{
    json_begin();
    json_t *name = json_string(model);
    const bool utf8 = name || !json_whole();
    char *quoted = NULL; /* a JSON string is a YAML string too */
    Text text = {0};
    bool ok = false;
    if (!model[0]) {
        (void)FAIL(err, ERR_ARG, "the name of the model is empty; give a folder or a GGUF file");
    } else if (!utf8) {
        (void)FAIL(err, ERR_ARG, "the name of the model is not well-formed UTF-8");
    } else if ((quoted = json_print(name, JSON_ENCODE_ANY, "the name of the model", err))) {
        ok = text_format(&text, err, "base_model: %s\ndatasets:\n  - path: none\n", quoted) &&
             config_parse(out, model, text.bytes, text.length, line->sets, line->set_count, err);
    }
    text_free(&text);
    mem_free(quoted);
    json_decref(name);
    return ok;
}

/* Where answers go: streamed when there is one, else in the order of the prompts. */
typedef struct Answers {
    const Prompts *prompts;
    Generated *items; /* (count) */
    bool *there;
    size_t printed;
    bool json, streamed;
} Answers;

static bool print_piece(void *user, const char *bytes, size_t length)
{
    (void)user;
    fwrite(bytes, 1, length, stdout);
    return fflush(stdout) == 0;
}

static bool print_json(const Prompt *p, const Generated *g, Err *err)
{
    json_begin();
    json_t *o = json_pack("{s:s, s:s%, s:I, s:I, s:b}", "prompt", p->text, "text", g->text.bytes ? g->text.bytes : "",
                          g->text.length, "prompt_tokens", (json_int_t)p->count, "tokens", (json_int_t)g->tokens,
                          "stopped", g->stopped);
    const bool text = o || !json_whole() || FAIL(err, ERR_MODEL, "an answer is no text");
    char *line = text ? json_print(o, JSON_COMPACT, "an answer", err) : NULL;
    const bool ok = line && puts(line) >= 0;
    mem_free(line);
    json_decref(o);
    return ok;
}

static bool print_answer(const Answers *a, size_t index, Err *err)
{
    const Generated *g = &a->items[index];
    if (a->json) return print_json(&a->prompts->items[index], g, err);
    if (!a->streamed) {
        if (a->prompts->count > 1) printf("> %s\n", a->prompts->items[index].text);
        fwrite(g->text.bytes ? g->text.bytes : "", 1, g->text.length, stdout);
    }
    putchar('\n');
    fflush(stdout);
    return true;
}

static bool on_done(void *user, size_t index, Generated *g, Err *err)
{
    Answers *a = user;
    a->items[index] = *g;
    a->there[index] = true;
    while (a->printed < a->prompts->count && a->there[a->printed]) {
        if (!print_answer(a, a->printed++, err)) return false;
    }
    if (a->prompts->count > 1) {
        log_progress("answers", (double)a->printed, (double)a->prompts->count, "prompts",
                     a->printed == a->prompts->count);
    }
    return true;
}

static bool answer_all(Generator *g, const Prompts *prompts, const GenerateOptions *options, bool json, Err *err)
{
    Answers a = {.prompts = prompts, .json = json, .streamed = !json && prompts->count == 1};
    a.items = mem_alloc(prompts->count, sizeof *a.items, err);
    a.there = mem_alloc(prompts->count, sizeof *a.there, err);
    const GenerateEvents events = {.piece = a.streamed ? print_piece : NULL, .done = on_done, .user = &a};
    const bool ok = a.items && a.there && generator_run(g, prompts->items, prompts->count, options, &events, err);
    for (size_t i = 0; a.items && i < prompts->count; i++)
        generated_free(&a.items[i]);
    mem_free(a.items);
    mem_free(a.there);
    const GeneratorTotals t = generator_totals(g);
    if (ok) {
        log_info("%" PRId64 " tokens of prompts at %.0f tok/s, %" PRId64 " tokens generated at %.1f tok/s",
                 t.prompt_tokens, t.prompt_seconds > 0 ? (double)t.prompt_tokens / t.prompt_seconds : 0, t.tokens,
                 t.seconds > 0 ? (double)t.tokens / t.seconds : 0);
    }
    return ok;
}

static bool read_prompts(Prompts *out, const Session *s, const CommandLine *line, Err *err)
{
    const char *text = command_text(line, "prompt"), *file = command_text(line, "prompts");
    const bool chat = tokenizer_chat_template(s->tokenizer) || config_is_set(s->config, "chat_template");
    const PromptStyle style = {
        .tokenizer = s->tokenizer,
        .chat = chat && !command_flag(line, "raw") ? s->chat : NULL,
        .system = command_text(line, "system"),
    };
    if (style.system && !style.chat) return FAIL(err, ERR_ARG, "--system needs a chat template, and --raw uses none");
    if (!text && !file) return FAIL(err, ERR_ARG, "give --prompt TEXT or --prompts FILE");
    if (file && !prompts_add_file(out, &style, file, err)) return false;
    return !text || prompts_add(out, &style, text, strlen(text), err);
}

static bool read_options(GenerateOptions *o, const CommandLine *line, Err *err)
{
    int64_t seed = 42;
    *o = (GenerateOptions){.max_new_tokens = 256, .temperature = 0, .top_p = 1};
    const bool ok = command_int(line, "max-new-tokens", 1, 1 << 20, &o->max_new_tokens, err) &&
                    command_real(line, "temperature", 0, 100, &o->temperature, err) &&
                    command_real(line, "top-p", 1e-6, 1, &o->top_p, err) &&
                    command_int(line, "seed", 0, INT64_MAX, &seed, err);
    o->seed = (uint64_t)seed;
    if (ok && command_text(line, "top-p") && o->temperature <= 0) {
        return FAIL(err, ERR_ARG, "--top-p needs --temperature above 0; without it the likeliest token is taken");
    }
    return ok;
}

static bool generate(const Config *config, const CommandLine *line, Err *err)
{
    Session s = {0};
    Prompts prompts = {0};
    Generator *g = NULL;
    GenerateOptions options;
    bool ok = false;
    const SessionOptions session = {.weights = true};
    TRY(read_options(&options, line, err));
    TRY(session_open(&s, config, &session, err));
    TRY(session_open_tokenizer(&s, err));
    TRY(read_prompts(&prompts, &s, line, err));
    const char *adapter = command_text(line, "adapter") ? command_text(line, "adapter") : s.settings.adapter_path;
    TRY(session_use_adapter(&s, adapter, err));
    const int64_t longest = prompts_longest(&prompts);
    ModelOptions *m = &s.settings.model;
    m->max_tokens = longest < PREFILL_MAX ? longest : PREFILL_MAX;
    m->sequences = prompts.count < SIDE_BY_SIDE ? (int)prompts.count : SIDE_BY_SIDE;
    if (m->max_tokens < m->sequences) m->max_tokens = m->sequences;
    m->cache_tokens = longest + options.max_new_tokens;
    TRY(session_create_model(&s, NULL, err));
    TRY(session_place(&s, err));
    if (adapter) TRY(session_load_adapter(&s, adapter, err));
    TRY(generator_create(&g, s.model, s.tokenizer, m->cache_tokens, m->sequences, err));
    TRY(answer_all(g, &prompts, &options, command_flag(line, "json"), err));
    ok = true;
fail:
    generator_free(g);
    prompts_free(&prompts);
    session_close(&s);
    return ok;
}

static bool run(const CommandLine *line, Err *err)
{
    Config *config = NULL;
    const char *what = line->files[0];
    const bool is_config = (ends_with(what, ".yaml") || ends_with(what, ".yml")) && !file_is_folder(what);
    const bool ok = is_config ? config_load_without_data(&config, what, line->sets, line->set_count, err)
                              : config_for_model(&config, what, line, err);
    const bool made = ok && generate(config, line, err);
    config_free(config);
    return made;
}

static const CommandOption options[] = {
    {"adapter",        "FOLDER", "PEFT adapter to use, such as the output_dir of a run"                                  },
    {"prompt",         "TEXT",   "answer this"                                                                           },
    {"prompts",        "FILE",   "one prompt a line; .jsonl: a JSON string, or an object with prompt or messages, a line"},
    {"system",         "TEXT",   "system message instead of the template's own"                                          },
    {"raw",            NULL,     "continue the prompt as it is, without the chat template"                               },
    {"max-new-tokens", "N",      "longest answer (256)"                                                                  },
    {"temperature",    "T",      "0 (default): always the likeliest token"                                               },
    {"top-p",          "P",      "draw from the likeliest tokens that hold this much of the probability"                 },
    {"seed",           "N",      "of the draws (42)"                                                                     },
    COMMAND_JSON,
    COMMAND_SET,
    COMMAND_DEVICE,
};

const Command command_generate = {
    .name = "generate",
    .files = "MODEL_OR_CONFIG --prompt TEXT [options]",
    .summary = "Answer prompts with a base model, or with base and adapter",
    .details =
        "MODEL is what base_model takes; a file that ends with .yaml is a configuration, whose adapter_path counts.",
    .min_files = 1,
    .max_files = 1,
    .options = options,
    .option_count = 12,
    .device_is_key = true,
    .run = run,
};
