#include "base/mem.h"
#include "data/shape_work.h"

#include <string.h>

/*
 * Alpaca records. With a chat template the user's turn is instruction + "\n" + input; without one the conversation is
 * the text of Stanford Alpaca's prompt (github.com/tatsu-lab/stanford_alpaca), with a line end after "### Response:" as
 * most trainers have it.
 */

typedef struct Piece {
    const char *text;
    size_t length;
} Piece;

typedef struct Alpaca {
    Piece instruction, input, output, system;
    const json_t *history; /* list of [user, assistant], or null */
} Alpaca;

static bool read_alpaca(Alpaca *a, const json_t *record, const DataSource *source, Err *err)
{
    const struct {
        Piece *piece;
        const char *property;
        bool needed;
    } columns[] = {
        {&a->instruction, "instruction", true },
        {&a->input,       "input",       false},
        {&a->output,      "output",      true },
        {&a->system,      "system",      false}
    };
    for (size_t i = 0; i < sizeof columns / sizeof columns[0]; i++) {
        if (!shape_text(&columns[i].piece->text, &columns[i].piece->length, record, source, columns[i].property,
                        columns[i].needed, err)) {
            return false;
        }
    }
    a->history = shape_member(record, source, "history");
    if (a->history && !json_is_array(a->history)) {
        return FAIL(err, ERR_DATA, "column \"history\" is %s, expected a list of [user, assistant] pairs",
                    shape_json_kind(a->history));
    }
    return true;
}

static bool history_pair(Piece *user, Piece *answer, const json_t *history, size_t i, Err *err)
{
    const json_t *pair = json_array_get(history, i);
    const json_t *first = json_array_get(pair, 0);
    const json_t *second = json_array_get(pair, 1);
    if (json_array_size(pair) != 2 || !json_is_string(first) || !json_is_string(second)) {
        return FAIL(err, ERR_DATA, "column \"history\", element %zu: expected [user, assistant], two texts", i + 1);
    }
    *user = (Piece){json_string_value(first), json_string_length(first)};
    *answer = (Piece){json_string_value(second), json_string_length(second)};
    return true;
}

static bool add_joined(ShapeWork *w, const Piece *pieces, size_t count, Err *err)
{
    const size_t start = w->contents.length;
    for (size_t i = 0; i < count; i++)
        if (pieces[i].length && !text_add(&w->contents, pieces[i].text, pieces[i].length, err)) return false;
    return shape_messages_add_joined(w, "user", start, err);
}

#define PIECE(literal) ((Piece){(literal), sizeof(literal) - 1})

static bool chat_user(ShapeWork *w, const Piece *instruction, const Piece *input, Err *err)
{
    const Piece pieces[] = {*instruction, input->length ? PIECE("\n") : PIECE(""), *input};
    return add_joined(w, pieces, 3, err);
}

/* `first`: the preamble stands in front; later turns are set off by an empty line. */
static bool prompt_user(ShapeWork *w, const Alpaca *a, const Piece *instruction, const Piece *input, bool first,
                        Err *err)
{
    Piece preamble = PIECE("Below is an instruction that describes a task. Write a response that appropriately "
                           "completes the request.");
    if (input->length) {
        preamble = PIECE("Below is an instruction that describes a task, paired with an input that provides further "
                         "context. Write a response that appropriately completes the request.");
    }
    if (a->system.length) preamble = a->system;
    const Piece pieces[] = {
        first ? preamble : PIECE(""),
        PIECE("\n\n### Instruction:\n"),
        *instruction,
        input->length ? PIECE("\n\n### Input:\n") : PIECE(""),
        *input,
        PIECE("\n\n### Response:\n"),
    };
    return add_joined(w, pieces, sizeof pieces / sizeof pieces[0], err);
}

bool shape_alpaca(ShapeTokens *out, ShapeWork *w, const ShapeRules *rules, const DataSource *source,
                  const json_t *record, Err *err)
{
    static const ChatTemplate plain = {
        .format = {.family = CHAT_PLAIN}, .name = "plain", .bos = (char *)(uintptr_t) ""};
    Alpaca a = {0};
    if (!read_alpaca(&a, record, source, err)) return false;
    const bool prompt = !rules->chat || rules->chat->format.family == CHAT_PLAIN;
    shape_messages_clear(w);
    if (!prompt && a.system.length && !shape_messages_add(w, "system", a.system.text, a.system.length, err)) {
        return false;
    }
    const Piece none = {"", 0};
    const size_t turns = json_array_size(a.history);
    for (size_t i = 0; i <= turns; i++) {
        Piece user = a.instruction;
        Piece answer = a.output;
        if (i < turns && !history_pair(&user, &answer, a.history, i, err)) return false;
        const Piece *input = i < turns ? &none : &a.input;
        if (!(prompt ? prompt_user(w, &a, &user, input, i == 0, err) : chat_user(w, &user, input, err))) return false;
        if (!shape_messages_add(w, "assistant", answer.text, answer.length, err)) return false;
    }
    return shape_messages_tokenize_as(out, w, rules, source, prompt ? &plain : rules->chat, 0, err);
}
