#include "base/check.h"
#include "base/mem.h"
#include "data/shape_work.h"

#include <string.h>

enum { MESSAGES_MAX = 100000 };

void shape_messages_clear(ShapeWork *w)
{
    w->count = 0;
    text_clear(&w->contents);
}

static bool add(ShapeWork *w, const char *role, const char *content, size_t length, size_t start, Err *err)
{
    const size_t need = w->count + 1;
    if (!mem_grow(&w->messages, &w->message_capacity, need, sizeof *w->messages, err)) return false;
    if (!mem_grow(&w->content_starts, &w->start_capacity, need, sizeof *w->content_starts, err)) return false;
    if (!mem_grow(&w->marks, &w->mark_capacity, need, sizeof *w->marks, err)) return false;
    w->messages[w->count] = (ChatMessage){.role = role, .content = content, .content_length = length};
    w->content_starts[w->count] = start;
    w->marks[w->count++] = -1;
    return true;
}

bool shape_messages_add(ShapeWork *w, const char *role, const char *content, size_t length, Err *err)
{
    return add(w, role, content, length, SIZE_MAX, err);
}

bool shape_messages_add_joined(ShapeWork *w, const char *role, size_t start, Err *err)
{
    return add(w, role, "", w->contents.length - start, start, err);
}

void shape_messages_drop_first(ShapeWork *w)
{
    w->count--;
    memmove(w->messages, w->messages + 1, w->count * sizeof *w->messages);
    memmove(w->content_starts, w->content_starts + 1, w->count * sizeof *w->content_starts);
    memmove(w->marks, w->marks + 1, w->count * sizeof *w->marks);
}

/* `contents` moves while it grows; only now its messages can point into it. */
static void settle_contents(ShapeWork *w)
{
    for (size_t i = 0; i < w->count; i++) {
        if (w->content_starts[i] == SIZE_MAX || !w->contents.bytes) continue;
        w->messages[i].content = w->contents.bytes + w->content_starts[i];
    }
}

/* ---- reading ---- */

static const char *known_role(const DataSource *source, const char *role)
{
    static const DataPair aliases[] = {
        {"system",            "system"   },
        {"user",              "user"     },
        {"human",             "user"     },
        {"assistant",         "assistant"},
        {"gpt",               "assistant"},
        {"model",             "assistant"},
        {"chatgpt",           "assistant"},
        {"bing",              "assistant"},
        {"bard",              "assistant"},
        {"tool",              "tool"     },
        {"observation",       "tool"     },
        {"function_response", "tool"     }
    };
    for (int i = 0; i < source->role_count; i++)
        if (!strcmp(source->roles[i].key, role)) return source->roles[i].value;
    for (size_t i = 0; i < ARRAY_COUNT(aliases); i++)
        if (!strcmp(aliases[i].key, role)) return aliases[i].value;
    /* A role that the user named somewhere is not a slip of the pen. */
    for (int i = 0; i < source->role_count; i++)
        if (!strcmp(source->roles[i].value, role)) return source->roles[i].value;
    for (int i = 0; i < source->roles_to_train_count; i++)
        if (!strcmp(source->roles_to_train[i], role)) return source->roles_to_train[i];
    return NULL;
}

/* The mapped key when there is one; else the usual name, else ShareGPT's. */
static const json_t *message_member(const json_t *message, const DataSource *source, const char *name,
                                    const char *sharegpt, const char **key)
{
    *key = shape_column(source, name);
    const json_t *value = json_object_get(message, *key);
    if (value || *key != name) return value;
    value = json_object_get(message, sharegpt);
    if (value) *key = sharegpt;
    return value;
}

#define FAIL_MESSAGE(column, index, ...) fail_message(FAIL(err, ERR_DATA, __VA_ARGS__), (column), (index), err)

static bool fail_message(bool failed, const char *column, size_t index, Err *err)
{
    (void)failed;
    if (err->code == ERR_DATA) (void)err_note(err, "field \"%s\"[%zu]", column, index);
    return false;
}

static bool read_role(const char **role, const json_t *message, const DataSource *source, const char *column,
                      size_t index, Err *err)
{
    const char *key;
    const json_t *value = message_member(message, source, "role", "from", &key);
    if (!json_is_string(value)) {
        return FAIL_MESSAGE(column, index, "\"%s\" is %s, expected a text such as \"user\"", key,
                            shape_json_kind(value));
    }
    const char *given = json_string_value(value);
    *role = known_role(source, given);
    if (*role) return true;
    char shown[64];
    text_printable(shown, sizeof shown, given, strlen(given));
    if (!strcmp(given, "function_call")) {
        return FAIL_MESSAGE(column, index, "the role \"function_call\" (tool calls) is not supported");
    }
    return FAIL_MESSAGE(column, index,
                        "the role \"%s\" is not known (system, user, assistant, tool); map it with datasets.roles",
                        shown);
}

/* A list of {"type": "text", "text": ...} is its texts, one behind the other. */
static bool read_parts(ShapeWork *w, const char *role, const json_t *parts, const char *column, size_t index, Err *err)
{
    const size_t start = w->contents.length;
    for (size_t i = 0; i < json_array_size(parts); i++) {
        const json_t *part = json_array_get(parts, i);
        const json_t *text = json_is_string(part) ? part : json_object_get(part, "text");
        if (!json_is_string(text)) {
            return FAIL_MESSAGE(column, index, "part %zu of the content is not a text; only texts can be trained on",
                                i + 1);
        }
        if (!text_add(&w->contents, json_string_value(text), json_string_length(text), err)) return false;
    }
    return shape_messages_add_joined(w, role, start, err);
}

/* `train: true|false`, or OpenAI's `weight: 0|1`. */
static bool read_mark(ShapeWork *w, const json_t *message, const DataSource *source, const char *column, size_t index,
                      Err *err)
{
    const json_t *train = shape_member(message, source, "train");
    const json_t *weight = shape_member(message, source, "weight");
    if (train && !json_is_boolean(train)) {
        return FAIL_MESSAGE(column, index, "\"train\" is %s, expected true or false", shape_json_kind(train));
    }
    if (weight && !(json_is_number(weight) && (json_number_value(weight) == 0.0 || json_number_value(weight) == 1.0))) {
        return FAIL_MESSAGE(column, index, "\"weight\" must be 0 or 1");
    }
    if (train) {
        w->marks[w->count - 1] = json_is_true(train) ? 1 : 0;
    } else if (weight) {
        w->marks[w->count - 1] = json_number_value(weight) > 0.0 ? 1 : 0;
    }
    return true;
}

static bool read_message(ShapeWork *w, const DataSource *source, const json_t *message, const char *column,
                         size_t index, Err *err)
{
    if (!json_is_object(message)) {
        return FAIL_MESSAGE(column, index, "the message is %s, expected an object with role and content",
                            shape_json_kind(message));
    }
    const char *role;
    const char *key;
    if (!read_role(&role, message, source, column, index, err)) return false;
    if (json_array_size(json_object_get(message, "tool_calls")) > 0) {
        return FAIL_MESSAGE(column, index, "\"tool_calls\" are not supported; write the call into the content");
    }
    const json_t *content = message_member(message, source, "content", "value", &key);
    if (json_is_array(content)) {
        if (!read_parts(w, role, content, column, index, err)) return false;
    } else if (!json_is_string(content)) {
        return FAIL_MESSAGE(column, index, "\"%s\" is %s, expected a text", key, shape_json_kind(content));
    } else if (!shape_messages_add(w, role, json_string_value(content), json_string_length(content), err)) {
        return false;
    }
    return read_mark(w, message, source, column, index, err);
}

bool shape_messages_read(ShapeWork *w, const DataSource *source, const json_t *list, const char *column, Err *err)
{
    if (!json_is_array(list) || json_array_size(list) == 0) {
        return FAIL(err, ERR_DATA, "column \"%s\" is %s, expected a list of messages", column,
                    json_is_array(list) ? "an empty list" : shape_json_kind(list));
    }
    if (json_array_size(list) > MESSAGES_MAX) {
        return FAIL(err, ERR_DATA, "column \"%s\" has %zu messages, more than %d", column, json_array_size(list),
                    MESSAGES_MAX);
    }
    for (size_t i = 0; i < json_array_size(list); i++)
        if (!read_message(w, source, json_array_get(list, i), column, i, err)) return false;
    return true;
}

/* ---- labels ---- */

static bool is_trained_role(const DataSource *source, const char *role)
{
    if (!source->roles_to_train) return !strcmp(role, "assistant");
    for (int i = 0; i < source->roles_to_train_count; i++)
        if (!strcmp(source->roles_to_train[i], role)) return true;
    return false;
}

/* Contents first: a role that is trained, or what the message itself says; then only the last turn of mask_history. */
static void mark_contents(ShapeWork *w, const ShapeRules *rules, const DataSource *source, size_t context)
{
    size_t last = SIZE_MAX;
    for (size_t i = 0; i < w->count; i++) {
        ChatMessage *m = &w->messages[i];
        m->trained = i >= context && (w->marks[i] >= 0 ? w->marks[i] == 1 : is_trained_role(source, m->role));
        if (m->trained) last = i;
    }
    for (size_t i = 0; rules->mask_history && i < w->count; i++)
        if (i != last) w->messages[i].trained = false;
}

static void mark_ends(ShapeWork *w, const DataSource *source)
{
    bool last = true;
    for (size_t i = w->count; i-- > 0;) {
        ChatMessage *m = &w->messages[i];
        switch (source->train_on_eos) {
        case TRAIN_EOS_TURN: m->end_trained = m->trained; break;
        case TRAIN_EOS_LAST: m->end_trained = m->trained && last; break;
        case TRAIN_EOS_ALL: m->end_trained = true; break;
        case TRAIN_EOS_NONE: m->end_trained = false; break;
        }
        if (m->trained) last = false;
    }
}

/* With train_on_inputs all is trained but the messages that say `train: false`: a second rendering finds their bytes. */
static bool find_kept_out(ShapeWork *w, const ChatTemplate *chat, Err *err)
{
    bool any = false;
    chat_text_clear(&w->kept_out);
    for (size_t i = 0; i < w->count; i++) {
        w->messages[i].trained = w->messages[i].end_trained = w->marks[i] == 0;
        any = any || w->marks[i] == 0;
    }
    return !any || chat_render(chat, &w->kept_out, w->messages, w->count, false, err);
}

bool shape_messages_tokenize_as(ShapeTokens *out, ShapeWork *w, const ShapeRules *rules, const DataSource *source,
                                const ChatTemplate *chat, size_t context, Err *err)
{
    settle_contents(w);
    mark_contents(w, rules, source, context);
    mark_ends(w, source);
    chat_text_clear(&w->chat);
    chat_text_clear(&w->kept_out);
    if (!chat_render(chat, &w->chat, w->messages, w->count, false, err)) return false;
    const bool plain = chat->format.family == CHAT_PLAIN;
    const bool end_trained = w->messages[w->count - 1].end_trained;
    if (rules->train_on_inputs && !find_kept_out(w, chat, err)) return false;
    const ChatSpan all = {0, w->chat.text.length};
    const ShapeSpans marks = {
        .spans = rules->train_on_inputs ? &all : w->chat.spans,
        .count = rules->train_on_inputs ? 1 : w->chat.span_count,
        .kept_out = w->kept_out.spans,
        .kept_out_count = w->kept_out.span_count,
        .special = plain, /* a real template writes its own markers */
        .eos_trained = end_trained,
    };
    return shape_encode(out, w, rules, w->chat.text.bytes ? w->chat.text.bytes : "", w->chat.text.length, &marks, err);
}

bool shape_messages_tokenize(ShapeTokens *out, ShapeWork *w, const ShapeRules *rules, const DataSource *source,
                             size_t context, Err *err)
{
    if (!rules->chat || rules->chat->assumed) {
        return FAIL(err, ERR_DATA,
                    "this is a conversation, but the model has no chat template; set chat_template: chatml (or llama3, "
                    "or plain)");
    }
    return shape_messages_tokenize_as(out, w, rules, source, rules->chat, context, err);
}
