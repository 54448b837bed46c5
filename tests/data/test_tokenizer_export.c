/*
 * The tokenizer inside a GGUF file, written as tokenizer.json: what reads either gives the same ids.
 */
#include "data/tokenizer_export.h"

#include "base/check.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "data/tokenizer.h"
#include "tests/support/gguf_file.h"

static const char *const gguf_name = "test_tokenizer_export.gguf", *const folder = "test_tokenizer_export.folder";

enum { TOKENS_MAX = 400, TYPE_NORMAL = 1, TYPE_UNKNOWN = 2, TYPE_CONTROL = 3, TYPE_BYTE = 6 };

typedef struct TokenTable {
    char texts[TOKENS_MAX][24];
    uint32_t types[TOKENS_MAX];
    float scores[TOKENS_MAX];
    int count;
} TokenTable;

static void add(TokenTable *t, const char *text, uint32_t type)
{
    assert_true(t->count < TOKENS_MAX);
    snprintf(t->texts[t->count], sizeof t->texts[0], "%s", text);
    t->types[t->count] = type;
    t->scores[t->count] = -(float)t->count;
    t->count++;
}

static void put_table(GgufFile *f, const TokenTable *t, bool scores)
{
    gguf_key_array(f, "tokenizer.ggml.tokens", G_TEXT, (uint64_t)t->count);
    for (int i = 0; i < t->count; i++)
        gguf_put_text(f, t->texts[i]);
    gguf_key_array(f, "tokenizer.ggml.token_type", G_I32, (uint64_t)t->count);
    for (int i = 0; i < t->count; i++)
        gguf_put_u32(f, t->types[i]);
    if (!scores) return;
    gguf_key_array(f, "tokenizer.ggml.scores", G_F32, (uint64_t)t->count);
    for (int i = 0; i < t->count; i++)
        gguf_put(f, &t->scores[i], sizeof t->scores[i]);
}

static void write_file(const GgufFile *f)
{
    Err err = {0};
    assert_done(file_replace(gguf_name, f->bytes.bytes, f->bytes.length, &err));
}

/* GPT-2's letters for the 256 bytes. */
static void add_bytes(TokenTable *t)
{
    uint32_t next = 256;
    for (uint32_t b = 0; b < 256; b++) {
        const bool itself = (b >= 33 && b <= 126) || (b >= 161 && b != 173);
        Text letter = {0};
        Err err = {0};
        assert_done(text_add_codepoint(&letter, itself ? b : next, &err));
        next += !itself;
        add(t, letter.bytes, TYPE_NORMAL);
        text_free(&letter);
    }
}

static void write_byte_level(const char *pre)
{
    static const char *const merges[] = {"h e", "l l", "he ll", "hell o", "\xC4\xA0 w", "o r", "\xC4\xA0w or"};
    static const char *const merged[] = {"he", "ll", "hell", "hello", "\xC4\xA0w", "or", "\xC4\xA0wor"};
    TokenTable t = {0};
    GgufFile f = {0};
    add_bytes(&t);
    for (size_t i = 0; i < ARRAY_COUNT(merged); i++)
        add(&t, merged[i], TYPE_NORMAL);
    add(&t, "<|im_start|>", TYPE_CONTROL);
    add(&t, "<|im_end|>", TYPE_CONTROL);
    gguf_start(&f, 3, 0, 7);
    gguf_key_text(&f, "tokenizer.ggml.model", "gpt2");
    gguf_key_text(&f, "tokenizer.ggml.pre", pre);
    put_table(&f, &t, false);
    gguf_key_array(&f, "tokenizer.ggml.merges", G_TEXT, ARRAY_COUNT(merges));
    for (size_t i = 0; i < ARRAY_COUNT(merges); i++)
        gguf_put_text(&f, merges[i]);
    gguf_key_u32(&f, "tokenizer.ggml.bos_token_id", (uint32_t)t.count - 2);
    gguf_key_u32(&f, "tokenizer.ggml.eos_token_id", (uint32_t)t.count - 1);
    write_file(&f);
    text_free(&f.bytes);
}

static void write_sentencepiece(void)
{
    static const char *const pieces[] = {"he",
                                         "ll",
                                         "hell",
                                         "hello",
                                         "\xE2\x96\x81hello",
                                         "\xE2\x96\x81w",
                                         "or",
                                         "\xE2\x96\x81wor",
                                         "ld",
                                         "\xE2\x96\x81world",
                                         "\xE2\x96\x81"};
    TokenTable t = {0};
    GgufFile f = {0};
    char text[24];
    add(&t, "<unk>", TYPE_UNKNOWN);
    add(&t, "<s>", TYPE_CONTROL);
    add(&t, "</s>", TYPE_CONTROL);
    for (int b = 0; b < 256; b++) {
        snprintf(text, sizeof text, "<0x%02X>", (unsigned)b);
        add(&t, text, TYPE_BYTE);
    }
    for (size_t i = 0; i < ARRAY_COUNT(pieces); i++)
        add(&t, pieces[i], TYPE_NORMAL);
    for (char c = 'a'; c <= 'z'; c++) {
        snprintf(text, sizeof text, "%c", c);
        add(&t, text, TYPE_NORMAL);
    }
    gguf_start(&f, 3, 0, 4);
    gguf_key_text(&f, "tokenizer.ggml.model", "llama");
    put_table(&f, &t, true);
    write_file(&f);
    text_free(&f.bytes);
}

static const char *const lines[] = {
    "hello world",
    " hello  hello",
    "don't 12345 work",
    "caf\xC3\xA9 \xF0\x9F\x98\x80 world",
    "a\tb\n\nc",
    "",
    "<|im_start|>hello<|im_end|>",
    "<s>hello</s> world",
    "HELLO 3.14 \xE6\xBC\xA2\xE5\xAD\x97",
};

static void assert_same_tokens(const Tokenizer *a, const Tokenizer *b, const char *line)
{
    TokenizerCache *x, *y;
    Tokens from_a = {0}, from_b = {0};
    Text text_a = {0}, text_b = {0};
    Err err = {0};
    assert_done(tokenizer_cache_create(&x, a, &err) && tokenizer_cache_create(&y, b, &err));
    assert_done(tokenizer_encode(a, x, &from_a, line, strlen(line), &err));
    assert_done(tokenizer_encode(b, y, &from_b, line, strlen(line), &err));
    assert_int_equal(from_a.count, from_b.count);
    assert_memory_equal(from_a.ids, from_b.ids, from_a.count * sizeof *from_a.ids);
    assert_done(tokenizer_decode(a, &text_a, from_a.ids, from_a.count, false, &err));
    assert_done(tokenizer_decode(b, &text_b, from_b.ids, from_b.count, false, &err));
    assert_int_equal(text_a.length, text_b.length);
    assert_memory_equal(text_a.bytes, text_b.bytes, text_a.length);
    text_free(&text_a);
    text_free(&text_b);
    tokens_free(&from_a);
    tokens_free(&from_b);
    tokenizer_cache_free(x);
    tokenizer_cache_free(y);
}

static void check_export(void)
{
    Tokenizer *before, *after;
    const int32_t *prefix_a, *prefix_b;
    Err err = {0};
    assert_done(file_make_folders(folder, &err));
    assert_done(tokenizer_export_gguf(folder, gguf_name, &err));
    assert_done(tokenizer_open(&before, gguf_name, &err));
    assert_done(tokenizer_open(&after, folder, &err));
    assert_int_equal(tokenizer_size(before), tokenizer_size(after));
    assert_true(tokenizer_bos(before) == tokenizer_bos(after) && tokenizer_eos(before) == tokenizer_eos(after));
    const size_t count = tokenizer_prefix(before, &prefix_a);
    assert_int_equal(tokenizer_prefix(after, &prefix_b), count);
    assert_memory_equal(prefix_a, prefix_b, count * sizeof *prefix_a);
    for (size_t i = 0; i < ARRAY_COUNT(lines); i++)
        assert_same_tokens(before, after, lines[i]);
    tokenizer_close(before);
    tokenizer_close(after);
    assert_done(file_remove_tree(folder, &err));
    assert_done(file_remove(gguf_name, &err));
}

static void byte_level_tokenizers_keep_their_ids(void **state)
{
    static const char *const kinds[] = {"gpt-2", "smollm", "llama-bpe", "qwen2", "deepseek-coder"};
    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(kinds); i++) {
        write_byte_level(kinds[i]);
        check_export();
    }
}

static void sentencepiece_tokenizers_keep_their_ids(void **state)
{
    (void)state;
    write_sentencepiece();
    check_export();
}

/* Of a list that could not grow a part would be missing, and the ids would silently be others. */
static void a_failing_allocation_is_said_or_changes_nothing(void **state)
{
    static const char *const names[] = {"tokenizer.json", "tokenizer_config.json"};
    (void)state;
    char whole[2][HASH_TEXT], now[HASH_TEXT];
    Err err = {0};
    write_byte_level("smollm");
    assert_done(file_make_folders(folder, &err));
    uint64_t nth = 0, end = 0;
    do {
        Err fault = {0};
        const uint64_t before = mem_alloc_count();
        mem_fail_at(nth, false); /* the first time: none */
        const bool done = tokenizer_export_gguf(folder, gguf_name, &fault);
        mem_fail_at(0, false);
        end = mem_alloc_count() - before;
        if (!done) assert_int_equal(fault.code, ERR_MEMORY);
        for (int i = 0; done && i < 2; i++) {
            char path[128];
            snprintf(path, sizeof path, "%s/%s", folder, names[i]);
            assert_done(hash_file(path, ERR_DISK, nth ? now : whole[i], &err));
            if (nth) assert_string_equal(now, whole[i]);
        }
    } while (nth++ <= end);
    assert_done(file_remove_tree(folder, &err));
    assert_done(file_remove(gguf_name, &err));
}

static void what_cannot_be_read_is_not_written(void **state)
{
    Err err = {0};
    (void)state;
    write_byte_level("something-else");
    assert_false(tokenizer_export_gguf(".", gguf_name, &err));
    assert_int_equal(err.code, ERR_MODEL);
    assert_non_null(strstr(err.text, "something-else"));
    assert_false(file_exists("tokenizer.json"));
    err_clear(&err);
    assert_done(file_remove(gguf_name, &err));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(byte_level_tokenizers_keep_their_ids),
        cmocka_unit_test(sentencepiece_tokenizers_keep_their_ids),
        cmocka_unit_test(a_failing_allocation_is_said_or_changes_nothing),
        cmocka_unit_test(what_cannot_be_read_is_not_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
