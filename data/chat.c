#include "data/chat.h"

#include "base/check.h"
#include "base/log.h"
#include "base/mem.h"
#include "data/chat_format.h"
#include "data/chat_template.h"

#include <string.h>

static bool is_role(const ChatMessage *m, const char *role)
{
    return !strcmp(m->role, role);
}

void chat_text_clear(ChatText *c)
{
    text_clear(&c->text);
    c->span_count = 0;
}

void chat_text_free(ChatText *c)
{
    text_free(&c->text);
    mem_free(c->spans);
    *c = (ChatText){0};
}

static bool add_span(ChatText *out, size_t start, size_t end, Err *err)
{
    if (start == end) return true;
    if (out->span_count && out->spans[out->span_count - 1].end == start) {
        out->spans[out->span_count - 1].end = end;
        return true;
    }
    if (!mem_grow(&out->spans, &out->span_capacity, out->span_count + 1, sizeof *out->spans, err)) return false;
    out->spans[out->span_count++] = (ChatSpan){start, end};
    return true;
}

static bool add_marked(ChatText *out, const char *bytes, size_t length, bool trained, Err *err)
{
    const size_t start = out->text.length;
    if (!text_add(&out->text, bytes, length, err)) return false;
    return !trained || add_span(out, start, out->text.length, err);
}

/* What Python's str.strip removes. */
static bool is_space(uint32_t c)
{
    return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

static void trim(const char **bytes, size_t *length)
{
    uint32_t c = 0;
    size_t n = 0;
    while ((n = utf8_decode(*bytes, *length, &c)) > 0 && is_space(c)) {
        *bytes += n;
        *length -= n;
    }
    while (*length > 0) {
        size_t at = *length - 1;
        while (at > 0 && ((unsigned char)(*bytes)[at] & 0xC0) == 0x80)
            at--;
        if (utf8_decode(*bytes + at, *length - at, &c) != *length - at || !is_space(c)) return;
        *length = at;
    }
}

static bool chatml_turn(ChatText *out, const ChatMessage *m, Err *err)
{
    return text_format(&out->text, err, "<|im_start|>%s\n", m->role) &&
           add_marked(out, m->content, m->content_length, m->trained, err) &&
           add_marked(out, "<|im_end|>", 10, m->end_trained, err) && text_add_z(&out->text, "\n", err);
}

/* Qwen: neighbouring tool results share one user turn. */
static bool wrapped_tool(ChatText *out, const ChatMessage *m, bool first, bool last, Err *err)
{
    if (first && !text_add_z(&out->text, "<|im_start|>user", err)) return false;
    if (!text_add_z(&out->text, "\n<tool_response>\n", err)) return false;
    if (!add_marked(out, m->content, m->content_length, m->trained, err)) return false;
    if (!text_add_z(&out->text, "\n</tool_response>", err)) return false;
    if (!last) return true;
    return add_marked(out, "<|im_end|>", 10, m->end_trained, err) && text_add_z(&out->text, "\n", err);
}

static bool chatml_render(const ChatTemplate *c, ChatText *out, const ChatMessage *messages, size_t count, bool prompt,
                          Err *err)
{
    if (c->format.default_system_given && !is_role(&messages[0], "system")) {
        const ChatMessage system = {.role = "system",
                                    .content = c->format.default_system.bytes ? c->format.default_system.bytes : "",
                                    .content_length = c->format.default_system.length};
        if (!chatml_turn(out, &system, err)) return false;
    }
    for (size_t i = 0; i < count; i++) {
        bool good;
        if (c->format.tool == CHAT_TOOL_WRAP && is_role(&messages[i], "tool")) {
            const bool first = i == 0 || !is_role(&messages[i - 1], "tool");
            const bool last = i + 1 == count || !is_role(&messages[i + 1], "tool");
            good = wrapped_tool(out, &messages[i], first, last, err);
        } else {
            good = chatml_turn(out, &messages[i], err);
        }
        if (!good) return false;
    }
    return !prompt || text_add_z(&out->text, "<|im_start|>assistant\n", err);
}

static bool llama3_turn(ChatText *out, const ChatMessage *m, const Text *preamble, Err *err)
{
    const char *content = m->content;
    size_t length = m->content_length;
    trim(&content, &length);
    return text_format(&out->text, err, "<|start_header_id|>%s<|end_header_id|>\n\n", m->role) &&
           (!preamble || text_add(&out->text, preamble->bytes, preamble->length, err)) &&
           add_marked(out, content, length, m->trained, err) && add_marked(out, "<|eot_id|>", 10, m->end_trained, err);
}

static bool llama3_render(const ChatTemplate *c, ChatText *out, const ChatMessage *messages, size_t count, bool prompt,
                          Err *err)
{
    size_t i = 0;
    if (c->format.preamble.length > 0) {
        const ChatMessage none = {.role = "system", .content = ""};
        const bool given = is_role(&messages[0], "system");
        if (!llama3_turn(out, given ? &messages[0] : &none, &c->format.preamble, err)) return false;
        i = given ? 1 : 0;
    }
    for (; i < count; i++)
        if (!llama3_turn(out, &messages[i], NULL, err)) return false;
    return !prompt || text_add_z(&out->text, "<|start_header_id|>assistant<|end_header_id|>\n\n", err);
}

static bool plain_render(ChatText *out, const ChatMessage *messages, size_t count, Err *err)
{
    for (size_t i = 0; i < count; i++) {
        const ChatMessage *m = &messages[i];
        if (!add_marked(out, m->content, m->content_length, m->trained, err)) return false;
    }
    return true;
}

static bool check_messages(const ChatTemplate *c, const ChatMessage *messages, size_t count, Err *err)
{
    if (count == 0) return FAIL(err, ERR_DATA, "a conversation has no message");
    for (size_t i = 0; i < count; i++) {
        if (c->format.tool == CHAT_TOOL_REFUSED && is_role(&messages[i], "tool")) {
            return FAIL(
                err, ERR_DATA,
                "message %zu has the role \"tool\", which the chat template of the model writes in a way of its "
                "own; set chat_template: %s to write it like any other role",
                i + 1, c->name);
        }
    }
    return true;
}

bool chat_render(const ChatTemplate *c, ChatText *out, const ChatMessage *messages, size_t count, bool prompt, Err *err)
{
    const size_t length = out->text.length;
    const size_t spans = out->span_count;
    const size_t last_end = spans ? out->spans[spans - 1].end : 0;
    if (!check_messages(c, messages, count, err)) return false;
    bool good = !c->format.bos || text_add_z(&out->text, c->bos, err);
    if (good) {
        switch (c->format.family) {
        case CHAT_CHATML: good = chatml_render(c, out, messages, count, prompt, err); break;
        case CHAT_LLAMA3: good = llama3_render(c, out, messages, count, prompt, err); break;
        case CHAT_PLAIN: good = plain_render(out, messages, count, err); break;
        }
    }
    if (good) return true;
    out->text.length = length;
    if (out->text.bytes) out->text.bytes[length] = '\0';
    out->span_count = spans;
    if (spans) out->spans[spans - 1].end = last_end;
    return false;
}

static const char *family_name(ChatFamily family)
{
    switch (family) {
    case CHAT_CHATML: return "chatml";
    case CHAT_LLAMA3: return "llama3";
    case CHAT_PLAIN: return "plain";
    }
    return "";
}

static bool name_family(const char *name, ChatFamily *family)
{
    static const struct {
        const char *name;
        ChatFamily family;
    } names[] = {
        {"chatml", CHAT_CHATML},
        {"llama3", CHAT_LLAMA3},
        {"plain",  CHAT_PLAIN },
        {"none",   CHAT_PLAIN }
    };
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        if (strcmp(name, names[i].name)) continue;
        *family = names[i].family;
        return true;
    }
    return false;
}

/* The model's own template, or plain where it has none. */
static bool open_own(ChatTemplate *c, const Tokenizer *t, Err *err)
{
    const char *jinja = tokenizer_chat_template(t);
    if (!jinja) {
        c->format.family = CHAT_PLAIN;
        c->assumed = true;
        return true;
    }
    bool found = false;
    if (!chat_format_detect(&c->format, &found, jinja, err)) return false;
    if (found) return true;
    return FAIL(err, ERR_MODEL,
                "the model's chat template renders differently from every built-in one (%s); set chat_template: %s to "
                "train with that format instead",
                strstr(jinja, "<think>")             ? "it treats <think> blocks specially"
                : strstr(jinja, "<|im_start|>")      ? "a variant of ChatML"
                : strstr(jinja, "<start_of_turn>")   ? "Gemma's format"
                : strstr(jinja, "[INST]")            ? "the format of Llama-2 and Mistral"
                : strstr(jinja, "start_header_id|>") ? "a variant of Llama-3"
                                                     : "chatml, llama3, plain",
                strstr(jinja, "start_header_id|>") ? "llama3" : "chatml");
}

/* A named template is taken at its word, but a difference from the model's own one is said aloud. */
static bool open_named(ChatTemplate *c, const char *name, const Tokenizer *t, Err *err)
{
    ChatFamily family = CHAT_PLAIN;
    if (!name_family(name, &family)) {
        return FAIL(err, ERR_CONFIG, "chat_template: \"%s\" is not known; use tokenizer, chatml, llama3 or plain",
                    name);
    }
    c->format = (ChatFormat){.family = family, .bos = family == CHAT_LLAMA3};
    const char *jinja = tokenizer_chat_template(t);
    if (!jinja || family == CHAT_PLAIN) return true;
    ChatFormat own = {0};
    bool found = false;
    if (!chat_format_detect(&own, &found, jinja, err)) {
        if (err->code == ERR_MEMORY) return false;
        err_clear(err);
    }
    if (found && own.family != family) {
        log_warn("chat_template: %s, but the model was trained with %s", name, family_name(own.family));
    } else if (found && (own.default_system_given || own.preamble.length)) {
        log_warn("chat_template: %s leaves out the system message that the model's own template adds; "
                 "chat_template: tokenizer keeps it",
                 name);
    }
    chat_format_free(&own);
    return true;
}

static bool take_bos(ChatTemplate *c, const Tokenizer *t, Err *err)
{
    const int32_t id = tokenizer_bos(t);
    const char *token = id >= 0 ? tokenizer_token(t, id) : NULL;
    c->bos = mem_copy_text(token ? token : "", err);
    return c->bos != NULL;
}

static void warn_markers(const ChatTemplate *c, const Tokenizer *t)
{
    const char *end = chat_template_end(c);
    if (*end && tokenizer_id(t, end) < 0) {
        log_warn("\"%s\" is not a token of this model; its turns will end in the plain text of it", end);
    }
}

bool chat_template_open(ChatTemplate **out, const char *name, const Tokenizer *t, Err *err)
{
    ChatTemplate *c = mem_alloc(1, sizeof *c, err);
    if (!c) return false;
    const bool own = !name || !strcmp(name, "tokenizer");
    TRY(own ? open_own(c, t, err) : open_named(c, name, t, err));
    TRY(take_bos(c, t, err));
    c->name = family_name(c->format.family);
    warn_markers(c, t);
    *out = c;
    return true;
fail:
    chat_template_close(c);
    return false;
}

void chat_template_close(ChatTemplate *c)
{
    if (!c) return;
    chat_format_free(&c->format);
    mem_free(c->bos);
    mem_free(c);
}

const char *chat_template_name(const ChatTemplate *c)
{
    return c->name;
}

const char *chat_template_end(const ChatTemplate *c)
{
    switch (c->format.family) {
    case CHAT_CHATML: return "<|im_end|>";
    case CHAT_LLAMA3: return "<|eot_id|>";
    case CHAT_PLAIN: return "";
    }
    return "";
}
