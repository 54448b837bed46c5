#include "base/json.h"
#include "data/chat_format.h"
#include "fixture.h"

static Text rendered(const ChatTemplate *c, const ChatMessage *messages, size_t count, bool prompt, ChatText *out)
{
    chat_text_clear(out);
    MUST(chat_render(c, out, messages, count, prompt, &must_err));
    return out->text;
}

static size_t read_messages(ChatMessage *out, size_t most, const json_t *list)
{
    const size_t count = json_array_size(list);
    assert_true(count <= most);
    for (size_t i = 0; i < count; i++) {
        const json_t *m = json_array_get(list, i);
        const json_t *content = json_object_get(m, "content");
        out[i] = (ChatMessage){.role = json_string_value(json_object_get(m, "role")),
                               .content = json_string_value(content),
                               .content_length = json_string_length(content)};
    }
    return count;
}

static void same_text(const char *what, size_t index, Text got, const json_t *want)
{
    if (got.length == json_string_length(want) && !memcmp(got.bytes, json_string_value(want), got.length)) return;
    fail_msg("%s, conversation %zu:\n%s\nexpected\n%s", what, index, got.bytes, json_string_value(want));
}

static void same_ids(const char *what, size_t index, const int32_t *got, size_t count, const json_t *want)
{
    assert_int_equal(count, json_array_size(want));
    for (size_t k = 0; k < count; k++) {
        const json_int_t id = json_integer_value(json_array_get(want, k));
        if (got[k] != id)
            fail_msg("%s, conversation %zu: token %zu is %d, expected %d", what, index, k, got[k], (int)id);
    }
}

static void check_case(const Fixture *f, ShapeWork *work, const char *name, size_t index, const json_t *one)
{
    ChatMessage messages[16];
    ChatText text = {0};
    ShapeTokens tokens = {0};
    const ShapeRules rules = {.tokenizer = f->tokenizer, .chat = f->chat};
    const json_t *list = json_object_get(one, "messages");
    const size_t count = read_messages(messages, 16, list);
    same_text(name, index, rendered(f->chat, messages, count, false, &text), json_object_get(one, "text"));
    same_text(name, index, rendered(f->chat, messages, count, true, &text), json_object_get(one, "prompt"));
    MUST(shape_tokenize_messages(&tokens, work, &rules, list, &must_err));
    same_ids(name, index, tokens.ids, tokens.count, json_object_get(one, "input_ids"));
    same_ids(name, index, tokens.labels, tokens.count, json_object_get(one, "labels"));
    shape_tokens_free(&tokens);
    chat_text_free(&text);
}

static void renders_and_masks_as_hugging_face_does(void **state)
{
    (void)state;
    json_t *templates = NULL;
    MUST(json_parse_file(&templates, GOLDEN_CHAT "cases.json", 1 << 22, ERR_DATA, &must_err));
    assert_true(json_array_size(templates) >= 7);
    for (size_t i = 0; i < json_array_size(templates); i++) {
        const json_t *t = json_array_get(templates, i);
        const char *name = json_string_value(json_object_get(t, "name"));
        Fixture f;
        ShapeWork *work = NULL;
        fixture_open(&f, json_string_value(json_object_get(t, "template")), NULL);
        MUST(shape_work_create(&work, f.tokenizer, &must_err));
        assert_string_equal(chat_template_name(f.chat), json_string_value(json_object_get(t, "family")));
        const json_t *cases = json_object_get(t, "cases");
        assert_true(json_array_size(cases) >= 20);
        for (size_t k = 0; k < json_array_size(cases); k++)
            check_case(&f, work, name, k, json_array_get(cases, k));
        shape_work_free(work);
        fixture_close(&f);
    }
    json_decref(templates);
}

static const char *const other_spelling =
    "{#- a comment -#}\n"
    "{%- for message in messages -%}\n"
    "    {{- \"<|im_start|>\" -}}{{ message.role }}{{ \"\\n\" + message[\"content\"] }}<|im_end|>{{ '\\n' -}}\n"
    "{%- endfor -%}\n"
    "{% if ( add_generation_prompt ) %}<|im_start|>assistant\n{{ '' }}{% endif %}";

static void one_template_has_many_spellings(void **state)
{
    (void)state;
    Text a = {0};
    Text b = {0};
    MUST(chat_format_canonical(&a, CHATML_TEMPLATE, strlen(CHATML_TEMPLATE), &must_err));
    MUST(chat_format_canonical(&b, other_spelling, strlen(other_spelling), &must_err));
    assert_string_equal(a.bytes, b.bytes);
    text_free(&a);
    text_free(&b);
}

static void white_space_control_is_jinjas(void **state)
{
    (void)state;
    static const struct {
        const char *jinja, *canonical;
    } cases[] = {
        {"a\n  {% x %}\nb",        "a\n\x02x\x03"
                            "b"                         },
        {"a {% x %} b",            "a \x02x\x03 b"                                 },
        {"a\n {{ x }}\nb\n",       "a\n \x04x\x05\nb"                              },
        {"a \n{%- x -%}\n b",      "a\x02x\x03"
                              "b"                     },
        {"a\n  {%+ x +%}\nb",      "a\n  \x02x\x03\nb"                             },
        {"a {# no #}\nb",          "a b"                                           },
        {"{{ 'a' + 'b' + c }}",    "ab\x04"
                                "c\x05"             },
        {"{{ a + 'b' if c }}",     "\x04"
                               "a+'b' if c\x05"      },
        {"{{ a + b | trim }}",     "\x04"
                               "a\x05\x04"
                               "b|trim\x05"          },
        {"{% if (a or b) %}",      "\x02if a or b\x03"                             },
        {"{% if (a) or (b) %}",    "\x02if(a)or(b)\x03"                            },
        {"{{ a['b'][0][\"c\"] }}", "\x04"
                                   "a.b[0].c\x05"},
        {"{{ '}}' }}{{ \"'\" }}",  "}}'"                                           },
        {"{{ 'a\\\\n\\n' }}",      "a\\n\n"                                        },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Text out = {0};
        MUST(chat_format_canonical(&out, cases[i].jinja, strlen(cases[i].jinja), &must_err));
        assert_string_equal(out.bytes, cases[i].canonical);
        text_free(&out);
    }
}

/* Templates that print something else for a plain conversation: none may pass for a built-in one. */
static const char *const refused[] = {
    "",
    "{{ messages }}",
    "{% for message in messages %}{{ message['content'] }}{% endfor %}",
    /* content trimmed, another end, a think block, an unconditional prompt, a second loop, roles renamed */
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + "
    "'<|im_end|>' + "
    "'\\n'}}{% endfor %}",
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>'}}"
    "{% endfor %}",
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n<think>\\n' + message['content'] + "
    "'<|im_end|>' + '\\n'}}{% endfor %}",
    CHATML_TEMPLATE "{{ '<|im_start|>assistant\\n' }}",
    CHATML_TEMPLATE CHATML_TEMPLATE,
    "{% for message in messages[1:] %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + "
    "'\\n'}}{% endfor %}",
    "<bos>{% for message in messages %}<start_of_turn>{{ message.role }}\n{{ message.content | trim }}<end_of_turn>\n"
    "{% endfor %}",
    "{% for message in messages %}{% if message.role == 'user' %}[INST] {{ message.content }} [/INST]{% endif %}"
    "{% endfor %}",
};

static void a_template_that_renders_differently_is_refused_with_a_hint(void **state)
{
    (void)state;
    Fixture f;
    fixture_open(&f, CHATML_TEMPLATE, NULL);
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        Err err = {0};
        Tokenizer *t = NULL;
        ChatTemplate *c = NULL;
        if (!refused[i][0]) continue; /* an empty file may count as none */
        fixture_tokenizer(&f, &t, refused[i]);
        if (chat_template_open(&c, "tokenizer", t, &err)) fail_msg("accepted: %s", refused[i]);
        assert_int_equal(err.code, ERR_MODEL);
        assert_non_null(strstr(err.text, "set chat_template: "));
        err = (Err){0};
        assert_true(chat_template_open(&c, "chatml", t, &err));
        assert_string_equal(chat_template_name(c), "chatml");
        chat_template_close(c);
        tokenizer_close(t);
    }
    fixture_close(&f);
}

static void a_damaged_template_is_one_clear_error(void **state)
{
    (void)state;
    static const char *const bad[] = {"{% for", "{{ 'a", "{{ 'a }}", "{# no end", "{% if x %", "{{ \"\\"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        Err err = {0};
        Text out = {0};
        assert_false(chat_format_canonical(&out, bad[i], strlen(bad[i]), &err));
        assert_int_equal(err.code, ERR_MODEL);
        text_free(&out);
    }
    /* Bytes that stand for tags in the canonical form cannot be smuggled in. */
    ChatFormat format;
    bool found = true;
    MUST(chat_format_detect(&format, &found,
                            "\x02"
                            "for message in messages\x03",
                            &must_err));
    assert_false(found);
}

static void names_are_checked_and_aliases_work(void **state)
{
    (void)state;
    Fixture f;
    Err err = {0};
    ChatTemplate *c = NULL;
    fixture_open(&f, CHATML_TEMPLATE, "none");
    assert_string_equal(chat_template_name(f.chat), "plain");
    assert_string_equal(chat_template_end(f.chat), "");
    assert_false(chat_template_open(&c, "vicuna", f.tokenizer, &err));
    assert_int_equal(err.code, ERR_CONFIG);
    assert_non_null(strstr(err.text, "vicuna"));
    assert_true(chat_template_open(&c, "llama3", f.tokenizer, &(Err){0}));
    assert_string_equal(chat_template_end(c), "<|eot_id|>");
    chat_template_close(c);
    fixture_close(&f);
}

static void spans_hold_contents_and_ends_as_asked(void **state)
{
    (void)state;
    Fixture f;
    ChatText out = {0};
    fixture_open(&f, CHATML_TEMPLATE, NULL);
    for (int bits = 0; bits < 16; bits++) {
        const ChatMessage messages[] = {
            {"user",      "question", 8, bits & 1, bits & 2},
            {"assistant", "answer",   6, bits & 4, bits & 8},
        };
        const Text text = rendered(f.chat, messages, 2, true, &out);
        char want[64] = "";
        if (bits & 1) strcat(want, "question");
        if (bits & 2) strcat(want, "<|im_end|>");
        if (bits & 4) strcat(want, "answer");
        if (bits & 8) strcat(want, "<|im_end|>");
        char got[64] = "";
        for (size_t s = 0; s < out.span_count; s++) {
            assert_true(out.spans[s].start < out.spans[s].end && out.spans[s].end <= text.length);
            assert_true(s == 0 || out.spans[s - 1].end < out.spans[s].start);
            strncat(got, text.bytes + out.spans[s].start, out.spans[s].end - out.spans[s].start);
        }
        assert_string_equal(got, want);
    }
    chat_text_free(&out);
    fixture_close(&f);
}

static void a_failed_rendering_appends_nothing(void **state)
{
    (void)state;
    Fixture f;
    fixture_open(&f, CHATML_TEMPLATE, NULL);
    char *content = malloc(100000);
    assert_non_null(content);
    memset(content, 'x', 100000);
    const ChatMessage first = {"assistant", "a", 1, true, true};
    const ChatMessage more[] = {
        {"assistant", content, 100000, true, true},
        {"assistant", content, 100000, true, true}
    };
    bool done = false;
    for (uint64_t nth = 1; !done; nth++) {
        ChatText out = {0};
        Err err = {0};
        MUST(chat_render(f.chat, &out, &first, 1, false, &must_err));
        const size_t length = out.text.length;
        mem_fail_at(nth, false);
        done = chat_render(f.chat, &out, more, 2, true, &err);
        mem_fail_at(0, false);
        if (!done) {
            assert_int_equal(err.code, ERR_MEMORY);
            assert_int_equal(out.text.length, length);
            assert_int_equal(out.span_count, 1);
            assert_int_equal(out.text.bytes[length], 0);
        }
        chat_text_free(&out);
    }
    Err err = {0};
    ChatText out = {0};
    assert_false(chat_render(f.chat, &out, &first, 0, false, &err));
    assert_int_equal(err.code, ERR_DATA);
    chat_text_free(&out);
    free(content);
    fixture_close(&f);
}

static void opening_survives_any_failed_allocation(void **state)
{
    (void)state;
    Fixture f;
    fixture_open(&f, CHATML_TEMPLATE, NULL);
    static const char *const names[] = {"tokenizer", "llama3", "plain"};
    for (size_t i = 0; i < 3; i++) {
        bool done = false;
        for (uint64_t nth = 1; !done; nth++) {
            ChatTemplate *c = NULL;
            Err err = {0};
            mem_fail_at(nth, false);
            done = chat_template_open(&c, names[i], f.tokenizer, &err);
            mem_fail_at(0, false);
            if (!done) assert_int_equal(err.code, ERR_MEMORY);
            chat_template_close(c);
        }
    }
    fixture_close(&f);
}

static void a_tool_result_is_refused_where_the_template_has_its_own_rules(void **state)
{
    (void)state;
    static const char *const by_role =
        "{% for message in messages %}{% if message['role'] == 'user' %}{{'<|im_start|>user\\n' + message['content'] + "
        "'<|im_end|>\\n'}}{% elif message['role'] == 'assistant' %}{{'<|im_start|>assistant\\n' + message['content'] + "
        "'<|im_end|>\\n' }}{% else %}{{ '<|im_start|>system\\n' + message['content'] + '<|im_end|>\\n' }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
    Fixture f;
    Err err = {0};
    ChatText out = {0};
    const ChatMessage tool = {"tool", "result", 6, false, false};
    fixture_open(&f, by_role, NULL);
    assert_false(chat_render(f.chat, &out, &tool, 1, false, &err));
    assert_int_equal(err.code, ERR_DATA);
    assert_non_null(strstr(err.text, "tool"));
    chat_text_free(&out);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(renders_and_masks_as_hugging_face_does),
        cmocka_unit_test(one_template_has_many_spellings),
        cmocka_unit_test(white_space_control_is_jinjas),
        cmocka_unit_test(a_template_that_renders_differently_is_refused_with_a_hint),
        cmocka_unit_test(a_damaged_template_is_one_clear_error),
        cmocka_unit_test(names_are_checked_and_aliases_work),
        cmocka_unit_test(spans_hold_contents_and_ends_as_asked),
        cmocka_unit_test(a_failed_rendering_appends_nothing),
        cmocka_unit_test(opening_survives_any_failed_allocation),
        cmocka_unit_test(a_tool_result_is_refused_where_the_template_has_its_own_rules),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
