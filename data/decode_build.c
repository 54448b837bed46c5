#include "data/decode_internal.h"

#include "base/mem.h"
#include "data/normalize.h"

#include <string.h>

enum { STEPS_MOST = 256 };

void decoder_destroy(Decoder *d)
{
    if (!d) return;
    for (size_t i = 0; i < d->count; i++) {
        pattern_destroy(d->steps[i].pattern);
        text_free(&d->steps[i].text);
        text_free(&d->steps[i].delimiter);
    }
    mem_free(d->steps);
    mem_free(d);
}

static DecodeStep *add_step(Decoder *d, DecodeKind kind, Err *err)
{
    if (d->count >= STEPS_MOST) {
        (void)FAIL(err, ERR_MODEL, "the tokenizer has more than %d decoders", STEPS_MOST);
        return NULL;
    }
    if (!mem_grow(&d->steps, &d->capacity, d->count + 1, sizeof *d->steps, err)) return NULL;
    d->steps[d->count] = (DecodeStep){.kind = kind};
    return &d->steps[d->count++];
}

static bool read_text(Text *out, const json_t *json, const char *key, const char *otherwise, Err *err)
{
    const json_t *value = json_object_get(json, key);
    if (json_is_string(value)) return text_add(out, json_string_value(value), json_string_length(value), err);
    if (value && !json_is_null(value)) return FAIL(err, ERR_MODEL, "a decoder's \"%s\" is no text", key);
    if (!otherwise) return FAIL(err, ERR_MODEL, "a decoder has no text \"%s\"", key);
    return text_add_z(out, otherwise, err);
}

static bool add_replace(Decoder *d, const json_t *json, Err *err)
{
    DecodeStep *step = add_step(d, DECODE_REPLACE, err);
    return step && read_text(&step->text, json, "content", NULL, err) &&
           pattern_from_json(&step->pattern, json_object_get(json, "pattern"), "a Replace decoder", err);
}

static bool add_strip(Decoder *d, const json_t *json, Err *err)
{
    DecodeStep *step = add_step(d, DECODE_STRIP, err);
    return step && read_text(&step->text, json, "content", " ", err) &&
           json_get_int(&step->start, json, "start", 0, INT32_MAX, "a Strip decoder", err) &&
           json_get_int(&step->stop, json, "stop", 0, INT32_MAX, "a Strip decoder", err);
}

static bool add_metaspace(Decoder *d, const json_t *json, Err *err)
{
    DecodeStep *step = add_step(d, DECODE_METASPACE, err);
    if (!step || !read_text(&step->text, json, "replacement", "\xE2\x96\x81", err)) return false;
    const char *scheme = json_string_value(json_object_get(json, "prepend_scheme"));
    const bool never = scheme ? strcmp(scheme, "never") == 0 : json_is_false(json_object_get(json, "add_prefix_space"));
    step->first_dropped = !never;
    return true;
}

static bool add_word_piece(Decoder *d, const json_t *json, Err *err)
{
    DecodeStep *step = add_step(d, DECODE_WORD_PIECE, err);
    if (!step) return false;
    step->cleanup = true;
    return read_text(&step->text, json, "prefix", "##", err) &&
           json_get_bool(&step->cleanup, json, "cleanup", "a WordPiece decoder", err);
}

static bool add_ctc(Decoder *d, const json_t *json, Err *err)
{
    DecodeStep *step = add_step(d, DECODE_CTC, err);
    if (!step) return false;
    step->cleanup = true;
    return read_text(&step->text, json, "pad_token", "<pad>", err) &&
           read_text(&step->delimiter, json, "word_delimiter_token", "|", err) &&
           json_get_bool(&step->cleanup, json, "cleanup", "a CTC decoder", err);
}

static bool add_bpe(Decoder *d, const json_t *json, Err *err)
{
    DecodeStep *step = add_step(d, DECODE_BPE, err);
    return step && read_text(&step->text, json, "suffix", "</w>", err);
}

static bool add_decoder(Decoder *d, const json_t *json, Err *err);

static bool add_sequence(Decoder *d, const json_t *json, Err *err)
{
    const json_t *list = json_object_get(json, "decoders");
    if (!json_is_array(list)) return FAIL(err, ERR_MODEL, "a decoder Sequence has no list \"decoders\"");
    for (size_t i = 0; i < json_array_size(list); i++) {
        if (!add_decoder(d, json_array_get(list, i), err)) return false;
    }
    return true;
}

static bool add_decoder(Decoder *d, const json_t *json, Err *err)
{
    const char *type = json_string_value(json_object_get(json, "type"));
    if (!type) return FAIL(err, ERR_MODEL, "a decoder has no \"type\"");
    if (strcmp(type, "Sequence") == 0) return add_sequence(d, json, err);
    if (strcmp(type, "ByteLevel") == 0) return add_step(d, DECODE_BYTE_LEVEL, err) != NULL;
    if (strcmp(type, "ByteFallback") == 0) return add_step(d, DECODE_BYTE_FALLBACK, err) != NULL;
    if (strcmp(type, "Fuse") == 0) return add_step(d, DECODE_FUSE, err) != NULL;
    if (strcmp(type, "Replace") == 0) return add_replace(d, json, err);
    if (strcmp(type, "Strip") == 0) return add_strip(d, json, err);
    if (strcmp(type, "Metaspace") == 0) return add_metaspace(d, json, err);
    if (strcmp(type, "WordPiece") == 0) return add_word_piece(d, json, err);
    if (strcmp(type, "BPEDecoder") == 0) return add_bpe(d, json, err);
    if (strcmp(type, "CTC") == 0) return add_ctc(d, json, err);
    return refuse_named("the decoder", type, "is not supported", err);
}

bool decoder_create(Decoder **out, const json_t *json, Err *err)
{
    *out = NULL;
    if (!json || json_is_null(json)) return true;
    Decoder *d = mem_alloc(1, sizeof *d, err);
    if (!d) return false;
    if (!add_decoder(d, json, err)) {
        decoder_destroy(d);
        return false;
    }
    *out = d;
    return true;
}

bool decoder_create_byte_level(Decoder **out, Err *err)
{
    Decoder *d = mem_alloc(1, sizeof *d, err);
    if (d && !add_step(d, DECODE_BYTE_LEVEL, err)) {
        decoder_destroy(d);
        d = NULL;
    }
    *out = d;
    return d != NULL;
}

bool decoder_create_sentencepiece(Decoder **out, bool strip, Err *err)
{
    Decoder *d = mem_alloc(1, sizeof *d, err);
    DecodeStep *step;
    *out = NULL;
    if (!d) return false;
    TRY((step = add_step(d, DECODE_REPLACE, err)) != NULL);
    TRY(text_add_z(&step->text, " ", err));
    TRY(pattern_from_text(&step->pattern, "\xE2\x96\x81", 3, err));
    TRY(add_step(d, DECODE_BYTE_FALLBACK, err) != NULL);
    TRY(add_step(d, DECODE_FUSE, err) != NULL);
    if (strip) {
        TRY((step = add_step(d, DECODE_STRIP, err)) != NULL);
        step->start = 1;
        TRY(text_add_z(&step->text, " ", err));
    }
    *out = d;
    return true;
fail:
    decoder_destroy(d);
    return false;
}
