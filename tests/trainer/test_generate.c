#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "tests/support/workspace.h"
#include "trainer/generate_text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* Logits of an untrained model with this seed lie tens apart: a high temperature makes draws differ. */
enum { PROMPTS = 11, ANSWER = 12, CACHE = 200 };

static Workspace workspace;
static Config *config;
static Session session;
static Prompts prompts;

static void open_session(int sequences, int64_t max_tokens)
{
    Err err = {0};
    const SessionOptions options = {.weights = true};
    config = workspace_config("out", NULL);
    assert_true(session_open(&session, config, &options, &err));
    assert_true(session_open_tokenizer(&session, &err));
    assert_true(session_use_adapter(&session, NULL, &err));
    session.settings.model.max_tokens = max_tokens;
    session.settings.model.cache_tokens = CACHE;
    session.settings.model.sequences = sequences;
    assert_true(session_create_model(&session, NULL, &err));
    if (!session_place(&session, &err)) fail_msg("%s", err.text);
    const PromptStyle style = {.tokenizer = session.tokenizer, .chat = session.chat};
    for (int i = 0; i < PROMPTS; i++) {
        char text[64];
        const int n =
            snprintf(text, sizeof text, "question %d %.*s", i, i * 3, "abcdefghijklmnopqrstuvwxyzabcdefghijklm");
        assert_true(prompts_add(&prompts, &style, text, (size_t)n, &err));
    }
}

static void close_session(void)
{
    prompts_free(&prompts);
    session_close(&session);
    config_free(config);
}

static int setup(void **state)
{
    (void)state;
    workspace_make(&workspace, 3);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    workspace_free(&workspace);
    return 0;
}

typedef struct Answers {
    char *texts[PROMPTS];
    int64_t tokens[PROMPTS];
    int count;
} Answers;

static bool take(void *user, size_t index, Generated *g, Err *err)
{
    Answers *a = user;
    a->texts[index] = mem_copy_bytes(g->text.bytes ? g->text.bytes : "", g->text.length, err);
    a->tokens[index] = g->tokens;
    a->count++;
    generated_free(g);
    return true;
}

static void answers_free(Answers *a)
{
    for (int i = 0; i < PROMPTS; i++)
        mem_free(a->texts[i]);
}

static Answers answer(int sequences, int64_t max_tokens, const GenerateOptions *options)
{
    Answers a = {.count = 0};
    Err err = {0};
    Generator *g = NULL;
    const GenerateEvents events = {.done = take, .user = &a};
    open_session(sequences, max_tokens);
    assert_true(generator_create(&g, session.model, session.tokenizer, CACHE, sequences, &err));
    if (!generator_run(g, prompts.items, prompts.count, options, &events, &err)) fail_msg("%s", err.text);
    generator_free(g);
    close_session();
    return a;
}

static void assert_same_answers(const Answers *a, const Answers *b)
{
    assert_int_equal(a->count, PROMPTS);
    assert_int_equal(b->count, PROMPTS);
    for (int i = 0; i < PROMPTS; i++) {
        assert_string_equal(a->texts[i], b->texts[i]);
        assert_int_equal(a->tokens[i], b->tokens[i]);
    }
}

static void company_changes_no_answer(void **state)
{
    (void)state;
    const GenerateOptions kinds[] = {
        {.max_new_tokens = ANSWER, .top_p = 1},
        { .max_new_tokens = ANSWER, .temperature = 20,             .top_p = 0.9, .seed = 3},
    };
    for (int k = 0; k < 2; k++) {
        Answers alone = answer(1, 128, &kinds[k]), together = answer(4, 128, &kinds[k]);
        assert_same_answers(&alone, &together);
        answers_free(&alone);
        answers_free(&together);
    }
}

static void a_prompt_longer_than_a_micro_batch_is_read_to_its_end(void **state)
{
    (void)state;
    const GenerateOptions options = {.max_new_tokens = ANSWER, .top_p = 1};
    Answers whole = answer(2, 128, &options), pieces = answer(2, 16, &options);
    assert_same_answers(&whole, &pieces);
    answers_free(&whole);
    answers_free(&pieces);
}

static void the_seed_decides_what_is_drawn(void **state)
{
    (void)state;
    const GenerateOptions one = {.max_new_tokens = ANSWER, .temperature = 50, .top_p = 1, .seed = 1};
    const GenerateOptions two = {.max_new_tokens = ANSWER, .temperature = 50, .top_p = 1, .seed = 2};
    Answers a = answer(4, 128, &one), again = answer(4, 128, &one), b = answer(4, 128, &two);
    assert_same_answers(&a, &again);
    int different = 0;
    for (int i = 0; i < PROMPTS; i++)
        different += strcmp(a.texts[i], b.texts[i]) != 0;
    assert_true(different > PROMPTS / 2);
    answers_free(&a);
    answers_free(&again);
    answers_free(&b);
}

/* The pieces of a stream, put together, are the answer. */
static bool collect(void *user, const char *bytes, size_t length)
{
    Err err = {0};
    return text_add(user, bytes, length, &err);
}

typedef struct Stream {
    Text text;
    Answers answers;
} Stream;

static bool stream_piece(void *user, const char *bytes, size_t length)
{
    return collect(&((Stream *)user)->text, bytes, length);
}

static bool stream_done(void *user, size_t index, Generated *g, Err *err)
{
    return take(&((Stream *)user)->answers, index, g, err);
}

static void a_stream_adds_up_to_the_answer(void **state)
{
    (void)state;
    const GenerateOptions options = {.max_new_tokens = 40, .temperature = 50, .top_p = 1, .seed = 5};
    Stream s = {.answers = {.count = 0}};
    Err err = {0};
    Generator *g = NULL;
    const GenerateEvents events = {.piece = stream_piece, .done = stream_done, .user = &s};
    open_session(1, 128);
    assert_true(generator_create(&g, session.model, session.tokenizer, CACHE, 1, &err));
    assert_true(generator_run(g, prompts.items, 1, &options, &events, &err));
    assert_true(s.text.length > 0);
    assert_string_equal(s.text.bytes, s.answers.texts[0]);
    assert_int_equal(generator_totals(g).tokens, s.answers.tokens[0]);
    text_free(&s.text);
    answers_free(&s.answers);
    generator_free(g);
    close_session();
}

static void prompt_files_may_hold_lines_strings_and_chats(void **state)
{
    (void)state;
    Err err = {0};
    const char *lines = "first\r\n\nsecond";
    const char *json = "\"first\"\n{\"prompt\": \"sec\\nond\"}\n{\"messages\": [{\"role\": \"user\", \"content\": "
                       "\"first\"}, {\"role\": \"assistant\", \"content\": \"known\"}]}\n";
    assert_true(file_replace("p.txt", lines, strlen(lines), &err));
    assert_true(file_replace("p.jsonl", json, strlen(json), &err));
    open_session(1, 64);
    const PromptStyle style = {.tokenizer = session.tokenizer, .chat = session.chat};
    Prompts a = {0}, b = {0};
    assert_true(prompts_add_file(&a, &style, "p.txt", &err));
    assert_true(prompts_add_file(&b, &style, "p.jsonl", &err));
    assert_int_equal(a.count, 2);
    assert_int_equal(b.count, 3);
    assert_string_equal(a.items[0].text, "first");
    assert_string_equal(b.items[1].text, "sec\nond");
    assert_int_equal(b.items[2].count, a.items[0].count); /* a chat up to its answer is the prompt alone */
    assert_memory_equal(b.items[2].ids, a.items[0].ids, a.items[0].count * sizeof(int32_t));
    static const char *const bad[] = {"{\"x\": 1}\n", "nonsense\n", "{\"messages\": []}\n",
                                      "\n",           "[1]\n",      "\"\\ud800\"\n"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        Err fault = {0};
        Prompts none = {0};
        assert_true(file_replace("bad.jsonl", bad[i], strlen(bad[i]), &err));
        assert_false(prompts_add_file(&none, &style, "bad.jsonl", &fault));
        assert_int_equal(fault.code, ERR_DATA);
        prompts_free(&none);
    }
    prompts_free(&a);
    prompts_free(&b);
    close_session();
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(company_changes_no_answer),
        TEST(a_prompt_longer_than_a_micro_batch_is_read_to_its_end),
        TEST(the_seed_decides_what_is_drawn),
        TEST(a_stream_adds_up_to_the_answer),
        TEST(prompt_files_may_hold_lines_strings_and_chats),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
