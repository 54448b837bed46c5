/*
 * scratch.h - a folder of its own for a test, and files in it. Everything inline: the tests of base/ link nothing else.
 */
#pragma once

#include "base/err.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

typedef struct Scratch {
    char folder[512];
    char paths[8][1024]; /* of scratch_path, used in turn */
    unsigned next;
} Scratch;

static inline Scratch scratch_make(void)
{
    Scratch s = {.next = 0};
    const char *base = getenv("TMPDIR");
    snprintf(s.folder, sizeof s.folder, "%s/qlora-test-XXXXXX", base && *base ? base : "/tmp");
    assert_non_null(mkdtemp(s.folder));
    return s;
}

/* folder/name; valid until the eighth call from now. */
static inline const char *scratch_path(Scratch *s, const char *name)
{
    char *path = s->paths[s->next++ % 8];
    const size_t lead = strlen(s->folder);
    const size_t length = strlen(name);
    assert_true(lead + length + 2 <= sizeof s->paths[0]);
    memcpy(path, s->folder, lead);
    path[lead] = '/';
    memcpy(path + lead + 1, name, length + 1);
    return path;
}

/* Writes with stdio, past the fault hooks. */
static inline void scratch_write(const char *path, const void *bytes, size_t length)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    if (length) assert_int_equal(fwrite(bytes, 1, length, f), length);
    assert_int_equal(fclose(f), 0);
}

/* A whole file with a NUL after it, or null; the caller frees it. */
static inline char *scratch_read(const char *path, size_t *length)
{
    FILE *f = fopen(path, "rb");
    *length = 0;
    if (!f) return NULL;
    fseek(f, 0, SEEK_END);
    *length = (size_t)ftell(f);
    rewind(f);
    char *bytes = malloc(*length + 1);
    assert_non_null(bytes);
    assert_int_equal(fread(bytes, 1, *length, f), *length);
    bytes[*length] = '\0';
    fclose(f);
    return bytes;
}

static inline void scratch_remove(Scratch *s)
{
    char command[600];
    snprintf(command, sizeof command, "rm -rf '%s'", s->folder);
    assert_int_equal(system(command), 0);
}

/* One sentence, of this class, that names what is wrong. */
#define assert_error(err, wanted_code, part)                                                                           \
    do {                                                                                                               \
        assert_int_equal((err)->code, (wanted_code));                                                                  \
        if (!strstr((err)->text, (part))) fail_msg("\"%s\" does not say \"%s\"", (err)->text, (part));                 \
        assert_null(strchr((err)->text, '\n'));                                                                        \
        err_clear(err);                                                                                                \
    } while (0)

#define assert_done(call)                                                                                              \
    do {                                                                                                               \
        if (!(call)) fail_msg("%s: %s", #call, err.text);                                                              \
    } while (0)
