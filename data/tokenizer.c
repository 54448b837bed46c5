#include "data/tokenizer.h"

#include "base/check.h"
#include "base/file.h"
#include "base/mem.h"
#include "data/tokenizer_internal.h"

#include <string.h>

struct TokenizerCache {
    const Tokenizer *tokenizer;
    Pieces pieces;
    NormalizeScratch normalize;
    PatternScratch *pattern;
    SpanList spans;
    BpeScratch bpe;
};

/* Opening */

/* By its first bytes: caches store files under names without an ending. */
static bool is_gguf(bool *out, const char *path, Err *err)
{
    File f = {0};
    char magic[4] = {0};
    if (!file_open_read(&f, path, ERR_MODEL, err)) return false;
    const bool done = f.size < sizeof magic || file_read_at(&f, 0, magic, sizeof magic, err);
    file_close(&f);
    *out = memcmp(magic, "GGUF", 4) == 0;
    return done;
}

static bool load_folder(Tokenizer *t, const char *folder, Err *err)
{
    char *path = path_join(folder, "tokenizer.json", err);
    if (!path) return false;
    bool done = file_exists(path) || FAIL(err, ERR_MODEL,
                                          "%s has no tokenizer.json; save the model's \"fast\" tokenizer there (the "
                                          "slow formats tokenizer.model and vocab.json are not read)",
                                          folder);
    done = done && tokenizer_load_json(t, path, err) && tokenizer_load_folder(t, folder, err);
    mem_free(path);
    return done;
}

bool tokenizer_open(Tokenizer **out, const char *path, Err *err)
{
    Tokenizer *t = mem_alloc(1, sizeof *t, err);
    if (!t) return false;
    t->bos = t->eos = t->pad = t->unk = -1;
    if (file_is_folder(path)) {
        TRY(load_folder(t, path, err));
    } else {
        bool gguf;
        TRY(is_gguf(&gguf, path, err));
        TRY((gguf ? tokenizer_load_gguf : tokenizer_load_json)(t, path, err));
    }
    TRY(tokenizer_finish(t, err));
    *out = t;
    return true;
fail:
    tokenizer_close(t);
    return false;
}

void tokenizer_close(Tokenizer *t)
{
    if (!t) return;
    added_tokens_free(&t->added);
    normalizer_destroy(t->normalizer);
    pretokenizer_destroy(t->pretokenizer);
    bpe_destroy(t->bpe);
    decoder_destroy(t->decoder);
    mem_free(t->prefix.ids);
    mem_free(t->suffix.ids);
    mem_free(t->stops.ids);
    mem_free(t->chat_template);
    mem_free(t);
}

/* Token lists and caches */

void tokens_free(Tokens *t)
{
    mem_free(t->ids);
    mem_free(t->starts);
    mem_free(t->ends);
    *t = (Tokens){0};
}

static bool tokens_reserve(Tokens *t, size_t need, Err *err)
{
    if (need <= t->capacity) return true;
    size_t capacity = t->capacity;
    if (!mem_grow(&t->ids, &capacity, need, sizeof *t->ids, err)) return false;
    uint32_t *starts = mem_resize(t->starts, capacity, sizeof *starts, err);
    if (!starts) return false;
    t->starts = starts;
    uint32_t *ends = mem_resize(t->ends, capacity, sizeof *ends, err);
    if (!ends) return false;
    t->ends = ends;
    t->capacity = capacity;
    return true;
}

bool tokens_add(Tokens *t, int32_t id, uint32_t start, uint32_t end, Err *err)
{
    if (!tokens_reserve(t, t->count + 1, err)) return false;
    t->ids[t->count] = id;
    t->starts[t->count] = start;
    t->ends[t->count++] = end;
    return true;
}

bool tokenizer_cache_create(TokenizerCache **out, const Tokenizer *t, Err *err)
{
    TokenizerCache *cache = mem_alloc(1, sizeof *cache, err);
    if (!cache) return false;
    cache->tokenizer = t;
    if (!bpe_scratch_init(&cache->bpe, err) || !pattern_scratch_create(&cache->pattern, err)) {
        tokenizer_cache_free(cache);
        return false;
    }
    cache->normalize.pattern = cache->pattern;
    *out = cache;
    return true;
}

void tokenizer_cache_free(TokenizerCache *cache)
{
    if (!cache) return;
    pieces_free(&cache->pieces);
    normalize_scratch_free(&cache->normalize);
    pattern_scratch_destroy(cache->pattern);
    mem_free(cache->spans.items);
    bpe_scratch_free(&cache->bpe);
    mem_free(cache);
}

/* Encoding */

static bool encode_piece(const Tokenizer *t, TokenizerCache *cache, Tokens *out, Piece piece, Err *err)
{
    const PieceText *text = &cache->pieces.text;
    if (piece.token != PIECE_TEXT) {
        return tokens_add(out, piece.token, text->starts[piece.begin], text->ends[piece.end - 1], err);
    }
    BpeScratch *s = &cache->bpe;
    if (!bpe_encode(t->bpe, s, text->bytes + piece.begin, piece.end - piece.begin, err)) return false;
    if (!tokens_reserve(out, out->count + s->count, err)) return false;
    for (size_t i = 0; i < s->count; i++) {
        const BpeToken token = s->tokens[i];
        if (!tokens_add(out, token.id, text->starts[piece.begin + token.begin], text->ends[piece.begin + token.end - 1],
                        err)) {
            return false;
        }
    }
    return true;
}

bool tokenizer_encode(const Tokenizer *t, TokenizerCache *cache, Tokens *out, const char *text, size_t length, Err *err)
{
    size_t bad;
    CHECK(cache->tokenizer == t);
    if (length >= UINT32_MAX)
        return FAIL(err, ERR_DATA, "a text of %zu bytes is too long; 4 GiB are the limit", length);
    if (!utf8_valid(text, length, &bad)) {
        return FAIL(err, ERR_DATA, "the text is not valid UTF-8 at byte %zu; convert it to UTF-8", bad);
    }
    Pieces *p = &cache->pieces;
    if (!pieces_begin(p, text, length, err)) return false;
    if (!added_tokens_split(&t->added, false, p, err)) return false;
    if (!normalizer_apply(t->normalizer, &cache->normalize, p, err)) return false;
    if (!added_tokens_split(&t->added, true, p, err)) return false;
    if (!pretokenizer_apply(t->pretokenizer, cache->pattern, &cache->spans, p, err)) return false;
    for (size_t i = 0; i < p->list.count; i++) {
        if (!encode_piece(t, cache, out, p->list.items[i], err)) return false;
    }
    return true;
}

/* Decoding */

static const char *token_text(const Tokenizer *t, int32_t id, size_t *length)
{
    const AddedToken *added = added_tokens_by_id(&t->added, id);
    if (added) {
        *length = added->shown.length;
        return added->shown.bytes;
    }
    const VocabEntry *e = vocab_entry(bpe_vocab(t->bpe), id);
    if (!e) return NULL;
    *length = e->length;
    return vocab_text(bpe_vocab(t->bpe), e);
}

/* By text, as in the reference: a second id with the text of a special token is special too. */
static bool is_special_text(const Tokenizer *t, const char *text, size_t length)
{
    const AddedToken *added = added_tokens_by_text(&t->added, text, length);
    return added && added->special;
}

bool tokenizer_decode(const Tokenizer *t, Text *out, const int32_t *ids, size_t count, bool skip_special, Err *err)
{
    TextList list = {0};
    bool done = true;
    for (size_t i = 0; done && i < count; i++) {
        size_t length;
        const char *text = token_text(t, ids[i], &length);
        if (!text || (skip_special && is_special_text(t, text, length))) continue;
        done = text_list_add(&list, text, length, err);
    }
    done = done && decoder_apply(t->decoder, out, &list, err);
    text_list_free(&list);
    return done;
}

bool tokenizer_token_bytes(const Tokenizer *t, Text *out, int32_t id, Err *err)
{
    size_t length;
    const char *text = token_text(t, id, &length);
    return !text || decoder_token_bytes(t->decoder, out, text, length, err);
}

/* Questions */

int32_t tokenizer_size(const Tokenizer *t)
{
    size_t size = bpe_vocab(t->bpe)->id_count;
    for (size_t i = 0; i < t->added.count; i++) {
        if ((size_t)t->added.items[i].id >= size) size = (size_t)t->added.items[i].id + 1;
    }
    return (int32_t)size;
}

int32_t tokenizer_id(const Tokenizer *t, const char *token)
{
    const AddedToken *added = added_tokens_by_text(&t->added, token, strlen(token));
    return added ? added->id : vocab_find(bpe_vocab(t->bpe), token, strlen(token));
}

const char *tokenizer_token(const Tokenizer *t, int32_t id)
{
    size_t length;
    return token_text(t, id, &length);
}

bool tokenizer_is_special(const Tokenizer *t, int32_t id)
{
    size_t length;
    const char *text = token_text(t, id, &length);
    return text && is_special_text(t, text, length);
}

int32_t tokenizer_bos(const Tokenizer *t)
{
    return t->bos;
}

int32_t tokenizer_eos(const Tokenizer *t)
{
    return t->eos;
}

int32_t tokenizer_pad(const Tokenizer *t)
{
    return t->pad;
}

int32_t tokenizer_unk(const Tokenizer *t)
{
    return t->unk;
}

size_t tokenizer_prefix(const Tokenizer *t, const int32_t **ids)
{
    *ids = t->prefix.ids;
    return t->prefix.count;
}

size_t tokenizer_suffix(const Tokenizer *t, const int32_t **ids)
{
    *ids = t->suffix.ids;
    return t->suffix.count;
}

const char *tokenizer_chat_template(const Tokenizer *t)
{
    return t->chat_template;
}

size_t tokenizer_stop_ids(const Tokenizer *t, const int32_t **ids)
{
    *ids = t->stops.ids;
    return t->stops.count;
}

const char *tokenizer_fingerprint(const Tokenizer *t)
{
    return t->fingerprint;
}
