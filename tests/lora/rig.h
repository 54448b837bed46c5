/*
 * rig.h - a list of modules as a small Llama has them, an adapter set on it with its parameters, and temporary folders.
 */
#pragma once

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "lora/lora.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static Err rig_err;

#define MUST(call)                                                                                                     \
    do {                                                                                                               \
        if (!(call)) fail_msg("%s: %s", #call, rig_err.text);                                                          \
    } while (0)

enum { RIG_LAYERS = 3, RIG_MODULES = 7 * RIG_LAYERS };

static char rig_paths[RIG_MODULES][64];
static LoraModule rig_modules[RIG_MODULES];

/* hidden 16, 2 query heads and 1 key head of 8, feed-forward 24: as golden/adapters.py */
static inline void rig_make_modules(void)
{
    static const struct {
        const char *name;
        int64_t rows, cols;
        int input;
    } kinds[7] = {
        {"self_attn.q_proj", 16, 16, 1},
        {"self_attn.k_proj", 8,  16, 1},
        {"self_attn.v_proj", 8,  16, 1},
        {"self_attn.o_proj", 16, 16, 2},
        {"mlp.gate_proj",    24, 16, 3},
        {"mlp.up_proj",      24, 16, 3},
        {"mlp.down_proj",    16, 24, 4},
    };
    for (int i = 0; i < RIG_MODULES; i++) {
        snprintf(rig_paths[i], sizeof rig_paths[i], "model.layers.%d.%s", i / 7, kinds[i % 7].name);
        rig_modules[i] =
            (LoraModule){rig_paths[i], i / 7, kinds[i % 7].rows, kinds[i % 7].cols, 10 * (i / 7) + kinds[i % 7].input};
    }
}

typedef struct Rig {
    Backend *be;
    Lora lora;
    Arena state;
    Tensor params;
} Rig;

static inline Rig rig_open(const LoraOptions *options)
{
    Rig r = {0};
    const BackendOptions backend = {.kind = BACKEND_CPU};
    rig_make_modules();
    MUST(backend_open(&r.be, &backend, &rig_err));
    MUST(lora_create(&r.lora, rig_modules, RIG_MODULES, options, &rig_err));
    MUST(backend_arena_reserve(r.be, &r.state, (size_t)r.lora.table.total * sizeof(float), &rig_err));
    r.params = arena_vector(&r.state, DTYPE_F32, r.lora.table.total);
    return r;
}

static inline void rig_close(Rig *r)
{
    backend_arena_release(r->be, &r->state);
    lora_free(&r->lora);
    backend_close(r->be);
}

static inline float *rig_values(const Rig *r)
{
    float *values = calloc((size_t)r->lora.table.total, sizeof *values);
    assert_non_null(values);
    backend_download(r->be, values, &r->params);
    return values;
}

/* Fresh values in A and in B. */
static inline void rig_fill(const Rig *r)
{
    MUST(lora_initialize(&r->lora, r->be, &r->params, 3, &rig_err));
    float *values = rig_values(r);
    for (int i = 0; i < r->lora.table.count; i++) {
        const Param *p = &r->lora.table.items[i];
        for (int64_t j = 0; j < p->rows * p->cols; j++)
            values[p->offset + j] += (float)(i + 1) * 0.01f + (float)j * 1e-4f;
    }
    backend_upload(r->be, &r->params, values);
    free(values);
}

static inline char *rig_folder(void)
{
    char text[] = "/tmp/qlora-test-XXXXXX";
    assert_non_null(mkdtemp(text));
    char *folder = strdup(text);
    assert_non_null(folder);
    return folder;
}

static inline void rig_remove(char *folder)
{
    MUST(file_remove_tree(folder, &rig_err));
    free(folder);
}

static inline void rig_write(const char *folder, const char *name, const void *bytes, size_t length)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, length, f), length);
    assert_int_equal(fclose(f), 0);
}

static inline char *rig_read(const char *folder, const char *name, size_t *length)
{
    char path[512], *bytes = NULL;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    MUST(file_read_all(&bytes, length, path, 1 << 24, ERR_DATA, &rig_err));
    return bytes;
}

/* The call fails with this code, and its text names `what`. */
#define EXPECT_FAILURE(call, expected, what)                                                                           \
    do {                                                                                                               \
        err_clear(&rig_err);                                                                                           \
        assert_false(call);                                                                                            \
        assert_int_equal(rig_err.code, expected);                                                                      \
        if (!strstr(rig_err.text, what)) fail_msg("\"%s\" does not name \"%s\"", rig_err.text, what);                  \
        err_clear(&rig_err);                                                                                           \
    } while (0)
