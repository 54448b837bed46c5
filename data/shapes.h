/*
 * shapes.h - one record of a data set to token ids and labels.
 *
 * A record is a JSON object in one of these shapes; where it could be several, the first of this list counts:
 *   pretokenized       input_ids, labels?, attention_mask?
 *   chat (sharegpt)    messages or conversations: [{role|from, content|value, train?, weight?}], system?
 *   prompt_completion  prompt, completion: two texts, or two message lists
 *   alpaca             instruction, output, input?, system?, history? [[user, assistant], ...]
 *   text               text
 * Labels have the index of their token: labels[k] is ids[k] where it is trained, TARGET_NONE elsewhere. The first token
 * of a sample is never a target, so labels[0] is always TARGET_NONE.
 */
#pragma once

#include "base/json.h"
#include "data/dataset.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum Shape {
    SHAPE_AUTO,
    SHAPE_PRETOKENIZED,
    SHAPE_CHAT,
    SHAPE_PROMPT_COMPLETION,
    SHAPE_ALPACA,
    SHAPE_TEXT
} Shape;

const char *shape_name(Shape shape);

/* `type` of a data source (null: auto); ERR_CONFIG names the known ones. */
bool shape_from_type(Shape *out, const char *type, Err *err) MUST_USE;

/* What a record looks like; ERR_DATA lists its columns when it is none of the shapes. */
bool shape_detect(Shape *out, const json_t *record, const DataSource *source, Err *err) MUST_USE;

typedef struct ShapeRules {
    const Tokenizer *tokenizer;
    const ChatTemplate *chat; /* null: chats are refused */
    bool train_on_inputs;
    bool mask_history;
    int32_t vocab_size; /* 0: not checked */
} ShapeRules;

/* Tokens of one or more samples, one behind the other. */
typedef struct ShapeTokens {
    int32_t *ids, *labels;
    size_t count, id_capacity, label_capacity;
    int64_t straddling; /* tokens across the border of a trained span, so far */
} ShapeTokens;
void shape_tokens_free(ShapeTokens *t);

/* Work memory of one thread. */
typedef struct ShapeWork ShapeWork;
bool shape_work_create(ShapeWork **out, const Tokenizer *t, Err *err) MUST_USE;
void shape_work_free(ShapeWork *w);

/* Appends the sample that `record` makes. Errors name the column at fault; the caller adds file and line. */
bool shape_tokenize(ShapeTokens *out, ShapeWork *w, const ShapeRules *rules, const DataSource *source, Shape shape,
                    const json_t *record, Err *err) MUST_USE;

/* The same for a bare list of messages, with the options of a default data source. */
bool shape_tokenize_messages(ShapeTokens *out, ShapeWork *w, const ShapeRules *rules, const json_t *messages,
                             Err *err) MUST_USE;

#ifdef __cplusplus
}
#endif
