/*
 * tokenizer.h - text to token ids and back, exactly as Hugging Face tokenizers do it.
 *
 * Reads tokenizer.json (BPE: byte-level and SentencePiece-style; added tokens, normalizers, pre-tokenizers, decoders,
 * post-processor) or the tokenizer inside a GGUF file. No special token is added by tokenizer_encode; the text of
 * special tokens in the input is parsed as such. Opaque and immutable once open: one instance may be used by many
 * threads, each with its own TokenizerCache.
 */
#pragma once

#include "base/text.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Tokenizer Tokenizer;

/*
 * `path`: a folder with tokenizer.json (tokenizer_config.json, chat_template.jinja, generation_config.json,
 * special_tokens_map.json are read where present), a tokenizer.json, or a .gguf file. ERR_MODEL when it is damaged or
 * of a kind that is not supported (Unigram, WordPiece), which the text names.
 */
bool tokenizer_open(Tokenizer **out, const char *path, Err *err) MUST_USE;
void tokenizer_close(Tokenizer *t);

/* Ids, and for each the byte range [start, end) of the input it stands for. Grows; a zeroed struct is empty. */
typedef struct Tokens {
    int32_t *ids;
    uint32_t *starts;
    uint32_t *ends;
    size_t count, capacity;
} Tokens;
void tokens_free(Tokens *t);
bool tokens_add(Tokens *t, int32_t id, uint32_t start, uint32_t end, Err *err) MUST_USE;

/* Work memory and word cache of one thread. */
typedef struct TokenizerCache TokenizerCache;
bool tokenizer_cache_create(TokenizerCache **out, const Tokenizer *t, Err *err) MUST_USE;
void tokenizer_cache_free(TokenizerCache *cache);

/* Appends to `out`. `text` must be well-formed UTF-8 (ERR_DATA otherwise), NUL bytes allowed, below 4 GiB. */
bool tokenizer_encode(const Tokenizer *t, TokenizerCache *cache, Tokens *out, const char *text, size_t length,
                      Err *err) MUST_USE;

/* Appends text; ids outside the vocabulary are skipped. Ill-formed UTF-8 becomes U+FFFD as in Hugging Face. */
bool tokenizer_decode(const Tokenizer *t, Text *out, const int32_t *ids, size_t count, bool skip_special,
                      Err *err) MUST_USE;
/* The raw bytes of one token as decode would give them inside a text (may be part of a UTF-8 sequence). */
bool tokenizer_token_bytes(const Tokenizer *t, Text *out, int32_t id, Err *err) MUST_USE;

int32_t tokenizer_size(const Tokenizer *t);                  /* highest id + 1 */
int32_t tokenizer_id(const Tokenizer *t, const char *token); /* -1 when unknown; the text as in the vocabulary */
const char *tokenizer_token(const Tokenizer *t, int32_t id); /* as in the vocabulary; null when unknown */
bool tokenizer_is_special(const Tokenizer *t, int32_t id);
int32_t tokenizer_bos(const Tokenizer *t); /* -1 when the tokenizer has none */
int32_t tokenizer_eos(const Tokenizer *t);
int32_t tokenizer_pad(const Tokenizer *t);
int32_t tokenizer_unk(const Tokenizer *t);
/* Ids that a call with add_special_tokens=True puts before (after) one text: post-processor, or add_bos_token /
 * add_eos_token of tokenizer_config.json where they are given. */
size_t tokenizer_prefix(const Tokenizer *t, const int32_t **ids);
size_t tokenizer_suffix(const Tokenizer *t, const int32_t **ids);

/* Chat template text of the model, null when it has none (chat_template.jinja before tokenizer_config.json). */
const char *tokenizer_chat_template(const Tokenizer *t);

/* End-of-generation ids: generation_config.json's eos list, the tokenizer's eos, and known end-of-turn tokens. */
size_t tokenizer_stop_ids(const Tokenizer *t, const int32_t **ids);

/* Of everything that changes ids; part of the token cache's key. 32 hexadecimal digits. */
const char *tokenizer_fingerprint(const Tokenizer *t);

#ifdef __cplusplus
}
#endif
