/*
 * shape_work.h - what the files behind data/shapes.h share.
 */
#pragma once

#include "data/chat_template.h"
#include "data/shapes.h"

struct ShapeWork {
    TokenizerCache *cache;
    Tokens tokens;
    ChatText chat;          /* rendered, with the spans that are trained */
    ChatText kept_out;      /* rendered again, with the spans that train_on_inputs must leave out */
    Text contents;          /* message contents that had to be put together */
    ChatMessage *messages;  /* of the record at hand */
    size_t *content_starts; /* where in `contents` a message's content begins; SIZE_MAX: it is borrowed */
    signed char *marks;     /* per message: 1 `train: true`, 0 `train: false`, -1 not given */
    size_t count, message_capacity, start_capacity, mark_capacity;
};

/* Columns and message keys may be renamed by message_property_mappings. */
const char *shape_column(const DataSource *source, const char *property);

/* Value of a column; null when absent or JSON null. */
const json_t *shape_member(const json_t *record, const DataSource *source, const char *property);

/* A text column; absent leaves *text null and is fine unless `needed`. */
bool shape_text(const char **text, size_t *length, const json_t *record, const DataSource *source, const char *property,
                bool needed, Err *err) MUST_USE;

/* "a list", "a number", ... */
const char *shape_json_kind(const json_t *value);

/* Messages of the record at hand (shape_chat.c). Roles and contents are borrowed. */
void shape_messages_clear(ShapeWork *w);
bool shape_messages_add(ShapeWork *w, const char *role, const char *content, size_t length, Err *err) MUST_USE;
/* The content is w->contents from `start` to its end. */
bool shape_messages_add_joined(ShapeWork *w, const char *role, size_t start, Err *err) MUST_USE;
void shape_messages_drop_first(ShapeWork *w);
/* All of a JSON list; `column` names it in errors. */
bool shape_messages_read(ShapeWork *w, const DataSource *source, const json_t *list, const char *column,
                         Err *err) MUST_USE;
/* Renders, tokenizes and labels them; messages before `context` are never trained. */
bool shape_messages_tokenize(ShapeTokens *out, ShapeWork *w, const ShapeRules *rules, const DataSource *source,
                             size_t context, Err *err) MUST_USE;
/* The same without asking whether the model has a chat template (shape_alpaca.c brings its own text then). */
bool shape_messages_tokenize_as(ShapeTokens *out, ShapeWork *w, const ShapeRules *rules, const DataSource *source,
                                const ChatTemplate *chat, size_t context, Err *err) MUST_USE;

bool shape_alpaca(ShapeTokens *out, ShapeWork *w, const ShapeRules *rules, const DataSource *source,
                  const json_t *record, Err *err) MUST_USE;

/* Which bytes of a text are trained; both lists are sorted and disjoint. */
typedef struct ShapeSpans {
    const ChatSpan *spans;
    size_t count;
    const ChatSpan *kept_out; /* never trained, whatever `spans` say */
    size_t kept_out_count;
    bool special;     /* BOS in front and EOS at the end, as a tokenizer does for plain text */
    bool eos_trained; /* whether an added EOS is */
} ShapeSpans;

/* Tokenizes the text and appends ids and labels. */
bool shape_encode(ShapeTokens *out, ShapeWork *w, const ShapeRules *rules, const char *text, size_t length,
                  const ShapeSpans *marks, Err *err) MUST_USE;
