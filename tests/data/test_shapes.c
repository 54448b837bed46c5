#include "base/json.h"
#include "fixture.h"

/* What one record becomes: its text, with the trained tokens in [brackets]. */
typedef struct Case {
    const char *name;
    const char *jinja; /* null: the model has no template */
    const char *chat;  /* chat_template */
    DataSource source;
    bool train_on_inputs, mask_history;
    const char *record;
    const char *expected;
} Case;

#define U(text) "<|im_start|>user\n" text "<|im_end|>\n"
#define S(text) "<|im_start|>system\n" text "<|im_end|>\n"
#define A(text) "<|im_start|>assistant\n[" text "<|im_end|>]\n"
#define A_PLAIN(text) "<|im_start|>assistant\n" text "<|im_end|>\n"
#define BOS "<|begin_of_text|>"
#define EOS "<|endoftext|>"
#define TWO_TURNS                                                                                                      \
    "{\"messages\":[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\",\"content\":\"q\"},{\"role\":"          \
    "\"assistant\",\"content\":\"a\"},{\"role\":\"user\",\"content\":\"r\"},{\"role\":\"assistant\",\"content\":"      \
    "\"b\"}]}"
#define ALPACA_HEAD                                                                                                    \
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."

static const DataPair from_value[] = {
    {"role",    "who" },
    {"content", "said"}
};
static const DataPair question[] = {
    {"instruction", "question"},
    {"output",      "answer"  }
};
static const DataPair body[] = {
    {"text", "body"}
};
static const DataPair bot[] = {
    {"bot",  "assistant"},
    {"peer", "user"     }
};
static const DataPair narrator[] = {
    {"n", "narrator"}
};
static const char *const users[] = {"user"};
static const char *const both[] = {"user", "assistant"};
static const char *const nobody[] = {"nobody"};

static const Case cases[] = {
    {"messages",                               CHATML_TEMPLATE, NULL,    {0},                                  false, false, TWO_TURNS,              S("s") U("q") A("a") U("r") A("b")                                                                      },
    {"only the last turn",
     CHATML_TEMPLATE,                                           NULL,
     {0},
     false,                                                                                                           true,
     TWO_TURNS,                                                                                                                                      S("s") U("q") A_PLAIN("a") U("r") A("b")                                                                },
    {"all of it",
     CHATML_TEMPLATE,                                           NULL,
     {0},
     true,                                                                                                            false,
     "{\"messages\":[{\"role\":\"user\",\"content\":\"q\"}]}",                                                                                       "<|im_start|>[user\nq<|im_end|>\n]"                                                                     },
    {"all but what says no",
     CHATML_TEMPLATE,                                           NULL,
     {0},
     true,                                                                                                            false,
     "{\"messages\":[{\"role\":\"user\",\"content\":\"q\",\"train\":false},{\"role\":\"assistant\",\"content\":\"a\"}]"
     "}",                                                                                                                                            "<|im_start|>[user\n]q<|im_end|>[\n<|im_start|>assistant\na<|im_end|>\n]"                               },
    {"users are trained",
     CHATML_TEMPLATE,                                           NULL,
     {.roles_to_train = users, .roles_to_train_count = 1},
     false,                                                                                                           false,
     TWO_TURNS,                                                                                                                                      S("s") "<|im_start|>user\n[q<|im_end|>]\n" A_PLAIN("a") "<|im_start|>user\n[r<|im_end|>]\n" A_PLAIN("b")},
    {"nobody is trained",
     CHATML_TEMPLATE,                                           NULL,
     {.roles_to_train = nobody, .roles_to_train_count = 1},
     false,                                                                                                           false,
     "{\"messages\":[{\"role\":\"assistant\",\"content\":\"a\"}]}",                                                                                  A_PLAIN("a")                                                                                            },
    {"both are trained",
     CHATML_TEMPLATE,                                           NULL,
     {.roles_to_train = both, .roles_to_train_count = 2},
     false,                                                                                                           false,
     "{\"messages\":[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":\"a\"}]}",                                            "<|im_start|>user\n[q<|im_end|>]\n" A("a")                                                              },
    {"train on no end",
     CHATML_TEMPLATE,                                           NULL,
     {.train_on_eos = TRAIN_EOS_NONE},
     false,                                                                                                           false,
     TWO_TURNS,                                                                                                                                      S("s") U("q") "<|im_start|>assistant\n[a]<|im_end|>\n" U("r") "<|im_start|>assistant\n[b]<|im_end|>\n"  },
    {"train on the last end",
     CHATML_TEMPLATE,                                           NULL,
     {.train_on_eos = TRAIN_EOS_LAST},
     false,                                                                                                           false,
     TWO_TURNS,                                                                                                                                      S("s") U("q") "<|im_start|>assistant\n[a]<|im_end|>\n" U("r") A("b")                                    },
    {"train on all ends",
     CHATML_TEMPLATE,                                           NULL,
     {.train_on_eos = TRAIN_EOS_ALL},
     false,                                                                                                           false,
     TWO_TURNS,                                                                                                                                      "<|im_start|>system\ns[<|im_end|>]\n<|im_start|>user\nq[<|im_end|>]\n" A(
         "a") "<|im_start|>user\nr[<|im_end|>]\n" A("b")                                                                                                                                                                                      },
    {"weights of messages",
     CHATML_TEMPLATE,                                           NULL,
     {0},
     false,                                                                                                           false,
     "{\"messages\":[{\"role\":\"user\",\"content\":\"q\",\"weight\":1},{\"role\":\"assistant\",\"content\":\"a\","
     "\"weight\":0},{\"role\":\"assistant\",\"content\":\"b\",\"weight\":1.0},{\"role\":\"assistant\",\"content\":"
     "\"c\","
     "\"weight\":null}]}",                                                                                                                           "<|im_start|>user\n[q<|im_end|>]\n" A_PLAIN("a") A("b") A("c")                                          },
    {"parts of a content",
     CHATML_TEMPLATE,                                           NULL,
     {0},
     false,                                                                                                           false,
     "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"q\"},{\"type\":\"text\",\"text\":"
     "\"r\"}]},{\"role\":\"assistant\",\"content\":[{\"type\":\"text\",\"text\":\"a\"}]}]}",                                                         U("qr") A("a")                                                                                          },
    {"sharegpt",
     CHATML_TEMPLATE,                                           NULL,
     {.type = "sharegpt"},
     false,                                                                                                           false,
     "{\"conversations\":[{\"from\":\"human\",\"value\":\"q\"},{\"from\":\"gpt\",\"value\":\"a\"},{\"from\":"
     "\"observation\",\"value\":\"o\"},{\"from\":\"chatgpt\",\"value\":\"b\"}],\"system\":\"s\"}",                                                   S("s") U("q") A("a") "<|im_start|>tool\no<|im_end|>\n" A("b")                                           },
    {"a system turn counts before the column",
     CHATML_TEMPLATE,                                           NULL,
     {0},
     false,                                                                                                           false,
     "{\"conversations\":[{\"from\":\"system\",\"value\":\"turn\"},{\"from\":\"gpt\",\"value\":\"a\"}],\"system\":"
     "\"s\"}",                                                                                                                                       S("turn") A("a")                                                                                        },
    {"renamed column and keys",
     CHATML_TEMPLATE,                                           NULL,
     {.field_messages = "talk", .properties = from_value, .property_count = 2, .roles = bot, .role_count = 2},
     false,                                                                                                           false,
     "{\"talk\":[{\"who\":\"peer\",\"said\":\"q\"},{\"who\":\"bot\",\"said\":\"a\"}]}",                                                              U("q") A("a")                                                                                           },
    {"a role of one's own",
     CHATML_TEMPLATE,                                           NULL,
     {.roles = narrator, .role_count = 1},
     false,                                                                                                           false,
     "{\"messages\":[{\"role\":\"n\",\"content\":\"x\"},{\"role\":\"assistant\",\"content\":\"a\"}]}",                                               "<|im_start|>narrator\nx<|im_end|>\n" A("a")                                                            },
    {"alpaca in a chat",
     CHATML_TEMPLATE,                                           NULL,
     {0},
     false,                                                                                                           false,
     "{\"instruction\":\"i\",\"input\":\"x\",\"output\":\"o\",\"system\":\"s\",\"history\":[[\"q\",\"a\"]]}",                                        S("s") U("q") A("a") U("i\nx") A("o")                                                                   },
    {"alpaca without input",
     CHATML_TEMPLATE,                                           NULL,
     {0},
     false,                                                                                                           true,
     "{\"instruction\":\"i\",\"input\":\"\",\"output\":\"o\",\"history\":[[\"q\",\"a\"]]}",                                                          U("q") A_PLAIN("a") U("i") A("o")                                                                       },
    {"alpaca by other names",
     CHATML_TEMPLATE,                                           NULL,
     {.properties = question, .property_count = 2},
     false,                                                                                                           false,
     "{\"question\":\"i\",\"answer\":\"o\"}",                                                                                                        U("i") A("o")                                                                                           },
    {"alpaca as plain text",
     CHATML_TEMPLATE,                                           "plain",
     {0},
     false,                                                                                                           false,
     "{\"instruction\":\"i\",\"output\":\"o\"}",                                                                                                     BOS ALPACA_HEAD "\n\n### Instruction:\ni\n\n### Response:\n[o" EOS "]"                                  },
    {"alpaca of a model without template",
     NULL,                                                      NULL,
     {0},
     false,                                                                                                           false,
     "{\"instruction\":\"i\",\"input\":\"x\",\"output\":\"o\",\"system\":\"s\"}",                                                                    BOS "s\n\n### Instruction:\ni\n\n### Input:\nx\n\n### Response:\n[o" EOS "]"                            },
    {"prompt and completion",
     CHATML_TEMPLATE,                                           NULL,
     {0},
     false,                                                                                                           false,
     "{\"prompt\":\"q:\",\"completion\":\" a\"}",                                                                                                    BOS "q:[ a" EOS "]"                                                                                     },
    {"prompt counts too",
     CHATML_TEMPLATE,                                           NULL,
     {0},
     true,                                                                                                            false,
     "{\"prompt\":\"q:\",\"completion\":\" a\"}",                                                                                                    BOS "[q: a" EOS "]"                                                                                     },
    {"no end after the completion",
     CHATML_TEMPLATE,                                           NULL,
     {.train_on_eos = TRAIN_EOS_NONE},
     false,                                                                                                           false,
     "{\"prompt\":\"q:\",\"completion\":\" a\"}",                                                                                                    BOS "q:[ a]" EOS                                                                                        },
    {"an end that is there already",
     CHATML_TEMPLATE,                                           NULL,
     {0},
     false,                                                                                                           false,
     "{\"prompt\":\"q:\",\"completion\":\" a<|endoftext|>\"}",                                                                                       BOS "q:[ a" EOS "]"                                                                                     },
    {"prompt and completion as messages",
     CHATML_TEMPLATE,                                           NULL,
     {0},
     false,                                                                                                           false,
     "{\"prompt\":[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":\"a\"},{\"role\":\"user\","
     "\"content\":\"r\"}],\"completion\":[{\"role\":\"assistant\",\"content\":\"b\"}]}",                                                             U("q") A_PLAIN("a") U("r") A("b")                                                                       },
    {"text",                                   CHATML_TEMPLATE, NULL,    {0},                                  false, false, "{\"text\":\"hello\"}", BOS "[hello" EOS "]"                                                                                    },
    {"text with its own ends",
     CHATML_TEMPLATE,                                           NULL,
     {0},
     false,                                                                                                           false,
     "{\"text\":\"<|begin_of_text|>hello<|endoftext|>\"}",                                                                                           BOS "[hello" EOS "]"                                                                                    },
    {"text of another column",
     CHATML_TEMPLATE,                                           NULL,
     {.properties = body, .property_count = 1},
     false,                                                                                                           false,
     "{\"body\":\"hello\"}",                                                                                                                         BOS "[hello" EOS "]"                                                                                    },
    {"empty text",                             CHATML_TEMPLATE, NULL,    {0},                                  false, false, "{\"text\":\"\"}",      BOS "[" EOS "]"                                                                                         },
    {"plain chat",
     CHATML_TEMPLATE,                                           "plain",
     {0},
     false,                                                                                                           false,
     "{\"messages\":[{\"role\":\"user\",\"content\":\"Q: q\\n\"},{\"role\":\"assistant\",\"content\":\"A: a\"}]}",                                   BOS "Q: q\n[A: a" EOS "]"                                                                               },
    {"input_ids before text",
     CHATML_TEMPLATE,                                           NULL,
     {0},
     false,                                                                                                           false,
     "{\"text\":\"x\",\"input_ids\":[1,2,1],\"labels\":[1,-100,1]}",                                                                                 "<|im_start|><|im_end|>[<|im_start|>]"                                                                  },
    {"messages before text",
     CHATML_TEMPLATE,                                           NULL,
     {0},
     false,                                                                                                           false,
     "{\"text\":\"x\",\"messages\":[{\"role\":\"assistant\",\"content\":\"a\"}]}",                                                                   A("a")                                                                                                  },
};

static Shape shape_of(const json_t *record, const DataSource *source)
{
    Shape shape = SHAPE_AUTO;
    MUST(shape_from_type(&shape, source->type, &must_err));
    if (shape == SHAPE_AUTO) MUST(shape_detect(&shape, record, source, &must_err));
    return shape;
}

static void every_shape_and_option_trains_what_it_says(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const Case *c = &cases[i];
        Fixture f;
        ShapeWork *work = NULL;
        ShapeTokens tokens = {0};
        json_t *record = NULL;
        fixture_open(&f, c->jinja, c->chat);
        const ShapeRules rules = {.tokenizer = f.tokenizer,
                                  .chat = f.chat,
                                  .train_on_inputs = c->train_on_inputs,
                                  .mask_history = c->mask_history};
        MUST(shape_work_create(&work, f.tokenizer, &must_err));
        MUST(json_parse(&record, c->record, strlen(c->record), "record", ERR_DATA, &must_err));
        MUST(shape_tokenize(&tokens, work, &rules, &c->source, shape_of(record, &c->source), record, &must_err));
        char *shown = fixture_show(&f, (Sample){tokens.ids, tokens.labels, (int64_t)tokens.count});
        if (strcmp(shown, c->expected)) fail_msg("%s:\n%s\nexpected\n%s", c->name, shown, c->expected);
        for (size_t k = 0; k < tokens.count; k++)
            assert_true(tokens.labels[k] == TARGET_NONE || tokens.labels[k] == tokens.ids[k]);
        mem_free(shown);
        json_decref(record);
        shape_tokens_free(&tokens);
        shape_work_free(work);
        fixture_close(&f);
    }
}

static void tokens_across_a_border_are_trained_and_counted(void **state)
{
    (void)state;
    Fixture f;
    ShapeWork *work = NULL;
    ShapeTokens tokens = {0};
    fixture_open(&f, CHATML_TEMPLATE, NULL);
    MUST(shape_work_create(&work, f.tokenizer, &must_err));
    const ShapeRules rules = {.tokenizer = f.tokenizer, .chat = f.chat};
    const DataSource source = {0};
    /* " the" is one token of this vocabulary; the border runs through it */
    json_t *record = json_pack("{s:s,s:s}", "prompt", "what is t", "completion", "he");
    MUST(shape_tokenize(&tokens, work, &rules, &source, SHAPE_PROMPT_COMPLETION, record, &must_err));
    char *shown = fixture_show(&f, (Sample){tokens.ids, tokens.labels, (int64_t)tokens.count});
    assert_string_equal(shown, BOS "what is[ the" EOS "]");
    assert_int_equal(tokens.straddling, 1);
    mem_free(shown);
    json_decref(record);
    shape_tokens_free(&tokens);
    shape_work_free(work);
    fixture_close(&f);
}

static void pretokenized_ids_are_used_as_they_are(void **state)
{
    (void)state;
    static const struct {
        const char *record;
        int count;
        int32_t ids[4], labels[4];
    } rows[] = {
        {"{\"input_ids\":[5,6,7]}",                                                              3, {5, 6, 7}, {-100, 6, 7}   },
        {"{\"input_ids\":[5,6,7],\"labels\":null}",                                              3, {5, 6, 7}, {-100, 6, 7}   },
        {"{\"input_ids\":[5,6,7],\"labels\":[5,-100,9]}",                                        3, {5, 6, 7}, {-100, -100, 9}},
        {"{\"input_ids\":[0,5,6,7,0],\"attention_mask\":[0,1,1,1,0]}",                           3, {5, 6, 7}, {-100, 6, 7}   },
        {"{\"input_ids\":[5,6,7,0],\"attention_mask\":[1,1,1,0],\"labels\":[-100,6,-100,-100]}",
         3,                                                                                         {5, 6, 7},
         {-100, 6, -100}                                                                                                      },
        {"{\"input_ids\":[]}",                                                                   0, {0},       {0}            },
    };
    Fixture f;
    fixture_open(&f, NULL, NULL);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        ShapeTokens tokens = {0};
        json_t *record = NULL;
        const ShapeRules rules = {.tokenizer = f.tokenizer};
        const DataSource source = {0};
        MUST(json_parse(&record, rows[i].record, strlen(rows[i].record), "record", ERR_DATA, &must_err));
        MUST(shape_tokenize(&tokens, NULL, &rules, &source, SHAPE_PRETOKENIZED, record, &must_err));
        assert_int_equal(tokens.count, rows[i].count);
        for (size_t k = 0; k < tokens.count; k++) {
            assert_int_equal(tokens.ids[k], rows[i].ids[k]);
            assert_int_equal(tokens.labels[k], rows[i].labels[k]);
        }
        json_decref(record);
        shape_tokens_free(&tokens);
    }
    fixture_close(&f);
}

/* Records that cannot be trained on, and what the error must name. */
static const struct {
    const char *record, *names;
} bad_records[] = {
    {"5",                                                                                     "a number"                                },
    {"[]",                                                                                    "a list"                                  },
    {"{}",                                                                                    "no known shape"                          },
    {"{\"question\":1,\"b\\u0007\":2}",                                                       "question, b\\x07"                        },
    {"{\"prompt\":\"p\",\"chosen\":\"c\",\"rejected\":\"r\"}",                                "preference"                              },
    {"{\"messages\":[]}",                                                                     "empty list"                              },
    {"{\"messages\":\"x\"}",                                                                  "a text, expected a list"                 },
    {"{\"messages\":[7]}",                                                                    "\"messages\"[0]: the message is a number"},
    {"{\"messages\":[{\"content\":\"x\"}]}",                                                  "\"role\" is missing"                     },
    {"{\"messages\":[{\"role\":7,\"content\":\"x\"}]}",                                       "\"role\" is a number"                    },
    {"{\"messages\":[{\"role\":\"asistant\",\"content\":\"x\"}]}",                            "\"asistant\""                            },
    {"{\"messages\":[{\"role\":\"function_call\",\"content\":\"x\"}]}",                       "function_call"                           },
    {"{\"messages\":[{\"role\":\"user\"}]}",                                                  "\"content\" is missing"                  },
    {"{\"messages\":[{\"role\":\"user\",\"content\":null}]}",                                 "\"content\" is null"                     },
    {"{\"messages\":[{\"role\":\"user\",\"content\":\"x\"},{\"from\":\"gpt\",\"value\":3}]}",
     "\"messages\"[1]: \"value\""                                                                                                       },
    {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image\"}]}]}",               "part 1"                                  },
    {"{\"messages\":[{\"role\":\"assistant\",\"content\":\"x\",\"tool_calls\":[{}]}]}",       "tool_calls"                              },
    {"{\"messages\":[{\"role\":\"assistant\",\"content\":\"x\",\"weight\":0.5}]}",            "weight"                                  },
    {"{\"messages\":[{\"role\":\"assistant\",\"content\":\"x\",\"train\":\"yes\"}]}",         "train"                                   },
    {"{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"tools\":[{}]}",                 "tools"                                   },
    {"{\"conversations\":[{\"from\":\"human\",\"value\":\"x\"}],\"system\":7}",               "\"system\""                              },
    {"{\"prompt\":\"p\",\"completion\":7}",                                                   "\"completion\" is a number"              },
    {"{\"prompt\":\"p\",\"completion\":[{\"role\":\"user\",\"content\":\"x\"}]}",             "\"prompt\" is a text"                    },
    {"{\"instruction\":\"i\",\"output\":7}",                                                  "\"output\""                              },
    {"{\"instruction\":\"i\",\"output\":\"o\",\"history\":[[\"a\"]]}",                        "history"                                 },
    {"{\"instruction\":\"i\",\"output\":\"o\",\"history\":\"x\"}",                            "history"                                 },
    {"{\"text\":7}",                                                                          "\"text\" is a number"                    },
    {"{\"input_ids\":7}",                                                                     "input_ids"                               },
    {"{\"input_ids\":[1.5]}",                                                                 "element 1"                               },
    {"{\"input_ids\":[1,-1]}",                                                                "element 2"                               },
    {"{\"input_ids\":[1,\"2\"]}",                                                             "element 2"                               },
    {"{\"input_ids\":[1,4294967296]}",                                                        "element 2"                               },
    {"{\"input_ids\":[1,400000]}",                                                            "vocabulary"                              },
    {"{\"input_ids\":[1,2],\"labels\":[1]}",                                                  "labels"                                  },
    {"{\"input_ids\":[1,2],\"labels\":[1,-1]}",                                               "-100"                                    },
    {"{\"input_ids\":[1,2],\"labels\":[1,400000]}",                                           "vocabulary"                              },
    {"{\"input_ids\":[1,2],\"attention_mask\":[1]}",                                          "attention_mask"                          },
    {"{\"input_ids\":[1,2,3],\"attention_mask\":[1,0,1]}",                                    "attention_mask"                          },
    {"{\"input_ids\":[1,2],\"attention_mask\":[1,2]}",                                        "attention_mask"                          },
};

static void a_record_that_cannot_be_used_names_what_is_wrong(void **state)
{
    (void)state;
    Fixture f;
    ShapeWork *work = NULL;
    fixture_open(&f, CHATML_TEMPLATE, NULL);
    MUST(shape_work_create(&work, f.tokenizer, &must_err));
    const ShapeRules rules = {.tokenizer = f.tokenizer, .chat = f.chat, .vocab_size = 400};
    const DataSource source = {0};
    for (size_t i = 0; i < sizeof bad_records / sizeof bad_records[0]; i++) {
        ShapeTokens tokens = {0};
        Err err = {0};
        json_t *record = NULL;
        Shape shape;
        const char *text = bad_records[i].record;
        MUST(json_parse(&record, text, strlen(text), "record", ERR_DATA, &must_err));
        const bool good = shape_detect(&shape, record, &source, &err) &&
                          shape_tokenize(&tokens, work, &rules, &source, shape, record, &err);
        if (good) fail_msg("accepted: %s", text);
        assert_int_equal(err.code, ERR_DATA);
        if (!strstr(err.text, bad_records[i].names)) fail_msg("%s: %s", text, err.text);
        json_decref(record);
        shape_tokens_free(&tokens);
    }
    shape_work_free(work);
    fixture_close(&f);
}

static void a_chat_needs_a_template(void **state)
{
    (void)state;
    Fixture f;
    ShapeWork *work = NULL;
    ShapeTokens tokens = {0};
    Err err = {0};
    fixture_open(&f, NULL, NULL);
    MUST(shape_work_create(&work, f.tokenizer, &must_err));
    const ShapeRules rules = {.tokenizer = f.tokenizer, .chat = f.chat};
    json_t *messages = json_pack("[{s:s,s:s}]", "role", "user", "content", "x");
    assert_false(shape_tokenize_messages(&tokens, work, &rules, messages, &err));
    assert_int_equal(err.code, ERR_DATA);
    assert_non_null(strstr(err.text, "chat_template: chatml"));
    json_decref(messages);
    shape_tokens_free(&tokens);
    shape_work_free(work);
    fixture_close(&f);
}

static void types_have_the_names_that_users_bring(void **state)
{
    (void)state;
    static const struct {
        const char *type;
        Shape shape;
    } types[] = {
        {NULL,                SHAPE_AUTO             },
        {"auto",              SHAPE_AUTO             },
        {"chat",              SHAPE_CHAT             },
        {"chat_template",     SHAPE_CHAT             },
        {"messages",          SHAPE_CHAT             },
        {"sharegpt",          SHAPE_CHAT             },
        {"alpaca",            SHAPE_ALPACA           },
        {"prompt_completion", SHAPE_PROMPT_COMPLETION},
        {"completion",        SHAPE_PROMPT_COMPLETION},
        {"text",              SHAPE_TEXT             },
        {"pretokenized",      SHAPE_PRETOKENIZED     }
    };
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        Shape shape = SHAPE_TEXT;
        MUST(shape_from_type(&shape, types[i].type, &must_err));
        assert_int_equal(shape, types[i].shape);
    }
    Err err = {0};
    Shape shape;
    assert_false(shape_from_type(&shape, "alpacca", &err));
    assert_int_equal(err.code, ERR_CONFIG);
    assert_non_null(strstr(err.text, "alpacca"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_shape_and_option_trains_what_it_says),
        cmocka_unit_test(tokens_across_a_border_are_trained_and_counted),
        cmocka_unit_test(pretokenized_ids_are_used_as_they_are),
        cmocka_unit_test(a_record_that_cannot_be_used_names_what_is_wrong),
        cmocka_unit_test(a_chat_needs_a_template),
        cmocka_unit_test(types_have_the_names_that_users_bring),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
