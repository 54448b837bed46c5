/*
 * rig_config.h - what the tests of the configuration share: a smallest valid text, parsing, and what became of it.
 */
#pragma once

#include "trainer/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* Two lines, so that what a test adds starts in line 3. */
#define BASE "base_model: m\ndatasets: [{path: d}]\n"

static Err rig_err;

static inline Config *rig_parse_with(const char *text, size_t length, const char *const *sets, int count)
{
    Config *c = NULL;
    err_clear(&rig_err);
    if (!config_parse(&c, "f.yaml", text, length, sets, count, &rig_err)) assert_null(c);
    return c;
}

static inline Config *rig_parse(const char *text)
{
    return rig_parse_with(text, strlen(text), NULL, 0);
}

/* Fails the test with the faults when there are any. */
static inline Config *rig_good(const char *text)
{
    Config *c = rig_parse(text);
    if (!c) fail_msg("%s\n%s", text, rig_err.text);
    return c;
}

/* BASE and more lines. */
static inline Config *rig_more(const char *lines)
{
    char text[8192];
    snprintf(text, sizeof text, BASE "%s", lines);
    return rig_parse(text);
}

static inline Config *rig_set(const char *lines, const char *set)
{
    char text[4096];
    snprintf(text, sizeof text, BASE "%s", lines);
    return rig_parse_with(text, strlen(text), &set, 1);
}

static inline void expect_faults(const Config *c, const char *what, const char *expected)
{
    if (c) fail_msg("accepted: %s", what);
    assert_int_equal(rig_err.code, ERR_CONFIG);
    if (strcmp(rig_err.text, expected) != 0) fail_msg("%s\nsays\n%s\ninstead of\n%s", what, rig_err.text, expected);
}

static inline char *rig_text(const Config *c)
{
    Text text = {0};
    assert_true(config_to_text(c, &text, &rig_err));
    return text.bytes; /* freed by the caller with mem_free */
}

static inline const char *rig_notices(const Config *c)
{
    static char all[8192];
    size_t used = 0;
    all[0] = '\0';
    for (int i = 0; i < config_notice_count(c) && used < sizeof all; i++)
        used += (size_t)snprintf(all + used, sizeof all - used, "%s\n", config_notice(c, i));
    return all;
}
