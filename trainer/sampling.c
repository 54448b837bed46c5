#include "trainer/trainer.h"

#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"

#include <string.h>

bool run_sample_prompts(Prompts *out, const Session *s, Err *err)
{
    const ConfigTexts texts = s->settings.sample_prompts;
    if (texts.count == 0) return true;
    if (!s->tokenizer) {
        return FAIL(err, ERR_MODEL, "generate_samples needs a tokenizer, and %s has no tokenizer.json; set tokenizer",
                    s->base_path);
    }
    const bool chat = tokenizer_chat_template(s->tokenizer) != NULL || config_is_set(s->config, "chat_template");
    const PromptStyle style = {.tokenizer = s->tokenizer, .chat = chat ? s->chat : NULL};
    if (texts.scalar) return prompts_add_file(out, &style, texts.items[0], err);
    for (int i = 0; i < texts.count; i++) {
        if (!prompts_add(out, &style, texts.items[i], strlen(texts.items[i]), err)) return false;
    }
    return true;
}

static bool write_sample(const Trainer *t, const Prompt *p, const Generated *g, Err *err)
{
    json_begin();
    json_t *o = json_pack("{s:I, s:s, s:s%, s:I}", "step", (json_int_t)t->state.step, "prompt", p->text, "text",
                          g->text.bytes ? g->text.bytes : "", g->text.length, "tokens", (json_int_t)g->tokens);
    char *line = json_print(o, JSON_COMPACT, "samples.jsonl", err);
    const bool ok =
        line && file_append(t->samples_path, line, strlen(line), err) && file_append(t->samples_path, "\n", 1, err);
    mem_free(line);
    json_decref(o);
    return ok;
}

static void show_sample(const Prompt *p, const Generated *g)
{
    char prompt[256], text[2048];
    log_plain("  > %s", text_printable(prompt, sizeof prompt, p->text, strlen(p->text)));
    log_plain("    %s", text_printable(text, sizeof text, g->text.bytes ? g->text.bytes : "", g->text.length));
}

static bool on_sample(void *user, size_t index, Generated *g, Err *err)
{
    const Trainer *t = user;
    const Prompt *p = &t->prompts.items[index];
    (void)err;
    show_sample(p, g);
    Err fault = {0};
    if (!write_sample(t, p, g, &fault)) log_warn("a sample was not written: %s", fault.text);
    generated_free(g);
    return true;
}

bool sampling_run(Trainer *t, Err *err)
{
    const GenerateOptions options = {
        .max_new_tokens = t->session.settings.sample_tokens, .top_p = 1, .seed = t->session.settings.seed};
    const GenerateEvents events = {.done = on_sample, .user = t};
    if (!t->generator || update_asked_to_stop(t)) return true;
    return generator_run(t->generator, t->prompts.items, t->prompts.count, &options, &events, err);
}
