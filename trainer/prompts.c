#include "trainer/generate_text.h"

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"

#include <string.h>

enum { PROMPT_FILE_MAX = 64 << 20, PROMPT_MESSAGES_MAX = 1024 };

void prompts_free(Prompts *p)
{
    for (size_t i = 0; i < p->count; i++) {
        mem_free(p->items[i].text);
        mem_free(p->items[i].ids);
    }
    mem_free(p->items);
    *p = (Prompts){0};
}

int64_t prompts_longest(const Prompts *p)
{
    size_t longest = 0;
    for (size_t i = 0; i < p->count; i++) {
        if (p->items[i].count > longest) longest = p->items[i].count;
    }
    return (int64_t)longest;
}

/* What the model reads: `text` as it is, with the tokens that the tokenizer puts in front of a raw text. */
static bool encode(Tokens *out, const PromptStyle *style, const char *text, size_t length, bool raw, Err *err)
{
    TokenizerCache *cache = NULL;
    if (!tokenizer_cache_create(&cache, style->tokenizer, err)) return false;
    const int32_t *prefix = NULL;
    const size_t before = raw ? tokenizer_prefix(style->tokenizer, &prefix) : 0;
    bool ok = true;
    for (size_t i = 0; ok && i < before; i++)
        ok = tokens_add(out, prefix[i], 0, 0, err);
    ok = ok && tokenizer_encode(style->tokenizer, cache, out, text, length, err);
    tokenizer_cache_free(cache);
    if (ok && out->count == 0) ok = FAIL(err, ERR_DATA, "a prompt is empty");
    return ok;
}

/* Takes over `tokens`; `shown` is what the user gave. */
static bool append(Prompts *p, Tokens *tokens, const char *shown, size_t length, Err *err)
{
    if (!mem_grow(&p->items, &p->capacity, p->count + 1, sizeof *p->items, err)) return false;
    char *text = mem_copy_bytes(shown, length, err);
    if (!text) return false;
    int32_t *ids = mem_alloc(tokens->count, sizeof *ids, err);
    if (!ids) {
        mem_free(text);
        return false;
    }
    memcpy(ids, tokens->ids, tokens->count * sizeof *ids);
    p->items[p->count++] = (Prompt){.text = text, .ids = ids, .count = tokens->count};
    return true;
}

static bool add_messages(Prompts *p, const PromptStyle *style, const ChatMessage *messages, size_t count,
                         const char *shown, size_t length, Err *err)
{
    ChatText rendered = {0};
    Tokens tokens = {0};
    const bool ok =
        chat_render(style->chat, &rendered, messages, count, true, err) &&
        encode(&tokens, style, rendered.text.bytes ? rendered.text.bytes : "", rendered.text.length, false, err) &&
        append(p, &tokens, shown, length, err);
    tokens_free(&tokens);
    chat_text_free(&rendered);
    return ok;
}

bool prompts_add(Prompts *p, const PromptStyle *style, const char *text, size_t length, Err *err)
{
    if (style->chat) {
        ChatMessage messages[2];
        size_t n = 0;
        if (style->system) {
            messages[n++] =
                (ChatMessage){.role = "system", .content = style->system, .content_length = strlen(style->system)};
        }
        messages[n++] = (ChatMessage){.role = "user", .content = text, .content_length = length};
        return add_messages(p, style, messages, n, text, length, err);
    }
    Tokens tokens = {0};
    const bool ok = encode(&tokens, style, text, length, true, err) && append(p, &tokens, text, length, err);
    tokens_free(&tokens);
    return ok;
}

/* {"messages": [...]}: the chat up to the last answer, which is what the model is to find */
static bool add_chat(Prompts *p, const PromptStyle *style, const json_t *list, Err *err)
{
    ChatMessage messages[PROMPT_MESSAGES_MAX];
    size_t count = json_array_size(list), n = 0;
    if (!style->chat) return FAIL(err, ERR_DATA, "\"messages\" needs a chat template; --raw takes texts only");
    if (count == 0 || count >= PROMPT_MESSAGES_MAX) return FAIL(err, ERR_DATA, "\"messages\" is empty or too long");
    if (style->system) {
        messages[n++] =
            (ChatMessage){.role = "system", .content = style->system, .content_length = strlen(style->system)};
    }
    for (size_t i = 0; i < count; i++) {
        const json_t *message = json_array_get(list, i);
        const json_t *role = json_object_get(message, "role"), *content = json_object_get(message, "content");
        if (!json_is_string(role) || !json_is_string(content)) {
            return FAIL(err, ERR_DATA, "\"messages\"[%zu] needs \"role\" and \"content\", both strings", i);
        }
        if (i + 1 == count && strcmp(json_string_value(role), "assistant") == 0) break;
        messages[n++] = (ChatMessage){.role = json_string_value(role),
                                      .content = json_string_value(content),
                                      .content_length = json_string_length(content)};
    }
    if (n == 0) return FAIL(err, ERR_DATA, "\"messages\" holds nothing to answer");
    return add_messages(p, style, messages, n, messages[n - 1].content, messages[n - 1].content_length, err);
}

static bool add_json_line(Prompts *p, const PromptStyle *style, const char *line, size_t length, Err *err)
{
    json_error_t fault;
    bool no_memory;
    json_t *value = json_read(line, length, JSON_DECODE_ANY | JSON_ALLOW_NUL, &fault, &no_memory);
    if (no_memory) return FAIL(err, ERR_MEMORY, "out of host memory while reading the prompts");
    const json_t *text = json_is_object(value) ? json_object_get(value, "prompt") : value;
    const json_t *messages = json_object_get(value, "messages");
    bool ok;
    if (!value) {
        ok = FAIL(err, ERR_DATA, "%s", fault.text);
    } else if (json_is_string(text)) {
        ok = prompts_add(p, style, json_string_value(text), json_string_length(text), err);
    } else if (json_is_array(messages)) {
        ok = add_chat(p, style, messages, err);
    } else {
        ok = FAIL(err, ERR_DATA, "expected a JSON string, or an object with \"prompt\" or \"messages\"");
    }
    json_decref(value);
    return ok;
}

bool prompts_add_file(Prompts *p, const PromptStyle *style, const char *path, Err *err)
{
    char *bytes = NULL;
    size_t length = 0;
    const size_t name = strlen(path);
    const bool json = name > 6 && strcmp(path + name - 6, ".jsonl") == 0;
    if (!file_read_all(&bytes, &length, path, PROMPT_FILE_MAX, ERR_DATA, err)) return false;
    bool ok = true;
    long number = 0;
    for (size_t at = 0; ok && at < length;) {
        const char *end = memchr(bytes + at, '\n', length - at);
        const size_t n = end ? (size_t)(end - bytes) - at : length - at;
        const char *line = bytes + at;
        size_t shown = n;
        if (shown && line[shown - 1] == '\r') shown--;
        at += n + 1;
        number++;
        if (shown == 0) continue;
        ok = json ? add_json_line(p, style, line, shown, err) : prompts_add(p, style, line, shown, err);
        if (!ok) err_note(err, "%s:%ld", path, number);
    }
    mem_free(bytes);
    if (ok && p->count == 0) ok = FAIL(err, ERR_DATA, "%s holds no prompt", path);
    return ok;
}
