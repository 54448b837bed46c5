#include "base/mem.h"
#include "data/shapes.h"
#include "data/tokenizer.h"
#include "model/source.h"
#include "trainer/command.h"
#include "trainer/lines.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Everything that turns one line of input into one line of output. */
typedef struct Work {
    Tokenizer *tokenizer;
    TokenizerCache *cache;
    Tokens tokens;
    Text out;
    ChatTemplate *chat; /* --chat */
    ShapeWork *shape;
    ShapeTokens sample;
} Work;

static void work_free(Work *w)
{
    tokens_free(&w->tokens);
    text_free(&w->out);
    shape_tokens_free(&w->sample);
    shape_work_free(w->shape);
    chat_template_close(w->chat);
    tokenizer_cache_free(w->cache);
    tokenizer_close(w->tokenizer);
}

static bool put_ids(Text *out, const int32_t *ids, size_t count, Err *err)
{
    if (!text_add_z(out, "[", err)) return false;
    for (size_t i = 0; i < count; i++) {
        char number[16];
        const int n = snprintf(number, sizeof number, i ? ", %d" : "%d", (int)ids[i]);
        if (!text_add(out, number, (size_t)n, err)) return false;
    }
    return text_add_z(out, "]", err);
}

static bool encode_text(Work *w, const char *bytes, size_t length, Err *err)
{
    w->tokens.count = 0;
    return tokenizer_encode(w->tokenizer, w->cache, &w->tokens, bytes, length, err) &&
           put_ids(&w->out, w->tokens.ids, w->tokens.count, err);
}

/* One line as JSON; the caller's note names the line, which a place in the text of json_parse would get wrong. */
static bool parse_line(json_t **out, const Text *line, const char *expected, Err *err)
{
    json_error_t fault;
    const size_t flags = JSON_DECODE_ANY | JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES;
    bool no_memory;
    *out = json_read(line->bytes ? line->bytes : "", line->length, flags, &fault, &no_memory);
    if (*out) return true;
    if (no_memory) return FAIL(err, ERR_MEMORY, "out of host memory while reading it");
    char shown[JSON_ERROR_TEXT_LENGTH * 2];
    text_printable(shown, sizeof shown, fault.text, strlen(fault.text));
    return FAIL(err, ERR_DATA, "column %d: not %s: %s", fault.column > 0 ? fault.column : 1, expected, shown);
}

/* A line that is one JSON string. */
static bool encode_json_string(Work *w, const Text *line, Err *err)
{
    json_t *value = NULL;
    bool ok = false;
    if (!parse_line(&value, line, "a JSON string", err)) return false;
    if (!json_is_string(value)) {
        ok = FAIL(err, ERR_DATA, "not a JSON string: with --jsonl every line is one");
    } else {
        ok = encode_text(w, json_string_value(value), json_string_length(value), err);
    }
    json_decref(value);
    return ok;
}

/* A line that is a list of messages, or an object that holds one as a sample does. */
static bool encode_chat(Work *w, const Text *line, Err *err)
{
    static const DataSource plain = {.weight = 1};
    const ShapeRules rules = {.tokenizer = w->tokenizer, .chat = w->chat};
    json_t *value = NULL;
    if (!parse_line(&value, line, "a JSON list of messages", err)) return false;
    w->sample.count = 0;
    const bool made = json_is_array(value)
                          ? shape_tokenize_messages(&w->sample, w->shape, &rules, value, err)
                          : shape_tokenize(&w->sample, w->shape, &rules, &plain, SHAPE_CHAT, value, err);
    json_decref(value);
    return made && text_add_z(&w->out, "{\"input_ids\": ", err) &&
           put_ids(&w->out, w->sample.ids, w->sample.count, err) && text_add_z(&w->out, ", \"labels\": ", err) &&
           put_ids(&w->out, w->sample.labels, w->sample.count, err) && text_add_z(&w->out, "}", err);
}

static bool encode_line(Work *w, const Text *line, const CommandLine *command, Err *err)
{
    if (w->chat) return encode_chat(w, line, err);
    if (command_flag(command, "jsonl")) return encode_json_string(w, line, err);
    return encode_text(w, line->bytes ? line->bytes : "", line->length, err);
}

/* A path as it is (a lone tokenizer.json needs no model beside it), else a name in the Hugging Face cache. */
static bool open_tokenizer(Work *w, const char *name, Err *err)
{
    char *path = NULL;
    const bool ok = source_resolve(&path, name, NULL, err) && tokenizer_open(&w->tokenizer, path, err);
    mem_free(path);
    return ok;
}

static bool run(const CommandLine *line, Err *err)
{
    Work w = {0};
    Lines lines = {.stream = stdin};
    bool ok = false, end = false;
    TRY(open_tokenizer(&w, line->files[0], err));
    TRY(tokenizer_cache_create(&w.cache, w.tokenizer, err));
    if (command_flag(line, "chat")) {
        TRY(chat_template_open(&w.chat, command_text(line, "template"), w.tokenizer, err));
        TRY(shape_work_create(&w.shape, w.tokenizer, err));
    }
    for (;;) {
        TRY(lines_next(&lines, &end, err));
        if (end) break;
        text_clear(&w.out);
        if (!encode_line(&w, &lines.line, line, err)) {
            err_note(err, "line %lld of standard input", (long long)lines.number);
            goto fail;
        }
        fwrite(w.out.bytes, 1, w.out.length, stdout);
        putchar('\n');
        if (ferror(stdout)) break; /* main reports it */
    }
    ok = true;
fail:
    lines_free(&lines);
    work_free(&w);
    return ok;
}

static const CommandOption options[] = {
    {"jsonl",    NULL,   "every line is one JSON string, so that texts may hold line breaks"                 },
    {"chat",     NULL,   "every line is a list of messages; prints {\"input_ids\": [...], \"labels\": [...]}"},
    {"template", "NAME", "chat template: tokenizer (the model's own, default), chatml, llama3 or plain"      },
};

const Command command_tokenize = {
    .name = "tokenize",
    .files = "MODEL_OR_TOKENIZER_FOLDER [--jsonl | --chat]",
    .summary = "Turn lines of standard input into token ids, one JSON array a line",
    .details = "No special token is added; the text of special tokens is read as such.",
    .min_files = 1,
    .max_files = 1,
    .options = options,
    .option_count = 3,
    .run = run,
};
