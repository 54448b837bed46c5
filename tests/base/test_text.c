#include "base/text.h"

#include "base/mem.h"
#include "tests/support/scratch.h"

static void texts_grow_and_may_hold_nul(void **state)
{
    (void)state;
    Err err = {0};
    Text t = {0};
    assert_done(text_add(&t, "a\0b", 3, &err));
    assert_done(text_add_z(&t, "cd", &err));
    assert_done(text_format(&t, &err, "-%d-%s", 42, "x"));
    assert_int_equal(t.length, 10);
    assert_memory_equal(t.bytes, "a\0bcd-42-x", 11);
    text_clear(&t);
    assert_int_equal(t.length, 0);
    assert_string_equal(t.bytes, "");
    text_free(&t);
    assert_null(t.bytes);
}

static void a_text_survives_failed_growth(void **state)
{
    (void)state;
    Err err = {0};
    Text t = {0};
    assert_done(text_add_z(&t, "kept", &err));
    mem_fail_at(1, false);
    assert_false(text_format(&t, &err, "%1000d", 7));
    assert_error(&err, ERR_MEMORY, "out of host memory");
    assert_string_equal(t.bytes, "kept");
    text_free(&t);
}

static void code_points_survive_writing_and_reading(void **state)
{
    (void)state;
    Err err = {0};
    Text t = {0};
    for (uint32_t c = 0; c <= 0x10FFFF; c++) {
        if (c >= 0xD800 && c <= 0xDFFF) continue;
        text_clear(&t);
        assert_done(text_add_codepoint(&t, c, &err));
        uint32_t read = 0;
        if (utf8_decode(t.bytes, t.length, &read) != t.length || read != c) fail_msg("U+%04X", c);
        if (utf8_decode(t.bytes, t.length - 1, &read) != 0) fail_msg("U+%04X, cut", c);
    }
    text_free(&t);
}

static void ill_formed_utf8_is_found(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t length, at;
    } cases[] = {
        {"\x80",                 1, 0},
        {"ab\xC3",               3, 2},
        {"\xC0\x80",             2, 0}, /* overlong NUL */
        {"\xE0\x80\x80",         3, 0},
        {"\xF0\x80\x80\x80",     4, 0},
        {"\xED\xA0\x80",         3, 0}, /* surrogate */
        {"\xF4\x90\x80\x80",     4, 0}, /* above U+10FFFF */
        {"\xF5\x80\x80\x80",     4, 0},
        {"ok\xFF",               3, 2},
        {"\xC3\x28",             2, 0},
        {"\xE2\x82\xAC\xE2\x82", 5, 3},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t at = 99;
        assert_false(utf8_valid(cases[i].bytes, cases[i].length, &at));
        assert_int_equal(at, cases[i].at);
    }
    assert_true(utf8_valid("gr\xC3\xBC\xC3\x9F \xE2\x82\xAC \xF0\x9F\x99\x82", 15, NULL));
    assert_true(utf8_valid("", 0, NULL));
}

/* What a terminal would act on must never come through, wherever it stands. */
static void shown_text_has_no_control_characters(void **state)
{
    (void)state;
    char out[64];
    for (int byte = 0; byte < 256; byte++) {
        const char in[3] = {'a', (char)byte, 'b'};
        text_printable(out, sizeof out, in, 3);
        for (const char *c = out; *c; c++)
            assert_true((unsigned char)*c >= 0x20 && (unsigned char)*c < 0x7F);
        assert_int_equal(out[0], 'a');
        assert_int_equal(out[strlen(out) - 1], 'b');
    }
    static const uint32_t unsafe[] = {0x80,   0x9B,   0x9F,   0x61C,  0x200E, 0x200F,
                                      0x2028, 0x202A, 0x202E, 0x2066, 0x2069, 0xFEFF};
    Err err = {0};
    Text t = {0};
    for (size_t i = 0; i < sizeof unsafe / sizeof unsafe[0]; i++) {
        text_clear(&t);
        assert_done(text_add_codepoint(&t, unsafe[i], &err));
        text_printable(out, sizeof out, t.bytes, t.length);
        assert_int_equal(out[0], '\\');
    }
    text_free(&t);
    assert_string_equal(text_printable(out, sizeof out, "\xE2\x82\xAC", 3), "\xE2\x82\xAC");
    assert_string_equal(text_printable(out, sizeof out, "\x1B[2J", 4), "\\x1B[2J");
}

static void shown_text_is_cut_at_whole_characters(void **state)
{
    (void)state;
    for (size_t size = 1; size < 40; size++) {
        char out[64];
        memset(out, 'X', sizeof out);
        text_printable(out, size, "\xE2\x82\xAC\xE2\x82\xAC\n\xE2\x82\xAC\xE2\x82\xAC", 13);
        assert_true(strlen(out) < size);
        assert_int_equal(out[size], 'X');
        assert_true(utf8_valid(out, strlen(out), NULL));
    }
}

static void distances_are_those_of_levenshtein(void **state)
{
    (void)state;
    assert_int_equal(text_distance("lora_r", "lora_r", 3), 0);
    assert_int_equal(text_distance("kitten", "sitting", 5), 3);
    assert_int_equal(text_distance("", "abc", 5), 3);
    assert_int_equal(text_distance("abc", "xyz", 2), 3); /* capped at limit + 1 */
    char longer[100];
    memset(longer, 'a', sizeof longer);
    longer[99] = '\0';
    assert_int_equal(text_distance(longer, "a", 4), 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_grow_and_may_hold_nul),
        cmocka_unit_test(a_text_survives_failed_growth),
        cmocka_unit_test(code_points_survive_writing_and_reading),
        cmocka_unit_test(ill_formed_utf8_is_found),
        cmocka_unit_test(shown_text_has_no_control_characters),
        cmocka_unit_test(shown_text_is_cut_at_whole_characters),
        cmocka_unit_test(distances_are_those_of_levenshtein),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
