/*
 * chat.h - chat messages to text, knowing which bytes came from which message.
 *
 * Built-in renderers: ChatML (with the model's own default system message where its template has one), Llama-3 /
 * Llama-3.1 headers, and plain text. The model's template text is matched against the families it can be; a template
 * that would render differently from every built-in is refused (ERR_MODEL) with a hint to set `chat_template`.
 * Trained bytes: for each trained assistant message its content and its end-of-turn marker, not the role header.
 */
#pragma once

#include "base/text.h"
#include "data/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ChatMessage {
    const char *role; /* "system", "user", "assistant", "tool"; borrowed */
    const char *content;
    size_t content_length;
    bool trained;
    bool end_trained; /* its end-of-turn marker counts in the loss */
} ChatMessage;

typedef struct ChatSpan {
    size_t start, end; /* bytes of the rendered text that are trained */
} ChatSpan;

typedef struct ChatText {
    Text text;
    ChatSpan *spans; /* sorted, disjoint */
    size_t span_count, span_capacity;
} ChatText;
void chat_text_clear(ChatText *c);
void chat_text_free(ChatText *c);

typedef struct ChatTemplate ChatTemplate;

/* `name`: "tokenizer" or null (the model's own), "chatml", "llama3", "plain" (alias "none"). Tried out against the
 * template text so that a difference is found here and not in the training data. */
bool chat_template_open(ChatTemplate **out, const char *name, const Tokenizer *t, Err *err) MUST_USE;
void chat_template_close(ChatTemplate *c);
const char *chat_template_name(const ChatTemplate *c); /* "chatml", ... */
/* Text that ends an assistant turn ("<|im_end|>"), empty for plain. */
const char *chat_template_end(const ChatTemplate *c);

/* Appends nothing on failure. With `prompt` the header of an assistant turn follows (add_generation_prompt). */
bool chat_render(const ChatTemplate *c, ChatText *out, const ChatMessage *messages, size_t count, bool prompt,
                 Err *err) MUST_USE;

#ifdef __cplusplus
}
#endif
