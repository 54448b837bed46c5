#include "data/shapes.h"

#include "base/batch.h"
#include "base/check.h"
#include "base/mem.h"
#include "data/shape_work.h"

#include <stdio.h>
#include <string.h>

const char *shape_name(Shape shape)
{
    static const char *const names[] = {"auto", "pretokenized", "chat", "prompt_completion", "alpaca", "text"};
    return names[shape];
}

bool shape_from_type(Shape *out, const char *type, Err *err)
{
    static const struct {
        const char *type;
        Shape shape;
    } types[] = {
        {"auto",              SHAPE_AUTO             },
        {"chat",              SHAPE_CHAT             },
        {"chat_template",     SHAPE_CHAT             },
        {"messages",          SHAPE_CHAT             },
        {"openai",            SHAPE_CHAT             },
        {"sharegpt",          SHAPE_CHAT             },
        {"alpaca",            SHAPE_ALPACA           },
        {"prompt_completion", SHAPE_PROMPT_COMPLETION},
        {"completion",        SHAPE_PROMPT_COMPLETION},
        {"text",              SHAPE_TEXT             },
        {"pretokenized",      SHAPE_PRETOKENIZED     }
    };
    for (size_t i = 0; i < ARRAY_COUNT(types); i++) {
        if (type && strcmp(type, types[i].type)) continue;
        *out = types[i].shape;
        return true;
    }
    return FAIL(err, ERR_CONFIG,
                "datasets: type \"%s\" is not known; use chat, sharegpt, alpaca, prompt_completion, text or "
                "pretokenized, or leave it out",
                type);
}

const char *shape_column(const DataSource *source, const char *property)
{
    for (int i = 0; i < source->property_count; i++)
        if (!strcmp(source->properties[i].key, property)) return source->properties[i].value;
    return property;
}

const json_t *shape_member(const json_t *record, const DataSource *source, const char *property)
{
    const json_t *value = json_object_get(record, shape_column(source, property));
    return json_is_null(value) ? NULL : value;
}

const char *shape_json_kind(const json_t *value)
{
    if (!value) return "missing";
    switch (json_typeof(value)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "a list";
    case JSON_STRING: return "a text";
    case JSON_INTEGER:
    case JSON_REAL: return "a number";
    case JSON_TRUE:
    case JSON_FALSE: return "true or false";
    case JSON_NULL: return "null";
    }
    return "";
}

bool shape_text(const char **text, size_t *length, const json_t *record, const DataSource *source, const char *property,
                bool needed, Err *err)
{
    const json_t *value = shape_member(record, source, property);
    *text = NULL;
    *length = 0;
    if (!value && !needed) return true;
    if (!json_is_string(value)) {
        return FAIL(err, ERR_DATA, "column \"%s\" is %s, expected a text", shape_column(source, property),
                    shape_json_kind(value));
    }
    *text = json_string_value(value);
    *length = json_string_length(value);
    return true;
}

/* ---- detection ---- */

static const char *message_column(const json_t *record, const DataSource *source)
{
    if (source->field_messages) return source->field_messages;
    const json_t *messages = json_object_get(record, "messages");
    return messages && !json_is_null(messages) ? "messages" : "conversations";
}

static bool fail_unknown(const json_t *record, Err *err)
{
    char columns[200] = "";
    size_t used = 0;
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)record, key, value)
    {
        char shown[40];
        text_printable(shown, sizeof shown, key, strlen(key));
        const int n = snprintf(columns + used, sizeof columns - used, "%s%s", used ? ", " : "", shown);
        if (n < 0 || (size_t)n >= sizeof columns - used) break;
        used += (size_t)n;
    }
    if (json_object_get(record, "chosen") && json_object_get(record, "rejected")) {
        return FAIL(err, ERR_DATA,
                    "this is a preference record (chosen, rejected); supervised training needs messages, or prompt and "
                    "completion");
    }
    return FAIL(err, ERR_DATA,
                "no known shape among the columns (%s); expected messages, conversations, prompt and completion, "
                "instruction and output, text or input_ids; name other columns with field_messages or "
                "message_property_mappings",
                columns);
}

bool shape_detect(Shape *out, const json_t *record, const DataSource *source, Err *err)
{
    if (!json_is_object(record)) {
        return FAIL(err, ERR_DATA, "the record is %s, expected an object such as {\"messages\": [...]}",
                    shape_json_kind(record));
    }
    const bool prompt = shape_member(record, source, "prompt") && shape_member(record, source, "completion");
    if (shape_member(record, source, "input_ids")) {
        *out = SHAPE_PRETOKENIZED;
    } else if (json_object_get(record, message_column(record, source))) {
        *out = SHAPE_CHAT;
    } else if (prompt) {
        *out = SHAPE_PROMPT_COMPLETION;
    } else if (shape_member(record, source, "instruction") && shape_member(record, source, "output")) {
        *out = SHAPE_ALPACA;
    } else if (shape_member(record, source, "text")) {
        *out = SHAPE_TEXT;
    } else {
        return fail_unknown(record, err);
    }
    return true;
}

/* ---- work memory and output ---- */

void shape_tokens_free(ShapeTokens *t)
{
    mem_free(t->ids);
    mem_free(t->labels);
    *t = (ShapeTokens){0};
}

bool shape_work_create(ShapeWork **out, const Tokenizer *t, Err *err)
{
    ShapeWork *w = mem_alloc(1, sizeof *w, err);
    if (!w) return false;
    if (t && !tokenizer_cache_create(&w->cache, t, err)) {
        shape_work_free(w);
        return false;
    }
    *out = w;
    return true;
}

void shape_work_free(ShapeWork *w)
{
    if (!w) return;
    if (w->cache) tokenizer_cache_free(w->cache);
    tokens_free(&w->tokens);
    chat_text_free(&w->chat);
    chat_text_free(&w->kept_out);
    text_free(&w->contents);
    mem_free(w->messages);
    mem_free(w->content_starts);
    mem_free(w->marks);
    mem_free(w);
}

static bool reserve(ShapeTokens *out, size_t more, Err *err)
{
    return mem_grow(&out->ids, &out->id_capacity, out->count + more, sizeof *out->ids, err) &&
           mem_grow(&out->labels, &out->label_capacity, out->count + more, sizeof *out->labels, err);
}

/* Room was reserved. */
static void put(ShapeTokens *out, int32_t id, bool trained)
{
    out->ids[out->count] = id;
    out->labels[out->count++] = trained ? id : TARGET_NONE;
}

/* Whether token bytes [start, end) touch one of the spans; *at moves forward with the tokens. A token without bytes
 * belongs to what follows it. */
static const ChatSpan *touching(const ChatSpan *spans, size_t count, size_t *at, size_t start, size_t end)
{
    while (*at < count && spans[*at].end <= start)
        (*at)++;
    if (*at == count) return NULL;
    const ChatSpan *s = &spans[*at];
    return s->start < end || (start == end && s->start <= start) ? s : NULL;
}

/* Whether the text already starts with what the tokenizer would put in front of it. */
static bool has_prefix(const Tokens *t, const int32_t *prefix, size_t count)
{
    return count > 0 && t->count >= count && !memcmp(t->ids, prefix, count * sizeof *prefix);
}

static bool push_prefix(ShapeTokens *out, const ShapeWork *w, const ShapeRules *rules, bool trained, Err *err)
{
    const int32_t *prefix = NULL;
    const size_t count = tokenizer_prefix(rules->tokenizer, &prefix);
    if (has_prefix(&w->tokens, prefix, count)) return true;
    if (!reserve(out, count, err)) return false;
    for (size_t i = 0; i < count; i++)
        put(out, prefix[i], trained);
    return true;
}

static bool push_suffix(ShapeTokens *out, size_t first, const ShapeRules *rules, bool trained, Err *err)
{
    const int32_t *suffix = NULL;
    const size_t count = tokenizer_suffix(rules->tokenizer, &suffix);
    if (!reserve(out, count + 1, err)) return false;
    for (size_t i = 0; i < count; i++)
        put(out, suffix[i], trained);
    const int32_t eos = tokenizer_eos(rules->tokenizer);
    if (eos >= 0 && (out->count == first || out->ids[out->count - 1] != eos)) put(out, eos, trained);
    return true;
}

static bool check_vocabulary(const ShapeTokens *out, size_t first, const ShapeRules *rules, Err *err)
{
    if (rules->vocab_size == 0) return true;
    for (size_t k = first; k < out->count; k++) {
        if (out->ids[k] < rules->vocab_size && out->labels[k] < rules->vocab_size) continue;
        return FAIL(err, ERR_DATA, "token %zu is id %d, but the model's vocabulary has only %d ids", k - first + 1,
                    out->ids[k] < rules->vocab_size ? out->labels[k] : out->ids[k], rules->vocab_size);
    }
    return true;
}

bool shape_encode(ShapeTokens *out, ShapeWork *w, const ShapeRules *rules, const char *text, size_t length,
                  const ShapeSpans *marks, Err *err)
{
    const size_t first = out->count;
    w->tokens.count = 0;
    if (!tokenizer_encode(rules->tokenizer, w->cache, &w->tokens, text, length, err)) return false;
    const bool whole = marks->count == 1 && marks->spans[0].start == 0 && marks->spans[0].end == length;
    if (marks->special && !push_prefix(out, w, rules, whole, err)) return false;
    if (!reserve(out, w->tokens.count, err)) return false;
    size_t at = 0;
    size_t kept_at = 0;
    for (size_t k = 0; k < w->tokens.count; k++) {
        const size_t start = w->tokens.starts[k];
        const size_t end = w->tokens.ends[k];
        const ChatSpan *span = touching(marks->spans, marks->count, &at, start, end);
        const bool kept_out = touching(marks->kept_out, marks->kept_out_count, &kept_at, start, end) != NULL;
        if (span && (start < span->start || end > span->end)) out->straddling++;
        put(out, w->tokens.ids[k], span && !kept_out);
    }
    if (marks->special && !push_suffix(out, first, rules, marks->eos_trained, err)) return false;
    if (out->count > first) out->labels[first] = TARGET_NONE;
    return check_vocabulary(out, first, rules, err);
}

/* ---- shapes without messages ---- */

static bool tokenize_text(ShapeTokens *out, ShapeWork *w, const ShapeRules *rules, const DataSource *source,
                          const json_t *record, Err *err)
{
    const char *text;
    size_t length;
    if (!shape_text(&text, &length, record, source, "text", true, err)) return false;
    const ChatSpan all = {0, length};
    const ShapeSpans marks = {
        .spans = &all, .count = 1, .special = true, .eos_trained = source->train_on_eos != TRAIN_EOS_NONE};
    return shape_encode(out, w, rules, text, length, &marks, err);
}

static bool tokenize_two_texts(ShapeTokens *out, ShapeWork *w, const ShapeRules *rules, const DataSource *source,
                               const json_t *record, Err *err)
{
    const char *prompt;
    const char *completion;
    size_t prompt_length;
    size_t completion_length;
    if (!shape_text(&prompt, &prompt_length, record, source, "prompt", true, err)) return false;
    if (!shape_text(&completion, &completion_length, record, source, "completion", true, err)) return false;
    text_clear(&w->contents);
    if (!text_add(&w->contents, prompt, prompt_length, err)) return false;
    if (!text_add(&w->contents, completion, completion_length, err)) return false;
    const ChatSpan trained = {rules->train_on_inputs ? 0 : prompt_length, w->contents.length};
    const ShapeSpans marks = {
        .spans = &trained, .count = 1, .special = true, .eos_trained = source->train_on_eos != TRAIN_EOS_NONE};
    return shape_encode(out, w, rules, w->contents.bytes, w->contents.length, &marks, err);
}

static bool tokenize_prompt_completion(ShapeTokens *out, ShapeWork *w, const ShapeRules *rules,
                                       const DataSource *source, const json_t *record, Err *err)
{
    const json_t *prompt = shape_member(record, source, "prompt");
    const json_t *completion = shape_member(record, source, "completion");
    if (!json_is_array(prompt) && !json_is_array(completion)) {
        return tokenize_two_texts(out, w, rules, source, record, err);
    }
    shape_messages_clear(w);
    if (!shape_messages_read(w, source, prompt, "prompt", err)) return false;
    const size_t context = w->count;
    if (!shape_messages_read(w, source, completion, "completion", err)) return false;
    return shape_messages_tokenize(out, w, rules, source, context, err);
}

static bool read_ids(ShapeTokens *out, const json_t *list, const char *column, size_t count, bool labels, Err *err)
{
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_array_get(list, i);
        const json_int_t id = json_integer_value(item);
        const bool none = labels && id == TARGET_NONE;
        if (!json_is_integer(item) || id > INT32_MAX || (id < 0 && !none)) {
            return FAIL(err, ERR_DATA, "column \"%s\", element %zu: expected a token id%s", column, i + 1,
                        labels ? ", or -100 for a token that is not trained" : "");
        }
        (labels ? out->labels : out->ids)[out->count + i] = (int32_t)id;
    }
    return true;
}

/* Padding is what attention_mask switches off at either end. */
static bool padding(const json_t *mask, size_t count, size_t *first, size_t *last, Err *err)
{
    *first = 0;
    *last = count;
    if (!mask) return true;
    if (!json_is_array(mask) || json_array_size(mask) != count) {
        return FAIL(err, ERR_DATA, "column \"attention_mask\" does not have one element for each of the %zu input_ids",
                    count);
    }
    while (*first < count && json_integer_value(json_array_get(mask, *first)) == 0)
        (*first)++;
    while (*last > *first && json_integer_value(json_array_get(mask, *last - 1)) == 0)
        (*last)--;
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_array_get(mask, i);
        const json_int_t on = json_integer_value(item);
        if (json_is_integer(item) && (on == 1 || (on == 0 && (i < *first || i >= *last)))) continue;
        return FAIL(err, ERR_DATA, "column \"attention_mask\", element %zu: expected 1, or 0 for padding at either end",
                    i + 1);
    }
    return true;
}

static bool tokenize_pretokenized(ShapeTokens *out, const ShapeRules *rules, const DataSource *source,
                                  const json_t *record, Err *err)
{
    const json_t *ids = shape_member(record, source, "input_ids");
    const json_t *labels = shape_member(record, source, "labels");
    if (!json_is_array(ids)) {
        return FAIL(err, ERR_DATA, "column \"input_ids\" is %s, expected a list of token ids", shape_json_kind(ids));
    }
    const size_t count = json_array_size(ids);
    if (labels && (!json_is_array(labels) || json_array_size(labels) != count)) {
        return FAIL(err, ERR_DATA, "column \"labels\" does not have one element for each of the %zu input_ids", count);
    }
    size_t first = 0;
    size_t last = count;
    if (!padding(shape_member(record, source, "attention_mask"), count, &first, &last, err)) return false;
    if (!reserve(out, count, err)) return false;
    if (!read_ids(out, ids, "input_ids", count, false, err)) return false;
    if (!read_ids(out, labels ? labels : ids, "labels", count, true, err)) return false;
    const size_t at = out->count;
    if (last == first) return true;
    memmove(out->ids + at, out->ids + at + first, (last - first) * sizeof *out->ids);
    memmove(out->labels + at, out->labels + at + first, (last - first) * sizeof *out->labels);
    out->count += last - first;
    out->labels[at] = TARGET_NONE;
    return check_vocabulary(out, at, rules, err);
}

/* ---- all shapes ---- */

static bool tokenize_chat(ShapeTokens *out, ShapeWork *w, const ShapeRules *rules, const DataSource *source,
                          const json_t *record, Err *err)
{
    const char *column = message_column(record, source);
    const char *system;
    size_t length;
    const json_t *tools = json_object_get(record, "tools");
    if (json_array_size(tools) > 0 || json_string_length(tools) > 0) {
        return FAIL(err, ERR_DATA, "column \"tools\": tool definitions are not supported; remove the column");
    }
    if (!shape_text(&system, &length, record, source, "system", false, err)) return false;
    shape_messages_clear(w);
    if (length > 0 && !shape_messages_add(w, "system", system, length, err)) return false;
    if (!shape_messages_read(w, source, json_object_get(record, column), column, err)) return false;
    /* A system message among the turns counts before the column. */
    if (length > 0 && w->count > 1 && !strcmp(w->messages[1].role, "system")) shape_messages_drop_first(w);
    return shape_messages_tokenize(out, w, rules, source, 0, err);
}

bool shape_tokenize(ShapeTokens *out, ShapeWork *w, const ShapeRules *rules, const DataSource *source, Shape shape,
                    const json_t *record, Err *err)
{
    if (!json_is_object(record)) {
        return FAIL(err, ERR_DATA, "the record is %s, expected an object", shape_json_kind(record));
    }
    if (!rules->tokenizer && shape != SHAPE_PRETOKENIZED) {
        return FAIL(
            err, ERR_MODEL,
            "the record is text and there is no tokenizer; put the model's tokenizer.json beside its weights, or "
            "set tokenizer to a folder that has one");
    }
    switch (shape) {
    case SHAPE_PRETOKENIZED: return tokenize_pretokenized(out, rules, source, record, err);
    case SHAPE_CHAT: return tokenize_chat(out, w, rules, source, record, err);
    case SHAPE_PROMPT_COMPLETION: return tokenize_prompt_completion(out, w, rules, source, record, err);
    case SHAPE_ALPACA: return shape_alpaca(out, w, rules, source, record, err);
    case SHAPE_TEXT: return tokenize_text(out, w, rules, source, record, err);
    case SHAPE_AUTO: break;
    }
    CHECK(false);
    return false;
}

bool shape_tokenize_messages(ShapeTokens *out, ShapeWork *w, const ShapeRules *rules, const json_t *messages, Err *err)
{
    const DataSource source = {.path = "messages", .weight = 1.0};
    shape_messages_clear(w);
    if (!shape_messages_read(w, &source, messages, "messages", err)) return false;
    return shape_messages_tokenize(out, w, rules, &source, 0, err);
}
