#include "data/tokenizer_internal.h"

#include "base/check.h"
#include "base/mem.h"

#include <string.h>

/* Numbers of tokenizer.ggml.token_type */
enum { TYPE_UNKNOWN = 2, TYPE_CONTROL = 3, TYPE_USER = 4 };

#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define CL100K(digits)                                                                                                 \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits                                               \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define CASED(ending)                                                                                                  \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" ending "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER "*" ending "|"
#define CASED_REST "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define CONTRACTION "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
#define DEEPSEEK                                                                                                       \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"                \
    "| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/* What the families' tokenizer.json files hold, by the name that converters give them in tokenizer.ggml.pre. */
typedef struct PreKind {
    const char *names; /* separated by spaces */
    const char *splits[5];
    bool ignore_merges, add_bos, nfc;
} PreKind;

static const PreKind pre_kinds[] = {
    {.names = "gpt-2 phi-2 jina-es jina-de jina-v2-es jina-v2-de mpt olmo jais roberta-bpe jina-v1-en gigachat",
     .splits = {GPT2}                                                                                                                                                          },
    {.names = "smollm starcoder refact command-r codeshell exaone minerva-7b",                                   .splits = {"\\p{N}", GPT2}                                    },
    {.names = "llama-bpe llama3 llama-v3 falcon3",
     .splits = {CL100K("\\p{N}{1,3}")},
     .ignore_merges = true,
     .add_bos = true},
    {.names = "dbrx smaug-bpe glm4 chatglm-bpe",                                                                                            .splits = {CL100K("\\p{N}{1,3}")}                                                                                                                                                         },
    {.names = "qwen2",.splits = {CL100K("\\p{N}")},.nfc = true},
    {.names = "deepseek-r1-qwen stablelm2 megrez",                                                                                                 .splits = {CL100K("\\p{N}")}                                                                                                                                                                                                                                                                 },
    {.names = "tekken",                                                               .splits = {CASED("") "\\p{N}" CASED_REST}, .ignore_merges = true, .add_bos = true},
    {.names = "gpt-4o llama4",                                                                                          .splits = {CASED(CONTRACTION) "\\p{N}{1,3}" CASED_REST}                                                },
    {.names = "deepseek-v3",                                                                                           .splits = {"\\p{N}{1,3}", "[\\u4e00-\\u9fa5\\u3040-\\u309f\\u30a0-\\u30ff]+", DEEPSEEK}                                                                                                                                                        },
    {.names = "deepseek-coder",
     .splits = {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", "[\\u4e00-\\u9fa5\\u0800-\\u4e00\\uac00-\\ud7ff]+",
                "\\p{N}"}},
};

static bool name_in(const char *names, const char *name, size_t length)
{
    for (const char *at = names; *at;) {
        const size_t n = strcspn(at, " ");
        if (n == length && memcmp(at, name, n) == 0) return true;
        at += n;
        at += *at == ' ';
    }
    return false;
}

static bool find_pre(const PreKind **out, const Gguf *g, Err *err)
{
    const char *name = "";
    size_t length = 0;
    if (!gguf_text(g, "tokenizer.ggml.pre", &name, &length)) {
        return FAIL(err, ERR_MODEL,
                    "the file does not name its pre-tokenizer (tokenizer.ggml.pre); convert it again with "
                    "a current converter");
    }
    for (size_t i = 0; i < ARRAY_COUNT(pre_kinds); i++) {
        if (!name_in(pre_kinds[i].names, name, length)) continue;
        *out = &pre_kinds[i];
        return true;
    }
    char shown[80];
    return FAIL(err, ERR_MODEL,
                "the pre-tokenizer \"%s\" (tokenizer.ggml.pre) is not supported; give the folder with "
                "the model's tokenizer.json instead",
                text_printable(shown, sizeof shown, name, length));
}

/* The tokenizer.json form of the splits, for the one reader that knows it. */
static json_t *pretokenizer_json(const PreKind *pre)
{
    json_t *list = json_array();
    for (size_t i = 0; list && i < ARRAY_COUNT(pre->splits) && pre->splits[i]; i++) {
        json_array_append_new(list, json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern", "Regex",
                                              pre->splits[i], "behavior", "Isolated", "invert", 0));
    }
    json_array_append_new(list, json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0,
                                          "trim_offsets", 1, "use_regex", 0));
    return json_pack("{s:s, s:o}", "type", "Sequence", "pretokenizers", list);
}

static bool set_json(Tokenizer *t, json_t *normalizer, json_t *pretokenizer, Err *err)
{
    const bool done =
        normalizer_create(&t->normalizer, normalizer, err) && pretokenizer_create(&t->pretokenizer, pretokenizer, err);
    json_decref(normalizer);
    json_decref(pretokenizer);
    return done;
}

static bool out_of_memory(Err *err)
{
    return FAIL(err, ERR_MEMORY, "out of host memory while reading the tokenizer");
}

static json_t *byte_level_normalizer(const PreKind *pre)
{
    return pre->nfc ? json_pack("{s:s}", "type", "NFC") : NULL;
}

static bool set_byte_level(Tokenizer *t, const PreKind *pre, Err *err)
{
    json_begin();
    json_t *splits = pretokenizer_json(pre);
    json_t *nfc = byte_level_normalizer(pre);
    if (!json_whole()) { /* a list may have lost a member */
        json_decref(splits);
        json_decref(nfc);
        return out_of_memory(err);
    }
    return set_json(t, nfc, splits, err) && decoder_create_byte_level(&t->decoder, err);
}

/* U+2581 in front of every piece (when asked for) and in place of every space; null: out of memory. */
static json_t *sentencepiece_normalizer(bool space_first)
{
    static const char mark[] = "\xE2\x96\x81";
    json_t *spaces = json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern", "String", " ", "content", mark);
    if (!space_first) return spaces;
    json_t *first = json_pack("{s:s, s:s}", "type", "Prepend", "prepend", mark);
    return json_pack("{s:s, s:[o, o]}", "type", "Sequence", "normalizers", first, spaces);
}

/* There is no pre-tokenizer. */
static bool set_sentencepiece(Tokenizer *t, bool space_first, Err *err)
{
    json_begin();
    json_t *normalizer = sentencepiece_normalizer(space_first);
    if (!json_whole()) {
        json_decref(normalizer);
        return out_of_memory(err);
    }
    return set_json(t, normalizer, NULL, err) && decoder_create_sentencepiece(&t->decoder, space_first, err);
}

static bool load_vocab(Vocab *vocab, const Gguf *g, Hash *h, Err *err)
{
    const int64_t count = gguf_array_count(g, "tokenizer.ggml.tokens");
    if (count <= 0) return FAIL(err, ERR_MODEL, "the file has no tokens (tokenizer.ggml.tokens)");
    if (!vocab_reserve(vocab, (size_t)count, err)) return false;
    for (int64_t i = 0; i < count; i++) {
        const char *text;
        size_t length;
        if (!gguf_array_text(g, "tokenizer.ggml.tokens", i, &text, &length)) {
            return FAIL(err, ERR_MODEL, "tokenizer.ggml.tokens is no list of texts");
        }
        if (!vocab_add(vocab, text, length, i, err)) return false;
        hash_add(h, &length, sizeof length);
        hash_add(h, text, length);
    }
    return true;
}

static bool load_merges(Bpe *b, const Gguf *g, Hash *h, Err *err)
{
    const int64_t count = gguf_array_count(g, "tokenizer.ggml.merges");
    if (count < 0) return FAIL(err, ERR_MODEL, "the file has no merges (tokenizer.ggml.merges)");
    if (!bpe_reserve_merges(b, (size_t)count + 1, err)) return false;
    for (int64_t i = 0; i < count; i++) {
        const char *text;
        size_t length;
        if (!gguf_array_text(g, "tokenizer.ggml.merges", i, &text, &length)) {
            return FAIL(err, ERR_MODEL, "tokenizer.ggml.merges is no list of texts");
        }
        const char *space = length > 1 ? memchr(text + 1, ' ', length - 1) : NULL;
        if (!space) return FAIL(err, ERR_MODEL, "merge %lld is not two tokens with a space between", (long long)i + 1);
        const size_t left = (size_t)(space - text);
        if (!bpe_add_merge(b, text, left, space + 1, length - left - 1, err)) return false;
        hash_add(h, text, length + 1); /* with the byte behind it, which no text of this file shares by accident */
    }
    return true;
}

static bool load_scores(Bpe *b, const Gguf *g, Hash *h, Err *err)
{
    const int64_t count = gguf_array_count(g, "tokenizer.ggml.scores");
    if (count <= 0 || count > VOCAB_TOKENS_MOST) {
        return FAIL(err, ERR_MODEL, "the file has no usable scores (tokenizer.ggml.scores)");
    }
    float *scores = mem_alloc((size_t)count, sizeof *scores, err);
    if (!scores) return false;
    bool done = true;
    for (int64_t i = 0; done && i < count; i++) {
        double score = 0;
        done = gguf_array_real(g, "tokenizer.ggml.scores", i, &score) ||
               FAIL(err, ERR_MODEL, "tokenizer.ggml.scores is no list of numbers");
        scores[i] = (float)score;
    }
    if (done) hash_add(h, scores, (size_t)count * sizeof *scores);
    done = done && bpe_merges_from_scores(b, scores, (size_t)count, err);
    mem_free(scores);
    return done;
}

static bool load_types(Tokenizer *t, const Gguf *g, Hash *h, Err *err)
{
    const int64_t count = gguf_array_count(g, "tokenizer.ggml.token_type");
    for (int64_t i = 0; i < count; i++) {
        int64_t type;
        const char *text;
        size_t length;
        if (!gguf_array_int(g, "tokenizer.ggml.token_type", i, &type)) {
            return FAIL(err, ERR_MODEL, "tokenizer.ggml.token_type is no list of integers");
        }
        hash_add(h, &type, sizeof type);
        if (type != TYPE_UNKNOWN && type != TYPE_CONTROL && type != TYPE_USER) continue;
        if (!gguf_array_text(g, "tokenizer.ggml.tokens", i, &text, &length)) continue;
        AddedToken token = {.special = type != TYPE_USER};
        const bool done = text_add(&token.content, text, length, err) && tokenizer_add_token(t, &token, err);
        text_free(&token.content);
        if (!done) return false;
    }
    return tokenizer_index_tokens(t, err);
}

static void read_id(int32_t *id, const Gguf *g, const char *key, size_t size)
{
    int64_t value;
    if (gguf_int(g, key, &value) && value >= 0 && (uint64_t)value < size) *id = (int32_t)value;
}

static bool read_stop(Tokenizer *t, const Gguf *g, const char *key, size_t size, Err *err)
{
    int32_t id = -1;
    read_id(&id, g, key, size);
    return id < 0 || id_list_add(&t->stops, id, err);
}

static bool read_specials(Tokenizer *t, const Gguf *g, bool sentencepiece, bool add_bos, Err *err)
{
    const size_t size = bpe_vocab(t->bpe)->id_count;
    bool add_eos = false;
    if (sentencepiece && size > 2) { /* what a file means that does not say it */
        t->bos = 1;
        t->eos = 2;
    }
    read_id(&t->bos, g, "tokenizer.ggml.bos_token_id", size);
    read_id(&t->eos, g, "tokenizer.ggml.eos_token_id", size);
    read_id(&t->pad, g, "tokenizer.ggml.padding_token_id", size);
    read_id(&t->unk, g, "tokenizer.ggml.unknown_token_id", size);
    if (!read_stop(t, g, "tokenizer.ggml.eot_token_id", size, err)) return false;
    if (!read_stop(t, g, "tokenizer.ggml.eom_token_id", size, err)) return false;
    (void)gguf_bool(g, "tokenizer.ggml.add_bos_token", &add_bos); /* keep the family's default when absent */
    (void)gguf_bool(g, "tokenizer.ggml.add_eos_token", &add_eos);
    if (add_bos && t->bos >= 0 && !id_list_add(&t->prefix, t->bos, err)) return false;
    return !add_eos || t->eos < 0 || id_list_add(&t->suffix, t->eos, err);
}

static bool read_template(Tokenizer *t, const Gguf *g, Err *err)
{
    const char *text;
    size_t length;
    if (!gguf_text(g, "tokenizer.chat_template", &text, &length)) return true;
    t->chat_template = mem_copy_bytes(text, length, err);
    return t->chat_template != NULL;
}

/* Text of the unknown token, for the model's options; empty when there is none. */
static bool unknown_text(Text *out, const Gguf *g, Err *err)
{
    int64_t id = 0;
    const char *text;
    size_t length;
    (void)gguf_int(g, "tokenizer.ggml.unknown_token_id", &id); /* 0 in SentencePiece models */
    if (!gguf_array_text(g, "tokenizer.ggml.tokens", id, &text, &length)) return true;
    return text_add(out, text, length, err);
}

static bool load_bpe(Tokenizer *t, const Gguf *g, const BpeOptions *options, Hash *h, Err *err)
{
    Vocab vocab = {0};
    if (!load_vocab(&vocab, g, h, err)) {
        vocab_free(&vocab);
        return false;
    }
    if (!bpe_create(&t->bpe, &vocab, options, err)) return false;
    if (!(options->byte_fallback ? load_scores : load_merges)(t->bpe, g, h, err)) return false;
    bpe_finish(t->bpe);
    return true;
}

static bool load_byte_level(Tokenizer *t, const Gguf *g, Hash *h, Err *err)
{
    const PreKind *pre = NULL;
    if (!find_pre(&pre, g, err)) return false;
    const BpeOptions options = {.ignore_merges = pre->ignore_merges};
    hash_add(h, pre->names, strlen(pre->names));
    return load_bpe(t, g, &options, h, err) && set_byte_level(t, pre, err) && load_types(t, g, h, err) &&
           read_specials(t, g, false, pre->add_bos, err);
}

static bool load_sentencepiece(Tokenizer *t, const Gguf *g, Hash *h, Err *err)
{
    Text unknown = {0};
    bool space_first = true;
    if (!unknown_text(&unknown, g, err)) return false;
    (void)gguf_bool(g, "tokenizer.ggml.add_space_prefix", &space_first); /* true when absent */
    hash_add(h, &space_first, sizeof space_first);
    const BpeOptions options = {
        .unk = unknown.bytes, .byte_fallback = true, .fuse_unk = true, .merge_missing_symbols = true};
    const bool done = load_bpe(t, g, &options, h, err) && set_sentencepiece(t, space_first, err) &&
                      load_types(t, g, h, err) && read_specials(t, g, true, true, err);
    text_free(&unknown);
    return done;
}

/* Whether the tokenizer is of SentencePiece's kind; the other one is byte-level. */
static bool read_kind(bool *sentencepiece, const Gguf *g, Err *err)
{
    const char *model = "";
    size_t length = 0;
    if (!gguf_text(g, "tokenizer.ggml.model", &model, &length)) {
        return FAIL(err, ERR_MODEL, "the file has no tokenizer (tokenizer.ggml.model)");
    }
    *sentencepiece = length == 5 && memcmp(model, "llama", 5) == 0;
    if (*sentencepiece || (length == 4 && memcmp(model, "gpt2", 4) == 0)) return true;
    char shown[80];
    return FAIL(err, ERR_MODEL, "the tokenizer model \"%s\" is not supported; \"gpt2\" and \"llama\" are",
                text_printable(shown, sizeof shown, model, length));
}

static bool load_kind(Tokenizer *t, const Gguf *g, Hash *h, Err *err)
{
    bool sentencepiece = false;
    if (!read_kind(&sentencepiece, g, err)) return false;
    return sentencepiece ? load_sentencepiece(t, g, h, err) : load_byte_level(t, g, h, err);
}

static bool byte_level_parts(TokenizerParts *out, const Gguf *g, Err *err)
{
    const PreKind *pre = NULL;
    if (!find_pre(&pre, g, err)) return false;
    out->normalizer = pre->nfc ? byte_level_normalizer(pre) : json_null();
    out->pretokenizer = pretokenizer_json(pre);
    out->decoder = json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 1, "trim_offsets", 1,
                             "use_regex", 1);
    return true;
}

static bool sentencepiece_parts(TokenizerParts *out, const Gguf *g)
{
    bool space_first = true;
    (void)gguf_bool(g, "tokenizer.ggml.add_space_prefix", &space_first);
    out->sentencepiece = true;
    out->normalizer = sentencepiece_normalizer(space_first);
    out->pretokenizer = json_null();
    out->decoder =
        json_pack("{s:s, s:[{s:s, s:{s:s}, s:s}, {s:s}, {s:s}]}", "type", "Sequence", "decoders", "type", "Replace",
                  "pattern", "String", "\xE2\x96\x81", "content", " ", "type", "ByteFallback", "type", "Fuse");
    if (space_first) {
        json_array_append_new(
            json_object_get(out->decoder, "decoders"),
            json_pack("{s:s, s:s, s:i, s:i}", "type", "Strip", "content", " ", "start", 1, "stop", 0));
    }
    return true;
}

bool tokenizer_gguf_parts(TokenizerParts *out, const Gguf *g, Err *err)
{
    bool sentencepiece = false;
    if (!read_kind(&sentencepiece, g, err)) return false;
    json_begin();
    if (!(sentencepiece ? sentencepiece_parts(out, g) : byte_level_parts(out, g, err))) return false;
    return json_whole() || out_of_memory(err);
}

bool tokenizer_load_gguf(Tokenizer *t, const char *path, Err *err)
{
    Gguf *g = NULL;
    Hash *h = NULL;
    if (!gguf_open(&g, path, err)) return false;
    bool done = hash_create(&h, err);
    if (done) {
        done = (load_kind(t, g, h, err) && read_template(t, g, err)) || err_note(err, "%s", path);
        hash_finish(h, t->fingerprint);
    }
    gguf_close(g);
    return done;
}
