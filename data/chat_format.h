/*
 * chat_format.h - which built-in renderer a model's chat template is, found from the template's own text.
 *
 * The Jinja text is brought into a canonical form (whitespace control applied, quotes, subscripts and concatenation
 * unified) and compared with the forms that chat.c can render byte for byte. Branches that a plain conversation never
 * reaches (tools, tool calls) may hold anything. What matches no form is refused: a template that renders differently
 * must not be guessed at.
 */
#pragma once

#include "base/text.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ChatFamily { CHAT_CHATML, CHAT_LLAMA3, CHAT_PLAIN } ChatFamily;

/* How a message with role "tool" is written. */
typedef enum ChatTool {
    CHAT_TOOL_ROLE,   /* like any other role */
    CHAT_TOOL_WRAP,   /* Qwen: inside a user turn, between <tool_response> marks, neighbours share the turn */
    CHAT_TOOL_REFUSED /* the template has rules of its own for it */
} ChatTool;

typedef struct ChatFormat {
    ChatFamily family;
    bool bos; /* the text starts with the tokenizer's BOS token */
    bool default_system_given;
    Text default_system; /* ChatML: the turn that stands first when the conversation brings no system message */
    Text preamble;       /* Llama-3.1: what the first system turn starts with; it is then always there */
    ChatTool tool;
} ChatFormat;
void chat_format_free(ChatFormat *f);

/* Canonical form of a template; ERR_MODEL when its tags cannot be read. Only for chat_format_detect and tests. */
bool chat_format_canonical(Text *out, const char *jinja, size_t length, Err *err) MUST_USE;

/* *found is false, without an error, when no built-in renders like this template. */
bool chat_format_detect(ChatFormat *out, bool *found, const char *jinja, Err *err) MUST_USE;

#ifdef __cplusplus
}
#endif
