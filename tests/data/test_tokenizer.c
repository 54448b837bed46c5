#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "data/tokenizer.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include <cmocka.h>

#define GOLDEN "golden/data/tokenizer/"

static char folder[] = "/tmp/test_tokenizer_XXXXXX";

static const char *scratch(const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void write_file(const char *name, const char *bytes, size_t length)
{
    Err err = {0};
    if (!file_replace(scratch(name), bytes, length, &err)) fail_msg("%s", err.text);
}

static void write_text(const char *name, const char *text)
{
    write_file(name, text, strlen(text));
}

/* Whole contents of a gzip file. */
static Text gunzip(const char *path)
{
    Text out = {0};
    Err err = {0};
    char chunk[65536];
    int n;
    gzFile f = gzopen(path, "rb");
    assert_non_null(f);
    while ((n = gzread(f, chunk, sizeof chunk)) > 0)
        assert_true(text_add(&out, chunk, (size_t)n, &err));
    assert_int_equal(n, 0);
    gzclose(f);
    return out;
}

static Tokenizer *must_open(const char *path)
{
    Err err = {0};
    Tokenizer *t = NULL;
    if (!tokenizer_open(&t, path, &err)) fail_msg("%s", err.text);
    return t;
}

/* Tokenizer and cache together, as most cases need both. */
typedef struct Opened {
    Tokenizer *t;
    TokenizerCache *cache;
    Tokens tokens;
} Opened;

static Opened open_path(const char *path)
{
    Err err = {0};
    Opened o = {.t = must_open(path)};
    assert_true(tokenizer_cache_create(&o.cache, o.t, &err));
    return o;
}

static Opened open_text(const char *json)
{
    write_text("tokenizer.json", json);
    return open_path(scratch("tokenizer.json"));
}

static void close_opened(Opened *o)
{
    tokens_free(&o->tokens);
    tokenizer_cache_free(o->cache);
    tokenizer_close(o->t);
}

static void encode(Opened *o, const char *text, size_t length)
{
    Err err = {0};
    o->tokens.count = 0;
    if (!tokenizer_encode(o->t, o->cache, &o->tokens, text, length, &err)) fail_msg("%s", err.text);
}

/* Small tokenizers for cases of our own. */
#define MODEL(vocab, merges, more) "\"model\":{\"type\":\"BPE\",\"vocab\":{" vocab "},\"merges\":[" merges "]" more "}"
#define ABC "\"a\":0,\"b\":1,\"c\":2,\"ab\":3,\"abc\":4,\" \":5"

static bool same_ids(const Tokens *got, const json_t *want)
{
    if (got->count != json_array_size(want)) return false;
    for (size_t i = 0; i < got->count; i++) {
        if (got->ids[i] != json_integer_value(json_array_get(want, i))) return false;
    }
    return true;
}

static void check_decode(const Opened *o, const char *name, const json_t *want, bool skip)
{
    Err err = {0};
    Text out = {0};
    if (!json_is_string(want)) return; /* the reference refuses it, or it was not asked */
    assert_true(tokenizer_decode(o->t, &out, o->tokens.ids, o->tokens.count, skip, &err));
    if (out.length != json_string_length(want) ||
        memcmp(out.bytes ? out.bytes : "", json_string_value(want), out.length) != 0) {
        fail_msg("%s: decoded \"%s\", the reference \"%s\"", name, out.bytes, json_string_value(want));
    }
    text_free(&out);
}

static void check_case(Opened *o, const char *name, const json_t *fact)
{
    const json_t *text = json_array_get(fact, 0);
    const json_t *ids = json_array_get(fact, 1);
    encode(o, json_string_value(text), json_string_length(text));
    if (!same_ids(&o->tokens, ids)) {
        char *want = json_dumps(ids, JSON_COMPACT);
        char *shown = json_dumps(text, JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
        for (size_t i = 0; i < o->tokens.count; i++)
            print_error("%d ", o->tokens.ids[i]);
        fail_msg("%s: %s should be %s", name, shown, want);
    }
    check_decode(o, name, json_array_get(fact, 2), false);
    check_decode(o, name, json_array_get(fact, 3), true);
}

static Opened open_golden(const json_t *row)
{
    const char *gguf = json_string_value(json_object_get(row, "gguf"));
    char path[256];
    if (gguf) {
        snprintf(path, sizeof path, GOLDEN "%s", gguf);
        Text bytes = gunzip(path);
        write_file("t.gguf", bytes.bytes, bytes.length);
        text_free(&bytes);
        return open_path(scratch("t.gguf"));
    }
    char *text = json_dumps(json_object_get(row, "tokenizer"), JSON_COMPACT);
    const Opened o = open_text(text);
    free(text); /* jansson's own memory comes from mem.h, whose blocks free() takes */
    return o;
}

static void small_tokenizers_give_the_ids_of_the_reference(void **state)
{
    (void)state;
    Text all = gunzip(GOLDEN "synthetic.jsonl.gz");
    size_t tokenizers = 0;
    size_t cases = 0;
    for (char *line = all.bytes; *line;) {
        char *end = strchr(line, '\n');
        Err err = {0};
        json_t *row = NULL;
        if (!json_parse(&row, line, (size_t)(end - line), "golden data", ERR_DATA, &err)) fail_msg("%s", err.text);
        Opened o = open_golden(row);
        const json_t *list = json_object_get(row, "cases");
        for (size_t i = 0; i < json_array_size(list); i++)
            check_case(&o, json_string_value(json_object_get(row, "name")), json_array_get(list, i));
        cases += json_array_size(list);
        tokenizers++;
        close_opened(&o);
        json_decref(row);
        line = end + 1;
    }
    assert_true(tokenizers > 100 && cases > 7000);
    text_free(&all);
}

static size_t check_real(const char *model_folder)
{
    Opened o = open_path(model_folder);
    char path[512];
    snprintf(path, sizeof path, "%s/cases.jsonl", model_folder);
    FILE *f = fopen(path, "r");
    if (!f) fail_msg("%s is not there; make it with golden/tokenizer.py --real", path);
    char *line = NULL;
    size_t capacity = 0;
    size_t cases = 0;
    for (ssize_t n; (n = getline(&line, &capacity, f)) > 0; cases++) {
        Err err = {0};
        json_t *fact = NULL;
        if (!json_parse(&fact, line, (size_t)n, path, ERR_DATA, &err)) fail_msg("%s", err.text);
        check_case(&o, model_folder, fact);
        json_decref(fact);
    }
    free(line);
    fclose(f);
    close_opened(&o);
    return cases;
}

/* QLORA_TEST_TOKENIZERS: a folder of folders, each with tokenizer.json and cases.jsonl (golden/tokenizer.py --real). */
static void real_tokenizers_give_the_ids_of_the_reference(void **state)
{
    (void)state;
    const char *root = getenv("QLORA_TEST_TOKENIZERS");
    if (!root) {
        print_message("[  SKIPPED ] QLORA_TEST_TOKENIZERS is not set\n");
        skip();
    }
    FileList list = {0};
    Err err = {0};
    if (!file_list(&list, root, ERR_DATA, &err)) fail_msg("%s", err.text);
    size_t cases = 0;
    for (size_t i = 0; i < list.count; i++) {
        char *path = path_join(root, list.names[i], &err);
        assert_non_null(path);
        if (file_is_folder(path)) cases += check_real(path);
        mem_free(path);
    }
    file_list_free(&list);
    assert_true(cases > 0);
}

static void byte_ranges_of_a_byte_level_tokenizer_tile_the_text(void **state)
{
    (void)state;
    Text bytes = gunzip(GOLDEN "bytelevel.gguf.gz");
    write_file("t.gguf", bytes.bytes, bytes.length);
    text_free(&bytes);
    Opened o = open_path(scratch("t.gguf"));
    static const char text[] = "<|im_start|>user\nna\xC3\xAFve \xE4\xBD\xA0\xE5\xA5\xBD 12\r\n  x<|im_end|>";
    encode(&o, text, sizeof text - 1);
    uint32_t at = 0;
    for (size_t i = 0; i < o.tokens.count; i++) {
        Text token = {0};
        Err err = {0};
        assert_int_equal(o.tokens.starts[i], at);
        at = o.tokens.ends[i];
        assert_true(tokenizer_token_bytes(o.t, &token, o.tokens.ids[i], &err));
        assert_int_equal(token.length, at - o.tokens.starts[i]);
        assert_memory_equal(token.bytes, text + o.tokens.starts[i], token.length);
        text_free(&token);
    }
    assert_int_equal(at, sizeof text - 1);
    assert_int_equal(o.tokens.ids[0], 1);
    assert_true(tokenizer_is_special(o.t, 1) && !tokenizer_is_special(o.t, 10));
    close_opened(&o);
}

static void byte_ranges_follow_the_text_through_normalizers(void **state)
{
    (void)state;
    Opened o = open_text("{\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},"
                         "{\"type\":\"Replace\",\"pattern\":{\"String\":\"--\"},\"content\":\"b\"},"
                         "{\"type\":\"Prepend\",\"prepend\":\"c\"}]}," MODEL(ABC ",\"\xC3\xA9\":6", "", "") "}");
    encode(&o,
           "a--e\xCC\x81"
           "b",
           7);
    static const struct {
        int32_t id;
        uint32_t start, end;
    } want[] = {
        {2, 0, 1}, /* what is prepended counts as part of the first character */
        {0, 0, 1},
        {1, 1, 3},
        {6, 3, 6}, /* e and its accent */
        {1, 6, 7}
    };
    assert_int_equal(o.tokens.count, sizeof want / sizeof want[0]);
    for (size_t i = 0; i < o.tokens.count; i++) {
        assert_int_equal(o.tokens.ids[i], want[i].id);
        assert_int_equal(o.tokens.starts[i], want[i].start);
        assert_int_equal(o.tokens.ends[i], want[i].end);
    }
    close_opened(&o);
}

static void ill_formed_text_is_an_error_of_the_data(void **state)
{
    (void)state;
    Opened o = open_text("{" MODEL(ABC, "[\"a\",\"b\"]", "") "}");
    static const char *const texts[] = {"ab\xFF", "\xC3", "\xED\xA0\x80", "\xC0\x80", "a\xE2\x82", "\xF4\x90\x80\x80"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        Err err = {0};
        assert_false(tokenizer_encode(o.t, o.cache, &o.tokens, texts[i], strlen(texts[i]), &err));
        assert_int_equal(err.code, ERR_DATA);
        assert_non_null(strstr(err.text, "UTF-8"));
    }
    encode(&o, "", 0);
    assert_int_equal(o.tokens.count, 0);
    encode(&o, "a\0ab", 4); /* NUL is a character like any other; this vocabulary lacks it */
    assert_int_equal(o.tokens.count, 2);
    close_opened(&o);
}

static void long_words_take_no_quadratic_time(void **state)
{
    (void)state;
    enum { LENGTH = 1 << 20 };
    Opened o = open_text("{" MODEL("\"a\":0,\"aa\":1,\"aaaa\":2", "[\"a\",\"a\"],[\"aa\",\"aa\"]", "") "}");
    char *word = malloc(LENGTH);
    memset(word, 'a', LENGTH);
    encode(&o, word, LENGTH);
    assert_int_equal(o.tokens.count, LENGTH / 4);
    free(word);
    close_opened(&o);
}

static void an_expression_that_explodes_is_an_error_not_a_hang(void **state)
{
    (void)state;
    Opened o = open_text("{\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Isolated\",\"pattern\":"
                         "{\"Regex\":\"(?:a|aa)+[xy]\"}}," MODEL(ABC, "", "") "}");
    Err err = {0};
    static const char text[] = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab";
    assert_false(tokenizer_encode(o.t, o.cache, &o.tokens, text, sizeof text - 1, &err));
    assert_int_equal(err.code, ERR_DATA);
    close_opened(&o);
}

static void a_folder_adds_names_templates_and_stop_tokens(void **state)
{
    (void)state;
    write_text("tokenizer.json",
               "{\"added_tokens\":[{\"content\":\"<s>\",\"special\":true},{\"content\":\"</s>\",\"special\":true},"
               "{\"content\":\"<|im_end|>\",\"special\":true}],"
               "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"</s>\"}},"
               "{\"Sequence\":{\"id\":\"A\"}}],\"special_tokens\":{\"</s>\":{\"ids\":[7]}}}," MODEL(ABC, "", "") "}");
    const int32_t *ids;
    Tokenizer *t = must_open(folder);
    assert_int_equal(tokenizer_prefix(t, &ids), 1);
    assert_int_equal(ids[0], 7);
    assert_int_equal(tokenizer_bos(t), -1);
    assert_int_equal(tokenizer_size(t), 9);
    assert_int_equal(tokenizer_id(t, "<|im_end|>"), 8);
    assert_null(tokenizer_chat_template(t));
    char bare[64];
    snprintf(bare, sizeof bare, "%s", tokenizer_fingerprint(t));
    tokenizer_close(t);

    write_text("tokenizer_config.json",
               "{\"bos_token\":{\"content\":\"<s>\"},\"eos_token\":\"</s>\",\"pad_token\":null,"
               "\"add_bos_token\":true,\"add_eos_token\":true,\"chat_template\":"
               "[{\"name\":\"tool\",\"template\":\"x\"},{\"name\":\"default\",\"template\":\"y\"}]}");
    write_text("generation_config.json", "{\"eos_token_id\":[2,7]}");
    t = must_open(folder);
    assert_int_equal(tokenizer_prefix(t, &ids), 1);
    assert_int_equal(ids[0], 6);
    assert_int_equal(tokenizer_suffix(t, &ids), 1);
    assert_int_equal(ids[0], 7);
    assert_int_equal(tokenizer_eos(t), 7);
    assert_int_equal(tokenizer_pad(t), -1);
    assert_string_equal(tokenizer_chat_template(t), "y");
    assert_int_equal(tokenizer_stop_ids(t, &ids), 3);
    assert_int_equal(ids[0], 2);
    assert_int_equal(ids[1], 7);
    assert_int_equal(ids[2], 8); /* a known end of turn */
    assert_string_not_equal(bare, tokenizer_fingerprint(t));
    tokenizer_close(t);

    /* flags and further tokens as transformers takes them; numbers that fit nowhere are not looked at */
    write_text(
        "tokenizer_config.json",
        "{\"model_max_length\":1000000000000000019884624838656,\"added_tokens_decoder\":{"
        "\"9\":{\"content\":\"<new>\",\"special\":false},\"6\":{\"content\":\"<s>\",\"rstrip\":true,\"special\":true}},"
        "\"additional_special_tokens\":[\"<more>\"]}");
    Opened o = open_path(folder);
    encode(&o, "<s> a<new><more>", 16);
    static const int32_t want[] = {6, 0, 9, 10};
    assert_int_equal(o.tokens.count, 4);
    assert_memory_equal(o.tokens.ids, want, sizeof want);
    assert_true(tokenizer_is_special(o.t, 10) && !tokenizer_is_special(o.t, 9));
    close_opened(&o);

    write_text("chat_template.jinja", "z");
    t = must_open(folder);
    assert_string_equal(tokenizer_chat_template(t), "z");
    tokenizer_close(t);
    static const char *const written[] = {"tokenizer_config.json", "generation_config.json", "chat_template.jinja"};
    for (size_t i = 0; i < sizeof written / sizeof written[0]; i++)
        assert_int_equal(unlink(scratch(written[i])), 0);
}

static void a_gguf_file_names_its_special_tokens(void **state)
{
    (void)state;
    Text bytes = gunzip(GOLDEN "bytelevel.gguf.gz");
    write_file("t.gguf", bytes.bytes, bytes.length);
    text_free(&bytes);
    Tokenizer *t = must_open(scratch("t.gguf"));
    const int32_t *ids;
    assert_int_equal(tokenizer_bos(t), 1);
    assert_int_equal(tokenizer_eos(t), 2);
    assert_int_equal(tokenizer_prefix(t, &ids), 1);
    assert_int_equal(ids[0], 1);
    assert_string_equal(tokenizer_chat_template(t), "{{ messages }}");
    assert_int_equal(tokenizer_stop_ids(t, &ids), 2);
    assert_string_equal(tokenizer_token(t, 2), "<|im_end|>");
    assert_null(tokenizer_token(t, tokenizer_size(t)));
    tokenizer_close(t);
}

static void *encode_often(void *arg)
{
    Tokenizer *t = arg;
    TokenizerCache *cache;
    Err err = {0};
    Tokens tokens = {0};
    if (!tokenizer_cache_create(&cache, t, &err)) return NULL;
    for (int i = 0; i < 2000; i++) {
        if (!tokenizer_encode(t, cache, &tokens, "abc ab a cab", 12, &err)) break;
    }
    const bool right = tokens.count == 2000 * 8 && tokens.ids[0] == 4;
    tokens_free(&tokens);
    tokenizer_cache_free(cache);
    return right ? t : NULL;
}

static void threads_share_one_tokenizer(void **state)
{
    (void)state;
    Opened o = open_text("{" MODEL(ABC, "[\"a\",\"b\"],[\"ab\",\"c\"]", "") "}");
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, encode_often, o.t), 0);
    for (int i = 0; i < 4; i++) {
        void *result;
        pthread_join(threads[i], &result);
        assert_ptr_equal(result, o.t);
    }
    close_opened(&o);
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
        cmocka_unit_test(small_tokenizers_give_the_ids_of_the_reference),
        cmocka_unit_test(real_tokenizers_give_the_ids_of_the_reference),
        cmocka_unit_test(byte_ranges_of_a_byte_level_tokenizer_tile_the_text),
        cmocka_unit_test(byte_ranges_follow_the_text_through_normalizers),
        cmocka_unit_test(ill_formed_text_is_an_error_of_the_data),
        cmocka_unit_test(long_words_take_no_quadratic_time),
        cmocka_unit_test(an_expression_that_explodes_is_an_error_not_a_hang),
        cmocka_unit_test(a_folder_adds_names_templates_and_stop_tokens),
        cmocka_unit_test(a_gguf_file_names_its_special_tokens),
        cmocka_unit_test(threads_share_one_tokenizer),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
