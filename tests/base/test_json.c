#include "base/json.h"

#include "base/mem.h"
#include "tests/support/scratch.h"

static json_t *parse(const char *text, size_t length, ErrCode code, Err *err)
{
    json_t *root = NULL;
    return json_parse(&root, text, length, "in.json", code, err) ? root : NULL;
}

static void documents_of_every_kind_are_read(void **state)
{
    (void)state;
    Err err = {0};
    static const char *const texts[] = {
        "{}",
        "[]",
        " [1, -2.5e-3, true, false, null, \"x\"] ",
        "\"one text\"",
        "7",
        "{\"a\": {\"b\": [[]]}}",
        "[9223372036854775807, -9223372036854775808]",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        json_t *root = parse(texts[i], strlen(texts[i]), ERR_DATA, &err);
        if (!root) fail_msg("%s: %s", texts[i], err.text);
        json_decref(root);
    }
}

static void texts_may_hold_nul_but_keys_may_not(void **state)
{
    (void)state;
    Err err = {0};
    static const char text[] = "{\"a\": \"x\\u0000y\"}";
    json_t *root = parse(text, sizeof text - 1, ERR_DATA, &err);
    assert_non_null(root);
    assert_int_equal(json_string_length(json_object_get(root, "a")), 3);
    const char *value;
    assert_false(json_get_text(&value, root, "a", "in.json", &err)); /* a C string would be cut */
    assert_error(&err, ERR_MODEL, "NUL");
    json_decref(root);
    assert_null(parse("{\"a\\u0000\": 1}", 14, ERR_DATA, &err));
    assert_error(&err, ERR_DATA, "in.json:1:");
}

static void bad_documents_are_refused_with_their_place(void **state)
{
    (void)state;
    static const struct {
        const char *text, *part;
    } cases[] = {
        {"",                             "in.json:1:"  },
        {"{",                            "in.json:1:"  },
        {"{} x",                         "in.json:1:"  },
        {"{}{}",                         "in.json:1:"  },
        {"[1,]",                         "in.json:1:"  },
        {"{\"a\":1,}",                   "in.json:1:"  },
        {"{'a':1}",                      "in.json:1:"  },
        {"[01]",                         "in.json:1:"  },
        {"[+1]",                         "in.json:1:"  },
        {"[1.]",                         "in.json:1:"  },
        {"[.5]",                         "in.json:1:"  },
        {"[NaN]",                        "in.json:1:"  },
        {"[Infinity]",                   "in.json:1:"  },
        {"[1e999]",                      "in.json:1:"  },
        {"[9223372036854775808]",        "in.json:1:"  },
        {"[18446744073709551616]",       "in.json:1:"  },
        {"[\"a\nb\"]",                   "in.json:1:"  },
        {"[\"\\x\"]",                    "in.json:1:"  },
        {"[\"\\ud800\"]",                "in.json:1:"  },
        {"[\"\\udc00\\ud800\"]",         "in.json:1:"  },
        {"[\"\xff\"]",                   "in.json:"    },
        {"[\"\xc0\x80\"]",               "in.json:"    },
        {"\xef\xbb\xbf{}",               "in.json:1:"  },
        {"{\"a\": 1,\n \"a\": 2}",       "in.json:2:2:"},
        {"{\"a\": 1,\n \"\\u0061\": 2}", "in.json:2:"  },
        {"{\n\n  \"key\": nope}",        "in.json:3:"  },
        {"/* c */ {}",                   "in.json:1:"  },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Err err = {0};
        json_t *root = parse(cases[i].text, strlen(cases[i].text), ERR_CONFIG, &err);
        if (root) fail_msg("%s was read", cases[i].text);
        assert_true(err.located);
        assert_true(strncmp(err.text, "in.json:", 8) == 0);
        assert_error(&err, ERR_CONFIG, cases[i].part);
    }
    Err err = {0};
    assert_null(parse("{}\0", 3, ERR_CONFIG, &err)); /* a NUL after the document */
    assert_error(&err, ERR_CONFIG, "in.json:1:");
}

static void places_fit_what_was_parsed(void **state)
{
    (void)state;
    Err err = {0};
    json_t *root;
    assert_false(json_parse(&root, "[1,\n2,\n!]", 9, "model/config.json", ERR_MODEL, &err));
    assert_false(err.located);
    assert_error(&err, ERR_MODEL, "model/config.json, line 3, column ");
    assert_false(json_parse(&root, "{bad}", 5, "data.jsonl:17", ERR_DATA, &err)); /* one line of a larger file */
    assert_true(err.located);
    assert_error(&err, ERR_DATA, "data.jsonl:17:2: ");
}

static void nesting_has_a_limit(void **state)
{
    (void)state;
    Err err = {0};
    static char text[2000001];
    for (size_t depth = 63; depth <= 65; depth++) {
        memset(text, '[', depth);
        memset(text + depth, ']', depth);
        json_t *root = parse(text, 2 * depth, ERR_DATA, &err);
        assert_int_equal(root != NULL, depth <= 64);
        if (!root) assert_error(&err, ERR_DATA, "in.json:1:65: nested more than 64");
        json_decref(root);
    }
    memset(text, '[', sizeof text);
    assert_null(parse(text, sizeof text, ERR_DATA, &err));
    assert_error(&err, ERR_DATA, "nested");
    memset(text, '[', 200);
    text[0] = '"';
    text[199] = '"'; /* brackets inside of a text do not nest */
    json_t *root = parse(text, 200, ERR_DATA, &err);
    assert_non_null(root);
    json_decref(root);
    assert_non_null(root = parse("[\"\\\"[[\", 1]", 11, ERR_DATA, &err));
    json_decref(root);
}

static void members_have_their_types_and_ranges(void **state)
{
    (void)state;
    Err err = {0};
    static const char text[] = "{\"i\": 5, \"r\": 2.5, \"b\": true, \"t\": \"word\", \"n\": null, \"o\": {}}";
    json_t *root = parse(text, sizeof text - 1, ERR_DATA, &err);
    assert_non_null(root);
    int64_t i = -1;
    double r = -1;
    bool b = false;
    const char *t = "before";
    assert_done(json_get_int(&i, root, "i", 0, 10, "w", &err));
    assert_int_equal(i, 5);
    assert_done(json_get_real(&r, root, "r", "w", &err));
    assert_true(r == 2.5);
    assert_done(json_get_real(&r, root, "i", "w", &err));
    assert_true(r == 5);
    assert_done(json_get_bool(&b, root, "b", "w", &err));
    assert_true(b);
    assert_done(json_get_text(&t, root, "t", "w", &err));
    assert_string_equal(t, "word");
    assert_done(json_get_int(&i, root, "n", 0, 10, "w", &err)); /* null and absent leave what was there */
    assert_done(json_get_int(&i, root, "absent", 0, 10, "w", &err));
    assert_int_equal(i, 5);
    assert_false(json_get_int(&i, root, "i", 6, 10, "w", &err));
    assert_error(&err, ERR_MODEL, "w: \"i\" is 5, outside of 6 to 10");
    assert_false(json_get_int(&i, root, "r", 0, 10, "w", &err));
    assert_error(&err, ERR_MODEL, "w: \"r\" must be an integer");
    assert_false(json_get_real(&r, root, "t", "w", &err));
    assert_error(&err, ERR_MODEL, "must be a number");
    assert_false(json_get_bool(&b, root, "i", "w", &err));
    assert_error(&err, ERR_MODEL, "must be true or false");
    assert_false(json_get_text(&t, root, "o", "w", &err));
    assert_error(&err, ERR_MODEL, "must be a text, but is an object");
    json_decref(root);
}

static void memory_that_runs_out_is_said_to_have(void **state)
{
    (void)state;
    static const char text[] = "{\"a\": [1, 2.5, \"some text\", {\"b\": null}], \"c\": \"\\u00e9\"}";
    for (uint64_t nth = 1;; nth++) {
        Err err = {0};
        mem_fail_at(nth, false);
        json_t *root = parse(text, sizeof text - 1, ERR_DATA, &err);
        mem_fail_at(0, false);
        if (root) {
            assert_true(nth > 10);
            json_decref(root);
            break;
        }
        assert_error(&err, ERR_MEMORY, "out of host memory");
    }
}

/* From one allocation on all fail: jansson by itself aborts where a token then outgrows its buffer. */
static void memory_that_is_gone_is_said_to_be(void **state)
{
    (void)state;
    enum { LONG = 5000 };
    static const char *const forms[] = {"[1234.5678901234567890, \"%.9s\", \"%s\"]",
                                        "[\"%s\", 1234567890123456, \"%s\"]", "{\"%s\": [true, \"x%s\"]}",
                                        "[\"\\\"%.40s\", \"%.700s\", [[[12345678901234567890.5e-300]]]]"};
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        char word[LONG + 1], text[4 * LONG];
        memset(word, 'a', LONG);
        word[LONG] = '\0';
        const int length = snprintf(text, sizeof text, forms[i], word, word);
        uint64_t nth = 0;
        json_t *root = NULL;
        do {
            Err err = {0};
            mem_fail_at(++nth, true);
            root = parse(text, (size_t)length, ERR_DATA, &err);
            mem_fail_at(0, false);
            if (!root) assert_error(&err, ERR_MEMORY, "out of host memory");
        } while (!root);
        assert_true(nth > 10);
        json_decref(root);
    }
}

static json_t *some_object(void)
{
    json_t *list = json_array(), *object = json_object();
    for (int i = 0; i < 40; i++)
        json_array_append_new(list, json_string("a text of some length, so that the printer's buffer grows"));
    json_object_set_new(object, "list", list);
    json_object_set_new(object, "number", json_integer(7));
    return object;
}

/* jansson leaves out what there was no memory for, of the value and of its text. */
static void what_is_printed_is_whole_or_memory_ran_out(void **state)
{
    (void)state;
    Err err = {0};
    json_begin();
    json_t *object = some_object();
    char *whole = json_print(object, JSON_INDENT(2), "it", &err);
    json_decref(object);
    assert_non_null(whole);
    uint64_t nth = 0, end = 0;
    do {
        const uint64_t before = mem_alloc_count();
        mem_fail_at(++nth, false);
        json_begin();
        object = some_object();
        char *text = json_print(object, JSON_INDENT(2), "it", &err);
        mem_fail_at(0, false);
        end = mem_alloc_count() - before;
        if (text) {
            assert_string_equal(text, whole);
        } else {
            assert_error(&err, ERR_MEMORY, "out of host memory while writing it");
        }
        assert_true(!text == (nth <= end));
        json_decref(object);
        mem_free(text);
    } while (nth <= end);
    assert_true(nth > 80);
    mem_free(whole);
}

static void reading_a_document_forgets_no_failure_of_what_is_being_built(void **state)
{
    (void)state;
    Err err = {0};
    json_begin();
    mem_fail_at(2, false);
    json_t *object = json_object();
    json_object_set_new(object, "a", json_string("lost"));
    mem_fail_at(0, false);
    json_t *root = parse("[1]", 3, ERR_DATA, &err);
    assert_non_null(root);
    assert_null(json_print(object, 0, "it", &err));
    assert_error(&err, ERR_MEMORY, "while writing it");
    json_decref(root);
    json_decref(object);
}

static void what_is_no_text_cannot_be_printed(void **state)
{
    (void)state;
    Err err = {0};
    json_begin();
    json_t *object = json_pack("{s:o}", "a", json_stringn_nocheck("\xff", 1));
    assert_null(json_print(object, 0, "it", &err));
    assert_error(&err, ERR_MODEL, "it holds a text that is not UTF-8");
    json_decref(object);
}

static void a_file_is_read_up_to_its_limit(void **state)
{
    (void)state;
    Err err = {0};
    Scratch s = scratch_make();
    const char *path = scratch_path(&s, "f.json");
    scratch_write(path, "[1, 2]", 6);
    json_t *root;
    assert_done(json_parse_file(&root, path, 6, ERR_DATA, &err));
    json_decref(root);
    assert_false(json_parse_file(&root, path, 5, ERR_DATA, &err));
    assert_error(&err, ERR_DATA, "larger than");
    scratch_remove(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(documents_of_every_kind_are_read),
        cmocka_unit_test(texts_may_hold_nul_but_keys_may_not),
        cmocka_unit_test(bad_documents_are_refused_with_their_place),
        cmocka_unit_test(places_fit_what_was_parsed),
        cmocka_unit_test(nesting_has_a_limit),
        cmocka_unit_test(members_have_their_types_and_ranges),
        cmocka_unit_test(memory_that_runs_out_is_said_to_have),
        cmocka_unit_test(memory_that_is_gone_is_said_to_be),
        cmocka_unit_test(what_is_printed_is_whole_or_memory_ran_out),
        cmocka_unit_test(reading_a_document_forgets_no_failure_of_what_is_being_built),
        cmocka_unit_test(what_is_no_text_cannot_be_printed),
        cmocka_unit_test(a_file_is_read_up_to_its_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
