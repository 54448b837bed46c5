/* A tokenizer file (tokenizer.json or GGUF), then behind a byte 0xFF a text to encode and decode with it. */
#include "data/tokenizer.h"

#include "tests/fuzz/input_file.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static void check_tokens(const Tokens *tokens, size_t length)
{
    for (size_t i = 0; i < tokens->count; i++) {
        if (tokens->starts[i] > tokens->ends[i] || tokens->ends[i] > length) abort();
    }
}

static void use(const Tokenizer *t, const char *text, size_t length)
{
    TokenizerCache *cache;
    Tokens tokens = {0};
    Text out = {0};
    Err err = {0};
    if (!tokenizer_cache_create(&cache, t, &err)) abort();
    if (tokenizer_encode(t, cache, &tokens, text, length, &err)) {
        check_tokens(&tokens, length);
        for (int skip = 0; skip < 2; skip++) {
            if (!tokenizer_decode(t, &out, tokens.ids, tokens.count, skip, &err) && err.code == ERR_NONE) abort();
        }
        if (tokens.count && !tokenizer_token_bytes(t, &out, tokens.ids[0], &err) && err.code == ERR_NONE) abort();
    } else if (err.code == ERR_NONE || strchr(err.text, '\n')) {
        abort();
    }
    text_free(&out);
    tokens_free(&tokens);
    tokenizer_cache_free(cache);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    static const char any[] = "I'm <s> a\xCC\x81 12 \xE4\xBD\xA0\r\n  ab\0 b";
    const bool gguf = length > 4 && memcmp(bytes, "GGUF", 4) == 0;
    const uint8_t *mark = gguf ? NULL : memchr(bytes, 0xFF, length);
    const size_t size = mark ? (size_t)(mark - bytes) : length;
    const InputFile f = input_file_make(bytes, size);
    Tokenizer *t;
    Err err = {0};
    if (tokenizer_open(&t, f.path, &err)) {
        use(t, any, sizeof any - 1);
        if (mark) use(t, (const char *)mark + 1, length - size - 1);
        tokenizer_close(t);
    } else if (err.code == ERR_NONE || strchr(err.text, '\n')) {
        abort();
    }
    close(f.fd);
    return 0;
}
