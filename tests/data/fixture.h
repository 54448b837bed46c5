/*
 * fixture.h - a temporary folder, a small real tokenizer and data sets written by a test.
 */
#pragma once

#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "data/dataset.h"
#include "data/shapes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include <cmocka.h>

#define GOLDEN_CHAT "golden/data/chat/"
#define CHATML_TEMPLATE                                                                                                \
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + "   \
    "'\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"

/* Every call can fail in a fault test, so failures of the fixture itself end the test. */
#define MUST(call)                                                                                                     \
    do {                                                                                                               \
        Err must_err = {0};                                                                                            \
        if (!(call)) fail_msg("%s: %s", #call, must_err.text);                                                         \
    } while (0)

typedef struct Fixture {
    char folder[64];
    Tokenizer *tokenizer;
    ChatTemplate *chat;
} Fixture;

/* Equal names give the same pointer, which stays valid for the whole program. */
static inline const char *fixture_path(const Fixture *f, const char *name)
{
    enum { PATHS = 256 };
    static char *paths[PATHS];
    char path[256];
    int i = 0;
    snprintf(path, sizeof path, "%s/%s", f->folder, name);
    while (i < PATHS && paths[i] && strcmp(paths[i], path))
        i++;
    assert_true(i < PATHS);
    if (!paths[i]) paths[i] = strdup(path);
    assert_non_null(paths[i]);
    return paths[i];
}

static inline const char *fixture_write(const Fixture *f, const char *name, const char *bytes, size_t length)
{
    const char *path = fixture_path(f, name);
    MUST(file_replace(path, bytes, length, &must_err));
    return path;
}

static inline const char *fixture_text(const Fixture *f, const char *name, const char *text)
{
    return fixture_write(f, name, text, strlen(text));
}

static inline size_t fixture_gzip(char *out, size_t size, const char *bytes, size_t length)
{
    z_stream z = {0};
    assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 15 + 16, 9, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = (unsigned char *)(uintptr_t)bytes;
    z.avail_in = (unsigned)length;
    z.next_out = (unsigned char *)out;
    z.avail_out = (unsigned)size;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    deflateEnd(&z);
    return size - z.avail_out;
}

/* A tokenizer folder with this chat template (null: none). */
static inline void fixture_tokenizer(const Fixture *f, Tokenizer **out, const char *jinja)
{
    MUST(file_copy(fixture_path(f, "tokenizer.json"), GOLDEN_CHAT "tokenizer.json", &must_err));
    fixture_text(f, "tokenizer_config.json",
                 "{\"bos_token\": \"<|begin_of_text|>\", \"eos_token\": \"<|endoftext|>\", \"add_bos_token\": true, "
                 "\"tokenizer_class\": \"PreTrainedTokenizerFast\"}");
    if (jinja)
        fixture_text(f, "chat_template.jinja", jinja);
    else
        MUST(file_remove(fixture_path(f, "chat_template.jinja"), &must_err));
    MUST(tokenizer_open(out, f->folder, &must_err));
}

static inline void fixture_open(Fixture *f, const char *jinja, const char *name)
{
    *f = (Fixture){0};
    snprintf(f->folder, sizeof f->folder, "/tmp/qlora_data_XXXXXX");
    assert_non_null(mkdtemp(f->folder));
    fixture_tokenizer(f, &f->tokenizer, jinja);
    MUST(chat_template_open(&f->chat, name, f->tokenizer, &must_err));
}

static inline void fixture_close(Fixture *f)
{
    chat_template_close(f->chat);
    tokenizer_close(f->tokenizer);
    MUST(file_remove_tree(f->folder, &must_err));
}

/* Text of the ids with the trained ones in [brackets]; the caller frees it. */
static inline char *fixture_show(const Fixture *f, Sample s)
{
    Text out = {0};
    bool inside = false;
    for (int64_t k = 0; k <= s.tokens; k++) {
        const bool trained = k < s.tokens && s.labels[k] != TARGET_NONE;
        if (trained != inside) MUST(text_add_z(&out, trained ? "[" : "]", &must_err));
        inside = trained;
        if (k < s.tokens) MUST(tokenizer_token_bytes(f->tokenizer, &out, s.ids[k], &must_err));
    }
    if (!out.bytes) MUST(text_add_z(&out, "", &must_err));
    return out.bytes;
}

/* One source with these rows, opened with these options. */
static inline DataOptions options_for(DataSource *source, const char *path)
{
    *source = (DataSource){.path = path, .weight = 1.0};
    return (DataOptions){.sources = source, .source_count = 1, .sequence_len = 64, .threads = 1};
}

static inline Dataset *open_data(const Fixture *f, const DataOptions *options)
{
    Dataset *d = NULL;
    MUST(dataset_open(&d, options, f->tokenizer, f->chat, &must_err));
    return d;
}

/* {"text": "aaa..."} of `letters` letters that no merge joins; tokens = letters + BOS + EOS. */
static inline void add_text_row(Text *out, int number, int letters)
{
    MUST(text_add_z(out, "{\"text\":\"", &must_err));
    for (int i = 0; i < letters; i++) {
        const char c = "!#$%&()*+-./"[(number + i) % 12];
        MUST(text_add(out, &c, 1, &must_err));
    }
    MUST(text_add_z(out, "\"}\n", &must_err));
}

static inline void samples_equal(const Dataset *a, const Dataset *b)
{
    assert_int_equal(dataset_samples(a), dataset_samples(b));
    for (int64_t i = 0; i < dataset_samples(a); i++) {
        const Sample x = dataset_sample(a, i);
        const Sample y = dataset_sample(b, i);
        assert_int_equal(x.tokens, y.tokens);
        assert_memory_equal(x.ids, y.ids, (size_t)x.tokens * 4);
        assert_memory_equal(x.labels, y.labels, (size_t)x.tokens * 4);
        assert_int_equal(dataset_sample_place(a, i).line, dataset_sample_place(b, i).line);
    }
    assert_string_equal(dataset_fingerprint(a), dataset_fingerprint(b));
}

/* Enough rows for several batches; some long, some equal. */
static inline const char *many_rows(const Fixture *f, int count)
{
    Text rows = {0};
    for (int i = 0; i < count; i++)
        add_text_row(&rows, i * 7, 1 + (i * 31) % 50);
    const char *path = fixture_write(f, "many.jsonl", rows.bytes, rows.length);
    text_free(&rows);
    return path;
}
