#include "base/file.h"
#include "base/mem.h"
#include "data/tokenizer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include <cmocka.h>

static char folder[] = "/tmp/test_tokenizer_faults_XXXXXX";

static const char *write_bytes(const char *name, const char *bytes, size_t length)
{
    static char path[256];
    Err err = {0};
    snprintf(path, sizeof path, "%s/%s", folder, name);
    if (!file_replace(path, bytes, length, &err)) fail_msg("%s", err.text);
    return path;
}

static const char *write_json(const char *text)
{
    return write_bytes("tokenizer.json", text, strlen(text));
}

#define BPE "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}"
#define WITH(stage, description) "{" BPE ",\"" stage "\":" description "}"
#define REGEX(expression)                                                                                              \
    WITH("pre_tokenizer", "{\"type\":\"Split\",\"behavior\":\"Isolated\",\"pattern\":{\"Regex\":\"" expression "\"}}")

static void what_is_not_supported_is_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *json, *says;
    } refused[] = {
        {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",-1.5]]}}",                      "\"Unigram\""        },
        {"{\"model\":{\"vocab\":[[\"a\",-1.5]]}}",                                           "\"Unigram\""        },
        {"{\"model\":{\"type\":\"WordPiece\",\"vocab\":{\"a\":0}}}",                         "\"WordPiece\""      },
        {"{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":0}}}",                         "\"WordLevel\""      },
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[],\"dropout\":0.1}}", "dropout"            },
        {WITH("normalizer",                                                                  "{\"type\":\"Odd\"}"), "normalizer \"Odd\""},
        {WITH("pre_tokenizer",                                                                                  "{\"type\":\"UnicodeScripts\"}"),                                                                                    "\"UnicodeScripts\""},
        {WITH("normalizer",                                                              "{\"type\":\"O\\ndd\"}"),"\"O\\x0Add\""},
        {WITH("decoder","{\"type\":\"Odd\"}"),     "decoder \"Odd\""},
        {WITH("post_processor",                                                                     "{\"type\":\"Odd\"}"),                                                                         "post-processor \"Odd\""},
        {REGEX("a(?~b)c"),                                                                                  "absent operator"                                                                                  },
        {REGEX("(?<=a+)b"),                                                          "lookbehind"      },
        {REGEX("\\\\p{Nope}"),"unknown property"},
    };
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        Err err = {0};
        Tokenizer *t = NULL;
        assert_false(tokenizer_open(&t, write_json(refused[i].json), &err));
        assert_int_equal(err.code, ERR_MODEL);
        if (!strstr(err.text, refused[i].says)) fail_msg("\"%s\" does not say %s", err.text, refused[i].says);
        assert_null(strchr(err.text, '\n'));
        assert_null(t);
    }
}

static void damaged_descriptions_are_errors_of_the_model(void **state)
{
    (void)state;
    static const char *const damaged[] = {
        "",
        "{",
        "[]",
        "3",
        "{}",
        "{\"model\":null}",
        "{\"model\":{\"type\":\"BPE\"}}",
        "{\"model\":{\"type\":\"BPE\",\"vocab\":[],\"merges\":[]}}",
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}}",
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":2147483647},\"merges\":[]}}",
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":99999999999999},\"merges\":[]}}",
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0.5},\"merges\":[]}}",
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":{}}}",
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[3]}}",
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a\"]}}",
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a a a\"]}}",
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a a\"]}}",
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a q\"]}}",
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]}}",
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\",1]]}}",
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a a\"],\"continuing_subword_prefix\":\"###\"}}",
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[],\"byte_fallback\":\"yes\"}}",
        WITH("normalizer", "{}"),
        WITH("normalizer", "[]"),
        WITH("normalizer", "{\"type\":\"Sequence\"}"),
        WITH("normalizer", "{\"type\":\"Replace\",\"content\":\"x\"}"),
        WITH("normalizer", "{\"type\":\"Prepend\"}"),
        WITH("normalizer", "{\"type\":\"Precompiled\"}"),
        WITH("normalizer", "{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"%%%%\"}"),
        WITH("normalizer", "{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"/////w==\"}"),
        WITH("pre_tokenizer", "{\"type\":\"Split\",\"pattern\":{\"String\":\"a\"},\"behavior\":\"Sometimes\"}"),
        WITH("pre_tokenizer", "{\"type\":\"Metaspace\",\"replacement\":\"ab\"}"),
        WITH("pre_tokenizer", "{\"type\":\"FixedLength\",\"length\":0}"),
        WITH("decoder", "{\"type\":\"Strip\",\"start\":-1}"),
        WITH("added_tokens", "{}"),
        WITH("added_tokens", "[3]"),
        WITH("added_tokens", "[{\"content\":\"x\",\"lstrip\":1}]"),
        WITH("post_processor", "{\"type\":\"TemplateProcessing\"}"),
        WITH("post_processor", "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"q\"}}]}"),
        WITH("post_processor", "{\"type\":\"BertProcessing\",\"cls\":[\"a\",-5],\"sep\":[\"b\",1]}"),
        REGEX("(a"),
        REGEX("a)"),
        REGEX("[a"),
        REGEX("[]"),
        REGEX("*a"),
        REGEX("a\\\\"),
        REGEX("[z-a]"),
        REGEX("\\\\x{110000}"),
        REGEX("\\\\uD800"),
        REGEX("(?<n>a)\\\\k<m>"),
    };
    for (size_t i = 0; i < sizeof damaged / sizeof damaged[0]; i++) {
        Err err = {0};
        Tokenizer *t = NULL;
        if (tokenizer_open(&t, write_json(damaged[i]), &err)) fail_msg("accepted: %s", damaged[i]);
        assert_int_equal(err.code, ERR_MODEL);
        assert_true(err.text[0] && !strchr(err.text, '\n'));
    }
}

static void deep_and_wide_expressions_are_refused_or_work(void **state)
{
    (void)state;
    enum { DEEP = 3000 };
    static const char *const opening[] = {"(", "[a", "(?i)", "(?:a|"};
    for (size_t i = 0; i < sizeof opening / sizeof opening[0]; i++) {
        Text json = {0};
        Err err = {0};
        Tokenizer *t = NULL;
        assert_true(text_add_z(&json,
                               "{" BPE ",\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Isolated\","
                               "\"pattern\":{\"Regex\":\"",
                               &err));
        for (int k = 0; k < DEEP; k++)
            assert_true(text_add_z(&json, opening[i], &err));
        assert_true(text_add_z(&json, "\"}}}", &err));
        assert_false(tokenizer_open(&t, write_json(json.bytes), &err));
        assert_int_equal(err.code, ERR_MODEL);
        text_free(&json);
    }
}

static void a_folder_without_tokenizer_json_says_so(void **state)
{
    (void)state;
    Err err = {0};
    Tokenizer *t = NULL;
    char empty[128];
    snprintf(empty, sizeof empty, "%s/empty", folder);
    assert_true(file_make_folders(empty, &err));
    assert_false(tokenizer_open(&t, empty, &err));
    assert_int_equal(err.code, ERR_MODEL);
    assert_non_null(strstr(err.text, "tokenizer.json"));
    err_clear(&err);
    assert_false(tokenizer_open(&t, "/nonexistent/tokenizer.json", &err));
    assert_int_equal(err.code, ERR_MODEL);
}

/* Everything at once: all stages, added tokens, a regular expression. No backslash: jansson aborts when memory runs out
 * inside of a text with one. */
static const char everything[] =
    "{" BPE ",\"added_tokens\":[{\"content\":\"<s>\",\"special\":true},{\"content\":\"B\",\"normalized\":true}],"
    "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":\"Lowercase\"},"
    "{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"x+\"},\"content\":\"a\"}]},"
    "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"behavior\":\"Isolated\","
    "\"pattern\":{\"Regex\":\" +|[[:word:]&&[^[:digit:]]]+\"}},{\"type\":\"ByteLevel\"}]},"
    "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"ByteLevel\"},"
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\"b\"},\"content\":\"c\"}]},"
    "\"post_processor\":{\"type\":\"BertProcessing\",\"cls\":[\"a\",0],\"sep\":[\"b\",1]}}";

static bool use_once(const char *path, Err *err)
{
    static const char text[] = "ab <s> xxab B e\xCC\x81\xCC\x80 ab";
    Tokenizer *t = NULL;
    TokenizerCache *cache = NULL;
    Tokens tokens = {0};
    Text out = {0};
    const bool done = tokenizer_open(&t, path, err) && tokenizer_cache_create(&cache, t, err) &&
                      tokenizer_encode(t, cache, &tokens, text, sizeof text - 1, err) &&
                      tokenizer_decode(t, &out, tokens.ids, tokens.count, true, err) &&
                      tokenizer_token_bytes(t, &out, tokens.ids[0], err);
    text_free(&out);
    tokens_free(&tokens);
    tokenizer_cache_free(cache);
    tokenizer_close(t);
    return done;
}

/* Fails allocation after allocation until the call succeeds; the sanitizer sees the leaks. */
static void check_memory_failures(const char *path)
{
    Err err = {0};
    uint64_t nth = 1;
    for (;; nth++) {
        mem_fail_at(nth, false);
        err_clear(&err);
        const bool done = use_once(path, &err);
        mem_fail_at(0, false);
        if (done) break;
        if (err.code != ERR_MEMORY) fail_msg("allocation %llu: %s", (unsigned long long)nth, err.text);
    }
    assert_true(nth > 20);
}

static void every_failed_allocation_is_reported(void **state)
{
    (void)state;
    check_memory_failures(write_json(everything));
}

static void every_failed_allocation_is_reported_for_gguf_files(void **state)
{
    (void)state;
    static const char *const files[] = {"golden/data/tokenizer/bytelevel.gguf.gz",
                                        "golden/data/tokenizer/sentencepiece.gguf.gz"};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        static char bytes[1 << 20];
        gzFile f = gzopen(files[i], "rb");
        assert_non_null(f);
        const int n = gzread(f, bytes, sizeof bytes);
        gzclose(f);
        assert_true(n > 0);
        check_memory_failures(write_bytes("t.gguf", bytes, (size_t)n));
    }
}

static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    Err err = {0};
    return file_remove_tree(folder, &err) ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_not_supported_is_refused_by_name),
        cmocka_unit_test(damaged_descriptions_are_errors_of_the_model),
        cmocka_unit_test(deep_and_wide_expressions_are_refused_or_work),
        cmocka_unit_test(a_folder_without_tokenizer_json_says_so),
        cmocka_unit_test(every_failed_allocation_is_reported),
        cmocka_unit_test(every_failed_allocation_is_reported_for_gguf_files),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
