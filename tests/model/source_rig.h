/* source_rig.h - base models that must open, or be refused with one sentence. */
#pragma once

#include "model/source.h"
#include "tests/support/scratch.h"

static inline void expect_open(Scratch *s)
{
    Err err = {0};
    ModelSource *source;
    assert_done(source_open(&source, s->folder, true, &err));
    source_close(source);
}

static inline void expect_refused(Scratch *s, const char *part)
{
    Err err = {0};
    ModelSource *source;
    if (source_open(&source, s->folder, true, &err)) fail_msg("was opened, and not refused with \"%s\"", part);
    assert_error(&err, ERR_MODEL, part);
}
